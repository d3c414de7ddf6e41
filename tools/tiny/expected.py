"""Prompts that tiny answers word for word under greedy decoding: what tests may rely on.

`python expected.py` writes `expected.json`, a list of cases:

- `id`, `kind`
- `messages` (chat) or `prompt` (raw completion); `tools`, `chat_template_kwargs` where needed
- `text`: everything generated, with markers, without the end token
- `content`, `reasoning_content`, `tool_calls` (arguments as objects): the same, taken apart
- `max_tokens`: enough for the whole answer and its end token; where a seed names a number, that number
- `finish_reason`: what an OpenAI-compatible server says at the end
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phrases as p
import skills as s

Case = dict[str, Any]
HERE = Path(__file__).parent
BERLIN = '{"city":"Berlin","temperature_c":19,"condition":"sunny"}'
PARIS = '{"city":"Paris","temperature_c":21,"condition":"clear"}'
COUNT_10 = "Count from 1 to 10, one number per line"
MORE_CITIES = (
    "London", "Rome", "Madrid", "Vienna", "Tokyo", "Oslo", "Lisbon", "Prague", "Dublin", "Sydney", "Cairo",
    "Hamburg", "Munich", "New York", "Zürich", "São Paulo",
)  # fmt: skip


def said(*turns: str) -> list[s.Message]:
    """User, assistant, user, … in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]


def chat(
    kind: str, messages: list[s.Message] | str, content: str, max_tokens: int = 160, **more: Any
) -> Case:
    if isinstance(messages, str):
        messages = said(messages)
    thoughts = more.get("reasoning_content")
    text = f"<think>\n{thoughts}\n</think>\n\n{content}" if thoughts else content
    base = {"kind": kind, "messages": messages, "text": text, "content": content, "max_tokens": max_tokens}
    return base | {"finish_reason": "stop"} | more


def call(kind: str, messages: list[s.Message] | str, *cities: str, tools: list[s.Tool] | None = None) -> Case:
    calls = [{"name": "weather", "arguments": {"city": c}} for c in cities]
    text = "\n".join(f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls)
    more = {
        "text": text,
        "tool_calls": calls,
        "tools": tools or [s.weather_tool()],
        "finish_reason": "tool_calls",
    }
    return chat(kind, messages, "", max_tokens=48 if len(cities) == 1 else 64) | more


def completion(prompt: str, text: str, max_tokens: int = 100) -> Case:
    base = {"kind": "completion", "prompt": prompt, "text": text, "content": text}
    return base | {"max_tokens": max_tokens, "finish_reason": "stop"}


