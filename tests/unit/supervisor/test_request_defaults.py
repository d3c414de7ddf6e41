"""What the configuration says of a model's requests: the request's own words win."""

from __future__ import annotations

from typing import Any

from mlxk.config.settings import ModelSettings
from mlxk.supervisor.request_defaults import SAMPLING, with_defaults
from mlxk.workers.protocol import Detokenize, Generate, Sampling, Tokenize

USER = {"role": "user", "content": "hi"}


def own(**said: Any) -> ModelSettings:
    return ModelSettings("a", **said)


def chat(**fields: Any) -> Generate:
    return Generate("r", messages=[USER], hidden_stop=["\nHuman:"], **fields)


def test_without_a_table_a_request_stays_as_it_is() -> None:
    request = chat()
    assert with_defaults(request, None) is request
    assert with_defaults(request, own(pinned=True)) is request


def test_each_sampling_default_fills_what_the_request_leaves_open() -> None:
    assert set(SAMPLING) == set(Sampling.__struct_fields__) - {"seed", "logit_bias"}
    for name in SAMPLING:
        table = own(**{name: 0.5})
        assert getattr(with_defaults(chat(), table).sampling, name) == 0.5
        asked = chat(sampling=Sampling(**{name: 0}))
        assert getattr(with_defaults(asked, table).sampling, name) == 0


def test_a_seed_and_biases_stay() -> None:
    asked = chat(sampling=Sampling(seed=3, logit_bias={1: 2.0}))
    sampling = with_defaults(asked, own(temperature=0.2)).sampling
    assert (sampling.seed, sampling.logit_bias, sampling.temperature) == (3, {1: 2.0}, 0.2)


def test_max_tokens_of_the_request_wins() -> None:
    table = own(max_tokens=7)
    assert with_defaults(chat(), table).max_tokens == 7
    assert with_defaults(chat(max_tokens=9), table).max_tokens == 9
    assert with_defaults(Generate("r", prompt="x"), table).max_tokens == 7


def test_template_arguments_are_merged_name_by_name() -> None:
    table = own(chat_template_kwargs={"enable_thinking": False, "style": "a"})
    assert with_defaults(chat(), table).template_kwargs == {"enable_thinking": False, "style": "a"}
    asked = chat(template_kwargs={"style": "b", "more": 1})
    merged = {"enable_thinking": False, "style": "b", "more": 1}
    assert with_defaults(asked, table).template_kwargs == merged


def test_a_request_that_asks_for_an_effort_is_not_kept_from_thinking() -> None:
    table = own(chat_template_kwargs={"enable_thinking": False, "style": "a"})
    asked = chat(template_kwargs={"reasoning_effort": "high"})
    assert with_defaults(asked, table).template_kwargs == {"reasoning_effort": "high", "style": "a"}


def test_the_system_message_is_for_chats_that_bring_none() -> None:
    table = own(system="Be short.")
    system = {"role": "system", "content": "Be short."}
    assert with_defaults(chat(), table).messages == [system, USER]
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Mine."}, USER]
        assert with_defaults(Generate("r", messages=messages), table).messages == messages
    assert with_defaults(Generate("r", prompt="x"), table).messages is None


def test_stop_strings_of_the_model_take_the_place_of_the_servers_in_chats_only() -> None:
    assert with_defaults(chat(), own(chat_stop_strings=("END",))).hidden_stop == ["END"]
    assert with_defaults(chat(), own(chat_stop_strings=())).hidden_stop == []
    assert with_defaults(chat(), own(temperature=0.1)).hidden_stop == ["\nHuman:"]
    assert with_defaults(Generate("r", prompt="x"), own(chat_stop_strings=("END",))).hidden_stop == []


def test_a_tokenization_counts_what_a_request_would() -> None:
    table = own(system="Be short.", chat_template_kwargs={"x": 1}, temperature=0.5, max_tokens=3)
    request = with_defaults(Tokenize("r", messages=[USER]), table)
    assert request == Tokenize(
        "r", messages=[{"role": "system", "content": "Be short."}, USER], template_kwargs={"x": 1}
    )
    assert with_defaults(Tokenize("r", prompt="x"), table) == Tokenize("r", prompt="x")
    assert with_defaults(Detokenize("r", [1]), table) == Detokenize("r", [1])
