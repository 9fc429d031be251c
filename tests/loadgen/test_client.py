"""One measured request against a server whose every byte is scripted."""

from __future__ import annotations

import errno
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from history.errors import UsageError
from history.op import (
    BAD_BODY,
    CONNECT_TIMEOUT,
    CUT,
    DROPPED,
    LOAD,
    NEVER,
    NOT_DRAINED,
    REFUSED,
    RESET,
    TIMEOUT,
    UNREACHABLE,
    Op,
    decode,
    encode,
)
from history.records import LoadSpec, Mix, MixEntry, Target
from loadgen.client import Ask, Client, asks_of
from loadgen.pool import Pool

Script = Callable[[socket.socket], None]
CHAT = MixEntry("m", "chat", 1.0, max_tokens=3)
LIMITS = LoadSpec("constant", 10.0, 500.0, connect_timeout_s=0.2, total_timeout_s=0.4, horizon_s=10.0, seed=1)
SERVED = "x-served-by: amber/amber-n1/m-0\r\nx-weights: peer\r\n"


def client_to(target: Target, entry: MixEntry = CHAT, load: LoadSpec = LIMITS, **options: Any) -> Client:
    op = Op(source=LOAD, process="load-0", kind="", t_intended=0, outcome="unknown")
    return Client(asks_of(target, Mix((entry,)), op, **options), load.connect_timeout_s, load.total_timeout_s)


@dataclass
class Server:
    """Runs the next script for each request that it reads; keeps what it read."""

    scripts: list[Script] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        self.clients: list[Client] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        data = b""
        try:
            peer = self.tls.wrap_socket(peer, server_side=True) if self.tls else peer
            self.open.append(peer)
            while part := peer.recv(65536):
                data += part
                head, found, body = data.partition(b"\r\n\r\n")
                if found and len(body) >= int(head.lower().split(b"content-length: ")[1].split()[0]):
                    self.requests.append(data)
                    data = b""
                    self.scripts.pop(0)(peer)
        except OSError:
            pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in self.clients:
            client.close()
        for peer in self.open:
            peer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def client_of(server: Server, entry: MixEntry = CHAT, load: LoadSpec = LIMITS) -> Client:
    client = client_to(Target(f"http://127.0.0.1:{server.port}"), entry, load)
    server.clients.append(client)
    return client


def once(server: Server, *scripts: Script, entry: MixEntry = CHAT, load: LoadSpec = LIMITS) -> Op:
    server.scripts += scripts
    return client_of(server, entry, load).send(5, 0, time.monotonic_ns() - 3_000_000)


def event(text: str) -> bytes:
    data = f"data: {text}\n\n"
    return f"{len(data):x}\r\n{data}\r\n".encode()


def head(status: str = "200 OK", more: str = "Transfer-Encoding: chunked\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\n{SERVED}{more}\r\n".encode()


TOKEN = event('{"choices":[{"delta":{"content":"w"},"finish_reason":null}]}')
ROLE = event('{"choices":[{"delta":{"role":"assistant","content":""}}]}')
DONE = event("[DONE]") + b"0\r\n\r\n"


def ends(reason: str) -> bytes:
    return event(f'{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}')


def usage(tokens: int) -> bytes:
    return event(f'{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}')


def says(*parts: bytes, gap_s: float = 0.0) -> Script:
    def script(peer: socket.socket) -> None:
        for part in parts:
            peer.sendall(part)
            time.sleep(gap_s)

    return script


def says_and_closes(*parts: bytes) -> Script:
    def script(peer: socket.socket) -> None:
        says(*parts)(peer)
        peer.shutdown(socket.SHUT_RDWR)
        peer.close()

    return script


def says_and_resets(*parts: bytes) -> Script:
    def script(peer: socket.socket) -> None:
        says(*parts, gap_s=0.02)(peer)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    return script


def sized(body: bytes, status: str = "200 OK") -> bytes:
    return head(status, f"Content-Length: {len(body)}\r\n") + body


GOOD = says(head() + TOKEN * 3 + ends("length") + usage(3) + DONE)


def test_a_good_stream_is_recorded_whole(server: Server) -> None:
    op = once(server, says(head() + ROLE, TOKEN, TOKEN + TOKEN + ends("length") + DONE, gap_s=0.03))
    assert (op.outcome, op.error, op.status, op.tokens, op.tokens_expected) == ("ok", "", 200, 3, 3)
    assert (op.cluster, op.node, op.replica, op.weights) == ("amber", "amber-n1", "m-0", "peer")
    assert (op.source, op.process, op.kind, op.model, op.seq) == ("load", "load-0", "chat", "m", 5)
    assert op.t_intended < op.t_sent < op.t_first_byte < op.t_done
    # the first byte is that of the first token, 30 ms after the head and the empty role chunk, not of the head
    assert op.t_first_byte - op.t_sent >= 28_000_000
    assert op.t_done - op.t_first_byte >= 28_000_000


def test_the_request_is_what_openai_clients_send(server: Server) -> None:
    once(server, GOOD)
    first, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert first.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}".encode() in first
    assert b'"model":"m","max_tokens":3,"stream":true' in body
    assert b'"role":"user"' in body


