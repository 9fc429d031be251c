"""``Restoration``: what people do to a local cluster while they restore it, and what keeps traffic away meanwhile.

The part of ``LocalCluster`` that is ``ControlPlaneControl``, ``TrafficControl`` and ``RestorationControl`` of
``fleet.protocols``. A control plane that is cut off is a real process that is stopped, while its nodes go on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fleet.environments.local.ask import Answer, ask, at_once
from history.errors import FaultError, FleetError
from history.records import Signal

if TYPE_CHECKING:
    from fleet.environments.local.control import ControlConfig
    from fleet.environments.local.layout import Layout

ASK_S: Final = 5.0
SILENT_S: Final = 0.4


class Restoration:
    """See the module docstring. ``version``: what a rebuilt control plane runs, "" = the first one."""

    version = ""
    _pgid: int
    _layout_of: Callable[[], Layout]

    @property
    def name(self) -> str:
        """The cluster's name."""
        raise NotImplementedError

    def _config(self) -> ControlConfig:
        raise NotImplementedError

    # -- control plane ----------------------------------------------------------------------------------------------

    def cut_control_plane(self) -> None:
        """Stops the control plane's process alone: its API takes connections and never answers."""
        self._leader(signal.SIGSTOP)

    def verify_control_plane_cut(self) -> tuple[Signal, ...]:
        """The API silent and every node's data plane answering, each asked now."""
        return self._planes(lambda api: api.how == "no-answer")

    def mend_control_plane(self) -> None:
        """Lets it run on."""
        self._leader(signal.SIGCONT)

    def verify_control_plane_mended(self) -> tuple[Signal, ...]:
        """API and nodes answer."""
        return self._planes(lambda api: api.ok)

    def _leader(self, number: int) -> None:
        try:
            os.kill(self._pgid, number)
        except ProcessLookupError as error:
            raise FaultError(
                f"cluster {self.name} has no control plane now", hint="set it up before cutting it off"
            ) from error

    def _planes(self, good: Callable[[Answer], bool]) -> tuple[Signal, ...]:
        config = self._config()
        nodes = [f"http://{node.agent.host}:{node.agent.port}/healthz" for node in config.nodes]
        api, *data = at_once(lambda url: ask(url, timeout_s=SILENT_S), [f"{config.url}/healthz", *nodes])
        answering = sum(answer.ok for answer in data)
        return (
            Signal("control plane", good(api), str(api)),
            Signal("data plane", answering == len(data), f"{answering} of {len(data)} nodes answer"),
        )

    # -- versions ---------------------------------------------------------------------------------------------------

    def served(self) -> tuple[str, ...]:
        """``apiVersion/kind`` of everything that the API serves now; ``FleetError`` when it does not answer."""
        answer = ask(f"{self._config().url}/apis", timeout_s=ASK_S)
        if not answer.ok or not isinstance(answer.body, dict):
            raise FleetError(f"cluster {self.name}: its API does not answer: {answer}", hint="is it up?")
        return tuple(answer.body["served"])

    def upgrade(self, version: str) -> str:
        """Asks for that version, newer or older: "" when it was taken, else the API's refusal."""
        url = f"{self._config().url}/upgrade?to={version}"
        answer = ask(url, timeout_s=ASK_S, method="POST", token=self._layout_of().token)
        if answer.ok:
            self.version = version
            return ""
        said = answer.body.get("error", "") if isinstance(answer.body, dict) else ""
        return said or str(answer)

    # -- traffic ----------------------------------------------------------------------------------------------------

    def hold(self, held: bool) -> None:
        """While held, the controller does not take the cluster for returned, whatever its API answers."""
        self._tell(f"{self._layout_of().allocator_url}/hold?cluster={self.name}&held={int(held)}")

    def set_traffic_share(self, share: float) -> None:
        """The part of the traffic that it could take that the gateway gives it."""
        self._tell(f"{self._layout_of().gateway_url}/share?cluster={self.name}&share={share:.4f}")

    def traffic_share(self) -> float:
        """As the gateway says; ``FaultError`` when it does not answer."""
        answer = ask(f"{self._layout_of().gateway_url}/state", timeout_s=ASK_S)
        if not answer.ok or not isinstance(answer.body, dict):
            raise FaultError(f"the gateway does not answer: {answer}", hint="read its log")
        return float(answer.body["shares"].get(self.name, 1.0))

    def _tell(self, url: str) -> None:
        answer = ask(url, timeout_s=ASK_S, method="POST", token=self._layout_of().token)
        if not answer.ok:
            raise FaultError(f"it was not taken: {answer}", hint="read the log of that service")
