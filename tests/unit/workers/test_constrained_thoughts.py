"""Thoughts run free, and the answer that follows them is held to its grammar."""

from __future__ import annotations

import mlx.core as mx

from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import Generate
from tests.unit.workers.constrained import (
    CALL,
    CITY,
    END,
    END_THINK,
    MESSAGES,
    N_TOKENS,
    OTHER_END,
    THINK,
    allowed,
    constraint,
    constraints,
    prompt_of,
    tokenizer,
)


def test_the_answer_may_begin_or_thoughts_may() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    assert THINK in (choices := allowed(made, prompt.tokens))
    assert {tokenizer().decode([token])[0] for token in choices if token != THINK} <= set("{\n")
    without, prompt = constraint(json_schema=CITY)
    assert THINK not in allowed(without, prompt.tokens)


def test_thoughts_run_free_and_the_answer_begins_when_they_end() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    thoughts = [THINK, *tokenizer().encode('\nA "<tool_call>"? No {')[:3]]
    tokens = prompt.tokens + thoughts
    free = allowed(made, tokens)
    assert set(range(N_TOKENS)) - set(free) == {END, OTHER_END, CALL}
    after = allowed(made, [*tokens, END_THINK])
    assert END not in after
    assert {tokenizer().decode([token])[0] for token in after} <= set("{\n")


def test_a_model_that_would_end_inside_its_thoughts_ends_them_instead() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    logits = mx.zeros((1, N_TOKENS))
    logits[0, END] = 7.0
    kept = made.processor(mx.array([*prompt.tokens, THINK, 10]), logits)
    assert int(mx.argmax(kept).item()) == END_THINK


def test_thoughts_that_the_template_has_opened_run_free_from_the_first_token() -> None:
    request = Generate("r", messages=MESSAGES, json_schema=CITY)
    prompt = prompt_of(request)
    opened = Prompt([*prompt.tokens, THINK], (), "reasoning", True)
    made = constraints().constraint(request, opened)
    assert made is not None
    assert len(allowed(made, opened.tokens)) == N_TOKENS - 3
    text = '2 + 3 {</think>\n{"city": "</think>"}'
    found = {"normal": "", "reasoning": ""}
    for character in text:
        for state, part in made.splitter.split(character):
            found[state] += part
    assert found == {"normal": '{"city": "</think>"}', "reasoning": "2 + 3 {"}