@pytest.mark.parametrize(
    ("parts", "error", "tokens"),
    [
        ([head() + TOKEN * 3 + ends("length") + event("[DONE]")], CUT, 3),  # [DONE], but the body never ends
        ([head() + TOKEN * 3 + ends("length") + b"0\r\n\r\n"], CUT, 3),  # the body ends without [DONE]
        ([head() + TOKEN * 2], CUT, 2),
        ([head()], CUT, 0),
        ([b"HTTP/1.1 200"], RESET, 0),
        ([], RESET, 0),
        ([head() + TOKEN * 2 + ends("length") + DONE], BAD_BODY, 2),
        ([head() + TOKEN * 4 + ends("stop") + DONE], BAD_BODY, 4),
        ([head() + TOKEN * 3 + ends("length") + usage(2) + DONE], BAD_BODY, 2),
        ([head() + ends("stop") + DONE], BAD_BODY, 0),
        ([head() + TOKEN + event("{broken") + DONE], BAD_BODY, 1),
        ([head() + TOKEN * 3 + event('{"error":{"message":"no"}}') + DONE], BAD_BODY, 3),
        ([b"HTTP/9 what\r\n\r\n"], BAD_BODY, 0),
    ],
)
def test_incomplete_and_wrong_streams(server: Server, parts: list[bytes], error: str, tokens: int) -> None:
    op = once(server, says_and_closes(*parts))
    assert (op.outcome, op.error, op.tokens) == ("fail", error, tokens)


def test_fewer_tokens_are_complete_when_the_model_itself_stopped(server: Server) -> None:
    op = once(server, says(head() + TOKEN * 2 + ends("stop") + usage(2) + DONE))
    assert (op.outcome, op.tokens, op.tokens_expected) == ("ok", 2, 3)


def test_a_reset_inside_a_stream_is_a_cut_and_before_it_a_reset(server: Server) -> None:
    assert once(server, says_and_resets(head() + TOKEN)).error == CUT
    assert once(server, says_and_resets()).error == RESET


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "404 Not Found", "302 Found"])
def test_statuses(server: Server, status: str) -> None:
    op = once(server, says(sized(b'{"error":"busy"}', status)))
    assert (op.outcome, op.error, op.status) == ("fail", f"http-{status[:3]}", int(status[:3]))
    assert op.detail == {"said": '{"error":"busy"}'}
    assert op.t_first_byte == NEVER
    assert op.cluster == "amber"


def test_a_header_of_any_bytes_can_be_recorded(server: Server) -> None:
    raw = head("200 OK", "").replace(b"amber/", b"am\xffber\xed\xb3\xbf/")
    op = once(server, says(raw + TOKEN * 3 + ends("length") + usage(3) + DONE))
    assert decode(encode(op)).cluster == op.cluster != "amber"


def test_an_interim_answer_is_not_the_answer(server: Server) -> None:
    assert once(server, says(b"HTTP/1.1 100 Continue\r\n\r\n", head() + TOKEN * 3 + DONE, gap_s=0.02)).outcome == "ok"


@pytest.mark.parametrize("sends_head", [False, True])
def test_silence_ends_at_the_total_timeout(server: Server, sends_head: bool) -> None:
    op = once(server, says(head() + TOKEN if sends_head else b"", gap_s=1.0))
    assert (op.outcome, op.error, op.tokens) == ("fail", TIMEOUT, int(sends_head))
    assert 0.4e9 <= op.t_done - op.t_sent < 0.6e9


