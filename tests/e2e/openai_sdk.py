"""The `openai` client as its users have it: sync or async, behind the few words that the tests need."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from tests.e2e.prompts import Message

KINDS = ("sync", "async")


class Sdk:
    """One unmodified client. What it gives is awaited here, if it has to be."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        make = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
        self.client: Any = make(**{"base_url": f"{url}/v1", "api_key": "unused", "max_retries": 0, **options})
        self.is_async = kind == "async"

    def do(self, value: Any) -> Any:
        """`value`, or what it is when awaited."""
        if not inspect.isawaitable(value):
            return value

        async def awaited() -> Any:
            return await value

        return self.runner.run(awaited())

    def each(self, items: Any) -> Iterator[Any]:
        """The items of an iterator of either kind."""
        if not self.is_async:
            yield from items
            return
        iterator = aiter(items)
        while (item := self.do(anext(iterator, self))) is not self:
            yield item

    @contextmanager
    def entered(self, manager: Any) -> Iterator[Any]:
        """A context manager of either kind."""
        if not self.is_async:
            with manager as inner:
                yield inner
            return
        inner = self.do(manager.__aenter__())
        try:
            yield inner
        finally:
            self.do(manager.__aexit__(None, None, None))

    def close(self) -> None:
        self.do(self.client.close())
        self.runner.close()

    # -------------------------------------------------------------------- shorthands

    def chat(self, messages: str | list[Message], **fields: Any) -> Any:
        """Greedy with `tiny`, unless `fields` say otherwise."""
        return self.do(self.client.chat.completions.create(**chat_fields(messages, fields)))

    def chunks(self, messages: str | list[Message], **fields: Any) -> list[Any]:
        """All chunks of a streamed chat."""
        return list(self.each(self.chat(messages, stream=True, **fields)))

    def text(self, prompt: Any, **fields: Any) -> Any:
        return self.do(
            self.client.completions.create(**{"model": "tiny", "prompt": prompt, "temperature": 0, **fields})
        )


def chat_fields(messages: str | list[Message], fields: dict[str, Any]) -> dict[str, Any]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"model": "tiny", "messages": messages, "temperature": 0, **fields}


def joined(chunks: list[Any], field: str = "content", index: int = 0) -> str:
    """The text of one choice of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(getattr(choice.delta, field, None) or "" for choice in choices)


def final_choice(chunks: list[Any], index: int = 0) -> Any:
    """The one that says why the choice ended."""
    (final,) = [
        choice
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index and choice.finish_reason is not None
    ]
    return final


@contextmanager
def opened(kind: str, url: str, **options: Any) -> Iterator[Sdk]:
    sdk = Sdk(kind, url, **options)
    try:
        yield sdk
    finally:
        sdk.close()
