"""The command behind ``make docker-engine``: a Docker engine of our own, where none runs and root may start one.

    python -m fleet.environments.kind.offline.engine start | status | stop

``start`` records what an engine, and the kubelets in its containers, change on this host: kernel settings, bridges,
the packet filter. ``stop`` ends the engine by its pid and sets exactly that back. An engine that somebody else started
is used and never stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

import click

from fleet.environments.kind.offline import docker
from fleet.environments.kind.offline.host import install
from fleet.environments.kind.offline.packet_filter import Subnet, removals
from fleet.environments.kind.offline.paths import Paths
from fleet.environments.kind.offline.versions import read
from history.errors import BlackstartError, FleetError

RUN: Final = Path("/run/blackstart-engine")
"""The engine's state, gone with a reboot like the engine itself."""
SHIM: Final = Path(__file__).with_name("runc-shim.sh")
CAP_SYS_RESOURCE: Final = 24
ANSWERS_WITHIN_S: Final = 60.0
ENDS_WITHIN_S: Final = 90.0
"""Containers get ten seconds to end before the engine kills them."""
SETTINGS: Final = (
    "vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
    "net.ipv4.ip_forward", "net.ipv4.conf.default.forwarding",
    "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding",
    "net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables",
    "fs.inotify.max_user_instances", "fs.inotify.max_user_watches",
)  # fmt: skip
"""Kernel settings of the whole host that the kubelet (the first six), the engine or we ourselves change."""
AT_LEAST: Final = {"fs.inotify.max_user_instances": 1024, "fs.inotify.max_user_watches": 524_288}
"""What several clusters on one host need."""
FILTERS: Final = ("iptables", "ip6tables")

Say = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """What was recorded at the start; ``RUN / state.json``."""

    pid: int
    born: str
    """The process's start time as the kernel counts it: a pid alone may be somebody else's by now."""
    settings: dict[str, str]
    bridges: list[str]
    filters: dict[str, str]
    """Filter command -> what its ``-save`` printed."""
    cgroups: list[str]


def recorded_state() -> State | None:
    """The recorded state of our engine, if one was started since the last boot."""
    file = RUN / "state.json"
    return State(**json.loads(file.read_text())) if file.exists() else None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", type=click.Choice(["start", "status", "stop"]))
def main(what: str) -> None:
    """Start, show or stop a Docker engine of blackstart's own.

    start: does nothing when an engine answers already. stop: ends only an engine that `start` started; its images stay
    in the cache for the next time, its bridges, packet filter chains and changed kernel settings do not stay.
    """
    try:
        {"start": start, "status": status, "stop": stop}[what](print_line)
    except BlackstartError as error:
        print(f"Error: {error.message}\nNext: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def print_line(line: str) -> None:
    print(line, flush=True)


def status(say: Say) -> None:
    """Say whether an engine answers, and whether it is ours."""
    state, version = recorded_state(), docker.engine_version()
    whose = f"ours, pid {state.pid}" if state and alive(state) else "not started by blackstart"
    say(f"Docker engine {version}: {whose}" if version else "no Docker engine answers")


def start(say: Say) -> None:
    """Start an engine unless one answers."""
    if version := docker.engine_version():
        say(f" ✓ Docker engine {version} answers already")
        return
    if os.geteuid() != 0:
        raise FleetError("no Docker engine answers, and only root can start one", hint="sudo make docker-engine")
    if state := recorded_state():
        if alive(state):
            raise FleetError(
                f"our engine (pid {state.pid}) runs and does not answer",
                hint="make docker-engine-stop, then start again",
            )
        say("   an engine of ours ended without being stopped; cleaning up after it")
        clean(state, say)
    install(read(), ("dockerd", "docker", "iptables", "ip", *(() if may_raise_limits() else ("jq",))), say)
    if version := docker.engine_version():  # the distribution's package started it
        say(f" ✓ Docker engine {version} answers")
        return
    began = time.monotonic()
    paths = Paths.of_this_machine()
    command = engine_command(paths.cache / "engine", RUN, shim=None if may_raise_limits() else RUN / SHIM.name)
    RUN.mkdir(mode=0o755, exist_ok=True)
    shutil.copy(SHIM, RUN)  # the checkout may change or go while the engine runs
    (paths.cache / "engine").mkdir(parents=True, exist_ok=True)
    log = paths.cache / "engine" / "dockerd.log"
    state = recorded()
    write(state)
    with log.open("wb") as file:
        engine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd="/"
        )
    write(replace(state, pid=engine.pid, born=born(engine.pid)))
    raise_settings()
    while not (version := docker.engine_version()):
        if engine.poll() is not None or time.monotonic() - began > ANSWERS_WITHIN_S:
            ended = f"ended with code {engine.returncode}" if engine.returncode is not None else "does not answer"
            stop(say)
            raise FleetError(f"dockerd {ended}: {complaint(log)}", hint=f"read {log}")
        time.sleep(0.2)
    shim = " (root lacks CAP_SYS_RESOURCE: containers go through runc-shim.sh)" if not may_raise_limits() else ""
    say(f" ✓ Docker engine {version}, pid {engine.pid}, started in {time.monotonic() - began:.1f} s{shim}")


