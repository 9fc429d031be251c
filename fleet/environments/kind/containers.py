"""Node containers and their network: look, kill, start, pause, connect.

Called by ``lifecycle``, ``KindCluster`` and the adapter. Looks go to the engine's own socket where it is on this host
(2 ms; a docker client takes 50 ms of a core, too much for those who look over and over), all else over the docker
client. Every call is bounded in time. It never touches a container whose cluster it was not given.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import psutil
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from fleet.environments.kind.kubernetes.pods import epoch
from fleet.environments.kind.offline.docker import next_step
from fleet.environments.kind.topology import MARKER_DIR, NETWORK
from history.errors import FaultError, FleetError

LABEL: Final = "io.x-k8s.kind.cluster"
CALL_S: Final = 30.0
REMOVE_S: Final = 60.0
LOOK_S: Final = 0.02
THAW_S: Final = 0.5
"""What has not ended by then may be frozen; looking for that, every ``THAW_EVERY_S``, is work for busy cores."""
THAW_EVERY_S: Final = 0.1
TRY_S: Final = 5.0
"""A node that has only just been started takes no commands yet."""
PAUSE_S: Final = 0.5
FREEZER: Final = Path("/sys/fs/cgroup/freezer/docker")
BOOT_SHARES: Final = 64
FULL_SHARES: Final = 1024
PLANE_SHARES: Final = 4096
"""Of a control plane that is no node: it needs little, and at once, since one that answers late is taken for lost."""
SUBNETS: Final = ("172.29.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "10.229.0.0/16")
OWNER: Final = "blackstart.dev/marker"
"""The label of a network that says whose it is."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Container:
    """A node container as Docker gives it. ``marker``: the folder on the host that is mounted as the fleet's mark."""

    name: str
    cluster: str
    state: str
    address: str
    started: float
    marker: str
    id: str = ""
    shares: int = 0
    pid: int = 0


@dataclass(frozen=True)
class Network:
    """A Docker network. ``host``: this host's address in it; ``owner``: the fleet's marker folder, by its label."""

    subnet: str
    host: str
    owner: str


