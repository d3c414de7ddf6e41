"""Defaults come from the model's generation_config.json, then from OpenAI; what a request says wins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlxk.workers.protocol import Generate, Sampling
from mlxk.workers.sampling import Samplers
from tests.unit.workers.engines import load_engine, run

VOCABULARY = 50


def settings(sampling: Sampling, **defaults: Any) -> tuple[float, float, float, int]:
    return Samplers(VOCABULARY, defaults)._settings(sampling)


FILE = {"temperature": 0.6, "top_p": 0.95, "min_p": 0.1, "top_k": 20}


def test_the_models_numbers_then_openais() -> None:
    assert settings(Sampling()) == (1.0, 1.0, 0.0, 0)
    assert settings(Sampling(), **FILE) == (0.6, 0.95, 0.1, 20)
    assert settings(Sampling(), temperature=0.6, top_k=20.0) == (0.6, 1.0, 0.0, 20)


@pytest.mark.parametrize(
    ("given_one", "wanted"),
    [
        (Sampling(temperature=0.0), (0.0, 0.95, 0.1, 20)),
        (Sampling(temperature=1.0), (1.0, 0.95, 0.1, 20)),
        (Sampling(top_p=1.0), (0.6, 1.0, 0.1, 20)),
        (Sampling(top_p=0.0), (0.6, 0.0, 0.1, 20)),
        (Sampling(min_p=0.0), (0.6, 0.95, 0.0, 20)),
        (Sampling(min_p=1.0), (0.6, 0.95, 1.0, 20)),
        (Sampling(top_k=0), (0.6, 0.95, 0.1, 0)),
        (Sampling(top_k=-1), (0.6, 0.95, 0.1, 0)),
        (Sampling(top_k=1), (0.6, 0.95, 0.1, 1)),
        (Sampling(top_k=VOCABULARY), (0.6, 0.95, 0.1, 0)),
        (Sampling(top_k=2**31 - 1), (0.6, 0.95, 0.1, 0)),
    ],
)
def test_what_is_said_wins_also_zero_and_one(
    given_one: Sampling, wanted: tuple[float, float, float, int]
) -> None:
    assert settings(given_one, **FILE) == wanted


def test_do_sample_false_is_greedy_until_a_temperature_is_asked_for() -> None:
    assert settings(Sampling(), do_sample=False, temperature=0.6)[0] == 0
    assert settings(Sampling(top_p=0.5), do_sample=False)[0] == 0
    assert settings(Sampling(temperature=1.0), do_sample=False)[0] == 1.0
    assert settings(Sampling(), do_sample=True, temperature=0.6)[0] == 0.6
    assert settings(Sampling(), do_sample=None)[0] == 1.0


def test_a_repetition_penalty_of_the_model_holds_until_one_is_asked_for() -> None:
    samplers = Samplers(VOCABULARY, {"repetition_penalty": 1.1})
    assert len(samplers.processors(Sampling(), 0)) == 1
    assert samplers.processors(Sampling(repetition_penalty=1.0), 0) == []


@pytest.mark.parametrize(
    "nonsense",
    [
        {"temperature": -1},
        {"temperature": "0.6"},
        {"temperature": None},
        {"temperature": True},
        {"temperature": float("nan")},
        {"temperature": 1e9},
        {"top_p": 5},
        {"top_p": [0.9]},
        {"min_p": -0.1},
        {"top_k": -50},
        {"top_k": float("inf"), "temperature": float("inf")},
        {"repetition_penalty": 0},
    ],
)
def test_nonsense_in_the_models_file_is_as_if_it_were_not_there(nonsense: dict[str, Any]) -> None:
    assert settings(Sampling(), **nonsense) == (1.0, 1.0, 0.0, 0)
    assert Samplers(VOCABULARY, nonsense).processors(Sampling(), 0) == []


def test_the_files_ends_of_text_all_end_a_reply_and_its_length_is_not_ours(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    """`max_new_tokens` is the policy of another program: ours is half of the context."""
    folder = tmp_path / "many-ends"
    shutil.copytree(model_paths["llama"], folder)
    config = {"eos_token_id": [20, 21], "max_new_tokens": 3, "max_length": 4, "temperature": 0}
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    engine = load_engine(folder)
    for token in (20, 21):
        reply = run(engine, Generate("a", tokens=[1, 2], sampling=Sampling(logit_bias={token: 1000.0})))["a"]
        assert reply.tokens == [token]
        assert reply.finished is not None
        assert (reply.finished.reason, reply.finished.matched_stop) == ("stop", None)
    reply = run(engine, Generate("a", tokens=[1, 2], ignore_eos=True, context_share=0.01))["a"]
    assert len(reply.tokens) > 4
    engine.close()
