"""Requests with their answers, for the OpenAPI document. They are the built-in model's: a test sends each of
them to a server and compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxk import __version__

_ID = "3f1c2a9be4d07788"
_CREATED = 1763700000


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request's body and the answer's: a JSON object, or for a stream its text."""

    name: str
    summary: str
    request: dict[str, Any]
    answer: dict[str, Any] | str


def _usage(prompt: int, completion: int, reasoning: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _completion(kind: str, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    is_chat = kind == "chat.completion"
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{_ID}",
        "object": kind,
        "created": _CREATED,
        "model": "tiny",
        "system_fingerprint": f"mlxk-{__version__}",
        "choices": choices,
        "usage": usage,
    }


def _chat(
    content: str | None, usage: dict[str, Any], *, finish: str = "stop", matched: Any = None, **message: Any
) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "logprobs": None,
        "finish_reason": finish,
    }
    if matched is not None:
        choice["matched_stop"] = matched
    return _completion("chat.completion", [choice], usage)


_SKY = "Answer in one word: what color is the sky on a clear day?"
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}
_CALL = {
    "id": "call_9d3bf1a2c4e5",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Berlin"}'},
}
_HEAD = (
    f'data: {{"id":"chatcmpl-{_ID}","object":"chat.completion.chunk","created":{_CREATED},"model":"tiny",'
    f'"system_fingerprint":"mlxk-{__version__}","choices":[{{"index":0,"delta":'
)
_STREAM = (
    f'{_HEAD}{{"role":"assistant"}},"logprobs":null,"finish_reason":null}}]}}\n\n'
    f'{_HEAD}{{"content":"Blue"}},"logprobs":null,"finish_reason":null}}]}}\n\n'
    f'{_HEAD}{{}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":26,"completion_tokens":2,'
    '"total_tokens":28,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
    "data: [DONE]\n\n"
)

_TEXT_HEAD = _HEAD.replace("chatcmpl-", "cmpl-").replace("chat.completion.chunk", "text_completion")
_TEXT_HEAD = _TEXT_HEAD.removesuffix('"delta":') + '"text":'
_TEXT_STREAM = (
    f'{_TEXT_HEAD}"5\\n6\\n","logprobs":null,"finish_reason":null}}]}}\n\n'
    f'{_TEXT_HEAD}"","logprobs":null,"finish_reason":"stop","matched_stop":"7"}}],"usage":{{"prompt_tokens":22,'
    '"completion_tokens":5,"total_tokens":27,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
    "data: [DONE]\n\n"
)

CHAT = (
    Exchange(
        "answer",
        "A question, greedily",
        {"model": "tiny", "messages": [{"role": "user", "content": _SKY}], "temperature": 0},
        _chat("Blue", _usage(26, 2)),
    ),
    Exchange(
        "stop",
        "A stop string, which is not part of the answer",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Count from 1 to 10, one number per line"}],
            "temperature": 0,
            "max_tokens": 100,
            "stop": ["5"],
        },
        _chat("1  \n2  \n3  \n4  \n", _usage(21, 9), matched="5"),
    ),
    Exchange(
        "reasoning",
        "A model that thinks first",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Think: what is 2 + 3?"}],
            "temperature": 0,
        },
        _chat("2 + 3 = 5", _usage(18, 33, 20), reasoning_content="I add 3 to 2. That makes 5."),
    ),
    Exchange(
        "tools",
        "A tool call",
        {
            "model": "tiny",
            "messages": [
                {
                    "role": "user",
                    "content": "Call the weather tool for Berlin. Do not answer directly.",
                }
            ],
            "tools": [_WEATHER],
            "temperature": 0,
        },
        _chat(None, _usage(56, 20), finish="tool_calls", tool_calls=[_CALL]),
    ),
    Exchange(
        "tool_result",
        "The tool's result, and what the model makes of it",
        {
            "model": "tiny",
            "messages": [
                {
                    "role": "user",
                    "content": "Call the weather tool for Berlin. Do not answer directly.",
                },
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {
                    "role": "tool",
                    "tool_call_id": _CALL["id"],
                    "content": '{"city":"Berlin","temperature_c":19,"condition":"sunny"}',
                },
            ],
            "tools": [_WEATHER],
            "temperature": 0,
        },
        _chat("It is 19 degrees and sunny.", _usage(106, 11)),
    ),
    Exchange(
        "json_schema",
        "An answer in a given form",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Reply with JSON."}],
            "temperature": 0,
            "max_tokens": 60,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "state",
                    "schema": {
                        "type": "object",
                        "properties": {"ok": {"type": "boolean"}},
                        "required": ["ok"],
                        "additionalProperties": False,
                    },
                },
            },
        },
        _chat('{"ok": true}', _usage(16, 8)),
    ),
    Exchange(
        "stream",
        "The same question, as a stream",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": _SKY}],
            "temperature": 0,
            "stream": True,
        },
        _STREAM,
    ),
)

