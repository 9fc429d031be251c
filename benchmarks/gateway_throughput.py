"""How many requests a second gateway and model server carry together: real processes, real HTTP, closed loop.

    python -m benchmarks.gateway_throughput [--requests 6000] [--connections 32] [--replicas 2] [--stream]

Starts a stub control plane, a weight store, an agent, model servers without think time and the gateway, each a
process; sends a fixed number of requests over kept-alive connections from this process; prints one figure. It stops
after ``--at-most-s`` whatever happened. Everything shares this machine's cores, the sender included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
from aiohttp import web

from fleet.serving import agent, gateway, server, store
from fleet.serving.config import AgentConfig, GatewayConfig, ServerConfig, StoreConfig
from fleet.serving.events import EventLog
from fleet.serving.process import process_log
from fleet.serving.serve import serve
from fleet.spec import ModelSpec

HOST = "127.0.0.1"
TOKEN = "benchmark"
MODEL = ModelSpec("m", "chat", "base", 1 << 20, slots=64, first_token_ms=0.0, token_ms=0.0)


def control_plane(port: int, replicas: list[dict[str, str]]) -> None:
    """A control plane that knows a fixed list of ready replicas."""
    events = EventLog()

    async def listing(_: web.Request) -> web.Response:
        return web.json_response({"replicas": replicas})

    async def accept(_: web.Request) -> web.Response:
        return web.json_response({})

    async def close(_: web.Application) -> None:
        events.close()

    app = web.Application()
    app.router.add_get("/replicas", listing)
    app.router.add_get("/events", events.handler)
    app.router.add_post("/replicas/{name}/state", accept)
    app.on_shutdown.append(close)
    serve(app, HOST, port, log=process_log("control", None))


@contextlib.contextmanager
def processes(work: Path, base_port: int, replicas: int) -> Iterator[None]:
    """All of them, ended and reaped at the end."""
    store.make_weights(work / "store", "m", 1 << 20, seed=1, piece_bytes=1 << 18)
    url = f"http://{HOST}:{{}}".format
    names = [f"m-{i + 1}" for i in range(replicas)]
    listing = [
        {"name": name, "model": "m", "node": "n1", "phase": "Ready", "url": url(base_port + 10 + i)}
        for i, name in enumerate(names)
    ]
    store_config = StoreConfig("weights", HOST, base_port, work / "store", 0.0, log_dir=work)
    agent_config = AgentConfig(
        "amber", "n1", HOST, base_port + 1, work / "cache", 1 << 24, (url(base_port),), log_dir=work, token=TOKEN
    )
    gateway_config = GatewayConfig(HOST, base_port + 3, (("amber", url(base_port + 2)),), log_dir=work)
    starts: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (store.run, (store_config,)),
        (agent.run, (agent_config,)),
        (control_plane, (base_port + 2, listing)),
        (gateway.run, (gateway_config,)),
    ]
    for i, name in enumerate(names):
        config = ServerConfig(
            "amber", "n1", name, MODEL, HOST, base_port + 10 + i, url(base_port + 1), url(base_port + 2),
            log_dir=work, access_log=work / "access.jsonl", token=TOKEN,
        )  # fmt: skip
        starts.append((server.run, (config,)))
    pids = [_fork(function, arguments) for function, arguments in starts]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            os.waitpid(pid, 0)


def _fork(function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        finally:
            os._exit(0)
    return pid


async def until_ready(entry: str, replicas: int, at_most_s: float) -> None:
    """Waits until the gateway routes to all replicas."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(at_most_s):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{entry}/state") as response:
                    if sum(row["routable"] for row in (await response.json())["replicas"]) == replicas:
                        return
            await asyncio.sleep(0.05)


async def send(port: int, count: int, connections: int, stream: bool) -> tuple[int, list[float]]:
    """``count`` requests over ``connections`` sockets; returns (answers that were 200, latencies in seconds)."""
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": stream}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    left, good, latencies = count, 0, []

    async def connection() -> None:
        nonlocal left, good
        reader, writer = await asyncio.open_connection(HOST, port)
        while left > 0:
            left -= 1
            start = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b"chunked" in answer:
                await reader.readuntil(b"0\r\n\r\n")
            else:
                length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
            latencies.append(time.perf_counter() - start)
            good += answer.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return good, latencies


async def measure(port: int, count: int, connections: int, replicas: int, stream: bool, at_most_s: float) -> str:
    """One line with the figure."""
    await until_ready(f"http://{HOST}:{port}", replicas, 10)
    async with asyncio.timeout(at_most_s):
        await send(port, min(count, 500), connections, stream)  # warm-up
        start = time.perf_counter()
        good, latencies = await send(port, count, connections, stream)
        seconds = time.perf_counter() - start
    ranked = sorted(latencies)
    p50, p99 = (1000 * ranked[min(len(ranked) - 1, int(len(ranked) * q))] for q in (0.5, 0.99))
    latency = f"latency p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return f"{good / seconds:.0f} rps ({good} of {count} ok in {seconds:.2f} s; {latency})"


@click.command()
@click.option("--requests", "count", type=click.IntRange(1, 200_000), default=6000, show_default=True)
@click.option("--connections", type=click.IntRange(1, 512), default=32, show_default=True)
@click.option("--replicas", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option("--stream/--no-stream", default=False, show_default=True, help="Streamed answers of 8 tokens.")
@click.option("--at-most-s", type=float, default=60, show_default=True)
@click.option("--base-port", type=int, default=18700, show_default=True)
def main(count: int, connections: int, replicas: int, stream: bool, at_most_s: float, base_port: int) -> None:
    """Print the requests a second that gateway and model servers carry together."""
    with tempfile.TemporaryDirectory() as work, processes(Path(work), base_port, replicas):
        click.echo(asyncio.run(measure(base_port + 3, count, connections, replicas, stream, at_most_s)))


if __name__ == "__main__":
    main()
