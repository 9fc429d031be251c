"""What a Docker engine left in the packet filter, as the commands that take exactly that out again.

Pure: works on texts of ``iptables-save``. ``engine`` calls it with the text from before the engine's start and the
text after its end. Rules of others, also such as were added meanwhile, stay.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from typing import Final

PREFIX: Final = "DOCKER"
"""How the names of all of Docker's chains begin."""

Subnet = IPv4Network | IPv6Network


def removals(before: str, after: str, *, bridges: Collection[str], subnets: Collection[Subnet]) -> list[list[str]]:
    """Arguments for ``iptables``, a command each, in order: rules out, chains emptied and deleted, policies back.

    ``bridges``: the engine's; ``subnets``: theirs. A rule is the engine's when it is new, and jumps to one of Docker's
    chains, names one of the bridges, or is about nothing but addresses of the subnets.
    """
    old = set(lines(before))
    commands: list[list[str]] = []
    chains: list[tuple[str, str]] = []
    for table, line in lines(after):
        if (table, line) in old:
            continue
        words = shlex.split(line)
        if line.startswith(":"):
            chain, policy = words[0][1:], words[1]
            if policy == "-" and chain.startswith(PREFIX) and not declared(old, table, chain):
                chains.append((table, chain))
            elif policy != "-" and (was := declared(old, table, chain)) and was != policy:
                commands.append(["-t", table, "-P", chain, was])
        elif words[0] == "-A" and not words[1].startswith(PREFIX) and theirs(words[2:], bridges, subnets):
            commands.append(["-t", table, "-D", *words[1:]])
    commands += [["-t", table, "-F", chain] for table, chain in chains]
    commands += [["-t", table, "-X", chain] for table, chain in chains]
    return commands


def lines(saved: str) -> Iterator[tuple[str, str]]:
    """The chains and rules of a saved filter as (table, line), a chain's counters left out."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            yield table, " ".join(line.split()[:2])
        elif line.startswith("-A"):
            yield table, line.strip()


def declared(old: Collection[tuple[str, str]], table: str, chain: str) -> str:
    """The policy that a chain had, ``-`` for a user's own chain, nothing when it was not there.

    A built-in chain of a table that was never used is not saved: it accepts.
    """
    for known, line in old:
        if known == table and line.startswith(f":{chain} "):
            return line.split()[1]
    return "" if chain.startswith(PREFIX) else "ACCEPT"


def theirs(words: list[str], bridges: Collection[str], subnets: Collection[Subnet]) -> bool:
    """Whether a rule (without its chain) is the engine's."""
    said = dict(pairwise(words))
    if said.get("-j", "").startswith(PREFIX) or {said.get("-i"), said.get("-o")} & set(bridges):
        return True
    addresses = [said[flag] for flag in ("-s", "-d") if flag in said]
    return bool(addresses) and all(any(within(address, subnet) for subnet in subnets) for address in addresses)


def within(address: str, subnet: Subnet) -> bool:
    network = ip_network(address, strict=False)
    if isinstance(network, IPv4Network) and isinstance(subnet, IPv4Network):
        return network.subnet_of(subnet)
    return isinstance(network, IPv6Network) and isinstance(subnet, IPv6Network) and network.subnet_of(subnet)
