"""Constraints over the real tokenizer of `tiny`, and a model that says anything that it may."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import load as load_tokenizer

from mlxk.store.builtin import builtin_path
from mlxk.workers.constraints import Constraint, Constraints
from mlxk.workers.markers import Markers
from mlxk.workers.prompts import Prompt, PromptBuilder
from mlxk.workers.protocol import Generate

N_TOKENS = 640
END, OTHER_END = 633, 631
THINK, END_THINK, CALL = 634, 635, 636
SCHEMA = "response_format.json_schema.schema"
MESSAGES = [{"role": "user", "content": "Hello"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    function = {"name": name, **({} if parameters is None else {"parameters": parameters}), **extra}
    return {"type": "function", "function": function}


@cache
def tokenizer() -> Any:
    return load_tokenizer(builtin_path(), eos_token_ids=[END, OTHER_END])


@cache
def constraints() -> Constraints:
    return new_constraints(tokenizer())


def new_constraints(wrapper: Any) -> Constraints:
    markers = Markers(tokenizer())
    return Constraints(wrapper, lambda initial: markers.splitter(initial, with_tools=True))


def prompt_of(request: Generate) -> Prompt:
    return PromptBuilder(tokenizer(), N_TOKENS, find_boundaries=False).build(request)


def constraint(**wanted: Any) -> tuple[Constraint, Prompt]:
    wanted = {"template_kwargs": {"enable_thinking": False}, **wanted}
    request = Generate("r", messages=MESSAGES, **wanted)
    prompt = prompt_of(request)
    made = constraints().constraint(request, prompt)
    assert made is not None
    return made, prompt


def allowed(made: Constraint, tokens: list[int], width: int = N_TOKENS) -> list[int]:
    logits = made.processor(mx.array(tokens), mx.zeros((1, width)))
    made.check()
    return [token for token, logit in enumerate(logits[0].tolist()) if logit == 0]


ENDS = {token for text in '}]",' for token in tokenizer().encode(text)} | {END, OTHER_END}


def babble(made: Constraint, prompt: Prompt, seed: int, *, limit: int = 3000) -> list[int]:
    """A reply of a model that knows nothing: any token that may come, ends a little sooner."""
    chance, tokens = random.Random(seed), list(prompt.tokens)
    while len(tokens) < len(prompt.tokens) + limit:
        choices = allowed(made, tokens)
        assert choices, "a dead end"
        ending = [token for token in choices if token in ENDS]
        tokens.append(chance.choice(ending if ending and chance.random() < 0.2 else choices))
        if tokens[-1] in (END, OTHER_END):
            return tokens[len(prompt.tokens) : -1]
    raise AssertionError("no end: " + tokenizer().decode(tokens[len(prompt.tokens) :])[:300])


def parts(made: Constraint, reply: list[int], *, step: int = 3) -> dict[str, str]:
    """The reply's text by state, cut into chunks at odd places."""
    text, found = tokenizer().decode(reply), {"normal": "", "reasoning": "", "tool": ""}
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    for piece in pieces:
        for state, part in made.splitter.split(piece):
            found[state] += part
    state, rest = made.splitter.flush()
    found[state] += rest
    return found


NASTY = tool('né"x\\ {</tool_call>', CITY)
TOOLS = [tool("weather", CITY, description="d"), tool("now"), NASTY]


def calls_in(made: Constraint, reply: list[int]) -> list[Any]:
    text = parts(made, reply)["tool"]
    decoder, at, found = json.JSONDecoder(), 0, []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        call, at = decoder.raw_decode(text, at)
        found += call if isinstance(call, list) else [call]
    return found
