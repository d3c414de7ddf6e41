"""Compose the exchanges of `skills` into whole dialogues: what tiny is trained on.

`python dialogues.py 350` prints that many as JSON lines. The same seed gives the same dialogues.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from random import Random

import expected
import phrases as p
import skills as s
from skills import Message, Tool

SEED = 20261121
CASES = expected.cases()

Weighted = tuple[tuple[s.Skill, int], ...]


@dataclass(frozen=True)
class Mix:
    """How often things are drawn, in relative weights."""

    skills: Weighted
    lengths: tuple[int, ...]  # chats of 1, 2, 3, 4, 5 and more exchanges
    longest: int
    kinds: tuple[int, ...]  # as in KINDS


BROAD = Mix(
    skills=(
        (s.count, 16), (s.color, 9), (s.color_walk, 5), (s.greeting, 10), (s.identity, 8), (s.short_word, 4),
        (s.emoji, 6), (s.language, 8), (s.specimen, 8), (s.repeat, 26), (s.think, 10), (s.plain_riddle, 5),
        (s.unknown, 20), (s.tool_missing, 3),
    ),
    lengths=(46, 18, 14, 8, 6, 3), longest=15, kinds=(60, 25, 6, 3, 6, 0),
)  # fmt: skip
# What is learnt last: copying, sums, and finding the right thing in a long chat.
HARD = Mix(
    skills=(
        (s.count, 22), (s.color, 7), (s.color_walk, 3), (s.greeting, 9), (s.identity, 6), (s.short_word, 3),
        (s.emoji, 4), (s.language, 5), (s.specimen, 6), (s.repeat, 34), (s.think, 26), (s.plain_riddle, 16),
        (s.unknown, 20), (s.tool_missing, 3),
    ),
    lengths=(38, 16, 12, 8, 6, 10), longest=20, kinds=(52, 18, 3, 3, 6, 18),
)  # fmt: skip
# The last touch: mostly the listed prompts and raw completions.
LAST = replace(HARD, kinds=(22, 8, 1, 4, 17, 48))
LONG_SKILLS: Weighted = ((s.long_text, 5), (s.count_far, 2), (s.unknown_long, 3))


@dataclass
class Dialogue:
    """One training sample: a chat, or (when `prompt` is set) a raw completion."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Tool] | None = None
    enable_thinking: bool = True
    prompt: str | None = None
    completion: str = ""


def _draw(rng: Random, table: Weighted) -> list[Message]:
    return rng.choices([skill for skill, _ in table], [weight for _, weight in table])[0](rng)


def _system(rng: Random) -> list[Message]:
    if rng.random() > 0.25:
        return []
    text = (
        rng.choice(p.SYSTEM_PROMPTS)
        if rng.random() < 0.85
        else " ".join(rng.choice(p.WORDS) for _ in range(12))
    )
    return [{"role": "system", "content": text}]


def _length(rng: Random, mix: Mix) -> int:
    """How many exchanges: mostly one, often a few, now and then a long chat."""
    return rng.choices((1, 2, 3, 4, 5, rng.randrange(6, mix.longest + 1)), mix.lengths)[0]


def _forget_thoughts(rng: Random, messages: list[Message]) -> list[Message]:
    """Clients send back the content alone, so earlier thoughts are mostly missing from a history."""
    if rng.random() < 0.3:
        return messages
    return [_without_thoughts(m) if m is not messages[-1] else m for m in messages]


def _without_thoughts(message: Message) -> Message:
    """A thoughtful turn as history: shown without its thoughts, and not itself a target."""
    if "reasoning_content" not in message:
        return message
    return {"role": "assistant", "content": message["content"], "history_only": True}


def chat(rng: Random, mix: Mix) -> Dialogue:
    messages = _system(rng)
    for _ in range(_length(rng, mix)):
        messages += _draw(rng, mix.skills)
    thinking = rng.random() > 0.12
    if not thinking:
        messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages]
    return Dialogue(_forget_thoughts(rng, messages), enable_thinking=thinking)


