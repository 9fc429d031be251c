"""``LocalFleet``: the embedded environment: every cluster a group of real processes on this machine.

Implements ``fleet.protocols.Fleet``. It starts a zygote, has it fork everything, waits until every model is served
through the gateway, and takes everything down again. What dies with the harness is the zygote's care; what dies with
the zygote is the kernel's (see ``processes``). It never sends a request for a model and never places a replica.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from fleet import prometheus
from fleet.environments.local import addresses, black_hole, leftovers
from fleet.environments.local.addresses import Addresses
from fleet.environments.local.cluster import BLACK_HOLE, REFUSED, LocalCluster
from fleet.environments.local.control import ControlConfig
from fleet.environments.local.layout import PIECE_BYTES, Layout, fleet_facts, lay_out
from fleet.environments.local.processes import tail
from fleet.environments.local.startup import StartUp
from fleet.environments.local.stores import StoreFaults
from fleet.environments.local.watch import Allocator
from fleet.environments.local.zygote import LOCK_NAME, MARKER, Execute, Exits
from fleet.protocols import Say
from fleet.serving.weights import make_weights
from fleet.spec import FleetSpec, Switches
from history.errors import FleetError
from history.records import FleetFacts, Target

WEIGHTS_SEED: Final = 20220623
_PREFIX: Final = "blackstart-"
_ZYGOTE_START_S: Final = 15.0
_ZYGOTE_END_S: Final = 8.0
_REPLY_S: Final = 10.0


class LocalFleet(StoreFaults):
    """A fleet of processes. ``gateway_port`` 0: a free one on the fleet's own address; else on ``gateway_host``.

    ``work_dir`` (weights, caches; made, and removed at the end) is a temporary directory when not given; ``logs`` is
    where logs and access logs stay, inside ``work_dir`` when not given.
    """

    environment: Final = "local"

    def __init__(
        self,
        spec: FleetSpec,
        *,
        work_dir: Path | None = None,
        logs: Path | None = None,
        gateway_port: int = 0,
        gateway_host: str = addresses.PLAIN,
    ) -> None:
        self._spec = spec
        self._wanted_dir = work_dir
        self._wanted_logs = logs
        self._gateway_port = gateway_port
        self._gateway_host = gateway_host
        self.fleet_id = uuid.uuid4().hex
        holes = addresses.private_possible() and black_hole.possible()
        self._signatures = (REFUSED, BLACK_HOLE) if holes else (REFUSED,)
        self.clusters = tuple(LocalCluster(cluster, self, self._signatures) for cluster in spec.clusters)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._asked = 0
        self._addresses: Addresses | None = None
        self._work_dir: Path | None = None
        self._layout: Layout | None = None
        self.prometheus_url: str | None = None
        self.prometheus_absent = "the fleet has not been started"

    # -- the Protocol -----------------------------------------------------------------------------------------------

    @property
    def controller(self) -> Allocator:
        """The reference allocator."""
        return Allocator(lambda: self.layout.allocator_url)

    def start(self, say: Say) -> None:
        """Brings everything up; returns when every replica is ready and the gateway routes every model.

        ``FleetError`` with the culprit's log when something does not come up; nothing is left running then.
        """
        self._spec.validated()
        if self._zygote is not None:
            raise FleetError("this fleet has been started already", hint="make a new LocalFleet for each start")
        try:
            self._start(say)
        except BaseException:
            self.stop()
            raise

    def facts(self) -> FleetFacts:
        """The fleet as it is now; ``FleetError`` when a cluster does not answer."""
        return fleet_facts(self._spec, self.clusters)

    def target(self) -> Target:
        """The gateway."""
        if self._layout is None:
            return Target(f"http://{self._gateway_host}:{self._gateway_port}")
        return Target(self._layout.gateway_url)

    def died(self) -> tuple[str, ...]:
        """Outside services that ended by themselves; ("zygote",) when all of them did. () before start, after stop."""
        clusters = {cluster.name for cluster in self.clusters}
        return tuple(name for name in self.ended() if name not in clusters)

    def stop(self) -> None:
        """Ends everything and removes the work directory; also after a start that failed half-way."""
        if self._connection is not None:
            with self._lock, contextlib.suppress(OSError):
                self._connection.close()  # the zygote reads the end of the stream and ends the fleet
        if self._zygote is not None:
            try:
                self._zygote.wait(_ZYGOTE_END_S)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
        if self._addresses is not None:
            self._kill_marked()  # also a zygote of which an interrupted start kept no note
            self._addresses.release()
        if self._work_dir is not None:
            shutil.rmtree(self._work_dir, ignore_errors=True)

    def __enter__(self) -> LocalFleet:
        self.start(lambda _: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def leftovers(self) -> dict[str, Any]:
        """The facts by which ``leftovers.restore`` removes this fleet when nobody of it is alive to do so."""
        networks = [] if self._layout is None else [network for network in self._layout.networks.values() if network]
        work_dir = self._work_dir or self._wanted_dir
        zygote = self._zygote.pid if self._zygote is not None else 0
        facts: dict[str, Any] = {"fleet_id": self.fleet_id, "networks": networks, "zygote": zygote, "marker": MARKER}
        return facts | {"uid": os.geteuid(), "work_dir": str(work_dir.resolve()) if work_dir else ""}

    # -- for its clusters -------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Addresses and configurations; ``FleetError`` before the start."""
        if self._layout is None:
            raise FleetError("the fleet has not been started", hint="start it first")
        return self._layout

    def ended(self) -> tuple[str, ...]:
        """Everything that the zygote forked and that has ended, clusters that were killed included."""
        if self._connection is None or self._connection.closed:
            return ()
        try:
            exits = self.ask_zygote(Exits())
        except FleetError:
            return ("zygote",)
        return tuple(exits) if isinstance(exits, dict) else ()

    def ask_zygote(self, request: object) -> object:
        """One request, one reply; ``FleetError`` when the zygote is gone or the request failed."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                raise FleetError("the fleet is not running", hint="start it first")
            try:
                self._asked += 1
                self._connection.send((self._asked, request))
                reply = self._reply_to(self._asked, request)
            except (OSError, EOFError) as error:
                raise FleetError(
                    f"the fleet's zygote is gone: {tail(self._zygote_log())}",
                    hint="its clusters died with it; run again, and look for an out-of-memory kill",
                ) from error
        if isinstance(reply, Exception):
            raise FleetError(
                f"the fleet could not carry out {request!r}: {reply}", hint=f"read {self._zygote_log()}"
            ) from reply
        return reply

    def _reply_to(self, number: int, request: object) -> object:
        """The reply to that request; those to earlier ones, whose asker was interrupted, are dropped."""
        assert self._connection is not None
        deadline_s = time.monotonic() + _REPLY_S
        while self._connection.poll(max(0.0, deadline_s - time.monotonic())):
            answered, reply = self._connection.recv()
            if answered == number:
                return reply
        raise FleetError(
            f"the fleet's zygote did not answer {request!r} in {_REPLY_S:g} s", hint=f"read {self._zygote_log()}"
        )

    def control_config(self, cluster: str) -> ControlConfig | None:
        """See ``cluster.Hands``."""
        return self._layout.clusters[cluster] if self._layout is not None else None

    def switches(self) -> Switches:
        """See ``cluster.Hands``."""
        return self._spec.switches

    def network(self, cluster: str) -> str:
        """See ``cluster.Hands``."""
        return self.layout.networks[cluster]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _start(self, say: Say) -> None:
        if self._gateway_port:
            addresses.require_free(self._gateway_host, self._gateway_port)
        sweep(Path(tempfile.gettempdir()))
        self._make_dirs()
        self._addresses = addresses.reserve()
        host = self._gateway_host if self._gateway_port else ""
        work_dir, logs = self._dirs()
        token = secrets.token_hex(16)  # goes to the services within their configs, over the zygote's own socket
        self._layout = lay_out(
            self._spec, self._addresses, work_dir, logs, token, gateway_host=host, gateway_port=self._gateway_port
        )
        if BLACK_HOLE in self._signatures:
            for network in self._layout.networks.values():  # left by a fleet of our number that was killed whole
                black_hole.close_hole(network)
        self._spawn_zygote()
        say(f"weights of {len(self._spec.models)} models")
        for model in self._spec.models:
            for name in model.pool or (model.name,):
                make_weights(self._layout.weights, name, model.weight_bytes, WEIGHTS_SEED, PIECE_BYTES)
        self._await_zygote()
        StartUp(self, self._spec, say).run()
        self._start_prometheus(say)

    def _make_dirs(self) -> None:
        if self._wanted_dir is None:
            self._work_dir = Path(tempfile.mkdtemp(prefix=_PREFIX))
        else:
            try:
                self._wanted_dir.mkdir(parents=True)
            except OSError as error:
                raise FleetError(
                    f"cannot make the fleet's directory {self._wanted_dir}: {error.strerror}",
                    hint="it must not exist yet: it is removed when the fleet ends",
                ) from error
            self._work_dir = self._wanted_dir.resolve()
        _, logs = self._dirs()
        for cluster in self._spec.clusters:
            (logs / cluster.name).mkdir(parents=True, exist_ok=True)

    def _dirs(self) -> tuple[Path, Path]:
        assert self._work_dir is not None
        logs = self._work_dir / "logs" if self._wanted_logs is None else self._wanted_logs.resolve()
        return self._work_dir, logs

    def _zygote_log(self) -> Path:
        return self._dirs()[1] / "zygote.out"

    def _spawn_zygote(self) -> None:
        assert self._addresses is not None
        ours, theirs = socket.socketpair()
        keep = [theirs.fileno()]
        if self._addresses.lock is not None:
            keep.append(self._addresses.lock.fileno())  # the number stays taken until the zygote has cleaned up
        command = (sys.executable, "-m", "fleet.environments.local.zygote", str(theirs.fileno()), str(self._work_dir))
        env = {**os.environ, MARKER: self.fleet_id, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with theirs, self._zygote_log().open("ab") as log:
            self._zygote = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=keep,
                env=env,
                start_new_session=True,  # Ctrl-C is the harness's to handle
            )
        self._connection = Connection(ours.detach())

    def _await_zygote(self) -> None:
        assert self._connection is not None
        try:
            if self._connection.poll(_ZYGOTE_START_S):
                self._connection.recv()
                return
        except (EOFError, OSError):
            pass
        raise FleetError(
            f"the fleet's first process did not start: {tail(self._zygote_log())}",
            hint="reinstall blackstart and its requirements into this virtual environment",
        )

    def _start_prometheus(self, say: Say) -> None:
        binary = prometheus.find_binary()
        if binary is None:
            self.prometheus_absent = prometheus.ABSENT
            say(prometheus.ABSENT)
            return
        layout, (work_dir, logs) = self.layout, self._dirs()
        assert self._addresses is not None
        host = self._addresses.outside
        port = addresses.Ports().take(host)
        argv = prometheus.command(binary, work_dir / "prometheus", host, port, *layout.scrape_targets())
        self.ask_zygote(Execute("prometheus", argv, logs / "prometheus.out"))
        url = f"http://{host}:{port}"
        if prometheus.wait_ready(url):
            self.prometheus_url, self.prometheus_absent = url, ""
            say(f"Prometheus scrapes every second at {url}")
        else:
            said = tail(logs / "prometheus.out", 3)
            self.prometheus_absent = f"{binary} did not become ready: {said}"
            say(f"no Prometheus: {self.prometheus_absent}")

    def _kill_marked(self) -> None:
        """Whoever still carries this fleet's marker (after a zygote that was killed) is killed by its id."""
        for process in marked(self.fleet_id):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


def marked(fleet_id: str) -> list[psutil.Process]:
    """All live processes of a fleet, by the marker in their environment."""
    return leftovers.living(fleet_id)


def sweep(directory: Path) -> None:
    """Removes temporary work directories whose fleet was killed so hard that nobody was left to do it."""
    for path in directory.glob(f"{_PREFIX}*/{LOCK_NAME}"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its zygote lives
            shutil.rmtree(path.parent, ignore_errors=True)
