"""Conversations as chat templates want them. The small templates here ask for what the real ones ask."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mlxk.store.builtin import builtin_path
from mlxk.workers.histories import TemplateStyle, style_of, template_messages
from mlxk.workers.prompts import PromptBuilder
from mlxk.workers.protocol import FaultCode, FaultError, Generate
from tests.unit.workers.families import HARMONY_TOKENS, TOOLS

USER = {"role": "user", "content": "Weather?"}
PLAIN = TemplateStyle()

GENERIC = """{%- for m in messages -%}
[{{ m.role }}|{{ m.name }}|{{ m.content }}
{%- if m.tool_call_id %}|{{ m.tool_call_id }}{% endif -%}
{%- for c in m.tool_calls or [] -%}
|{{ c.id }}={{ c.function.name }}{{ c.function.arguments | tojson }}
{%- endfor -%}]
{%- endfor -%}"""

TEXT_ARGUMENTS = """{%- for m in messages -%}{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor -%}
{%- endfor -%}"""
"""As DeepSeek's: the arguments are added to a text."""

ITEMS = """{%- for m in messages -%}{{ m.content }}
{%- for c in m.tool_calls or [] -%}
{%- for k, v in c.function.arguments.items() %}<{{ k }}={{ v }}>{% endfor -%}
{%- endfor -%}{%- endfor -%}"""
"""As GLM's and Qwen3-Coder's."""

MISTRAL = """{#- [TOOL_CALLS] -#}{%- for m in messages -%}
{%- for c in m.tool_calls or [] -%}
{%- if c.id is not defined or c.id|length != 9 -%}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}{%- endif -%}
[TOOL_CALLS]{{ c.id }}
{%- endfor -%}
{%- if m.role == 'tool' -%}
{%- if m.tool_call_id is not defined or m.tool_call_id|length != 9 -%}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}{%- endif -%}
[TOOL_RESULTS]{{ m.tool_call_id }}{{ m.content }}
{%- endif -%}{%- endfor -%}"""

HARMONY = """{%- set last = namespace(name=none) -%}{%- for m in messages -%}
{%- if m.role == 'assistant' and m.tool_calls -%}
{%- if m.content and m.thinking -%}
{{- raise_exception('Cannot pass both content and thinking') -}}
{%- endif -%}
{%- if m.thinking -%}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{%- endif -%}
{%- set call = m.tool_calls[0].function -%}
to={{ call.name }}<|message|>{{ call.arguments|tojson }}<|call|>
{%- set last.name = call.name -%}
{%- elif m.role == 'tool' -%}
{%- if last.name is none -%}{{- raise_exception('no previous call') -}}{%- endif -%}
<|start|>functions.{{ last.name }}<|message|>{{ m.content|tojson }}<|end|>
{%- else -%}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if reasoning_effort is defined -%}Reasoning: {{ reasoning_effort }}{%- endif -%}
<|start|>assistant"""


def tokenizer_with(template: str, added: list[str] | None = None) -> TokenizerWrapper:
    rust = Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))
    inner = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<|im_end|>", chat_template=template)
    inner.add_tokens(added or [], special_tokens=True)
    return TokenizerWrapper(inner)


def rendered(
    template: str, messages: list[dict[str, Any]], added: list[str] | None = None, **fields: Any
) -> str:
    tokenizer = tokenizer_with(template, added)
    builder = PromptBuilder(tokenizer, len(tokenizer), find_boundaries=False)
    text: str = tokenizer.decode(builder.build(Generate("a", messages=messages, **fields)).tokens)
    return text


def call(name: str, arguments: Any, call_id: str | None = "call_1") -> dict[str, Any]:
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is None else {**made, "id": call_id}


