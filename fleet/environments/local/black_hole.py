"""The black hole: packets to and from a cluster's addresses vanish, so that connects time out and open ones hang.

Needs root on Linux, an ``iptables`` that works, and addresses of the cluster's own. ``LocalCluster`` puts the rules in
just before the kill, so that not even the dying processes' goodbyes get out; the zygote takes them out however the
fleet ends. It touches no rule but its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import Final

from history.errors import FaultError

Command = tuple[str, ...]
_TIMEOUT_S: Final = 3.0
_PROBE_NETWORK: Final = "127.63.254.0/24"


def rules(network: str, action: str) -> tuple[Command, ...]:
    """The commands that put in (``-I``) or take out (``-D``) the two rules of ``network``."""
    tool = shutil.which("iptables") or "iptables"
    comment = ("-m", "comment", "--comment", "blackstart")
    return tuple((tool, "-w", "2", action, "INPUT", end, network, *comment, "-j", "DROP") for end in ("-d", "-s"))


@cache
def possible() -> bool:
    """Can this process do it here? Asked once, by looking for rules of loopback addresses that nobody uses.

    Looking (``-C``) needs the same rights and the same kernel matches as putting in, and changes nothing: planning a
    drill must leave the firewall alone.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("iptables") is None:
        return False
    said = _run(rules(_PROBE_NETWORK, "-C"))
    return said == "" or "matching rule" in said  # "there is no such rule" is the answer of a firewall that works


def open_hole(network: str) -> None:
    """Puts the rules in; ``FaultError`` when the firewall does not take them."""
    if said := _run(rules(network, "-I")):
        close_hole(network)
        raise FaultError(f"iptables would not drop packets of {network}: {said}", hint="use signature='refused'")


def close_hole(network: str) -> bool:
    """Takes the rules out; was there any of them? Nothing to take out is no error; not to be let look, as somebody
    else than root, is one: ``FaultError``."""
    said = [_run((rule,)) for rule in rules(network, "-D")]
    if os.geteuid() != 0 and any("ermission" in one for one in said):
        raise FaultError(f"only root sees whether packets of {network} are dropped: {said[0]}", hint="use sudo")
    return "" in said


def _run(commands: tuple[Command, ...]) -> str:
    """Runs all; "" when every one succeeded, else what the first failure said."""
    said = ""
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = said or str(error)
            continue
        if done.returncode:
            said = said or done.stderr.strip() or f"exit code {done.returncode}"
    return said
