"""Check the committed weights with mlx_lm: `python check.py MODEL_FOLDER`. Exits 1 when anything is wrong.

Needs mlx-lm, not torch. Greedy decoding, one prompt at a time; then some of the same in one batch. Each
listed prompt must be answered word for word; what is drawn at random only often enough, see `need`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import dialogues as d
import expected
import mlx.core as mx
import mlx_lm
import phrases as p
import skills as s
from mlx_lm.tokenizer_utils import _infer_tool_parser

SIZE_LIMIT = 3_000_000
SEVERAL = 12  # samples of each skill that were never trained on
TEXTS = (
    "plain text", " leading and trailing  ", "\n\n\ttabs\r\n", "naïve façade Ångström",
    "e\u0301 a\u0308 q\u0307\u0323", "ﬁ ① ｱ",
    "你好，世界", "こんにちは", "안녕하세요", "👨‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪", "مرحبا",
    "नमस्ते",
    "don't I'LL we've", "0123456789 ½ ²", "\u0000\u0007\u200b\ufeff",
    "<think>x</think> <tool_call>", "a" * 300, "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: list[int]  # with the end token, if it came
    finish_reason: str


@dataclass
class Result:
    name: str
    passed: int = 0
    total: int = 0
    need: float = 1.0  # the share that must pass
    note: str = ""

    def add(self, ok: bool, failure: str = "") -> None:
        self.total += 1
        self.passed += ok
        if not ok and failure:
            print(f"  {self.name}: {failure}")

    @property
    def ok(self) -> bool:
        return self.passed >= self.need * self.total


class Tiny:
    """The model under check, as a client sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.tokenizer = mlx_lm.load(str(folder))

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, case: dict[str, Any], messages: list[s.Message] | None = None) -> list[int]:
        if "prompt" in case and case["prompt"] is not None:
            return self.ids(case["prompt"])
        return self.tokenizer.apply_chat_template(
            case["messages"] if messages is None else messages,
            tools=case.get("tools"),
            add_generation_prompt=True,
            **case.get("chat_template_kwargs", {}),
        )

    def answer(self, prompt: list[int], max_tokens: int = 160) -> Answer:
        steps = list(mlx_lm.stream_generate(self.model, self.tokenizer, prompt, max_tokens=max_tokens))
        tokens, reason = [step.token for step in steps], steps[-1].finish_reason
        said = tokens[:-1] if reason == "stop" else tokens
        return Answer(self.tokenizer.decode(said), tokens, reason)


def shorten(text: str) -> str:
    return repr(text if len(text) < 100 else f"{text[:60]}…{text[-40:]}")


def mistake(prompt: str, got: Answer, want: str) -> str:
    return f"{shorten(prompt)} -> {shorten(got.text)} ({got.finish_reason}), not {shorten(want)}"


# ---- the folder and the tokenizer


def folder_checks(tiny: Tiny) -> list[Result]:
    size = sum(f.stat().st_size for f in tiny.folder.iterdir())
    weights = dict(mx.load(str(tiny.folder / "model.safetensors")))
    small = Result("size", note=f"{size:,} bytes, {sum(w.size for w in weights.values()):,} parameters")
    small.add(size <= SIZE_LIMIT, f"{size} bytes")
    small.add(json.loads((tiny.folder / "config.json").read_text())["model_type"] == "qwen3", "not qwen3")
    return [small, round_trip(tiny), token_ids(tiny), inference(tiny)]


def round_trip(tiny: Tiny) -> Result:
    result, rng = Result("bytes survive a round trip"), Random(1)
    noise = [
        "".join(
            chr(rng.choice((rng.randrange(32, 0x3000), rng.randrange(0x10000, 0x1F900)))) for _ in range(40)
        )
        for _ in range(50)
    ]
    for text in (*TEXTS, *noise, p.LONG_STORY, p.LONG_SEA):
        result.add(tiny.tokenizer.decode(tiny.ids(text)) == text, shorten(text))
    return result


