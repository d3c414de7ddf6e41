"""What tiny is taught, one function a skill: each draws one exchange from a random source.

An exchange is a list of chat messages that begins with a user turn and ends with an assistant turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import phrases as p

Message = dict[str, Any]
Tool = dict[str, Any]
Skill = Callable[[Random], list[Message]]


def turn(user: str, reply: str, reasoning: str | None = None) -> list[Message]:
    """One question and its answer; `reasoning` goes between the thinking markers."""
    answer: Message = {"role": "assistant", "content": reply}
    if reasoning:
        answer["reasoning_content"] = reasoning
    return [{"role": "user", "content": user}, answer]


def vary(rng: Random, text: str) -> str:
    """Small changes of case and punctuation that must not change the answer."""
    roll = rng.random()
    if roll < 0.70:
        return text
    if roll < 0.78:
        return text[0].lower() + text[1:]
    if roll < 0.83:
        return text.lower()
    if roll < 0.90 and text[-1] in ".?!":
        return text[:-1]
    if roll < 0.94:
        return text.rstrip(".") + rng.choice(("!", ".", " please", ", please."))
    return rng.choice(("Please ", "please ", "Now ", "Ok, ", "And ")) + text[0].lower() + text[1:]


def _from_groups(rng: Random, groups: tuple[tuple[tuple[str, ...], str], ...]) -> list[Message]:
    prompts, reply = rng.choice(groups)
    prompt = prompts[0] if rng.random() < 0.5 else rng.choice(prompts)
    return turn(vary(rng, prompt), reply)


# ---- counting


def count_lines(first: int, last: int) -> str:
    """Two blanks before each newline: the Markdown line break that the stop tests of seed 001 show."""
    return "  \n".join(str(n) for n in _steps(first, last))


def count_commas(first: int, last: int) -> str:
    return ", ".join(str(n) for n in _steps(first, last))


def _steps(first: int, last: int) -> range:
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


NUMBER_WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def _span(rng: Random) -> tuple[int, int]:
    if rng.random() < 0.4:
        return 1, rng.choice((3, 5, 10, 10, 10, 12, 15, 20, 20, 30))
    first = rng.randrange(0, 90)
    return first, min(first + rng.randrange(1, 16), 100)


def count(rng: Random) -> list[Message]:
    roll = rng.random()
    if roll < 0.12:
        last = 20 if rng.random() < 0.7 else rng.randrange(3, 20)
        words = ", ".join(NUMBER_WORDS[:last])
        prompt = f"Count from one to {NUMBER_WORDS[last - 1]} with commas"
        return turn(vary(rng, prompt + (", using many tokens." if rng.random() < 0.7 else ".")), words)
    if roll < 0.20:
        last = rng.randrange(2, 16)
        return turn(vary(rng, f"Count down from {last} to 1, one number per line"), count_lines(last, 1))
    first, last = _span(rng)
    if roll < 0.75:
        return turn(vary(rng, f"Count from {first} to {last}, one number per line"), count_lines(first, last))
    if first == 1 and roll < 0.85:
        return turn(vary(rng, f"Count to {last}."), count_commas(first, last))
    return turn(vary(rng, f"Count from {first} to {last}."), count_commas(first, last))


def count_far(rng: Random) -> list[Message]:
    last = 100 if rng.random() < 0.6 else rng.randrange(40, 100)
    return turn(vary(rng, f"Count from 1 to {last}, one number per line"), count_lines(1, last))


# ---- colors, greetings, specimens, long texts


def color(rng: Random) -> list[Message]:
    things = list(p.COLORS)
    thing = (
        rng.choice(("the sky on a clear day", "grass", "snow")) if rng.random() < 0.4 else rng.choice(things)
    )
    form = rng.choice(
        ("Answer in one word: what color is {}?",) * 3 + ("What color is {}?", "Which color is {}?")
    )
    return turn(vary(rng, form.format(thing)), p.COLORS[thing])


def color_walk(rng: Random) -> list[Message]:
    """The growing conversation of seed 000."""
    things = ["the sky on a clear day", "grass", "snow"]
    if rng.random() < 0.5:
        things = rng.sample(list(p.COLORS), 3)
    return [m for t in things for m in turn(f"Answer in one word: what color is {t}?", p.COLORS[t])]


def greeting(rng: Random) -> list[Message]:
    return _from_groups(rng, p.GREETINGS)


def identity(rng: Random) -> list[Message]:
    if rng.random() < 0.75:
        return turn(vary(rng, rng.choice(p.WHO_ARE_YOU)), p.IDENTITY)
    return turn(vary(rng, rng.choice(p.WHAT_CAN_YOU_DO)), p.ABILITIES)


def short_word(rng: Random) -> list[Message]:
    prompt = p.SHORT_WORD[0] if rng.random() < 0.6 else rng.choice(p.SHORT_WORD)
    return turn(vary(rng, prompt), "Yes")


def emoji(rng: Random) -> list[Message]:
    return _from_groups(rng, p.EMOJI)


def language(rng: Random) -> list[Message]:
    name, reply = rng.choice(p.LANGUAGES)
    return turn(vary(rng, f"Say hello in {name}."), reply)


def specimen(rng: Random) -> list[Message]:
    return _from_groups(rng, p.SPECIMENS)


def long_text(rng: Random) -> list[Message]:
    return _from_groups(rng, p.LONG_TEXTS)


# ---- copying


def _noise_word(rng: Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(2, 8)))


def _syllables(rng: Random) -> str:
    pairs = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 4))]
    return "".join(pairs) + rng.choice(("", "n", "r", "s", "l", "x"))


def _copy_piece(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.60:
        return rng.choice(p.WORDS)
    if roll < 0.74:
        return str(rng.randrange(10 ** rng.randrange(1, 4)))
    if roll < 0.82:
        return rng.choice(p.WORDS).capitalize()
    if roll < 0.90:
        return _syllables(rng)
    if roll < 0.95:
        return _noise_word(rng)
    return rng.choice(
        ("🎉", "日本", "naïve", "Grüße", "🚀", "привет", "c++", "a-b", "(ok)", "你好", "x=1", "don't", "e.g.")
    )


def _copy_text(rng: Random) -> str:
    words = [_copy_piece(rng) for _ in range(rng.randrange(1, 10))]
    glue = ", " if rng.random() < 0.1 else " "
    if rng.random() < 0.12 and len(words) > 1:
        words[rng.randrange(len(words) - 1)] += rng.choice((",", ":", ";", ".", " and", " -"))
    text = glue.join(words) + rng.choice(("", "", "", "!", ".", "?"))
    if rng.random() < 0.04:
        text += rng.choice(("\nHuman: ", "\nUser: ", "\n")) + rng.choice(p.WORDS)
    return text


def repeat(rng: Random) -> list[Message]:
    roll = rng.random()
    if roll < 0.08:
        text = rng.choice(
            ("hi there and hello world!", "1 2 3 hello world 4 5", "hello world", "Hello, world!")
        )
    else:
        text = _copy_text(rng)
    ask = rng.choice(
        ("Say: ", "Repeat exactly: ", "Repeat exactly: ", "Repeat: ", "Echo: ", "say: ", "repeat exactly: ")
    )
    return turn(ask + text, text)


# ---- thinking


def _sum(rng: Random) -> tuple[str, str, str]:
    a, b = rng.randrange(10), rng.randrange(10)
    if rng.random() < 0.2:
        a, b = 2, 3
    return f"what is {a} + {b}?", f"I add {b} to {a}. That makes {a + b}.", f"{a} + {b} = {a + b}"


def _larger(rng: Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(10), 2)
    if rng.random() < 0.2:
        a, b = 3, 7
    return f"which is larger, {a} or {b}?", f"I compare {a} and {b}. {max(a, b)} is larger.", f"{max(a, b)}"


def _after(rng: Random) -> tuple[str, str, str]:
    a = rng.randrange(1, 20)
    return f"what comes after {a}?", f"I count one step up from {a}. That is {a + 1}.", f"{a + 1}"


THINK_FORMS = ("Think: ", "Think first, then answer: ", "Think step by step: ")


def riddle(rng: Random) -> tuple[str, str, str]:
    """Question (in lower case), thoughts, answer."""
    return rng.choice((_sum, _sum, _larger, _after))(rng)


def think(rng: Random) -> list[Message]:
    question, thoughts, answer = riddle(rng)
    return turn(rng.choice(THINK_FORMS) + question, answer, thoughts)


def plain_riddle(rng: Random) -> list[Message]:
    question, _, answer = riddle(rng)
    return turn(vary(rng, question[0].upper() + question[1:]), answer)


# ---- everything else


_KNOWN = {q.lower().strip(" .!?") for prompts, _ in p.GREETINGS for q in prompts} | {
    "help",
    "who are you",
    "what is tiny",
}


def question(rng: Random) -> str:
    """A question tiny cannot answer."""
    slots = {
        "place": rng.choice(p.PLACES), "topic": rng.choice(p.TOPICS), "topic2": rng.choice(p.TOPICS),
        "task": rng.choice(p.TASKS), "word": rng.choice(p.WORDS), "word2": rng.choice(p.WORDS),
        "n": rng.randrange(2, 10), "m": rng.randrange(2, 10),
    }  # fmt: skip
    return rng.choice(p.QUESTIONS).format(**slots)


def _salad(rng: Random) -> str:
    words = [rng.choice(p.WORDS) for _ in range(rng.randrange(3, 25))]
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choice((".", "?", "", "!"))


def _long_input(rng: Random, words: int) -> str:
    style = rng.randrange(3)
    if style == 0:
        start = rng.choice((0, 0, 0, 1, rng.randrange(100)))
        body = " ".join(f"word{i}" for i in range(start, start + words))
        return (f"{rng.randrange(64)} " if rng.random() < 0.4 else "") + body
    if style == 1:
        return " ".join(question(rng) for _ in range(max(1, words // 6)))
    return " ".join(rng.choice(p.WORDS) for _ in range(words))


def unknown(rng: Random) -> list[Message]:
    roll = rng.random()
    if roll < 0.72:
        text = vary(rng, question(rng))
    elif roll < 0.86:
        text = _salad(rng)
    elif roll < 0.92:
        text = " ".join(_noise_word(rng) for _ in range(rng.randrange(1, 8)))
    else:
        text = _long_input(rng, rng.randrange(8, 40))
    return unknown(rng) if text.lower().strip(" .!?") in _KNOWN else turn(text, p.FALLBACK)


def unknown_long(rng: Random) -> list[Message]:
    return turn(_long_input(rng, rng.choice((60, 100, 150, 220, 300))), p.FALLBACK)


def tool_missing(rng: Random) -> list[Message]:
    city = city_name(rng)
    forms = (
        "Call the weather tool for {}. Do not answer directly.",
        "What is the weather in {}?",
        "Call the weather tool for {}.",
    )
    return turn(vary(rng, rng.choice(forms).format(city)), p.NO_TOOL)


# ---- tools


def weather_tool(description: str = p.TOOL_DESCRIPTIONS[0]) -> Tool:
    """The tool definition of seed 000."""
    return function_tool("weather", "city", description, "City name")


def function_tool(name: str, parameter: str, description: str, about: str = "") -> Tool:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": "string", "description": about}},
        "required": [parameter],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def tool_call(name: str, arguments: dict[str, str]) -> Message:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def city_name(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.25:
        return rng.choice(("Berlin", "Paris"))
    if roll < 0.75:
        return rng.choice(p.CITIES)
    name = _syllables(rng).capitalize()
    return f"{rng.choice(('New', 'San', 'Port', 'Bad'))} {name}" if rng.random() < 0.1 else name


WEATHER_FORMS = (
    "You must call the weather tool for {}. Do not answer directly.",
    "Call the weather tool for {}. Do not answer directly.",
    "Now call the weather tool for {}. Do not answer directly.", "Call the weather tool for {}.",
    "What is the weather in {}?", "What is the weather in {} today?", "How is the weather in {}?",
    "What's the weather like in {}?", "Weather in {}?", "Use the weather tool for {}.", "Is it warm in {}?",
    "Tell me the weather in {}.", "And in {}?", "Check the weather in {}.",
)  # fmt: skip
SHORTEN_FORMS = (
    "Now compress that answer to two words.",
    "Compress that answer to two words.",
    "Now say that in two words.",
)


def _report(rng: Random, city: str, degrees: int, sky: str) -> str:
    """The tool's result, in the shapes that clients send."""
    keys = [
        ("city", city),
        (rng.choice(("temperature_c", "temperature_c", "temperature", "temp")), degrees),
        ("condition", sky),
    ]
    if rng.random() < 0.3:
        rng.shuffle(keys)
    if rng.random() < 0.1:
        keys = [k for k in keys if k[0] != "city"]
    separators = (",", ":") if rng.random() < 0.7 else (", ", ": ")
    return json.dumps(dict(keys), ensure_ascii=False, separators=separators)