def called(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(content: str, call_id: str | None = "call_1") -> dict[str, Any]:
    made = {"role": "tool", "content": content}
    return made if call_id is None else {**made, "tool_call_id": call_id}


def test_results_carry_the_names_of_their_calls_in_any_order() -> None:
    history = [
        USER,
        called(call("weather", '{"city": "Rome"}', "a"), call("clock", "{}", "b")),
        result("noon", "b"),
        result("sunny", "a"),
    ]
    assert rendered(GENERIC, history) == (
        '[user||Weather?][assistant|||a=weather{"city": "Rome"}|b=clock{}]'
        "[tool|clock|noon|b][tool|weather|sunny|a]"
    )


def test_calls_and_results_without_ids_find_each_other_in_order() -> None:
    history = [
        called(call("weather", {}, None), call("clock", {}, None)),
        result("1", None),
        result("2", None),
    ]
    shown = template_messages(history, PLAIN)
    assert [m["tool_call_id"] for m in shown[1:]] == [c["id"] for c in shown[0]["tool_calls"]]
    assert [m["name"] for m in shown[1:]] == ["weather", "clock"]
    assert "tool_call_id" not in history[1]  # the request itself is not changed
    assert "id" not in history[0]["tool_calls"][0]


def test_a_result_of_an_unknown_call_stays_as_it_is() -> None:
    history = [called(call("weather", {}, "a")), result("x", "nobody's")]
    assert template_messages(history, PLAIN)[1] == result("x", "nobody's")
    assert template_messages([result("x", None)], PLAIN) == [result("x", None)]


IDS = st.sampled_from(["a", "b", "c", None])


def linked_plainly(history: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    open_calls: list[tuple[str, str]] = []
    found: list[tuple[Any, Any]] = []
    for place, message in enumerate(history):
        for number, one in enumerate(message.get("tool_calls") or ()):
            open_calls.append((one.get("id") or f"call_{place}_{number}", one["function"]["name"]))
        if message["role"] == "tool":
            asked = message.get("tool_call_id")
            first = next((one for one in open_calls if asked in (None, one[0])), (asked, None))
            if first in open_calls:
                open_calls.remove(first)
            found.append(first)
    return found


@given(st.lists(st.one_of(st.lists(IDS, min_size=1, max_size=4), IDS), max_size=12))
def test_a_result_belongs_to_the_oldest_open_call_of_its_id(turns: list[Any]) -> None:
    names = itertools.count()
    history = [
        called(*(call(f"f{next(names)}", {}, one) for one in turn))
        if isinstance(turn, list)
        else result("", turn)
        for turn in turns
    ]
    shown = [m for m in template_messages(history, PLAIN) if m["role"] == "tool"]
    assert [(m.get("tool_call_id"), m.get("name")) for m in shown] == linked_plainly(history)


@pytest.mark.parametrize("style", [PLAIN, TemplateStyle(one_call_a_message=True)], ids=["plain", "gpt-oss"])
def test_a_body_full_of_calls_and_results_takes_no_minutes(style: TemplateStyle) -> None:
    """Each result looked for among all calls: 40 s for these, an hour for what a body may hold."""
    n = 20_000
    calls = [call("f", {}, f"call_{i}") for i in range(n)]
    history = [called(*calls), *(result("", "nobody's") for _ in range(n)), result("x", f"call_{n - 1}")]
    began = time.process_time()
    shown = template_messages(history, style)
    assert time.process_time() - began < 10
    assert [m.get("name") for m in shown if m["content"] == "x"] == ["f"]


def test_a_name_that_the_client_gave_is_kept() -> None:
    history = [called(call("weather", {}, "a")), {**result("x", "a"), "name": "mine"}]
    assert template_messages(history, PLAIN)[1]["name"] == "mine"


@pytest.mark.parametrize("arguments", ['{"city": "Rome 🙂"}', {"city": "Rome 🙂"}])
def test_arguments_reach_templates_that_want_text_and_those_that_want_an_object(arguments: Any) -> None:
    history = [USER, called(call("weather", arguments)), result("sunny")]
    assert 'weather {"city": "Rome 🙂"}' in rendered(TEXT_ARGUMENTS, history)
    assert "<city=Rome 🙂>" in rendered(ITEMS, history)


def test_empty_arguments_are_an_empty_object() -> None:
    assert rendered(ITEMS, [USER, called(call("clock", "")), result("noon")]) == "Weather?noon"


def test_the_templates_own_refusal_is_told() -> None:
    with pytest.raises(FaultError) as refusal:
        rendered("{{ raise_exception('Only one tool at once!') }}", [USER, called(call("weather", "{}"))])
    assert refusal.value.fault.code == FaultCode.TEMPLATE_ERROR
    assert "Only one tool at once!" in refusal.value.fault.message


def test_mistral_gets_ids_of_nine_signs_and_the_same_for_call_and_result() -> None:
    made = "call_0123456789abcdef01234567"
    text = rendered(MISTRAL, [USER, called(call("weather", "{}", made)), result("sunny", made)])
    short = text.partition("[TOOL_CALLS]")[2][:9]
    assert text == f"[TOOL_CALLS]{short}[TOOL_RESULTS]{short}sunny"
    own = [USER, called(call("weather", "{}", "AbCdEf123")), result("sunny", "AbCdEf123")]
    assert "AbCdEf123" in rendered(MISTRAL, own)


def test_other_templates_get_ids_as_they_are() -> None:
    assert "functions.weather:0=" in rendered(GENERIC, [called(call("weather", "{}", "functions.weather:0"))])


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ("{{ message.reasoning_content }}", "reasoning_content"),
        ("{{ message['thinking'] }}", "thinking"),
        ("{{ message.get('reasoning') }}", "reasoning"),
        ("{{ message.reasoning_content or message.thinking }}", "reasoning_content"),
        ("{{ message.content }}", "reasoning_content"),
    ],
)
def test_earlier_thoughts_come_in_the_field_that_the_template_reads(template: str, field: str) -> None:
    style = style_of(tokenizer_with(template))
    (shown,) = template_messages([{"role": "assistant", "content": "x", "reasoning_content": "hm"}], style)
    assert shown == {"role": "assistant", "content": "x", field: "hm"}


