"""``StoreFaults``: what a drill does to a weight store of the local fleet, through the store's own guarded endpoint.

The part of ``LocalFleet`` that is ``fleet.protocols.StoreControl``. It trusts no answer alone: rot is verified by
downloading an object and hashing it.
"""

from __future__ import annotations

import hashlib
import http.client
from typing import Final

from fleet.environments.local.ask import ask
from fleet.environments.local.layout import Layout
from fleet.serving.config import StoreConfig
from history.errors import FaultError, UsageError
from history.records import Signal

ASK_S: Final = 1.0
SAMPLE_S: Final = 2.0


class StoreFaults:
    """Brown-out and rot, by the name of a store."""

    @property
    def layout(self) -> Layout:
        """Addresses and the run's token."""
        raise NotImplementedError

    def brown_out(self, store: str, factor: float) -> None:
        """Egress drops to ``factor`` of what was declared."""
        self._tell(store, factor, corrupt=False)

    def corrupt(self, store: str) -> None:
        """Every object that it sends from now on has a wrong byte."""
        self._tell(store, 1.0, corrupt=True)

    def mend_store(self, store: str) -> None:
        """As declared again."""
        self._tell(store, 1.0, corrupt=False)

    def verify_store(self, store: str, factor: float, corrupt: bool) -> tuple[Signal, ...]:
        """What the store says of itself; where rot begins or ends at full egress, also what it sends."""
        config = self._store(store)
        answer = ask(f"{_url(config)}/fault", timeout_s=ASK_S)
        said = answer.body if answer.ok and isinstance(answer.body, dict) else {}
        wanted = {"factor": factor, "corrupt": corrupt, "egress_bytes_s": config.egress_bytes_s * factor}
        seen = f"egress {said.get('egress_bytes_s', 0) / 2**20:.2f} MiB/s, " + (
            "rot" if said.get("corrupt") else "sound"
        )
        signals = [Signal("store says", said == wanted, seen if said else str(answer))]
        if factor == 1.0:
            signals.append(self._sample(config, corrupt))
        return tuple(signals)

    def _sample(self, config: StoreConfig, corrupt: bool) -> Signal:
        """Downloads the smallest object and hashes it."""
        path = min((config.root / "objects").iterdir(), key=lambda p: (p.stat().st_size, p.name))
        connection = http.client.HTTPConnection(config.host, config.port, timeout=SAMPLE_S)
        try:
            connection.request("GET", f"/objects/{path.name}")
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            return Signal("store sends", False, f"no object: {error!r}")
        finally:
            connection.close()
        if response.status != 200:
            return Signal("store sends", False, f"no object: HTTP {response.status}")
        sound = hashlib.sha256(data).hexdigest() == path.name
        return Signal("store sends", sound != corrupt, "a sound object" if sound else "an object whose hash is wrong")

    def _tell(self, store: str, factor: float, corrupt: bool) -> None:
        config = self._store(store)
        url = f"{_url(config)}/fault?factor={factor}&corrupt={int(corrupt)}"
        answer = ask(url, timeout_s=ASK_S, method="POST", token=self.layout.token)
        if not answer.ok:
            said = answer.body.get("error", "") if isinstance(answer.body, dict) else ""
            raise FaultError(
                f"weight store {store} did not take the fault: {answer} {said}", hint=f"read {config.log_dir}"
            )

    def _store(self, name: str) -> StoreConfig:
        for config in self.layout.stores:
            if config.name == name:
                return config
        known = ", ".join(config.name for config in self.layout.stores)
        raise UsageError(f"no weight store {name!r} in the fleet", hint=f"its stores are: {known}")


def _url(config: StoreConfig) -> str:
    return f"http://{config.host}:{config.port}"
