"""Addresses: fleets side by side, and a port in use named with its holder."""

from __future__ import annotations

import os
import random
import socket

import pytest

from fleet.environments.local.addresses import Addresses, Ports, require_free, reserve
from history.errors import FleetError


def test_two_fleets_never_share_a_number() -> None:
    first, second = reserve(random.Random(1)), reserve(random.Random(1))
    try:
        if not first.private:
            pytest.skip("this system has only 127.0.0.1")
        assert first.number != second.number
        hosts = {first.outside, first.control(1), first.node(1, 1), first.node(1, 2), first.node(2, 1)}
        assert len(hosts) == 5
        assert first.network(1) == f"127.{first.number}.1.0/24"
    finally:
        first.release()
        second.release()
    third = reserve(random.Random(1))
    third.release()
    assert third.number == first.number


def test_where_there_is_only_one_address_everything_is_there() -> None:
    plain = Addresses(0, None)
    assert not plain.private
    assert {plain.outside, plain.control(1), plain.node(2, 1)} == {"127.0.0.1"}
    assert plain.network(1) == ""


def test_ports_are_given_once() -> None:
    ports = Ports()
    given = [ports.take("127.0.0.1") for _ in range(50)]
    assert len(set(given)) == 50


def test_a_port_in_use_is_named_with_its_holder() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FleetError) as caught:
            require_free("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in caught.value.message
    assert f"process {os.getpid()}" in caught.value.message
    assert "another gateway port" in caught.value.hint
    require_free("127.0.0.1", port)