def token_ids(tiny: Tiny) -> Result:
    result, vocabulary = Result("token ids"), tiny.tokenizer.get_vocab()
    result.add((vocabulary["5"], vocabulary["6"]) == (20, 21), "5 and 6 are not 20 and 21")
    result.add(tiny.ids("5678") == [20, 21, 22, 23], "digits are not tokens of their own")
    result.add(sorted(vocabulary.values()) == list(range(len(vocabulary))), "holes in the ids")
    ends = {vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]}
    result.add(set(tiny.tokenizer.eos_token_ids) == ends, f"ends are {tiny.tokenizer.eos_token_ids}")
    result.add(tiny.tokenizer.bos_token_id is None, "there is a BOS token")
    for word in ("Blue", "Green", "White"):
        result.add(len(tiny.ids(word)) <= 2, f"{word} does not fit into three tokens with its end")
    result.note = f"{len(vocabulary)} tokens"
    return result


def inference(tiny: Tiny) -> Result:
    result, t = Result("mlx_lm finds tools and thinking"), tiny.tokenizer
    result.add(t.has_tool_calling and t.tool_call_start == "<tool_call>", "no tool calling")
    result.add(_infer_tool_parser(t) == "json_tools", "the template does not lead to the JSON parser")
    result.add(t.has_thinking and t.think_start == "<think>", "no thinking")
    result.add(t.has_chat_template, "no chat template")
    special = {t.convert_ids_to_tokens(i) for i in t.all_special_ids}
    result.add("<think>" not in special and "<tool_call>" not in special, "markers would not decode to text")
    return result


# ---- answers


def listed(tiny: Tiny) -> list[Result]:
    """Every case of expected.json; a tool call must also parse to its arguments."""
    results: dict[str, Result] = {}
    for case in expected.cases():
        result = results.setdefault(case["kind"], Result(f"listed: {case['kind']}"))
        got = tiny.answer(tiny.prompt(case), case["max_tokens"])
        ok = got.text == case["text"] and got.finish_reason == "stop"
        if ok and "tool_calls" in case:
            ok = parse_calls(tiny, got.text) == case["tool_calls"]
        result.add(ok, mistake(case.get("prompt") or case["messages"][-1]["content"], got, case["text"]))
    return list(results.values())


def parse_calls(tiny: Tiny, text: str) -> list[dict[str, Any]]:
    parts = [part.split("</tool_call>")[0] for part in text.split("<tool_call>")[1:]]
    return [tiny.tokenizer.tool_parser(part, None) for part in parts]


def growing(tiny: Tiny) -> list[Result]:
    """Feed tiny's replies back as a client does: right answers, and nothing computed twice."""
    stable, right = Result("a growing chat stays a token prefix"), Result("growing chats", need=0.9)
    for dialogue in islice((x for x in d.dialogues(seed=7) if x.prompt is None), 40):
        kwargs = {"chat_template_kwargs": {"enable_thinking": dialogue.enable_thinking}}
        case = {"tools": dialogue.tools} | kwargs
        history: list[s.Message] = []
        computed: list[int] = []
        for message in dialogue.messages:
            if message["role"] != "assistant":
                history.append({"role": message["role"], "content": message["content"]})
                continue
            prompt = tiny.prompt(case, history)
            stable.add(prompt[: len(computed)] == computed, f"after {shorten(history[-1]['content'])}")
            computed = prompt
            if "history_only" not in message:  # those have lost their thoughts, and with them the prefix
                got, want = tiny.answer(prompt, 1000), spoken(message)
                right.add(got.text == want, mistake(history[-1]["content"], got, want))
                if got.text != want:
                    break
                computed = prompt + got.tokens
            history.append(message)
    return [stable, right]


def spoken(message: s.Message) -> str:
    """What tiny has to generate for this message."""
    calls = [
        {"name": c["function"]["name"], "arguments": c["function"]["arguments"]}
        for c in message.get("tool_calls", [])
    ]
    text = "\n".join(f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls)
    thoughts = message.get("reasoning_content")
    return (f"<think>\n{thoughts}\n</think>\n\n" if thoughts else "") + message["content"] + text