def harmony(*messages: dict[str, Any], **fields: Any) -> str:
    return rendered("{#- message.thinking -#}" + HARMONY, [*messages], HARMONY_TOKENS, **fields)


def test_gpt_oss_gets_one_call_a_message_each_with_its_result_and_the_thoughts() -> None:
    history = called(
        call("weather", '{"city": "Rome"}', "a"), call("clock", {}, "b"), reasoning_content="Two things."
    )
    text = harmony(USER, history, result("noon", "b"), result("sunny", "a"))
    assert text == (
        "<|start|>user<|message|>Weather?<|end|>"
        "<|channel|>analysis<|message|>Two things.<|end|>"
        'to=weather<|message|>{"city": "Rome"}<|call|><|start|>functions.weather<|message|>"sunny"<|end|>'
        'to=clock<|message|>{}<|call|><|start|>functions.clock<|message|>"noon"<|end|>'
        "<|start|>assistant"
    )


def test_gpt_oss_takes_thoughts_or_content_beside_a_call_so_both_are_joined() -> None:
    history = {**called(call("clock", {}), reasoning_content="Hm."), "content": "I look."}
    assert "analysis<|message|>Hm.\nI look.<|end|>" in harmony(USER, history, result("noon"))


def test_reasoning_effort_reaches_the_template() -> None:
    assert "Reasoning: high" in harmony(USER, template_kwargs={"reasoning_effort": "high"})


EFFORT = "{% if reasoning_effort == 'low' or reasoning_effort == \"high\" %}{{ reasoning_effort }}{% endif %}"
STRICT_EFFORT = (
    "{% if reasoning_effort not in ['low', 'high'] %}{{ raise_exception('no such effort') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("sent", "named", "unnamed"),
    [
        ("minimal", "low", "minimal"),
        ("low", "low", "low"),
        ("high", "high", "high"),
        ("xhigh", "high", "xhigh"),
        ("max", "high", "max"),
    ],
)
def test_an_effort_that_a_template_does_not_name_becomes_the_nearest_that_it_does(
    sent: str, named: str, unnamed: str
) -> None:
    kwargs = {"reasoning_effort": sent}
    assert rendered(EFFORT, [USER], template_kwargs=kwargs) == named
    assert rendered(STRICT_EFFORT + "ok", [USER], template_kwargs=kwargs) == "ok"
    assert rendered("{{ reasoning_effort }}", [USER], template_kwargs=kwargs) == unnamed
    assert rendered("{{ messages[0].role }}", [USER], template_kwargs=kwargs) == "user"
    assert f"Reasoning: {named}" in harmony(USER, template_kwargs=kwargs)
    knows_all = "{# 'xhigh' #}" + EFFORT + "{{ reasoning_effort }}"
    if sent == "xhigh":
        assert rendered(knows_all, [USER], template_kwargs=kwargs) == "xhigh"


def test_an_effort_that_a_template_refuses_is_the_template_s_error() -> None:
    with pytest.raises(FaultError) as refusal:
        rendered(STRICT_EFFORT, [USER], template_kwargs={"reasoning_effort": "medium"})
    assert refusal.value.fault.code is FaultCode.TEMPLATE_ERROR
    assert "no such effort" in refusal.value.fault.message


def test_a_gpt_oss_reply_begins_with_a_header() -> None:
    tokenizer = tokenizer_with("{#- message.thinking -#}" + HARMONY, HARMONY_TOKENS)
    prompt = PromptBuilder(tokenizer, len(tokenizer), find_boundaries=True).build(
        Generate("a", messages=[USER], tools=TOOLS)
    )
    assert prompt.initial_state == "header"


OPENS = (
    "{{ messages[-1].content }}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}"
)


def test_a_template_that_opens_the_thoughts_and_one_that_closes_them() -> None:
    tokenizer = tokenizer_with(OPENS)
    builder = PromptBuilder(tokenizer, len(tokenizer), find_boundaries=False)
    assert builder.build(Generate("a", messages=[USER])).initial_state == "reasoning"
    off = Generate("a", messages=[USER], template_kwargs={"enable_thinking": False})
    assert builder.build(off).initial_state == "normal"
    spoken = {"role": "user", "content": "What does <think> mean?"}
    assert builder.build(Generate("a", messages=[spoken], template_kwargs={"enable_thinking": False})).tokens


def test_numbers_that_python_cannot_hold_do_no_harm_in_a_history() -> None:
    template = "{{ messages[-1].tool_calls[0].function.arguments | tojson }}"
    long = "9" * 5000
    for number, shown in [("1e999", '"1e999"'), ("12345678901234567890123", None), (long, f'"{long}"')]:
        text = rendered(template, [USER, called(call("weather", f'{{"days": {number}}}'))])
        assert text == f'{{"days": {shown or number}}}'
