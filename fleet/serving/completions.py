"""The OpenAI bodies of a model server: requests in, answers out. Pure; knows no socket and no clock.

What a model "says" is derived from its weights and the request: token i is the word that sha256(weights digest,
prompt, i) picks. So an answer proves which bytes were in memory, and a client knows how many tokens to expect.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from history.errors import UsageError
from history.op import CHAT, COMPLETION, EMBEDDING

DEFAULT_TOKENS: Final = 16
MAX_TOKENS: Final = 4096
EMBEDDING_SIZE: Final = 16
DONE: Final = b"data: [DONE]\n\n"
STREAM_TOKENS: Final = 4
"""Tokens of a stream that leave together, as serving engines offer it (vLLM: ``stream_interval``): each send wakes
every process on its way, and waking is most of what a short answer costs."""

_WORDS: Final = tuple(f" {a}{b}{c}" for a in "bdfgklmn" for b in "aeio" for c in "lmnprstz")
"""256 words, each a token."""

KIND_OF_PATH: Final = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION, "/v1/embeddings": EMBEDDING}
_OBJECTS: Final = {CHAT: "chat.completion", COMPLETION: "text_completion", EMBEDDING: "list"}


class _Body(msgspec.Struct, frozen=True):
    model: str
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False


_decode = msgspec.json.Decoder(_Body).decode


@dataclass(frozen=True)
class Question:
    """One request. ``prompt`` is the JSON of its messages, prompt or input; ``tokens`` are to be generated."""

    kind: str
    model: str
    prompt: bytes
    tokens: int
    stream: bool

    @property
    def prompt_tokens(self) -> int:
        """Words of the prompt: our tokens."""
        return max(1, len(self.prompt.split()))


def parse(path: str, body: bytes) -> Question:
    """Reads a request body; ``UsageError`` with what is wrong."""
    kind = KIND_OF_PATH[path]
    try:
        asked = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"the body is not a request for {path}: {error}") from error
    prompt = bytes({CHAT: asked.messages, COMPLETION: asked.prompt, EMBEDDING: asked.input}[kind])
    if not prompt:
        field = {CHAT: "messages", COMPLETION: "prompt", EMBEDDING: "input"}[kind]
        raise UsageError(f"the body has no {field!r}; {path} needs one")
    tokens = asked.max_completion_tokens or asked.max_tokens or DEFAULT_TOKENS
    if not 1 <= tokens <= MAX_TOKENS:
        raise UsageError(f"max_tokens is {tokens}; the rule is 1 to {MAX_TOKENS}")
    if kind == EMBEDDING:
        return Question(kind, asked.model, prompt, 0, False)
    return Question(kind, asked.model, prompt, tokens, asked.stream)


def words(digest: bytes, prompt: bytes, count: int) -> list[str]:
    """The first ``count`` tokens that these weights give for this prompt."""
    seed = hashlib.sha256(digest + prompt)
    found = []
    for index in range(count):
        token = seed.copy()
        token.update(index.to_bytes(4))
        found.append(_WORDS[token.digest()[0]])
    return found


def embedding(digest: bytes, prompt: bytes) -> list[float]:
    """``EMBEDDING_SIZE`` numbers in [-1, 1] that these weights give for this input."""
    raw = hashlib.shake_128(digest + prompt).digest(EMBEDDING_SIZE)
    return [round(value / 127.5 - 1, 6) for value in raw]


class Answer:
    """The bodies of the answer to one question by weights with this digest."""

    def __init__(self, question: Question, digest: bytes, answer_id: str, created_s: int) -> None:
        self._question = question
        self._digest = digest
        self._head = {"id": answer_id, "created": created_s, "model": question.model}
        self._usage = {
            "prompt_tokens": question.prompt_tokens,
            "completion_tokens": question.tokens,
            "total_tokens": question.prompt_tokens + question.tokens,
        }

    def whole(self) -> bytes:
        """The JSON body of an answer that is not streamed."""
        question = self._question
        if question.kind == EMBEDDING:
            return _json({"object": "list", "data": self._vectors(), "model": question.model, "usage": self._usage})
        text = "".join(words(self._digest, question.prompt, question.tokens))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if question.kind == CHAT else {"text": text}
        return _json({**self._head, "object": _OBJECTS[question.kind], "choices": [choice], "usage": self._usage})

    def chunks(self) -> list[bytes]:
        """The server-sent events of a streamed answer: one a token."""
        chat = self._question.kind == CHAT
        head = self._head | {"object": "chat.completion.chunk" if chat else "text_completion"}
        tokens = words(self._digest, self._question.prompt, self._question.tokens)
        return [
            _event({**head, "choices": [_delta(chat, token, index, index == len(tokens) - 1)]})
            for index, token in enumerate(tokens)
        ]

    def sends(self) -> list[tuple[int, bytes]]:
        """The events that leave together, and how many tokens they are: the first alone, then ``STREAM_TOKENS``; with
        the last of them the end."""
        first, *rest = self.chunks()
        groups = [rest[i : i + STREAM_TOKENS] for i in range(0, len(rest), STREAM_TOKENS)]
        *most, (tokens, last) = [(1, first), *((len(group), b"".join(group)) for group in groups)]
        return [*most, (tokens, last + self.end())]

    def end(self) -> bytes:
        """What follows the last token: the usage, then the end mark."""
        kind = "chat.completion.chunk" if self._question.kind == CHAT else "text_completion"
        return _event({**self._head, "object": kind, "choices": [], "usage": self._usage}) + DONE

    def _vectors(self) -> list[dict[str, Any]]:
        asked = msgspec.json.decode(self._question.prompt)
        inputs = asked if isinstance(asked, list) and asked and not isinstance(asked[0], int) else [asked]
        return [
            {"object": "embedding", "index": index, "embedding": embedding(self._digest, _json(item))}
            for index, item in enumerate(inputs)
        ]


def _delta(chat: bool, token: str, index: int, last: bool) -> dict[str, Any]:
    finish = "length" if last else None
    if not chat:
        return {"index": 0, "text": token, "finish_reason": finish}
    delta = {"role": "assistant", "content": token} if index == 0 else {"content": token}
    return {"index": 0, "delta": delta, "finish_reason": finish}


_json = msgspec.json.Encoder().encode


def _event(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"