COMPLETION = (
    Exchange(
        "answer",
        "A text that goes on",
        {
            "model": "tiny",
            "prompt": "Count from 1 to 10, one number per line:\n1\n2\n3\n4\n",
            "temperature": 0,
            "max_tokens": 100,
        },
        _completion(
            "text_completion",
            [{"index": 0, "text": "5\n6\n7\n8\n9\n10", "logprobs": None, "finish_reason": "stop"}],
            _usage(22, 13),
        ),
    ),
    Exchange(
        "tokens",
        "Token ids as the prompt, and one as the end",
        {
            "model": "tiny",
            "prompt": [
                458,
                410,
                220,
                16,
                285,
                220,
                16,
                15,
                11,
                319,
                482,
                486,
                456,
                514,
                16,
                198,
                17,
                198,
                18,
                198,
                19,
                198,
            ],
            "temperature": 0,
            "max_tokens": 100,
            "stop_token_ids": [24],
        },
        _completion(
            "text_completion",
            [
                {
                    "index": 0,
                    "text": "5\n6\n7\n8\n",
                    "logprobs": None,
                    "finish_reason": "stop",
                    "matched_stop": 24,
                }
            ],
            _usage(22, 9),
        ),
    ),
    Exchange(
        "stream",
        "A stream that a stop string ends",
        {
            "model": "tiny",
            "prompt": "Count from 1 to 10, one number per line:\n1\n2\n3\n4\n",
            "temperature": 0,
            "max_tokens": 100,
            "stop": "7",
            "stream": True,
        },
        _TEXT_STREAM,
    ),
)

TOKENIZE = (
    Exchange(
        "text",
        "A text",
        {"model": "tiny", "prompt": "Hi!", "return_token_strs": True},
        {"tokens": [39, 72, 0], "count": 3, "max_model_len": 8192, "token_strs": ["H", "i", "!"]},
    ),
    Exchange(
        "chat",
        "A conversation, as the model's template writes it",
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi!"}]},
        {"tokens": [632, 553, 198, 39, 72, 0, 633, 198, 632, 564, 198], "count": 11, "max_model_len": 8192},
    ),
)

DETOKENIZE = (
    Exchange(
        "text",
        "The text of some tokens",
        {"model": "tiny", "tokens": [39, 72, 0]},
        {"prompt": "Hi!"},
    ),
)

_CARD = {
    "id": "tiny",
    "object": "model",
    "created": _CREATED,
    "owned_by": "mlxk",
    "context_length": 8192,
    "loaded": True,
    "capabilities": {"tools": True, "reasoning": True, "vision": False},
}
MODEL: dict[str, Any] = _CARD
MODELS: dict[str, Any] = {"object": "list", "data": [_CARD]}
POOL: dict[str, Any] = {
    "server": {
        "pid": 4242,
        "url": "http://127.0.0.1:8000",
        "version": __version__,
        "uptime_s": 12.3,
        "memory_limit_bytes": 51539607552,
        "memory_bytes": 68157440,
        "spare": {"id": "w3", "pid": 4250, "warm": True},
    },
    "models": [
        {
            "name": "tiny",
            "id": "4be0c1a29d37",
            "state": "ready",
            "pid": 4244,
            "worker": "w2",
            "size_bytes": 1746216,
            "memory_bytes": 180355072,
            "cache": {"entries": 3, "bytes": 589824, "hits": 2, "misses": 1, "reused_tokens": 57},
            "in_flight": 0,
            "queued": 0,
            "tokens_per_s": 0.0,
            "until": 294.6,
            "uptime_s": 11.2,
            "load_progress": None,
            "restarts": 0,
            "crashes": 0,
            "pinned": False,
            "last_error": None,
        }
    ],
}
LOADED: dict[str, Any] = {
    "name": "tiny",
    "load_s": 0.412,
    "memory_bytes": 180355072,
    "already_loaded": False,
    "evicted": [],
}
STOPPED: dict[str, Any] = {"name": "tiny", "stopped": True, "freed_bytes": 180355072}
HEALTHY: dict[str, Any] = {"status": "ok"}
READY: dict[str, Any] = {"status": "ready"}
