"""The follower of event streams: everything once, stamped on receipt, gaps recorded, new lives from their start."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import msgspec

from fleet.environments.local.watch import Allocator, Follower
from fleet.serving.events import Event
from history.op import OBSERVER, REPLICA_FAILED, REPLICA_READY, WATCH_GAP, Op


class Script:
    """What the server answers: one (life, events, how to end) a connection, then refusals with 503."""

    def __init__(self, *answers: tuple[str, list[Event], bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, list[str]]] = []
        self.exhausted = threading.Event()


@contextmanager
def served(script: Script) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(parse_qs(urlsplit(self.path).query))
            if not script.answers:
                script.exhausted.set()
                self.send_error(503)
                return
            life, events, end = script.answers.pop(0)
            after = int(script.asked[-1]["after"][0]) if script.asked[-1].get("life", [life]) == [life] else 0
            self.send_response(200)
            self.send_header("x-life", life)
            self.end_headers()
            for event in events:
                if event.n > after:
                    self.wfile.write(msgspec.json.encode(event) + b"\n")
            self.wfile.write(end)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def event(n: int, kind: str = REPLICA_READY) -> Event:
    return Event(n=n, kind=kind, t_emitted=100 + n, model="chat", cluster="amber", replica=f"r{n}", weights="store")


def ticking() -> Callable[[], int]:
    times = iter(range(1000, 10**9, 10))
    return lambda: next(times)


def follow(script: Script) -> list[Op]:
    """Runs a follower against the script until it is exhausted."""
    seen: list[Op] = []
    stop = threading.Event()
    with served(script) as url:
        follower = Follower(url, source=OBSERVER, process="observer-amber", cluster="amber", clock=ticking())
        thread = threading.Thread(target=follower.run, args=(seen.append, stop))
        thread.start()
        assert script.exhausted.wait(5)
        stop.set()
        thread.join(5)
        assert not thread.is_alive()
    return seen


def test_events_become_ops_with_both_stamps() -> None:
    (op, failed) = follow(Script(("life-1", [event(1), event(2, REPLICA_FAILED)], b"\n")))
    assert (op.kind, op.source, op.model, op.replica, op.weights) == (REPLICA_READY, OBSERVER, "chat", "r1", "store")
    assert op.t_intended == op.detail["t_emitted"] == 101
    assert op.t_done >= 1000
    assert (op.outcome, failed.outcome) == ("ok", "fail")


def test_what_a_controller_did_before_the_run_is_not_of_the_run() -> None:
    """An allocator that stays up between runs lists all that it ever did."""
    script, seen, stop = Script(("life-1", [event(1), event(2), event(3)], b"\n")), list[Op](), threading.Event()
    with served(script) as url:
        for found_up, since in ((True, [2, 3]), (False, [1, 2, 3])):
            script.answers, seen = [("life-1", [event(1), event(2), event(3)], b"\n")], []
            script.exhausted.clear()
            stop.clear()
            watch = Allocator(lambda: url, found_up=found_up, clock=lambda: 102).watch
            thread = threading.Thread(target=watch, args=(seen.append, stop))
            thread.start()
            assert script.exhausted.wait(5)
            stop.set()
            thread.join(5)
            assert [op.t_intended - 100 for op in seen] == since


def test_a_break_is_a_gap_and_nothing_comes_twice() -> None:
    script = Script(("life-1", [event(1)], b""), ("life-1", [event(1), event(2)], b""))
    seen = follow(script)
    assert [op.kind for op in seen] == [REPLICA_READY, WATCH_GAP, REPLICA_READY]
    assert [op.replica for op in seen if op.kind == REPLICA_READY] == ["r1", "r2"]
    gap = seen[1]
    assert (gap.cluster, gap.outcome) == ("amber", "unknown")
    assert seen[0].t_done <= gap.t_intended < gap.t_done <= seen[2].t_done
    assert script.asked[1] == {"after": ["1"], "life": ["life-1"]}


def test_another_life_is_read_from_its_beginning() -> None:
    seen = follow(Script(("life-1", [event(1), event(2)], b""), ("life-2", [event(1)], b"")))
    assert [op.replica for op in seen] == ["r1", "r2", "", "r1"]


def test_a_line_that_was_cut_is_read_again_whole() -> None:
    seen = follow(Script(("life-1", [event(1)], b'{"n": 2, "ki'), ("life-1", [event(2)], b"")))
    assert [op.replica for op in seen if op.kind == REPLICA_READY] == ["r1", "r2"]