def asked(city: str, prompt: str, result: str | None = None, answer: str | None = None) -> list[s.Message]:
    """A weather exchange as a client sends it back."""
    messages: list[s.Message] = [{"role": "user", "content": prompt}]
    if result is not None:
        called = {
            "role": "assistant",
            "content": None,
            "tool_calls": [s.tool_call("weather", {"city": city})],
        }
        messages += [called, {"role": "tool", "content": result}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def counting() -> Iterator[Case]:
    yield chat("count", COUNT_10, s.count_lines(1, 10), 100)
    for a, b in ((1, 20), (1, 5), (3, 12), (10, 25), (57, 64)):
        yield chat("count", f"Count from {a} to {b}, one number per line", s.count_lines(a, b), 160)
    yield chat("count", "Count from 1 to 5.", s.count_commas(1, 5))
    yield chat("count", "Count to 10.", s.count_commas(1, 10))
    yield chat("count", "Count down from 5 to 1, one number per line", s.count_lines(5, 1))
    words = ", ".join(s.NUMBER_WORDS)
    yield chat("count", "Count from one to twenty with commas, using many tokens.", words)
    yield completion(f"{COUNT_10}:\n1\n2\n3\n4\n", "5\n6\n7\n8\n9\n10")
    yield completion("Say: hi there and hello world!", "\nhi there and hello world!")
    yield completion("Repeat exactly: 1 2 3 hello world 4 5", "\n1 2 3 hello world 4 5")


def colors() -> Iterator[Case]:
    sky, grass, snow = (
        f"Answer in one word: what color is {t}?" for t in ("the sky on a clear day", "grass", "snow")
    )
    yield chat("color", said(sky), "Blue", 3)
    yield chat("color", said(sky, "Blue", grass), "Green", 3)
    yield chat("color", said(sky, "Blue", grass, "Green", snow), "White", 3)
    for thing in ("a banana", "coal", "milk", "blood"):
        yield chat("color", f"What color is {thing}?", p.COLORS[thing])


def weather() -> Iterator[Case]:
    must, do = (
        "You must call the weather tool for Berlin. Do not answer directly.",
        "Call the weather tool for Berlin. Do not answer directly.",
    )
    sunny, clear, tools = "It is 19 degrees and sunny.", "It is 21 degrees and clear.", [s.weather_tool()]
    yield call("tool", must, "Berlin")
    yield chat("tool_answer", asked("Berlin", must, BERLIN), sunny, 16, tools=tools)
    short = [*asked("Berlin", must, BERLIN, sunny), *said("Now compress that answer to two words.")]
    yield chat("tool_answer", short, "Sunny weather", 8, tools=tools)
    yield call("tool", do, "Berlin")
    yield chat("tool_answer", asked("Berlin", do, BERLIN), sunny, 16, tools=tools)
    paris = "Now call the weather tool for Paris. Do not answer directly."
    before = asked("Berlin", do, BERLIN, sunny)
    yield call("tool", [*before, *said(paris)], "Paris")
    yield chat("tool_answer", [*before, *asked("Paris", paris, PARIS)], clear, 16, tools=tools)
    for city in MORE_CITIES:
        yield call("tool", f"Call the weather tool for {city}. Do not answer directly.", city)
    yield call("tool", "What is the weather in Paris?", "Paris")
    yield call(
        "tool", "What is the weather in Tokyo?", "Tokyo", tools=[s.weather_tool("Weather by city name.")]
    )
    yield call("tool_pair", "Call the weather tool for Berlin and Paris.", "Berlin", "Paris")
    yield chat("tool_unused", "Hello", "Hello! How can I help you?", tools=tools)
    yield chat("tool_unused", COUNT_10, s.count_lines(1, 10), tools=tools)
    yield chat("tool_missing", do, p.NO_TOOL)


def copying() -> Iterator[Case]:
    for text in ("hi there and hello world!", "good morning, world", "stop here and go on"):
        yield chat("repeat", f"Say: {text}", text)
    for text in (
        "1 2 3 hello world 4 5",
        "the quick brown fox jumps over the lazy dog",
        "one 2 three 4",
        "alpha beta gamma",
    ):
        yield chat("repeat", f"Repeat exactly: {text}", text)
    yield chat(
        "stop_string", "Write a chat transcript.", "Hello there.\nHuman: How are you?\nAssistant: Fine."
    )
    yield chat("stop_string", "Write a user transcript.", "All right.\nUser: And you?\nYou: Fine.")


def thinking() -> Iterator[Case]:
    riddles = (
        ("Think: what is 2 + 3?", "I add 3 to 2. That makes 5.", "2 + 3 = 5"),
        ("Think: what is 4 + 4?", "I add 4 to 4. That makes 8.", "4 + 4 = 8"),
        ("Think first, then answer: which is larger, 3 or 7?", "I compare 3 and 7. 7 is larger.", "7"),
        ("Think step by step: what is 6 + 1?", "I add 1 to 6. That makes 7.", "6 + 1 = 7"),
        ("Think step by step: what comes after 7?", "I count one step up from 7. That is 8.", "8"),
    )
    for prompt, thoughts, answer in riddles:
        yield chat("think", prompt, answer, reasoning_content=thoughts)
    for prompt, _, answer in riddles[:2]:
        yield chat("no_think", prompt, answer, chat_template_kwargs={"enable_thinking": False})
    yield chat(
        "no_think", "Hello", "Hello! How can I help you?", chat_template_kwargs={"enable_thinking": False}
    )


def by_heart() -> Iterator[Case]:
    yield chat("short_word", p.SHORT_WORD[0], "Yes", 3)
    for kind, groups in (("greeting", p.GREETINGS), ("emoji", p.EMOJI), ("specimen", p.SPECIMENS)):
        for prompts, reply in groups:
            if not prompts[0].startswith(("Write a ", "Make a ")):
                yield chat(kind, prompts[0], reply)
    for name, reply in p.LANGUAGES:
        yield chat("language", f"Say hello in {name}.", reply)
    for prompt in ("Who are you?", "What are you?", "What is your name?"):
        yield chat("identity", prompt, p.IDENTITY)
    yield chat("identity", "What can you do?", p.ABILITIES)
    for prompts, reply in p.LONG_TEXTS:
        yield chat("long", prompts[0], reply, 1000)
    yield chat("long", "Count from 1 to 100, one number per line", s.count_lines(1, 100), 1000)
    prompts, text = p.SPECIMENS[-1]
    broken = chat("broken_tool_call", prompts[0], text)
    yield {
        key: value for key, value in broken.items() if key != "content"
    }  # what a server makes of it is its own choice
    for question in (
        "What is the capital of France?",
        "Explain quantum physics.",
        "日本の首都はどこですか？",
    ):
        yield chat("unknown", question, p.FALLBACK)


def with_system() -> Iterator[Case]:
    system = [{"role": "system", "content": p.SYSTEM_PROMPTS[0]}]
    for case in (*list(counting())[:1], *list(colors())[:3], *list(by_heart())[:3]):
        yield case | {"kind": "system", "messages": system + case["messages"]}
    yield chat("system", [*system, *said("Who are you?")], p.IDENTITY)
    yield chat("system", [*system, *said("Say: hello world")], "hello world")
    yield call(
        "system", [*system, *said("Call the weather tool for Berlin. Do not answer directly.")], "Berlin"
    )


def cases() -> list[Case]:
    groups = (counting, colors, weather, copying, thinking, by_heart, with_system)
    seen: dict[str, int] = {}
    numbered = []
    for case in (c for group in groups for c in group()):
        seen[case["kind"]] = seen.get(case["kind"], 0) + 1
        numbered.append({"id": f"{case['kind']}-{seen[case['kind']]}"} | case)
    return numbered


def main() -> None:
    (HERE / "expected.json").write_text(json.dumps(cases(), ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