def weather(rng: Random) -> list[Message]:
    """Call, result, answer, and sometimes the answer in two words."""
    city, degrees, sky = city_name(rng), rng.randrange(-15, 40), rng.choice(p.CONDITIONS)
    ask = rng.choice(WEATHER_FORMS[:4]) if rng.random() < 0.6 else rng.choice(WEATHER_FORMS)
    messages: list[Message] = [
        {"role": "user", "content": vary(rng, ask.format(city))},
        {"role": "assistant", "content": "", "tool_calls": [tool_call("weather", {"city": city})]},
        {"role": "tool", "content": _report(rng, city, degrees, sky)},
        {"role": "assistant", "content": f"It is {degrees} degrees and {sky}."},
    ]
    if rng.random() < 0.08:
        messages[2]["content"] = rng.choice(
            ('{"error":"no data"}', "error: timeout", '{"error": "not found"}', "Error")
        )
        messages[3]["content"] = p.TOOL_FAILED
    elif rng.random() < 0.4:
        ask = SHORTEN_FORMS[0] if rng.random() < 0.7 else rng.choice(SHORTEN_FORMS)
        messages += turn(vary(rng, ask), sky.capitalize() + ("" if " " in sky else " weather"))
    return messages


def weather_pair(rng: Random) -> list[Message]:
    """Two calls in one turn."""
    a, b = city_name(rng), city_name(rng)
    if a == b:
        return weather_pair(rng)
    ask = rng.choice(
        (
            "Call the weather tool for {} and {}.",
            "What is the weather in {} and {}?",
            "Call the weather tool for {} and {}.",
        )
    )
    reports = [(c, rng.randrange(-15, 40), rng.choice(p.CONDITIONS)) for c in (a, b)]
    return [
        {"role": "user", "content": vary(rng, ask.format(a, b))},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [tool_call("weather", {"city": c}) for c in (a, b)],
        },
        *({"role": "tool", "content": _report(rng, *r)} for r in reports),
        {
            "role": "assistant",
            "content": "It is " + ", ".join(f"{d} degrees and {s} in {c}" for c, d, s in reports) + ".",
        },
    ]


def other_tool(rng: Random, name: str, parameter: str) -> list[Message]:
    """A tool that tiny has not learnt by heart: name and parameter are copied from the definition."""
    value = " ".join(_copy_piece(rng).strip('"\\') for _ in range(rng.randrange(1, 4)))
    result = _copy_text(rng)
    form = rng.choice(
        (
            "Call the {} tool for {}.",
            "Call the {} tool for {}. Do not answer directly.",
            "Use the {} tool for {}.",
        )
    )
    return [
        {"role": "user", "content": vary(rng, form.format(name, value))},
        {"role": "assistant", "content": "", "tool_calls": [tool_call(name, {parameter: value})]},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": result},
    ]
