"""What is sent for an entry of the mix, and what a complete and correct answer to it is. Pure: bytes in, words out.

``client.py`` feeds the bytes of one answer into a fresh ``Answer``; nothing here opens a socket or reads a clock.
"""

from __future__ import annotations

import math

import msgspec

from history.op import BAD_BODY, CUT, NEVER
from history.records import MixEntry, ModelKind

PATHS: dict[ModelKind, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
}

MAX_BODY_BYTES = 8 << 20
"""An answer longer than this is not an answer to what was asked."""


class Answer:
    """Collects one answer's body. ``t_first_byte``: when the first token (stream) or first byte (other) came in."""

    def __init__(self, entry: MixEntry) -> None:
        self.t_first_byte = NEVER
        self.tokens = 0
        self._entry = entry

    def feed(self, data: bytes, now_ns: int) -> None:
        """Takes the next bytes of the body, received at ``now_ns``."""
        raise NotImplementedError

    def error(self) -> str:
        """After the last byte: empty when complete and correct, else an error category of ``history.op``."""
        raise NotImplementedError

    def _all_tokens(self, finish_reason: str) -> bool:
        """All tokens that were asked for, or fewer when the model itself ended its answer (reason ``stop``)."""
        expected = self._entry.max_tokens
        return self.tokens == expected or (finish_reason == "stop" and 0 < self.tokens < expected)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    def words(self) -> str:
        part = self.delta or self.message
        return (part.content if part else self.text) or ""


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Vector(msgspec.Struct):
    embedding: list[float] = []


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    data: list[_Vector] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Body).decode


def request_body(entry: MixEntry, seq: int) -> bytes:
    """The JSON body of send ``seq``: a prompt of ``prompt_tokens`` words that no other send has."""
    words = " ".join(["send", str(seq), *(f"w{i}" for i in range(max(entry.prompt_tokens - 2, 0)))])
    body: dict[str, object] = {"model": entry.model}
    if entry.kind == "embedding":
        body["input"] = words
    else:
        body |= {"max_tokens": entry.max_tokens, "stream": entry.stream}
        if entry.stream:
            body["stream_options"] = {"include_usage": True}
        body |= {"messages": [{"role": "user", "content": words}]} if entry.kind == "chat" else {"prompt": words}
    return msgspec.json.encode(body)


def tokens_expected(entry: MixEntry) -> int:
    """Tokens that a correct answer has; 0 for embeddings."""
    return 0 if entry.kind == "embedding" else entry.max_tokens


def answer_to(entry: MixEntry) -> Answer:
    """A fresh collector for one answer to ``entry``."""
    return _Stream(entry) if entry.stream and entry.kind != "embedding" else _Whole(entry)


class _Stream(Answer):
    """Server-sent events: one chunk a token, a usage chunk if the server sends one, then ``[DONE]``."""

    def __init__(self, entry: MixEntry) -> None:
        super().__init__(entry)
        self._rest = b""
        self._usage: _Usage | None = None
        self._finish_reason = ""
        self._finished = self._bad = False

    def feed(self, data: bytes, now_ns: int) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now_ns)

    def _event(self, event: bytes, now_ns: int) -> None:
        if event == b"[DONE]":
            self._finished = True
            return
        try:
            body = _decode(event)
        except (msgspec.MsgspecError, ValueError):
            self._bad = True
            return
        self._bad |= body.error is not None
        self._usage = body.usage or self._usage
        for choice in body.choices:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.words():
                self.tokens += 1
                if self.t_first_byte == NEVER:
                    self.t_first_byte = now_ns

    def error(self) -> str:
        if self._usage is not None and self.tokens:
            self.tokens = self._usage.completion_tokens  # a chunk may carry several tokens; the server's count rules
        if self._bad:
            return BAD_BODY
        if not self._finished:
            return CUT
        return "" if self._all_tokens(self._finish_reason) else BAD_BODY


class _Whole(Answer):
    """One JSON object: choices and usage, or one vector of finite numbers."""

    def __init__(self, entry: MixEntry) -> None:
        super().__init__(entry)
        self._parts: list[bytes] = []

    def feed(self, data: bytes, now_ns: int) -> None:
        if self.t_first_byte == NEVER:
            self.t_first_byte = now_ns
        self._parts.append(data)

    def error(self) -> str:
        try:
            body = _decode(b"".join(self._parts))
        except (msgspec.MsgspecError, ValueError):
            return BAD_BODY
        good = self._one_vector(body) if self._entry.kind == "embedding" else self._all_said(body)
        return "" if good and body.error is None else BAD_BODY

    def _one_vector(self, body: _Body) -> bool:
        vectors = [vector.embedding for vector in body.data]
        return len(vectors) == 1 and bool(vectors[0]) and all(map(math.isfinite, vectors[0]))

    def _all_said(self, body: _Body) -> bool:
        if not body.choices or not body.choices[0].words() or body.usage is None:
            return False
        self.tokens = body.usage.completion_tokens
        return self._all_tokens(body.choices[0].finish_reason or "")