def stop(say: Say) -> None:
    """End our engine and set back what it changed; says so when there is none."""
    state = recorded_state()
    if state is None:
        say(" ✓ no engine of blackstart's own runs")
        return
    if os.geteuid() != 0:
        raise FleetError(f"root started the engine (pid {state.pid})", hint="sudo make docker-engine-stop")
    if alive(state):
        os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while alive(state):
            if time.monotonic() > deadline:
                raise FleetError(
                    f"dockerd (pid {state.pid}) does not end",
                    hint="stop its containers by hand, then make docker-engine-stop",
                )
            with contextlib.suppress(ChildProcessError):
                os.waitpid(state.pid, os.WNOHANG)
            time.sleep(0.1)
        say(f" ✓ Docker engine, pid {state.pid}, ended")
    clean(state, say)


def clean(state: State, say: Say) -> None:
    """Take out what the engine left: bridges, packet filter, kernel settings, mounts, empty cgroups."""
    bridges = {
        name: subnets for name, subnets in bridge_subnets().items() if name not in state.bridges and docker_made(name)
    }
    gone = 0
    for command, before in state.filters.items():
        nets = [net for subnets in bridges.values() for net in subnets]
        for words in removals(before, saved(command), bridges=bridges, subnets=nets):
            subprocess.run([command, "--wait", *words], check=True)
            gone += 1
    for name in bridges:
        subprocess.run(["ip", "link", "delete", name], check=True)
    changed = [f"{name}={value}" for name, value in state.settings.items() if setting(name) != value]
    for name, value in state.settings.items():
        if setting(name) != value:
            setting_file(name).write_text(value)
    for mount in [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()][::-1]:
        if mount.startswith(f"{RUN}/"):
            subprocess.run(["umount", "--lazy", mount], check=False)
    for folder in (*(set(cgroups()) - set(state.cgroups)), "/run/docker/plugins", "/run/docker"):
        with contextlib.suppress(OSError):  # not there, or somebody else's things are in it
            os.rmdir(folder)
    shutil.rmtree(RUN)
    say(f" ✓ taken out: bridges {', '.join(bridges) or 'none'}; {gone} packet filter lines")
    say(f" ✓ set back: {', '.join(changed) or 'nothing had changed'}")


def engine_command(data: Path, run: Path, *, shim: Path | None) -> list[str]:
    """dockerd's command line; ``shim``: the runtime in place of runc, where runc itself cannot work."""
    command = ["dockerd", f"--data-root={data}", f"--exec-root={run}/exec", f"--pidfile={run}/pid"]
    return command + ([f"--add-runtime=shim={shim}", "--default-runtime=shim"] if shim else [])


def recorded() -> State:
    """This host as it is before an engine starts."""
    return State(
        pid=0,
        born="",
        settings={name: setting(name) for name in SETTINGS if setting_file(name).exists()},
        bridges=list(bridge_subnets()),
        filters={command: saved(command) for command in FILTERS if shutil.which(f"{command}-save")},
        cgroups=list(cgroups()),
    )


def write(state: State) -> None:
    (RUN / "state.json").write_text(json.dumps(asdict(state)))


def may_raise_limits(status_file: Path = Path("/proc/self/status")) -> bool:
    """Whether this process holds CAP_SYS_RESOURCE."""
    for line in status_file.read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False


def setting_file(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def setting(name: str) -> str:
    file = setting_file(name)
    return file.read_text().strip() if file.exists() else ""


def raise_settings() -> None:
    """Raise the limits that several clusters need, and lower none."""
    for name, wanted in AT_LEAST.items():
        if int(setting(name) or wanted) < wanted:
            setting_file(name).write_text(str(wanted))


def bridge_subnets() -> dict[str, list[Subnet]]:
    """The bridges of this host with their subnets."""
    asked = subprocess.run(
        ["ip", "-json", "address", "show", "type", "bridge"], capture_output=True, text=True, check=True
    )
    found: dict[str, list[Subnet]] = {}
    for link in json.loads(asked.stdout or "[]"):
        if "ifname" in link:
            addresses = link.get("addr_info", [])
            found[link["ifname"]] = [ip_interface(f"{one['local']}/{one['prefixlen']}").network for one in addresses]
    return found


def docker_made(bridge: str) -> bool:
    """Whether a bridge bears a name that Docker gives: docker0, or br- and twelve digits of a network's id."""
    digits = bridge.removeprefix("br-")
    return bridge == "docker0" or (len(digits) == 12 and bridge != digits and set(digits) <= set("0123456789abcdef"))


def saved(command: str) -> str:
    return subprocess.run([f"{command}-save"], capture_output=True, text=True, check=True).stdout


def cgroups() -> Iterator[str]:
    """Docker's folders among the cgroups."""
    return map(str, (*Path("/sys/fs/cgroup").glob("docker"), *Path("/sys/fs/cgroup").glob("*/docker")))


def born(pid: int) -> str:
    """The start time of a process, in the kernel's ticks; empty when there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def alive(state: State) -> bool:
    return bool(state.born) and born(state.pid) == state.born


def complaint(log: Path) -> str:
    """The last line of the engine's log that names an error."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if "level=info" not in line and line.strip()), "its log is empty")


if __name__ == "__main__":
    main()