def test_a_slow_drip_cannot_exceed_the_total_timeout(server: Server) -> None:
    drip = says(head(), *[TOKEN[i : i + 1] for i in range(len(TOKEN))] * 5, gap_s=0.01)
    op = once(server, drip)
    assert op.error == TIMEOUT
    assert 0.4e9 <= op.t_done - op.t_sent < 0.6e9


def test_an_endless_answer_is_no_answer(server: Server) -> None:
    lots = event("x" * 1_000_000)
    op = once(server, says(head() + lots * 9), load=replace(LIMITS, total_timeout_s=20.0))
    assert op.error == BAD_BODY


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    op = client_to(Target(f"http://127.0.0.1:{port}")).send(0, 0, time.monotonic_ns())
    assert (op.outcome, op.error, op.status) == ("fail", REFUSED, 0)
    assert op.t_done >= op.t_sent > 0


def test_a_silent_address_ends_at_the_connect_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # a full accept queue drops SYNs
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        target = Target(f"http://127.0.0.1:{listener.getsockname()[1]}")
        op = client_to(target).send(0, 0, time.monotonic_ns())
        for filler in fillers:
            filler.close()
    assert op.error == CONNECT_TIMEOUT
    assert 0.2e9 <= op.t_done - op.t_sent < 0.35e9


def test_connections_are_kept_while_all_is_well(server: Server) -> None:
    server.scripts += [GOOD] * 3
    client = client_of(server)
    assert [client.send(i, 0, 0).outcome for i in range(3)] == ["ok"] * 3
    assert server.connections == 1


@pytest.mark.parametrize("failure", [says(sized(b"{}", "503 Busy")), says_and_closes(head() + TOKEN)])
def test_after_a_failure_the_connection_is_a_fresh_one(server: Server, failure: Script) -> None:
    server.scripts += [GOOD, failure, GOOD]
    client = client_of(server)
    assert [client.send(i, 0, 0).outcome for i in range(3)] == ["ok", "fail", "ok"]
    assert server.connections == 2


def test_a_broken_connection_makes_the_other_idle_ones_obsolete(server: Server) -> None:
    slow = says(head() + TOKEN * 3, DONE, gap_s=0.05)
    server.scripts += [slow, slow, says_and_closes(), GOOD]
    client = client_of(server)
    two = [gevent.spawn(client.send, i, 0, 0) for i in range(2)]
    gevent.joinall(two)
    assert server.connections == 2
    assert client.send(2, 0, 0).error == RESET
    assert client.send(3, 0, 0).outcome == "ok"
    assert server.connections == 3  # the second idle one, made before the break, was not used


def test_an_idle_connection_that_the_server_closed_is_not_used(server: Server) -> None:
    server.scripts += [says_and_closes(head() + TOKEN * 3 + DONE), GOOD]
    client = client_of(server)
    assert client.send(0, 0, 0).outcome == "ok"
    while server.open[0].fileno() != -1:
        time.sleep(0.001)
    assert client.send(1, 0, 0).outcome == "ok"
    assert server.connections == 2


def test_nothing_is_ever_sent_twice(server: Server) -> None:
    server.scripts += [GOOD, says_and_closes(), GOOD]
    client = client_of(server)
    assert [client.send(i, 0, 0).error for i in range(2)] == ["", RESET]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"choices":[{"text":"a b c","finish_reason":"length"}],"usage":{"completion_tokens":3}}', "ok"),
        (b'{"choices":[{"text":"a b","finish_reason":"length"}],"usage":{"completion_tokens":2}}', "fail"),
        (b'{"choices":[{"text":"","finish_reason":"length"}],"usage":{"completion_tokens":3}}', "fail"),
        (b'{"choices":[{"text":"a b c","finish_reason":"length"}]}', "fail"),
        (b'{"choices":[],"usage":{"completion_tokens":3}}', "fail"),
        (b'{"error":{"message":"no"}}', "fail"),
        (b"[]", "fail"),
    ],
)
def test_completions(server: Server, body: bytes, outcome: str) -> None:
    op = once(server, says(sized(body)), entry=replace(CHAT, kind="completion", stream=False))
    assert op.outcome == outcome
    assert server.requests[0].startswith(b"POST /v1/completions ")
    assert op.t_sent < op.t_first_byte <= op.t_done