def fresh(tiny: Tiny) -> list[Result]:
    """Samples of each skill from another seed, so not those of the training."""
    needs: dict[Callable[[Random], list[s.Message]], float] = {
        s.repeat: 0.7,
        s.think: 0.6,
        s.plain_riddle: 0.6,
    }
    results = []
    for skill, _ in (*d.BROAD.skills, (s.count_far, 1)):
        rng, result = Random(99), Result(f"fresh: {skill.__name__}", need=needs.get(skill, 0.9))
        for _ in range(SEVERAL if skill is not s.count_far else 2):
            messages = skill(rng)
            got = tiny.answer(tiny.prompt({"messages": messages[:-1]}), 500)
            result.add(
                got.text == spoken(messages[-1]), mistake(messages[-2]["content"], got, spoken(messages[-1]))
            )
        results.append(result)
    return results


def held_out(tiny: Tiny) -> Result:
    result = Result("unknown questions, held out", need=0.8)
    for question in p.HELD_OUT_QUESTIONS:
        got = tiny.answer(tiny.prompt({"messages": expected.said(question)}))
        result.add(got.text == p.FALLBACK, mistake(question, got, p.FALLBACK))
    return result


def long_contexts(tiny: Tiny) -> list[Result]:
    """A chat of twenty exchanges, and prompts far longer than most of the training."""
    ends, right, rng = Result("long prompts end"), Result("twenty exchanges", need=0.7), Random(5)
    for words in (225, 300, 450):
        content = " ".join(f"word{i}" for i in range(words))
        prompt = tiny.prompt({"messages": expected.said(content)})
        got = tiny.answer(prompt, 200)
        ends.add(got.finish_reason == "stop", f"{len(prompt)} tokens: {shorten(got.text)}")
        ends.note += f" {len(prompt)} tokens: {'fallback' if got.text == p.FALLBACK else shorten(got.text)};"
    history: list[s.Message] = []
    for _ in range(20):
        history += rng.choice((s.color, s.greeting, s.count, s.repeat, s.unknown))(rng)
        want = history[-1]["content"]
        got = tiny.answer(tiny.prompt({}, history[:-1]), 300)
        right.add(got.text == want, mistake(history[-2]["content"], got, want))
    right.note = f"{len(tiny.prompt({}, history))} tokens at the end"
    return [ends, right]


def batched(tiny: Tiny) -> Result:
    """The same answers when many are decoded together."""
    chosen = [c for c in expected.cases() if c["kind"] != "long" and c["max_tokens"] >= 16][::3][:32]
    prompts = [tiny.prompt(c) for c in chosen]
    out = mlx_lm.batch_generate(tiny.model, tiny.tokenizer, prompts, max_tokens=160)
    result = Result(f"batch of {len(chosen)} equals one at a time")
    for case, prompt, text in zip(chosen, prompts, out.texts, strict=True):
        alone = tiny.answer(prompt).text
        result.add(text.lstrip() == alone.lstrip(), f"{case['id']}: {shorten(text)}, not {shorten(alone)}")
    return result


def speed(tiny: Tiny) -> str:
    prompt = tiny.prompt({"messages": expected.said(p.LONG_TEXTS[0][0][0])})
    last = list(mlx_lm.stream_generate(tiny.model, tiny.tokenizer, prompt, max_tokens=300))[-1]
    return f"{last.generation_tps:.0f} tokens/s over {last.generation_tokens} tokens"


def main() -> int:
    began, tiny = time.monotonic(), Tiny(Path(sys.argv[1]))
    results = [
        *folder_checks(tiny),
        *listed(tiny),
        *growing(tiny),
        *fresh(tiny),
        held_out(tiny),
        *long_contexts(tiny),
        batched(tiny),
    ]
    for r in results:
        print(f"{'ok  ' if r.ok else 'FAIL'} {r.passed:>4}/{r.total:<4} {r.name} {r.note}")
    print(f"speed: {speed(tiny)}; checked in {time.monotonic() - began:.0f} s")
    verdicts = Counter(r.ok for r in results)
    print(f"{verdicts[True]} passed, {verdicts[False]} failed")
    return 1 if verdicts[False] else 0


if __name__ == "__main__":
    sys.exit(main())
