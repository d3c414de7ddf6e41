"""Bodies of requests as clients send them, as clients with bugs send them, and as nobody should."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from hypothesis import strategies as st

CHAT, TEXT, TOKENIZE, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
LOAD = "/pool/{model}/load"
PATHS = (CHAT, TEXT, TOKENIZE, DETOKENIZE)

texts = st.text(max_size=30)
"""Any, lone surrogates included: JSON can hold them as escapes."""
odd_texts = st.sampled_from(
    [
        "",
        "\x00",
        "\ufeff",
        "\ud800",
        "a\udfffb",
        "👩‍👩‍👧",
        "<|im_start|>",
        "<think>",
        "{{ 1/0 }}",
        "x" * 5000,
        "../../etc",
    ]
)
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 5e-324, -0.0]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, odd_texts)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | odd_texts, inner, max_size=4),
    max_leaves=12,
)
sane_texts = st.sampled_from(
    [
        "",
        "Hi",
        "Count from 1 to 10, one number per line",
        "👩‍👩‍👧",
        "<|im_end|>",
        "<think>",
        "{{ 1/0 }}",
        "\x00",
        "\ufeff",
    ]
) | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
arguments = st.sampled_from(["{}", "{no json", "[]", ""]) | st.dictionaries(sane_texts, values, max_size=2)
functions = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "weather", "a b", "x" * 300])},
    optional={
        "parameters": st.sampled_from([{}, {"type": "object"}, {"x": [1, {}]}]),
        "description": sane_texts,
    },
)
tool_lists = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), max_size=2)
calls = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("f")}, optional={"arguments": arguments})},
    optional={"id": sane_texts},
)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": sane_texts})
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.none() | sane_texts | st.lists(parts, max_size=3),
    },
    optional={
        "tool_calls": st.lists(calls, max_size=2),
        "tool_call_id": sane_texts,
        "name": sane_texts,
        "reasoning_content": sane_texts,
    },
)
conversations = st.lists(messages, min_size=1, max_size=4)
token_ids = st.lists(st.integers(0, 639), min_size=1, max_size=20)
schemas: st.SearchStrategy[Any] = st.sampled_from(
    [
        {},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(a+)+$"},
        {"type": "string", "pattern": "("},
        {"enum": []},
        {"type": "no such type"},
        {"type": "object", "minProperties": 10**9},
    ]
)
formats = st.sampled_from([{"type": "json_object"}, {"type": "text"}]) | st.builds(
    lambda schema: {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}, schemas
)
sampling: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 700),
    "min_p": st.floats(0, 1),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 3),
    "stop": sane_texts.filter(bool) | st.lists(sane_texts.filter(bool), max_size=16),
    "stop_token_ids": token_ids,
    "ignore_eos": st.booleans(),
    "logit_bias": st.dictionaries(st.integers(0, 639).map(str), st.floats(-100, 100), max_size=5),
    "repetition_penalty": st.floats(0.1, 3),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "stream": st.booleans(),
    "keep_alive": st.sampled_from(["5m", "forever", -1, 60.5]),
    "context_share": st.floats(0, 1, exclude_min=True),
    "user": sane_texts,
    "metadata": values,
}
chatty: dict[str, st.SearchStrategy[Any]] = {
    "tools": tool_lists,
    "tool_choice": st.sampled_from(["none", "auto"]),
    "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "x"]), values, max_size=2),
    "reasoning_effort": st.sampled_from(["none", "low", "high"]),
}
# An answer of some tokens is enough; one that fills its (short) context now and then.
lengths = st.sampled_from([1, 1, 1, 2, 3, 5, 8, None])
MODELS = ["tiny"] * 12 + ["org/other", "OTHER", "tinny", "", "../tiny", "/etc/passwd"]
models = st.sampled_from(MODELS)

_RIGHT: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {
        "messages": conversations,
        "max_tokens": lengths,
        **sampling,
        **chatty,
        "parallel_tool_calls": st.booleans(),
        "logprobs": st.just(True),
        "top_logprobs": st.integers(0, 20),
        "response_format": formats,
    },
    TEXT: {
        "prompt": sane_texts
        | token_ids
        | st.lists(sane_texts, min_size=1, max_size=3)
        | st.lists(token_ids, min_size=1, max_size=2),
        "max_tokens": lengths,
        **sampling,
        "logprobs": st.integers(0, 6),
    },
    TOKENIZE: {
        "prompt": sane_texts,
        "messages": conversations,
        **chatty,
        "add_special_tokens": st.booleans(),
        "add_generation_prompt": st.booleans(),
        "return_token_strs": st.booleans(),
    },
    DETOKENIZE: {"tokens": token_ids, "keep_alive": sampling["keep_alive"]},
}
_NEEDED = {
    CHAT: ("messages", "max_tokens"),
    TEXT: ("prompt", "max_tokens"),
    TOKENIZE: (),
    DETOKENIZE: ("tokens",),
}
_WRONG = st.one_of(
    values,
    st.lists(values, max_size=3),
    st.sampled_from(
        [-1, 0, 640, 2**40, [640], [-1], "required", {"type": "function", "function": {"name": "f"}}, {}, []]
    ),
)


@st.composite
def bodies(draw: st.DrawFn, path: str) -> dict[str, Any]:
    """Right in every field, or wrong in one or two: a body that is wrong everywhere says little."""
    right = _RIGHT[path]
    if path == TOKENIZE:
        either = draw(st.sampled_from(["prompt", "messages"]))
        needed: tuple[str, ...] = (either,)
        rest = [name for name in right if name not in ("prompt", "messages")]
        if either == "prompt":
            rest = [name for name in rest if name != "add_special_tokens" or draw(st.booleans())]
    else:
        needed = _NEEDED[path]
        rest = [name for name in right if name not in needed]
    chosen = [*needed, *draw(st.lists(st.sampled_from(rest), max_size=4, unique=True))]
    if "top_logprobs" in chosen and "logprobs" not in chosen:
        chosen.append("logprobs")
    body: dict[str, Any] = {"model": draw(models)}
    body |= {name: draw(right[name]) for name in chosen}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(
            st.sampled_from([*right, "model", "stream_options", "echo", "suffix", "best_of", "tool_choice"])
        )
        body[name] = draw(_WRONG)
    return body


BODIES = {path: bodies(path) for path in PATHS}


def as_json(body: Any) -> bytes:
    """With lone surrogates as escapes, and NaN and Infinity as Python's json writes them."""
    return json.dumps(body).encode()


