"""The token bucket: never faster than its rate, exact from idle, fair between streams."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.serving.bucket import CATCH_UP_S, MAX_CHUNK_BYTES, TokenBucket, chunk_bytes, pass_through
from history.clock import NS_PER_S

Takes = list[tuple[int, int]]
takes = st.lists(st.tuples(st.integers(1, MAX_CHUNK_BYTES), st.integers(0, NS_PER_S // 10)), min_size=1, max_size=60)


@given(takes, st.integers(10_000, 10**9))
def test_no_span_of_time_passes_more_than_rate_and_catch_up(asked: Takes, bytes_s: int) -> None:
    bucket = TokenBucket(bytes_s)
    now, passed = NS_PER_S, []
    for size, gap_ns in asked:
        now += gap_ns
        passed.append((bucket.reserve(size, now), size))
    dues = [due for due, _ in passed]
    assert dues == sorted(dues)
    for first in range(len(passed)):
        total = 0
        for due, size in passed[first:]:
            total += size
            span_s = (due - passed[first][0]) / NS_PER_S
            assert total <= bytes_s * (span_s + CATCH_UP_S) * 1.0001 + passed[first][1] + 2


@given(st.integers(1, 10**7), st.integers(10_000, 10**9))
def test_a_transfer_that_finds_the_bucket_idle_takes_exactly_bytes_over_rate(size: int, bytes_s: int) -> None:
    bucket = TokenBucket(bytes_s)
    start = 5 * NS_PER_S
    left, now = size, start
    while left:
        piece = min(left, MAX_CHUNK_BYTES)
        now = bucket.reserve(piece, now)
        left -= piece
    assert (now - start) / NS_PER_S == pytest.approx(size / bytes_s, rel=1e-3, abs=1e-6)


def test_late_timers_cost_no_throughput() -> None:
    bucket, now = TokenBucket(1_000_000), 10 * NS_PER_S
    start = now
    for _ in range(100):  # each wake-up comes 5 ms late
        now = bucket.reserve(10_000, now) + 5_000_000
    assert (now - start) / NS_PER_S == pytest.approx(1.0, abs=0.03)


@given(st.integers(2, 12))
def test_concurrent_streams_share_evenly(streams: int) -> None:
    bucket = TokenBucket(1_000_000)
    due = dict.fromkeys(range(streams), NS_PER_S)
    sent = dict.fromkeys(range(streams), 0)
    while min(due.values()) < 2 * NS_PER_S:
        who = min(due, key=lambda i: (due[i], i))
        due[who] = bucket.reserve(1_000, due[who])
        sent[who] += 1
    assert max(sent.values()) - min(sent.values()) <= 1
    assert sum(sent.values()) == pytest.approx(1000, abs=streams + 21)


def test_no_limit_means_no_wait() -> None:
    assert TokenBucket(0).reserve(10**9, 42) == 42


def test_the_slowest_bucket_decides_how_long_is_waited() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def go() -> None:
        buckets = (TokenBucket(1000), TokenBucket(100))
        await pass_through(buckets, 50, clock=lambda: NS_PER_S, sleep=sleep)
        await pass_through((), 50, clock=lambda: NS_PER_S, sleep=sleep)

    asyncio.run(go())
    assert waits == [0.5, 0]


@pytest.mark.parametrize(("bytes_s", "size"), [(0, 262_144), (10**9, 262_144), (5_000_000, 50_000), (1000, 8192)])
def test_chunks_are_small_enough_to_be_smooth(bytes_s: float, size: int) -> None:
    assert chunk_bytes(bytes_s) == size
