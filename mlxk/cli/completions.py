"""Asking a server over HTTP, as any client would: one streamed completion, facts of a model, a load."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxk.cli.errors import CliError
from mlxk.cli.sse import EventReader, EventTooLongError

if TYPE_CHECKING:
    import requests

CONNECT_LIMIT_S = 10.0
SILENCE_LIMIT_S = 90.0
"""The server says something at least every 15 s, if only a comment."""
MAX_ERROR_BYTES = 256 * 1024
MAX_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ReplyPart:
    """What one event of the stream added to the reply."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


def stream_reply(
    base_url: str, endpoint: str, body: Mapping[str, Any], *, api_key: str | None
) -> Generator[ReplyPart, None, None]:
    """The parts of the reply to `body`, which is POSTed with `stream: true`, as they arrive.

    Close the iterator to end the request: the server notices and aborts. Raises CliError for whatever
    keeps the reply from being complete; an error of the server keeps its type.
    """
    import requests

    finished = False
    asked = {**body, "stream": True}
    try:
        with _sent(
            "POST", base_url, endpoint, api_key=api_key, silence_limit_s=SILENCE_LIMIT_S, json=asked
        ) as response:
            for data in _events(response):
                if data == "[DONE]":
                    return
                part = parse_part(data)
                finished = finished or part.finish_reason is not None
                yield part
    except requests.ConnectTimeout as error:
        raise _deaf(base_url) from error
    except requests.RequestException as error:
        if finished:
            return  # the reply is whole; only the goodbye is missing
        raise _broken(base_url, error) from error
    except EventTooLongError as error:
        raise CliError("protocol_error", f"the server's stream cannot be read: {error}") from error
    if not finished:
        raise CliError("connection_lost", "the server ended the stream before the reply was complete")


def get_json(base_url: str, path: str, *, api_key: str | None) -> dict[str, Any]:
    """The JSON object at `path`. Raises CliError."""
    return _exchange("GET", base_url, path, api_key=api_key, silence_limit_s=SILENCE_LIMIT_S)


def post_json(base_url: str, path: str, *, api_key: str | None) -> dict[str, Any]:
    """The answer to a POST without a body, however long the server takes over it. Raises CliError."""
    return _exchange("POST", base_url, path, api_key=api_key, silence_limit_s=None)


def _exchange(method: str, base_url: str, path: str, **request: Any) -> dict[str, Any]:
    import requests

    try:
        with _sent(method, base_url, path, **request) as response:
            answer = response.json()
    except requests.ConnectTimeout as error:
        raise _deaf(base_url) from error
    except requests.JSONDecodeError as error:
        raise CliError("protocol_error", "the server sent what is no JSON") from error
    except requests.RequestException as error:
        raise _broken(base_url, error) from error
    if not isinstance(answer, dict):
        raise CliError("protocol_error", "the server sent what is no JSON object")
    return answer


@contextlib.contextmanager
def _sent(
    method: str,
    base_url: str,
    path: str,
    *,
    api_key: str | None,
    silence_limit_s: float | None,
    json: Any = None,
) -> Iterator[requests.Response]:
    """The response to a request, if it is 200; its connection is closed with the block."""
    import requests

    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment would take the prompt off this machine
        response = session.request(
            method,
            reachable(base_url) + path,
            json=json,
            headers={"Authorization": f"Bearer {api_key}".encode()} if api_key else {},
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_LIMIT_S, silence_limit_s),
        )
        with response:
            if response.status_code != 200:
                raise _refusal(response)
            yield response


def _deaf(base_url: str) -> CliError:
    return CliError("timed_out", f"the server at {base_url} does not accept connections")


def reachable(base_url: str) -> str:
    """The URL to connect to: a server that listens on every address is asked on the loopback one."""
    url = base_url.rstrip("/")
    return url.replace("//0.0.0.0", "//127.0.0.1", 1).replace("//[::]", "//[::1]", 1)


def _events(response: requests.Response) -> Iterator[str]:
    reader = EventReader()
    for piece in response.iter_content(chunk_size=None):  # None: as it arrives, not in full blocks
        yield from reader.feed(piece)


def parse_part(data: str) -> ReplyPart:
    """What one event says. Raises CliError if it is an error event, or no JSON object."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CliError("protocol_error", f"the server sent what is no JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise CliError("protocol_error", f"the server sent what is no event: {data[:80]!r}")
    if event.get("error"):
        raise _fault(event["error"])
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    usage = event.get("usage")
    return ReplyPart(
        content=_text(delta.get("content")) + _text(choice.get("text")),
        reasoning=_text(delta.get("reasoning_content")),
        finish_reason=_text(choice.get("finish_reason")) or None,
        usage=usage if isinstance(usage, dict) else None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _fault(error: object, status: int | None = None) -> CliError:
    """OpenAI's error object as ours. `code` is the server's FaultCode."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    kind = _text(fields.get("code")) or _text(fields.get("type")) or "error"
    details = {key: fields[key] for key in ("param",) if fields.get(key) is not None}
    if status is not None:
        details["status"] = status
    return CliError(kind, _text(fields.get("message")) or f"the server answered: {kind}", details)


def _refusal(response: requests.Response) -> CliError:
    """An answer that is not 200, before any token."""
    text = response.raw.read(MAX_ERROR_BYTES, decode_content=True).decode("utf-8", errors="replace")
    if response.status_code == 401:
        message = "the server wants an API key: set MLXK_API_KEY, or MLXK_API_KEY_FILE to a file with one"
        return CliError("unauthorized", message, {"status": 401})
    try:
        return _fault(json.loads(text)["error"], response.status_code)
    except (ValueError, KeyError, TypeError, RecursionError):
        message = f"the server answered HTTP {response.status_code}: {text[:200].strip() or response.reason}"
        return CliError("http_error", message, {"status": response.status_code})


def _broken(base_url: str, error: requests.RequestException) -> CliError:
    import requests
    from urllib3.exceptions import NewConnectionError, ReadTimeoutError

    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    if isinstance(reason, NewConnectionError):
        return CliError("server_not_running", f"the server at {base_url} cannot be reached; see: mlxk ps")
    if isinstance(error, requests.Timeout) or isinstance(reason, ReadTimeoutError):
        return CliError("timed_out", f"the server has been silent for {SILENCE_LIMIT_S:g} s")
    return CliError("connection_lost", "the connection to the server broke before the reply was complete")