def _doubled(raw: bytes) -> bytes:
    return raw[:-1] + b',"model":"tiny","model":5}'


def _deep(levels: int) -> bytes:
    return b'{"model":"tiny","prompt":"x","messages":' + b"[" * levels + b"]" * levels + b"}"


mangled: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=60),
    values.map(as_json),
    st.sampled_from(
        [
            b"",
            b" ",
            b"null",
            b"[]",
            b'"tiny"',
            b"{",
            b'{"model":"tiny"',
            b'{"model":"tiny","prompt":"\xff\xfe"}',
            b'{"model":"tiny","prompt":"\xed\xa0\x80"}',
            b'{"model":"tiny","prompt":"x","temperature":NaN}',
            b'{"model":"tiny","prompt":"x","temperature":-Infinity}',
            b'{"model":"tiny","prompt":"x","max_tokens":' + b"9" * 5000 + b"}",
            b'{"model":"tiny","prompt":"\\ud83d"}',
            b"\xef\xbb\xbf" + b'{"model":"tiny","prompt":"x","max_tokens":1}',
            '{"model":"tiny","prompt":"x","max_tokens":1}'.encode("utf-16"),
            '{"model":"tiny","prompt":"x","max_tokens":1}'.encode("utf-32"),
            b"model=tiny&prompt=x",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--b--\r\n',
            _deep(50),
            _deep(1000),
            _deep(100_000),
            b'{"model":"tiny","prompt":"' + b"x" * 300_000 + b'"}',
            b'{"model":"tiny","prompt":[' + b"5," * 120_000 + b"5]}",
        ]
    ),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            [
                "application/json",
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
                "x",
                "",
            ]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "identity", "br", "x"]),
        "Accept": st.sampled_from(["text/html", "application/json", "*/*", ""]),
        "X-Request-ID": st.sampled_from(["ok", "x" * 200, "a b"]),
        "Expect": st.just("100-continue"),
        "Accept-Encoding": st.just("gzip"),
    },
)


@st.composite
def raw_bodies(draw: st.DrawFn, path: str) -> bytes:
    """Mostly JSON of about the right shape, sometimes damaged on the way."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mangled)
    raw = as_json(draw(BODIES[path]))
    match draw(st.integers(0, 11)):
        case 0:
            return _doubled(raw)
        case 1:
            return raw[: draw(st.integers(0, len(raw)))]
        case 2:
            return gzip.compress(raw, mtime=0)
        case 3:
            return zlib.compress(raw)
        case _:
            return raw
