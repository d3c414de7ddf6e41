"""From a request to prompt tokens, with the built-in model's tokenizer and a few hand-made ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlxk.store.builtin import builtin_path
from mlxk.workers.model_facts import generation_config, vocab_size
from mlxk.workers.prompts import PromptBuilder
from mlxk.workers.protocol import FaultCode, FaultError, Generate

SYSTEM = {"role": "system", "content": "You are short."}
USER = {"role": "user", "content": "Hello"}


@cache
def tokenizer() -> Any:
    return load_tokenizer(builtin_path())


def builder(*, find_boundaries: bool = False) -> PromptBuilder:
    return PromptBuilder(tokenizer(), 640, find_boundaries=find_boundaries)


def rendered(messages: list[dict[str, Any]], **fields: Any) -> str:
    tokens = builder().build(Generate("a", messages=messages, **fields)).tokens
    text: str = tokenizer().decode(tokens)
    return text


def test_a_conversation_that_grows_stays_a_prefix_of_itself() -> None:
    """What every reuse of a prefix rests on."""
    messages = [SYSTEM, USER]
    first = builder().build(Generate("a", messages=messages)).tokens
    reply = tokenizer().encode("Hi there!<|im_end|>", add_special_tokens=False)
    messages = [*messages, {"role": "assistant", "content": "Hi there!"}, USER]
    second = builder().build(Generate("a", messages=messages)).tokens
    assert second[: len(first) + len(reply)] == [*first, *reply]


def test_boundaries_are_the_ends_of_turns_inside_of_the_prompt() -> None:
    messages = [SYSTEM, USER, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    prompt = builder(find_boundaries=True).build(Generate("a", messages=messages))
    texts = [tokenizer().decode(prompt.tokens[:n]) for n in prompt.boundaries]
    assert len(texts) == 3
    assert texts[0].endswith("You are short.<|im_end|>\n<|im_start|>user\n")
    assert texts[1].endswith("Hi<|im_end|>\n")
    assert texts[2].endswith("More<|im_end|>\n")
    assert builder().build(Generate("a", messages=messages)).boundaries == ()


def test_a_system_prompt_that_the_template_puts_into_the_question_has_a_boundary() -> None:
    """gemma's does so, whose caches cannot be trimmed. Rendered alone, nothing of it is there."""

    class LikeGemma(type(tokenizer())):  # type: ignore[misc]
        has_chat_template = True

        def __init__(self) -> None:
            self.__dict__.update(vars(tokenizer()))

        def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> Any:
            system = "".join(m["content"] for m in messages if m["role"] == "system")
            turns = [m["content"] for m in messages if m["role"] != "system"]
            text = "".join(f"<user>{system} {turn}<end>" for turn in turns)
            return self.encode(text) if kwargs["tokenize"] else text

    messages = [SYSTEM, {"role": "user", "content": "What now?"}]
    prompt = PromptBuilder(LikeGemma(), 640, find_boundaries=True).build(Generate("a", messages=messages))
    assert tokenizer().decode(prompt.tokens[: prompt.boundaries[0]]).startswith("<user>You are short.")


def test_null_content_and_arguments_as_text_suit_the_template() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    text = rendered([*messages, {"role": "tool", "tool_call_id": "c", "content": "sunny"}])
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in text
    assert "None" not in text
    assert "sunny" in text


def test_arguments_that_are_no_json_are_rendered_as_they_are() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "Rome"}}
    assert "Rome" in rendered([USER, {"role": "assistant", "content": "", "tool_calls": [call]}])


def test_a_template_argument_reaches_the_template_and_ours_cannot_be_changed() -> None:
    off = rendered([USER], template_kwargs={"enable_thinking": False})
    assert off.endswith("<think>\n\n</think>\n\n")
    kept = rendered([USER], template_kwargs={"tokenize": False, "add_generation_prompt": False, "tools": [1]})
    assert kept == rendered([USER])


def test_a_closed_thought_in_the_prompt_is_no_open_one() -> None:
    request = Generate("a", messages=[USER], template_kwargs={"enable_thinking": False})
    assert builder().build(request).initial_state == "normal"


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}], [{"role": "user", "content": [{"type": "text", "text": "x"}]}]]
)
def test_unusual_messages_are_rendered_or_refused_and_never_raise_anything_else(
    messages: list[dict[str, Any]],
) -> None:
    try:
        assert builder(find_boundaries=True).build(Generate("a", messages=messages)).tokens
    except FaultError as refusal:
        code = refusal.fault.code
        if code != FaultCode.TEMPLATE_ERROR:
            raise


def test_a_model_without_a_template_gets_a_plain_dialogue() -> None:
    plain = load_tokenizer(builtin_path())
    plain.has_chat_template = False
    prompt = PromptBuilder(plain, 640, find_boundaries=True).build(Generate("a", messages=[SYSTEM, USER]))
    assert plain.decode(prompt.tokens) == "System: You are short.\n\nHuman: Hello\n\nAssistant:"
    assert prompt.is_chat


def test_a_plain_dialogue_that_grows_begins_with_what_the_model_has_seen() -> None:
    """The model writes the blank after "Assistant:" itself."""
    plain = load_tokenizer(builtin_path())
    plain.has_chat_template = False
    prompts = PromptBuilder(plain, 640, find_boundaries=True)
    answer = {"role": "assistant", "content": " Hi."}
    first = plain.decode(prompts.build(Generate("a", messages=[USER])).tokens)
    second = plain.decode(prompts.build(Generate("b", messages=[USER, answer, USER])).tokens)
    assert second.startswith(f"{first} Hi.")


def test_a_prompt_that_begins_with_the_bos_text_gets_no_second_one() -> None:
    class WithBos:
        bos_token = "<s>"

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [0] * add_special_tokens + [1] * len(text)

    made = PromptBuilder(WithBos(), 640, find_boundaries=False)
    assert made.build(Generate("a", prompt="<s>x")).tokens == [1] * 4
    assert made.build(Generate("a", prompt="x")).tokens == [0, 1]


def test_facts_come_from_the_config_or_its_text_part() -> None:
    assert vocab_size({"vocab_size": 5}, []) == 5
    assert vocab_size({"text_config": {"vocab_size": 6}}, []) == 6
    assert vocab_size({}, [1, 2, 3]) == 3


def test_a_missing_or_broken_generation_config_is_an_empty_one(tmp_path: Any) -> None:
    assert generation_config(tmp_path) == {}
    for text in ("{", "[]", "null"):
        (tmp_path / "generation_config.json").write_text(text)
        assert generation_config(tmp_path) == {}