def test_streamed_completions(server: Server) -> None:
    text = event('{"choices":[{"text":"w","finish_reason":null}]}')
    assert once(server, says(head() + text * 3 + DONE), entry=replace(CHAT, kind="completion")).outcome == "ok"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"data":[{"embedding":[0.5,-1]}],"usage":{"prompt_tokens":3}}', "ok"),
        (b'{"data":[{"embedding":[]}]}', "fail"),
        (b'{"data":[]}', "fail"),
        (b'{"data":[{"embedding":[0.5]},{"embedding":[0.5]}]}', "fail"),
        (b'{"data":[{"embedding":[null]}]}', "fail"),
    ],
)
def test_embeddings(server: Server, body: bytes, outcome: str) -> None:
    op = once(server, says(sized(body)), entry=replace(CHAT, kind="embedding"))
    assert (op.outcome, op.tokens_expected) == (outcome, 0)
    assert b'"input":"send 5 ' in server.requests[0]


def test_killed_while_waiting_it_is_unknown_and_still_recorded(server: Server) -> None:
    server.scripts.append(says(gap_s=1.0))
    waiting = gevent.spawn(client_of(server).send, 5, 0, 7)
    while not server.requests:
        gevent.sleep(0.001)
    waiting.kill()
    op = waiting.value
    assert (op.outcome, op.error, op.seq, op.t_intended, op.t_done) == ("unknown", NOT_DRAINED, 5, 7, NEVER)
    assert op.t_sent > 0


def test_this_machines_own_limit_is_no_failure_of_the_target(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(pool: Pool) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Pool, "connect", no_more_files)
    op = once(server)
    assert (op.outcome, op.error, op.t_sent) == ("unknown", DROPPED, NEVER)
    assert "Too many open files" in op.detail["why"]


def test_the_token_comes_from_the_environment_and_is_sent(server: Server) -> None:
    server.scripts.append(GOOD)
    target = Target(f"http://127.0.0.1:{server.port}/base/", auth_env="TOKEN_FOR_TEST")
    client = client_to(target, environ={"TOKEN_FOR_TEST": "sesame"}.get)
    server.clients.append(client)
    assert client.send(0, 0, 0).outcome == "ok"
    assert b"Authorization: Bearer sesame\r\n" in server.requests[0]
    assert server.requests[0].startswith(b"POST /base/v1/chat/completions ")
    with pytest.raises(UsageError, match="TOKEN_FOR_TEST"):
        client_to(target, environ=lambda name: None)


def test_a_model_with_an_entry_point_of_its_own_is_asked_there(server: Server) -> None:
    server.scripts.append(GOOD)
    target = Target("http://127.0.0.1:1", model_urls=(("m", f"http://127.0.0.1:{server.port}"),))
    client = client_to(target)
    server.clients.append(client)
    assert client.send(0, 0, 0).outcome == "ok"


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:80", "http://"])
def test_an_entry_url_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="not an http"):
        client_to(Target(url))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https_keeps_connections_and_checks_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(tls=tls)
    server.scripts += [GOOD] * 3
    target, load = (
        Target(f"https://localhost:{server.port}"),
        replace(LIMITS, connect_timeout_s=2.0, total_timeout_s=2.0),
    )
    stranger = client_to(target, load=load).send(0, 0, 0)
    pool = Pool(target.entry_url, time.monotonic_ns, keep=False, verify=False)  # as the cluster prober asks
    bare = Client([Ask(stranger, pool, pool.head("POST", "/v1/chat/completions"), CHAT)], 2.0, 2.0)
    assert bare.send(0, 0, 0).outcome == "ok"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = client_to(target, load=load)
    ops = [client.send(i, 0, 0) for i in range(2)]
    client.close()
    server.close()
    assert stranger.error == UNREACHABLE
    assert "certificate" in stranger.detail["said"]
    assert [op.outcome for op in ops] == ["ok", "ok"]
    assert len(server.requests) == 3
    assert b"Connection: close" in server.requests[0]
    assert server.connections == 3  # the stranger's, the bare one's and the client's


def test_a_handshake_that_never_comes_stops_nobody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # the kernel takes the connection, nobody answers
        released = threading.Timer(5.0, lambda: frozen.shutdown(socket.SHUT_RDWR))
        released.start()
        pool = Pool(f"https://127.0.0.1:{frozen.getsockname()[1]}", time.monotonic_ns, verify=False)
        waiting = gevent.spawn(pool.connect)
        began = time.monotonic()
        for _ in range(10):
            gevent.sleep(0.02)
        took = time.monotonic() - began
        assert not waiting.ready()
        waiting.kill()
        released.cancel()
    assert took < 4.0, "a process that waits for one handshake sends nothing else"