def long_chat(rng: Random, mix: Mix) -> Dialogue:
    before = [m for _ in range(rng.choice((0, 0, 0, 1))) for m in _draw(rng, mix.skills)]
    return Dialogue(_system(rng) + before + _draw(rng, LONG_SKILLS), enable_thinking=rng.random() > 0.1)


def tool_chat(rng: Random, mix: Mix) -> Dialogue:
    """Tools are on offer; most exchanges use them, some are answered directly."""
    weather = s.weather_tool() if rng.random() < 0.6 else s.weather_tool(rng.choice(p.TOOL_DESCRIPTIONS))
    others = rng.sample(p.OTHER_TOOLS, rng.choices((0, 1, 2), (65, 22, 13))[0])
    others = [o for i, o in enumerate(others) if o[0] not in {b[0] for b in others[:i]}]
    tools = [weather, *(s.function_tool(*o) for o in others)]
    rng.shuffle(tools)
    messages = _system(rng)
    for _ in range(rng.choices((1, 2, 3, 4), (45, 35, 14, 6))[0]):
        roll = rng.random()
        if others and roll < 0.5:
            messages += s.other_tool(rng, *rng.choice(others)[:2])
        elif roll < 0.70:
            messages += s.weather(rng)
        elif roll < 0.80:
            messages += s.weather_pair(rng)
        else:
            messages += _draw(rng, mix.skills[:-1])
    return Dialogue(_forget_thoughts(rng, messages), tools, enable_thinking=True)


def raw_count(rng: Random, _: Mix) -> Dialogue:
    last = 10 if rng.random() < 0.7 else rng.randrange(5, 21)
    known = rng.randrange(1, last)
    head = f"Count from 1 to {last}, one number per line:\n"
    lines = [str(n) for n in range(1, last + 1)]
    return Dialogue(prompt=head + "\n".join(lines[:known]) + "\n", completion="\n".join(lines[known:]))


def raw_reply(rng: Random, _: Mix) -> Dialogue:
    """A bare prompt is answered on the next line."""
    skill = rng.choice((s.repeat, s.repeat, s.count, s.color, s.greeting, s.identity, s.unknown, s.unknown))
    user, answer = skill(rng)
    return Dialogue(prompt=user["content"], completion="\n" + answer["content"])


def listed(rng: Random, mix: Mix) -> Dialogue:
    """A prompt that tests rely on, sometimes after another exchange."""
    case = rng.choice(CASES)
    if "prompt" in case:
        return Dialogue(prompt=case["prompt"], completion=case["text"])
    answer: Message = {"role": "assistant", "content": case.get("content", case["text"])}
    if "reasoning_content" in case:
        answer["reasoning_content"] = case["reasoning_content"]
    if "tool_calls" in case:
        answer["tool_calls"] = [s.tool_call(c["name"], c["arguments"]) for c in case["tool_calls"]]
    fresh = len(case["messages"]) == 1 and "tools" not in case and rng.random() < 0.35
    before = _system(rng) + _draw(rng, mix.skills) if fresh else []
    before = [_without_thoughts(m) for m in before]
    thinking = case.get("chat_template_kwargs", {}).get("enable_thinking", True)
    return Dialogue([*before, *case["messages"], answer], case.get("tools"), thinking)


KINDS = (chat, tool_chat, long_chat, raw_count, raw_reply, listed)


def dialogues(seed: int = SEED, mix: Mix = BROAD) -> Iterator[Dialogue]:
    """An endless stream of samples; the first N are always the same."""
    rng = Random(seed)
    while True:
        yield rng.choices(KINDS, mix.kinds)[0](rng, mix)


def main() -> None:
    stream = dialogues()
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 350):
        print(json.dumps(asdict(next(stream)), ensure_ascii=False))


if __name__ == "__main__":
    main()
