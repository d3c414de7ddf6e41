"""`litellm` in a process of its own: it takes seconds to import, keeps threads, and has warnings of its own.

One JSON object a line on stdin, one answer a line on stdout:
`{"call": "completion", "fields": {...}}` gives `{"reply": ...}`, `{"chunks": [...]}` of a stream, or
`{"error": {"classes": [...], "status": ..., "message": ...}}`; `{"call": "foreign"}` gives where it tried to
connect to beside this machine.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from typing import Any

from tests.e2e.localhost_only import watch_connections


def main() -> None:
    foreign = watch_connections()
    # Its chatter ("Give Feedback", "Provider List") goes to stdout, which is ours.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            asked = json.loads(line)
            answer = {"foreign": foreign} if asked["call"] == "foreign" else runner.run(_answer(asked))
            print(json.dumps(answer), file=answers, flush=True)


async def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    import litellm

    try:
        reply = getattr(litellm, asked["call"])(**asked["fields"])
        reply = await reply if inspect.isawaitable(reply) else reply
        if asked["fields"].get("stream"):
            if hasattr(reply, "__aiter__") and asked["call"].startswith("a"):
                return {"chunks": [_plain(chunk) async for chunk in reply]}
            return {"chunks": [_plain(chunk) for chunk in reply]}
        return {"reply": _plain(reply)}
    except Exception as error:
        # litellm's own classes, and those of `openai` that they are.
        names = [kind.__name__ for kind in type(error).__mro__]
        status = getattr(error, "status_code", None)
        return {"error": {"classes": names, "status": status, "message": str(error)}}


def _plain(reply: Any) -> Any:
    return reply.model_dump(mode="json") if hasattr(reply, "model_dump") else reply


if __name__ == "__main__":
    main()
