"""What a model says: a function of its weights and the request, in OpenAI's shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.serving.completions import Answer, embedding, parse, words
from history.errors import UsageError

CHAT = "/v1/chat/completions"


def chat(**more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | more).encode()


@given(st.binary(), st.binary(), st.integers(1, 50))
def test_tokens_depend_on_weights_and_prompt_and_extend_each_other(digest: bytes, prompt: bytes, count: int) -> None:
    found = words(digest, prompt, count)
    assert len(found) == count
    assert words(digest, prompt, count + 5)[:count] == found
    assert words(digest + b"!", prompt, 40) != words(digest, prompt, 40)
    assert words(digest, prompt + b"!", 40) != words(digest, prompt, 40)
    assert embedding(digest, prompt) != embedding(digest + b"!", prompt)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (CHAT, b"{", "not a request"),
        (CHAT, b'{"messages": []}', "model"),
        (CHAT, b'{"model": "m"}', "no 'messages'"),
        ("/v1/completions", b'{"model": "m", "messages": []}', "no 'prompt'"),
        ("/v1/embeddings", b'{"model": "m"}', "no 'input'"),
        (CHAT, chat(max_tokens=5000), "max_tokens is 5000; the rule is 1 to 4096"),
        (CHAT, chat(max_tokens=-1), "max_tokens is -1"),
    ],
)
def test_a_bad_body_is_refused_with_the_reason(path: str, body: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(path, body)


def test_a_stream_is_one_event_a_token_then_usage_then_done() -> None:
    question = parse(CHAT, chat(max_tokens=3, stream=True))
    answer = Answer(question, b"w", "id-1", 7)
    events = [json.loads(chunk.removeprefix(b"data: ")) for chunk in answer.chunks()]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "length"]
    said = "".join(event["choices"][0]["delta"]["content"] for event in events)
    whole = json.loads(Answer(question, b"w", "id-1", 7).whole())
    assert said == whole["choices"][0]["message"]["content"]
    usage, done = answer.end().strip().split(b"\n\n")
    assert json.loads(usage.removeprefix(b"data: "))["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 3
    assert done == b"data: [DONE]"


@pytest.mark.parametrize(("tokens", "sizes"), [(1, [1]), (2, [1, 1]), (5, [1, 4]), (8, [1, 4, 3]), (10, [1, 4, 4, 1])])
def test_what_leaves_together_is_the_same_stream(tokens: int, sizes: list[int]) -> None:
    answer = Answer(parse(CHAT, chat(max_tokens=tokens, stream=True)), b"w", "id-1", 7)
    sends = answer.sends()
    assert [count for count, _ in sends] == sizes
    assert b"".join(events for _, events in sends) == b"".join([*answer.chunks(), answer.end()])


def test_completions_and_embeddings_have_their_shapes() -> None:
    text = json.loads(
        Answer(parse("/v1/completions", b'{"model":"m","prompt":"x","max_tokens":2}'), b"w", "i", 0).whole()
    )
    assert text["object"] == "text_completion"
    assert len(text["choices"][0]["text"].split()) == 2
    two = json.loads(Answer(parse("/v1/embeddings", b'{"model":"m","input":["a","b"]}'), b"w", "i", 0).whole())
    one = json.loads(Answer(parse("/v1/embeddings", b'{"model":"m","input":"a"}'), b"w", "i", 0).whole())
    assert [row["index"] for row in two["data"]] == [0, 1]
    assert two["data"][0]["embedding"] == one["data"][0]["embedding"] != two["data"][1]["embedding"]
