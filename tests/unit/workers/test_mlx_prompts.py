"""Prompts and greedy replies are mlx_lm's for everything that `tiny` has learnt; no BOS comes twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import stream_generate
from mlx_lm.generate import generate_step
from tokenizers import Tokenizer, processors

from mlxk.workers.protocol import Generate
from tests.unit.workers.engines import CACHE_BYTES, GREEDY, RecordingEngine, agree, load_engine, run, run_one

EXPECTED = Path(__file__).parents[3] / "tools" / "tiny" / "expected.json"
N_TOKENS = 6
TIE = 0.25
"""bfloat16: a batch adds up in another order."""


def asked(number: int, case: dict[str, Any]) -> Generate:
    return Generate(
        str(number),
        messages=case.get("messages"),
        prompt=case.get("prompt"),
        tools=case.get("tools"),
        template_kwargs=case.get("chat_template_kwargs", {}),
        max_tokens=N_TOKENS,
        sampling=GREEDY,
    )


def prompt_of_mlx_lm(engine: RecordingEngine, request: Generate) -> list[int]:
    """As mlx_lm's own server makes them."""
    if request.messages is None:
        return list(engine._tokenizer.encode(request.prompt))
    return list(
        engine._tokenizer.apply_chat_template(
            request.messages, request.tools, add_generation_prompt=True, **request.template_kwargs
        )
    )


def greedy_of_mlx_lm(engine: RecordingEngine, prompt: list[int]) -> list[int]:
    tokens = []
    for token, _ in generate_step(mx.array(prompt), engine._model, max_tokens=N_TOKENS):
        tokens.append(int(token))
        if tokens[-1] in engine._tokenizer.eos_token_ids:
            break
    return tokens


def test_every_listed_prompt_alone_in_a_batch_and_warm_is_mlx_lms(tiny: RecordingEngine) -> None:
    cases = json.loads(EXPECTED.read_text(encoding="utf-8"))
    requests = [asked(number, case) for number, case in enumerate(cases)]
    assert len(requests) > 120
    prompts = [prompt_of_mlx_lm(tiny, request) for request in requests]
    wanted = [greedy_of_mlx_lm(tiny, prompt) for prompt in prompts]

    def check(how: str, replies: dict[str, Any], *, warm: bool = False) -> None:
        for request, prompt, tokens in zip(requests, prompts, wanted, strict=True):
            if request.id not in replies:
                continue
            reply = replies[request.id]
            assert reply.started.prompt_tokens == len(prompt)
            assert agree(tiny, prompt, reply.tokens, tokens, TIE), (how, cases[int(request.id)]["id"])
            if warm:
                assert reply.cached == len(prompt) - 1

    tiny.trim_cache(0)  # remembers nothing
    for request in requests[::9]:
        check("alone", run(tiny, request))
    tiny.trim_cache(CACHE_BYTES)
    check("in a batch, of all lengths", run(tiny, *requests))
    check("warm", run(tiny, *requests), warm=True)


# ---------------------------------------------------------------------------------- BOS

BOS = "<|endoftext|>"
TEMPLATES = {
    "writes-bos": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
    "writes-none": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
}


@pytest.fixture(params=[True, False], ids=["adds-bos", "adds-none"])
def adds_bos(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=TEMPLATES)
def engine_with_bos(
    request: pytest.FixtureRequest, adds_bos: bool, tmp_path: Path, model_paths: dict[str, Path]
) -> Iterator[RecordingEngine]:
    """The built-in tokenizer, with a BOS as Llama's or Gemma's has it."""
    folder = tmp_path / "model"
    shutil.copytree(model_paths["llama"], folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"bos_token": BOS, "add_bos_token": adds_bos, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATES[request.param], encoding="utf-8")
    engine = load_engine(folder)
    engine.template = request.param  # type: ignore[attr-defined]
    yield engine
    engine.close()


def test_the_prompt_has_as_many_tokens_as_mlx_lms_and_one_bos_at_most(
    engine_with_bos: RecordingEngine, adds_bos: bool
) -> None:
    engine = engine_with_bos
    bos = engine._tokenizer.convert_tokens_to_ids(BOS)
    seen: Callable[[], list[int]] = lambda: engine._prompts.build(request).tokens  # noqa: E731
    request = Generate("chat", messages=[{"role": "user", "content": "Hi there"}], sampling=GREEDY)
    assert seen() == prompt_of_mlx_lm(engine, request)
    assert seen().count(bos) == (engine.template == "writes-bos")  # type: ignore[attr-defined]
    for text, n_bos in ((f"{BOS}Once upon", 1), ("Once upon", int(adds_bos))):
        request = Generate("text", prompt=text, sampling=GREEDY)
        first = next(iter(stream_generate(engine._model, engine._tokenizer, text, max_tokens=1)))
        assert len(seen()) == first.prompt_tokens
        assert seen().count(bos) == n_bos
        reply = run_one(engine, prompt=text, max_tokens=1)
        assert reply.finished is not None
        assert reply.finished.usage.prompt_tokens == first.prompt_tokens
