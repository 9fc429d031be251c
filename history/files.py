"""The bytes of a run's ops: blocks of whole lines for the reader, and ``merge`` of the parts into one file.

Called by reader.py and, at the end of a run, by the runner. Knows lines, gzip and file names; decides nothing about
what ops mean.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from history.op import decode
from history.rundir import RunDirectory, atomic

BLOCK_BYTES = 2_000_000
"""Small enough for a CPU's cache (twice as fast as 30 MB), large enough to amortise a call."""
TRUNCATED: Final = b"\x00truncated"
"""Stands for the rest of a merged file that ends early or fails its checksum; counts as one damaged line."""
_FEED_BYTES = 65_536

T = TypeVar("T")


def blocks(directory: RunDirectory) -> Iterator[bytes]:
    """Blocks of whole lines: the merged file, then lines of parts that it does not hold."""
    merged = directory.history.exists()
    if merged:
        yield from _ahead(whole_lines(_unzipped(directory.history)))
    parts = sorted(directory.ops.glob("*.jsonl"))
    if not parts:
        if not merged:
            yield TRUNCATED
        return
    known = _known_lines(directory) if merged else frozenset[bytes]()
    for part in parts:
        with part.open("rb") as file:
            for block in whole_lines(iter(lambda: file.read(BLOCK_BYTES), b"")):
                if known:
                    block = b"\n".join(line for line in block.split(b"\n") if line not in known)
                yield block


def merge(directory: RunDirectory) -> int:
    """Writes ``history.jsonl.gz`` from all ``ops/*.jsonl`` (each op unchanged, in time order); returns damaged lines.

    The parts stay until the merged file is on disk, then they are removed; a merge that was killed in between can be
    repeated. Ops of an earlier merge are kept. Damaged lines are kept at the end of the merged file as they are:
    evidence, and a later analysis counts them again. ``RecordingError`` when the disk does not take it.
    """
    parts = sorted(directory.ops.glob("*.jsonl"))
    if not parts:
        return 0
    known: frozenset[bytes] = frozenset()
    keyed: list[tuple[int, bytes]] = []
    broken: list[bytes] = []
    if directory.history.exists():
        known = _known_lines(directory)
        _sort_in(known, keyed, broken)
    for part in parts:
        _sort_in((line for line in part.read_bytes().split(b"\n") if line not in known), keyed, broken)
    keyed.sort()  # ties by their bytes: the same ops give the same file, however often they are merged
    broken.sort()
    with (
        atomic(directory.history, "free space; the ops are still in its ops folder") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as zipped,
        io.BufferedWriter(zipped, BLOCK_BYTES) as file,
    ):
        file.writelines(line + b"\n" for _, line in keyed)
        file.writelines(line + b"\n" for line in broken)
    for part in parts:
        part.unlink()
    with contextlib.suppress(OSError):  # somebody keeps other files there
        directory.ops.rmdir()
    return len(broken)


def _sort_in(lines: Iterable[bytes], keyed: list[tuple[int, bytes]], broken: list[bytes]) -> None:
    for line in lines:
        if not line.strip():
            continue
        try:
            keyed.append((decode(line).t_intended, line))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            broken.append(line)


def _known_lines(directory: RunDirectory) -> frozenset[bytes]:
    """Lines of the merged file that are whole."""
    found: set[bytes] = set()
    for block in whole_lines(_unzipped(directory.history)):
        found.update(line for line in block.split(b"\n") if line and block is not TRUNCATED)
    return frozenset(found)


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cuts chunks into blocks that end with a line; ``TRUNCATED`` passes through."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        if chunk is TRUNCATED:
            if rest:
                yield b"".join(rest)
            yield TRUNCATED
            return
        rest.append(chunk)
        size += len(chunk)
        if size >= BLOCK_BYTES and (cut := chunk.rfind(b"\n") + 1):
            yield b"".join(rest[:-1]) + chunk[:cut]
            rest, size = [chunk[cut:]], len(chunk) - cut
    if size:
        yield b"".join(rest)


def _unzipped(path: Path) -> Iterator[bytes]:
    """What can be read of a gzip file, then ``TRUNCATED`` if that is not all of it."""
    unzip = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        try:
            while data := file.read(_FEED_BYTES):
                while data:
                    if unzip.eof:  # a further member
                        unzip = zlib.decompressobj(wbits=31)
                    yield unzip.decompress(data)
                    data = unzip.unused_data if unzip.eof else b""
        except (zlib.error, OSError):
            yield TRUNCATED
            return
    if not unzip.eof:
        yield unzip.flush()
        yield TRUNCATED


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each prepared in a thread while the one before is used (zlib lets other threads run)."""
    done = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, done)
        while (item := following.result()) is not done:
            following = pool.submit(next, items, done)
            yield item  # type: ignore[misc]
