"""The black hole's rules: in, out, and nobody else's touched."""

from __future__ import annotations

import subprocess

import pytest

from fleet.environments.local import black_hole
from history.errors import FaultError

NETWORK = "127.63.253.0/24"


def rules() -> list[str]:
    done = subprocess.run(["iptables", "-w", "-S", "INPUT"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if NETWORK in line]


def test_what_goes_in_comes_out() -> None:
    put_in, taken_out = black_hole.rules(NETWORK, "-I"), black_hole.rules(NETWORK, "-D")
    assert [[word for word in command if word not in ("-I", "-D")] for command in put_in] == [
        [word for word in command if word not in ("-I", "-D")] for command in taken_out
    ]
    assert {command[command.index(NETWORK) - 1] for command in put_in} == {"-d", "-s"}


def test_it_opens_and_closes() -> None:
    if not black_hole.possible():
        pytest.skip("needs root, Linux and iptables")
    black_hole.open_hole(NETWORK)
    try:
        assert len(rules()) == 2
    finally:
        black_hole.close_hole(NETWORK)
    assert rules() == []
    black_hole.close_hole(NETWORK)  # twice is once


def test_a_firewall_that_says_no_is_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/bin/false")
    with pytest.raises(FaultError) as caught:
        black_hole.open_hole(NETWORK)
    assert NETWORK in caught.value.message
    assert "refused" in caught.value.hint