def docker(*words: str, timeout_s: float = CALL_S) -> str:
    """What the client printed; ``FleetError`` with its complaint."""
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=timeout_s)
    except FileNotFoundError as error:
        raise FleetError("no docker on the PATH", hint="install Docker, or `make docker-engine` as root") from error
    except subprocess.TimeoutExpired as error:
        raise FleetError(
            f"docker {words[0]} took longer than {timeout_s:g} s", hint="look at the engine: blackstart doctor"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        if said and "connect to the docker" in said[-1].lower():  # none runs, or this user may not ask it
            raise FleetError(f"no Docker engine answers: {said[-1]}", hint=next_step(said[-1]))
        raise FleetError(
            f"docker {' '.join(words[:3])}: {said[-1] if said else 'no reason given'}", hint="blackstart doctor"
        )
    return done.stdout


def of_cluster(kind_name: str) -> tuple[Container, ...]:
    """The containers of one kind cluster, whoever made it."""
    return labelled(f"{LABEL}={kind_name}")


def labelled(label: str = LABEL) -> tuple[Container, ...]:
    """The containers with a label; without one, those of all kind clusters."""
    found = ask_engine(f"/containers/json?all=1&filters={quote(json.dumps({'label': [label]}))}")
    if found is not None:  # one that goes, or is only being made, meanwhile is not there
        told = (ask_engine(f"/containers/{one['Id']}/json") for one in found)
        return tuple(_container(one) for one in told if one)
    return inspect(docker("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}").split())


def inspect(names: Iterable[str]) -> tuple[Container, ...]:
    """The containers of these names."""
    words = list(names)
    if not words:
        return ()
    found = [ask_engine(f"/containers/{name}/json") for name in words]
    if all(found):
        return tuple(map(_container, found))
    return tuple(map(_container, json.loads(docker("inspect", "--type", "container", *words))))


def ask_engine(path: str, env: Mapping[str, str] = os.environ, tell: Any = None) -> Any:
    """What the engine's own socket answers to a GET, or to a POST of ``tell``; None when it is elsewhere or says no."""
    address = env.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    file = Path(address.removeprefix("unix://"))
    if not address.startswith("unix://") or env.get("DOCKER_CONTEXT") or not file.is_socket():
        return None
    connection = http.client.HTTPConnection("docker", timeout=CALL_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(CALL_S)
        connection.sock.connect(str(file))
        if tell is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(tell), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return json.loads(response.read()) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def boots(containers: Iterable[Container]) -> dict[str, float]:
    """Container -> when its present life began, epoch seconds; one that is down begins its next one from now on."""
    now = time.time()
    return {one.name: one.started if one.state in ("running", "paused") else now for one in containers}


def kill(names: Iterable[str]) -> Future[object]:
    """SIGKILL to all, at once: the client asks for all of them in parallel. Those that are dead already stay so.

    Returns when their first processes are gone, and everything with them; where the engine runs elsewhere, when it says
    so. What it returns is done when the engine knows of their end too: whoever starts them again waits for that."""
    running = [one for one in inspect(names) if one.state in ("running", "paused")]
    lives = [life for one in running if (life := _life(one))]

    def gone() -> bool:
        return len(lives) == len(running) and not any(life.is_running() for life in lives)

    def end() -> None:
        if running:
            _fault("kill", *(one.name for one in running))

    return thawing(end, running, gone)


def _life(one: Container) -> psutil.Process | None:
    """A container's first process, seen from here; None when it is not on this host."""
    with contextlib.suppress(psutil.Error, OSError):
        life = psutil.Process(one.pid)
        if one.pid and one.id and one.id in Path(f"/proc/{one.pid}/cgroup").read_text():
            return life
    return None


def start(names: Iterable[str], addresses: dict[str, str]) -> None:
    """Starts what is not running, each at its own address again, with little weight against its neighbours."""
    down = [one for one in inspect(names) if one.state not in ("running", "paused")]
    at_once(lambda one: keep_address(one.name, addresses.get(one.name, "")), down)
    if down:
        weigh((one.name for one in down), BOOT_SHARES)
        _fault("start", *(one.name for one in down))


def weigh(names: Iterable[str], shares: int) -> None:
    """CPU weight. Clusters share this host's cores, which real ones do not: the boot of one must not be what its
    neighbours feel of its return, so it takes what they leave until its adapter sees its replicas come."""
    told = [name for name in names if ask_engine(f"/containers/{name}/update", tell={"CpuShares": shares}) is None]
    if told:  # the engine is elsewhere, or has a complaint that its client shows
        docker("update", "--cpu-shares", str(shares), *told)


def lift(names: Iterable[str]) -> None:
    """Full CPU weight for those of them that have less."""
    if light := [one.name for one in inspect(names) if 0 < one.shares < FULL_SHARES]:
        weigh(light, FULL_SHARES)


def keep_address(name: str, address: str) -> None:
    """A stopped container will have this address: containers that start together would swap theirs."""
    if address:
        docker("network", "disconnect", "--force", NETWORK, name)
        docker("network", "connect", "--ip", address, NETWORK, name)


def pull(names: Iterable[str]) -> None:
    """Takes containers off the fleet's network while they run."""
    connected = [one.name for one in inspect(names) if one.address]
    at_once(lambda name: docker("network", "disconnect", "--force", NETWORK, name), connected)


def plug_in(names: Iterable[str], addresses: Mapping[str, str]) -> tuple[str, ...]:
    """Puts running containers that are off the fleet's network back on it, each at its own address; which."""
    pulled = tuple(one.name for one in inspect(names) if one.state in ("running", "paused") and not one.address)
    at_once(lambda name: docker("network", "connect", "--ip", addresses[name], NETWORK, name), pulled)
    return pulled


def remove(names: Iterable[str]) -> None:
    """Ends them and takes them away, their volumes too."""
    at_once(
        lambda one: thawing(lambda: docker("rm", "--force", "--volumes", one.name, timeout_s=REMOVE_S), [one]),
        inspect(names),
    )


def thawing(
    end: Callable[[], object], dying: Iterable[Container], gone: Callable[[], bool] = lambda: False
) -> Future[object]:
    """Carries out ``end`` of containers until it returns, or they are ``gone``; thaws what stays frozen in them. With
    cgroup v1, runc freezes a pod for a moment while it makes it; when it is killed in that moment nobody thaws the pod,
    and nothing in there can end. Raises what ``end`` raised; it is never left under way by an error or an interrupt."""
    folders, due = [FREEZER / one.id for one in dying if one.id], time.monotonic() + THAW_S
    pool = ThreadPoolExecutor(max_workers=1)
    done = pool.submit(end)
    pool.shutdown(wait=False)
    try:
        while not (wait([done], timeout=LOOK_S).done or gone()):
            if time.monotonic() >= due:
                _thaw(folders)
                due = time.monotonic() + THAW_EVERY_S
    except BaseException:  # whoever heals next must find it ended
        wait([done])
        raise
    if done.done():
        done.result()
    return done


def _thaw(folders: Iterable[Path]) -> None:
    for file in (file for folder in folders for file in _beneath(folder)):
        with contextlib.suppress(OSError):
            if file.read_text().strip() == "FROZEN":
                file.write_text("THAWED")


def _beneath(folder: Path) -> Iterator[Path]:
    """The freezer's files of what is in a container, not its own; ``os.walk`` bears that they go while it looks."""
    for inner, _, files in os.walk(folder):
        if "freezer.state" in files and inner != str(folder):
            yield Path(inner) / "freezer.state"


def surely(work: Callable[[], _T], for_s: float | None = None) -> _T:
    """What ``work`` returns, tried again while it raises ``FleetError``; after ``for_s`` (``TRY_S``), the error."""
    again = retry_if_exception_type(FleetError)
    return Retrying(
        retry=again, stop=stop_after_delay(TRY_S if for_s is None else for_s), wait=wait_fixed(PAUSE_S), reraise=True
    )(work)


def pause(names: Iterable[str]) -> None:
    """Freezes what runs."""
    if running := [one.name for one in inspect(names) if one.state == "running"]:
        _fault("pause", *running)


def unpause(names: Iterable[str]) -> None:
    """Lets run on what is frozen."""
    if frozen := [one.name for one in inspect(names) if one.state == "paused"]:
        _fault("unpause", *frozen)


def execute(name: str, script: str, timeout_s: float = 10.0) -> str:
    """Runs a shell script in a node; what it printed."""
    return docker("exec", name, "sh", "-ec", script, timeout_s=timeout_s)


def at_once(work: Callable[[_T], object], items: Iterable[_T]) -> None:
    """``work`` on each in parallel; raises what one of them raised, when all have ended."""
    wanted = list(items)
    if wanted:
        with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
            futures = [pool.submit(work, item) for item in wanted]
        for future in futures:
            future.result()


def make_network(owner: Path) -> tuple[str, str]:
    """The fleet's network, made when it is not there: (subnet, the host's address in it). ``owner``: the folder of the
    fleet's marker. ``FleetError`` when there is one of this name that is somebody else's."""
    if (found := network()) is not None:
        if found.owner != str(owner):
            raise FleetError(
                f"there is a Docker network {NETWORK!r} that this fleet did not make",
                hint=f"it is left as it is; see what uses it: docker network inspect {NETWORK}; then docker network rm",
            )
        return found.subnet, found.host
    complaints = []
    for subnet in SUBNETS:
        masquerade = "com.docker.network.bridge.enable_ip_masquerade=true"
        try:
            docker("network", "create", "--subnet", subnet, "--label", f"{OWNER}={owner}", "-o", masquerade, NETWORK)
            break
        except FleetError as error:
            complaints.append(error.message)
    made = network()
    if made is None:
        raise FleetError(
            f"the fleet's network cannot be made: {complaints[-1]}", hint="free one of " + ", ".join(SUBNETS)
        )
    return made.subnet, made.host


def network() -> Network | None:
    """The network of that name, whoever made it; None when there is none."""
    try:
        whole: Any = json.loads(docker("network", "inspect", NETWORK))[0]
    except FleetError:
        return None
    told = whole["IPAM"]["Config"][0]
    host = told.get("Gateway") or told["Subnet"].rsplit(".", 1)[0] + ".1"
    return Network(told["Subnet"], host, (whole.get("Labels") or {}).get(OWNER, ""))


def remove_network(owner: Path) -> None:
    """Takes the fleet's network away; one that is not there, or not its own, stays as it is."""
    found = network()
    if found is not None and found.owner == str(owner):
        docker("network", "rm", NETWORK)


def _fault(*words: str) -> None:
    try:
        docker(*words)
    except FleetError as error:
        raise FaultError(error.message, hint=error.hint) from error


def _container(told: dict[str, Any]) -> Container:
    networks = told["NetworkSettings"]["Networks"]
    config = networks.get(NETWORK) or {}
    fixed = (config.get("IPAMConfig") or {}).get("IPv4Address", "")
    marks = [mount["Source"] for mount in told.get("Mounts", ()) if mount["Destination"] == MARKER_DIR]
    return Container(
        name=told["Name"].removeprefix("/"),
        cluster=told["Config"]["Labels"].get(LABEL, ""),
        state=told["State"]["Status"],
        address=config.get("IPAddress") or fixed,
        started=epoch(told["State"]["StartedAt"]) if not told["State"]["StartedAt"].startswith("0001") else 0.0,
        marker=marks[0] if marks else "",
        id=told.get("Id", ""),
        shares=told.get("HostConfig", {}).get("CpuShares", 0),
        pid=told["State"].get("Pid", 0),
    )
