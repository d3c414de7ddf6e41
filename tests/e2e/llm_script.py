"""The Python side of `llm`, in a process of its own: prints one JSON object of what came of it.

Sync, async, streamed, tools and chains, as its documentation shows them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import llm

from tests.e2e.localhost_only import watch_connections
from tests.e2e.prompts import BERLIN, COUNT_10, COUNT_100, GO_ON, GRASS, SKY

CALL_BERLIN = "Call the weather tool for Berlin. Do not answer directly."


def weather(city: str) -> str:
    """Look up weather for a city."""
    return BERLIN if city == "Berlin" else "unknown"


def sync() -> dict[str, Any]:
    model = llm.get_model("mlxk-tiny")
    response = model.prompt(COUNT_100, temperature=0)
    conversation = model.conversation()
    first = conversation.prompt(SKY, temperature=0, stream=False).text()
    return {
        "pieces": list(response),
        "usage": response.usage().output,
        "conversation": [first, conversation.prompt(GRASS, temperature=0, stream=False).text()],
        "tool": model.chain(CALL_BERLIN, tools=[weather], options={"temperature": 0}).text(),
        "text": llm.get_model("mlxk-text").prompt(GO_ON, temperature=0).text(),
        "stopped": model.prompt(COUNT_10, temperature=0, stop="6").text(),
    }


async def unsync() -> dict[str, Any]:
    model = llm.get_async_model("mlxk-tiny")
    response = model.prompt(COUNT_100, temperature=0)
    pieces = [piece async for piece in response]
    chain = model.chain(CALL_BERLIN, tools=[weather], options={"temperature": 0})
    many = [model.prompt(SKY, temperature=0, stream=False).text() for _ in range(8)]
    return {
        "pieces": pieces,
        "usage": (await response.usage()).output,
        "tool": await chain.text(),
        "many": await asyncio.gather(*many),
    }


def refused(ask: Callable[[], Any]) -> str:
    try:
        return f"answered: {ask()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    foreign = watch_connections()
    results = {
        "sync": sync(),
        "async": asyncio.run(unsync()),
        "unknown": refused(lambda: llm.get_model("mlxk-missing").prompt("Hi").text()),
        "embeddings": refused(lambda: llm.get_embedding_model("3-small").embed("Hi")),
        "foreign": foreign,
    }
    print(json.dumps(results))
