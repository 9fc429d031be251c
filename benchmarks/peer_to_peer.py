"""How close node-to-node loading comes to its ideal. Prints figures and bars; exits 1 where a bar is missed.

    python benchmarks/peer_to_peer.py [--nodes N] [--mib S] [--piece-mib P] [--link-mib-s B] [--rounds R]

Real agents and a real store, a process each, on loopback; each node's link and the store's egress are limited to B by
token buckets. All nodes of one cluster load the same S MiB at the same moment, nothing cached. Ideal: with peers
S/b + log2(N) c/b (c: what is handed on at once), as if the store's B bytes a second were handed on without loss; from
the store alone N S/B. Bars: a load within 1.3 x of its ideal at p50 and 1.8 x at p99; the store sends each object at
most 1.2 times.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import click

from fleet.serving.bucket import chunk_bytes
from fleet.serving.byhand import TOKEN_VARIABLE
from fleet.serving.config import MIB
from fleet.serving.process import token_headers
from fleet.serving.weights import make_weights

P50_BAR, P99_BAR, COPIES_BAR = 1.3, 1.8, 1.2


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def start(stack: ExitStack, log: Path, module: str, *arguments: object) -> None:
    """A process of the serving system, until the stack ends."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=stack.enter_context(log.open("w")), stderr=subprocess.STDOUT)
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)


async def get(session: aiohttp.ClientSession, url: str) -> str:
    """The answer's text, once the process is up (at most 30 s)."""
    for _ in range(300):
        try:
            async with session.get(url) as response:
                return await response.text()
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.1)
    raise SystemExit(f"nobody answers at {url}")


async def load(session: aiohttp.ClientSession, agent: str, model: str) -> float:
    """Seconds until the node has the model, whole and verified."""
    began = time.monotonic()
    async with session.post(f"{agent}/fetch", json={"model": model}) as response:
        body = await response.json()
    if response.status != 200:
        raise SystemExit(f"{agent}: {body}")
    took = time.monotonic() - began
    await session.post(f"{agent}/release", json={"lease": body["lease"]})
    return took


async def sent_bytes(session: aiohttp.ClientSession, store: str) -> float:
    """What the store has sent so far."""
    found = re.search(r"^weight_store_sent_bytes_total\S* (\S+)$", await get(session, f"{store}/metrics"), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


async def measure(token: str, store: str, agents: list[str], rounds: int) -> tuple[list[float], float]:
    """(seconds of each load, bytes that the store sent)."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(headers=token_headers(token), timeout=timeout) as session:
        for url in (store, *agents):
            await get(session, f"{url}/healthz")
        seconds: list[float] = []
        for number in range(rounds):
            seconds += await asyncio.gather(*(load(session, agent, f"m{number}") for agent in agents))
        return seconds, await sent_bytes(session, store)


def rank(values: list[float], percent: float) -> float:
    """Nearest rank."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


@click.command()
@click.option("--nodes", default=8, show_default=True)
@click.option("--mib", default=64, show_default=True, help="Weights of a model.")
@click.option("--piece-mib", default=64, show_default=True, help="Size of an object.")
@click.option("--link-mib-s", default=8.0, show_default=True, help="A node's link, each way; also the store's egress.")
@click.option("--rounds", default=5, show_default=True)
def main(nodes: int, mib: int, piece_mib: int, link_mib_s: float, rounds: int) -> None:
    """Print the figures."""
    token = secrets.token_hex(8)
    os.environ[TOKEN_VARIABLE] = token
    size, rate = mib * MIB, link_mib_s * MIB
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        for number in range(rounds):
            make_weights(work / "store", f"m{number}", size, number, piece_mib * MIB)
        ports = free_ports(nodes + 1)
        store, *agents = (f"http://127.0.0.1:{port}" for port in ports)
        limits = ("--root", work / "store", "--egress-bytes-s", rate)
        start(stack, work / "store.log", "fleet.serving.store", "--port", ports[0], *limits)
        for i, agent in enumerate(agents, 1):
            place = ("--cluster", "amber", "--node", f"amber-n{i}", "--port", ports[i], "--cache-dir", work / f"n{i}")
            peers = [word for peer in agents if peer != agent for word in ("--peer-url", peer)]
            more = ("--peer-fetch", "--link-bytes-s", rate, "--store-url", store, *peers)
            start(stack, work / f"n{i}.log", "fleet.serving.agent", *place, *more)
        seconds, sent = asyncio.run(measure(token, store, agents, rounds))
    ideal = size / rate + math.log2(nodes) * chunk_bytes(rate) / rate
    p50, p99, copies = rank(seconds, 50), rank(seconds, 99), sent / (size * rounds)
    print(f"{nodes} nodes load {mib} MiB (objects: {piece_mib} MiB) at {link_mib_s:g} MiB/s a link, n = {len(seconds)}")
    print(f"ideal with peers {ideal:.2f} s; from the store alone {nodes * size / rate:.1f} s")
    print(f"p50 {p50:.2f} s = {p50 / ideal:.2f} x ideal (bar {P50_BAR})")
    print(f"p99 {p99:.2f} s = {p99 / ideal:.2f} x ideal (bar {P99_BAR})")
    print(f"the store sent each object {copies:.2f} times (bar {COPIES_BAR})")
    sys.exit(p50 > P50_BAR * ideal or p99 > P99_BAR * ideal or copies > COPIES_BAR)


if __name__ == "__main__":
    main()
