"""What mlxk takes from mlx_lm beyond its promised functions. When an upgrade moves one of these, this says
which; `mlxk/workers/mlx_adapter.py` and `sampling.py` are the places to mend."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import sample_utils, utils
from mlx_lm.generate import (
    BatchGenerator,
    GenerationBatch,
    PromptProcessingBatch,
    StopSequences,
    make_text_state_machine,
)
from mlx_lm.generate import TextStateMachine as Machine
from mlx_lm.models import cache as kv
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxk.store.builtin import builtin_path
from mlxk.workers.kv_caches import ROWS

USED_PARAMETERS: list[tuple[str, Callable[..., Any], list[str]]] = [
    (
        "BatchGenerator.__init__",
        BatchGenerator.__init__,
        ["model", "completion_batch_size", "prefill_batch_size", "prefill_step_size"],
    ),
    (
        "BatchGenerator.insert_segments",
        BatchGenerator.insert_segments,
        ["segments", "max_tokens", "caches", "all_tokens", "samplers", "logits_processors", "stop_sequences"],
    ),
    ("BatchGenerator.remove", BatchGenerator.remove, ["uids", "return_prompt_caches"]),
    ("BatchGenerator.extract_cache", BatchGenerator.extract_cache, ["uids"]),
    ("BatchGenerator.next", BatchGenerator.next, []),
    ("BatchGenerator.close", BatchGenerator.close, []),
    ("BatchGenerator._make_batch", BatchGenerator._make_batch, ["n"]),
    ("BatchGenerator._next", BatchGenerator._next, []),
    ("PromptProcessingBatch.prompt", PromptProcessingBatch.prompt, ["tokens"]),
    ("PromptProcessingBatch.generate", PromptProcessingBatch.generate, ["tokens"]),
    ("PromptProcessingBatch.split", PromptProcessingBatch.split, ["indices"]),
    (
        "GenerationBatch.__init__",
        GenerationBatch.__init__,
        [
            *["model", "uids", "inputs", "prompt_cache", "tokens", "samplers", "fallback_sampler"],
            *["logits_processors", "stop_sequences", "max_tokens"],
        ],
    ),
    ("GenerationBatch._step", GenerationBatch._step, []),
    ("StopSequences.__init__", StopSequences.__init__, ["stop_sequences"]),
    ("TextStateMachine.make_state", Machine.make_state, ["initial"]),
    ("TextStateMachine.split", Machine.split, ["state", "text"]),
    ("TextStateMachine.flush", Machine.flush, ["state"]),
    ("make_text_state_machine", make_text_state_machine, ["tokenizer"]),
    ("load_model", utils.load_model, ["model_path", "lazy", "trust_remote_code"]),
    (
        "load_tokenizer",
        utils.load_tokenizer,
        ["model_path", "tokenizer_config_extra", "eos_token_ids"],
    ),
    ("make_prompt_cache", kv.make_prompt_cache, ["model"]),
    ("can_trim_prompt_cache", kv.can_trim_prompt_cache, ["cache"]),
    ("trim_prompt_cache", kv.trim_prompt_cache, ["cache", "num_tokens"]),
    ("make_sampler", sample_utils.make_sampler, ["temp", "top_p", "min_p", "top_k"]),
    (
        "make_logits_processors",
        sample_utils.make_logits_processors,
        ["logit_bias", "repetition_penalty", "presence_penalty", "frequency_penalty"],
    ),
    ("greedy_sampler", sample_utils.greedy_sampler, ["logprobs"]),
    ("TokenizerWrapper.rfind_think_start", TokenizerWrapper.rfind_think_start, ["tokens"]),
    ("TokenizerWrapper.rfind_think_end", TokenizerWrapper.rfind_think_end, ["tokens"]),
]
BATCHABLE = [
    kv.KVCache,
    kv.RotatingKVCache,
    kv.ArraysCache,
    kv.CacheList,
]


@cache
def builtin() -> tuple[Any, Any]:
    return utils.load_model(builtin_path())[0], utils.load_tokenizer(builtin_path())


@pytest.mark.parametrize(
    ("name", "function", "used"), USED_PARAMETERS, ids=[name for name, _, _ in USED_PARAMETERS]
)
def test_the_parameters_that_are_used_are_there(
    name: str, function: Callable[..., Any], used: list[str]
) -> None:
    parameters = inspect.signature(function).parameters
    missing = [parameter for parameter in used if parameter not in parameters]
    assert not missing, f"mlx_lm's {name} has no {missing} any more: {list(parameters)}"
    unknown = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.name not in [*used, "self"]
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    assert not unknown, f"mlx_lm's {name} now demands {unknown}"


@pytest.mark.parametrize(
    ("response", "used"),
    [
        (GenerationBatch.Response, {"uid", "token", "finish_reason", "prompt_cache", "all_tokens"}),
        (PromptProcessingBatch.Response, {"uid", "progress", "end_of_segment", "end_of_prompt"}),
    ],
    ids=["GenerationBatch.Response", "PromptProcessingBatch.Response"],
)
def test_the_response_fields_that_are_used_are_there(response: type, used: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(response)}
    assert used <= fields, f"mlx_lm's {response.__qualname__} has no {used - fields} any more"


def test_a_batch_generator_has_the_attributes_that_are_used() -> None:
    batch = BatchGenerator(builtin()[0])
    for name in ["_generation_batch", "_prompt_batch", "_unprocessed_sequences", "_currently_processing"]:
        assert len(getattr(batch, name)) == 0, f"batch_steps.py works on {name}"
    assert batch.prefill_batch_size > 0
    assert batch.completion_batch_size > 0
    batch.close()


def test_a_batch_of_prompts_has_the_lists_that_are_emptied() -> None:
    batch = PromptProcessingBatch.empty(builtin()[0], sample_utils.greedy_sampler)
    assert {name for name, value in vars(batch).items() if isinstance(value, list)} == set(ROWS)


def test_a_batch_generator_speaks_as_the_adapter_reads_it() -> None:
    """Progress by segments, tokens with a cache at their end, nothing where nothing runs."""
    model, _ = builtin()
    batch = BatchGenerator(model, completion_batch_size=2, prefill_batch_size=2, prefill_step_size=4)
    assert batch.next() == ([], [])
    (uid,) = batch.insert_segments(
        segments=[[[1, 2, 3, 4, 5, 6], [7, 8]]],
        max_tokens=[2],
        caches=[None],
        all_tokens=[[]],
        samplers=[sample_utils.greedy_sampler],
        logits_processors=[[]],
        stop_sequences=[StopSequences([(639,)])],
    )
    queued_cache, queued_tokens = batch.extract_cache([uid])[uid]
    assert queued_tokens == []
    assert all(layer.empty() for layer in queued_cache)
    ((first,), _), ((second,), _), ((third,), _) = batch.next(), batch.next(), batch.next()
    assert (first.progress, first.end_of_segment) == ((4, 8), False)
    assert (second.progress, second.end_of_segment, second.end_of_prompt) == ((6, 8), True, False)
    assert (third.progress, third.end_of_segment, third.end_of_prompt) == ((7, 8), True, False)
    cache, tokens = batch.extract_cache([uid])[uid]
    assert (list(tokens), cache[0].size()) == ([1, 2, 3, 4, 5, 6, 7], 7)
    ((end,), _) = batch.next()
    assert end.end_of_prompt
    _, (token,) = batch.next()
    assert (token.uid, token.finish_reason, token.prompt_cache) == (uid, None, None)
    _, (last,) = batch.next()
    assert last.finish_reason == "length"
    assert list(last.all_tokens) == [*range(1, 9), token.token, last.token]
    assert last.prompt_cache[0].size() == 10
    assert batch.remove([uid], return_prompt_caches=True) == {}
    batch.close()


def test_a_text_state_machine_speaks_as_the_splitter_reads_it() -> None:
    machine = make_text_state_machine(builtin()[1])
    state = machine.make_state("normal")
    assert state[0] == "normal"
    state, segments = Machine.split(state, "a<think>b</thi")
    assert segments == [("normal", "a"), ("reasoning", "b")]
    state, rest, name = Machine.flush(state)
    assert (rest, name, state[0]) == ("</thi", "reasoning", "reasoning")


def test_a_tokenizer_has_the_attributes_that_are_used() -> None:
    tokenizer = builtin()[1]
    used = [
        "has_thinking",
        "has_tool_calling",
        "has_chat_template",
        "eos_token_ids",
        "response_initial_state",
    ]
    used += ["think_start_tokens", "tool_call_start", "tool_call_end", "tool_parser", "detokenizer"]
    used += ["bos_token", "backend_tokenizer", "apply_chat_template", "encode", "decode"]
    missing = [name for name in used if not hasattr(tokenizer, name)]
    assert not missing, f"mlx_lm's TokenizerWrapper has no {missing} any more"
    assert tokenizer.eos_token_ids


@pytest.mark.parametrize("kind", BATCHABLE, ids=lambda kind: kind.__name__)
def test_caches_have_the_methods_that_are_used(kind: type) -> None:
    used = ["merge", "is_trimmable", "trim", "state", "nbytes", "empty"]
    if kind is kv.ArraysCache:
        used.remove("trim")
    missing = [name for name in used if not hasattr(kind, name)]
    assert not missing, f"mlx_lm's {kind.__name__} has no {missing} any more"


def test_chunked_caches_cannot_be_merged_and_say_that_they_can_be_trimmed() -> None:
    """When this changes, `serial_batch` and `KVCacheOps.is_trimmable` may be simpler."""
    assert not hasattr(kv.ChunkedKVCache, "merge")
    assert kv.ChunkedKVCache(8).is_trimmable()


def test_no_model_makes_quantized_caches_of_its_own() -> None:
    """They come from `generate`'s kv_bits alone, which neither BatchGenerator nor a setting of ours knows.
    When this changes, prefixes of them need the proof of `test_mlx_warm_and_cold.py`."""
    models = Path(kv.__file__).parent
    used = [path.name for path in models.rglob("*.py") if "QuantizedKVCache" in path.read_text("utf-8")]
    assert used == ["cache.py"]
    assert not {"kv_bits", "kv_group_size"} & set(inspect.signature(BatchGenerator.__init__).parameters)


def test_caches_hold_what_the_adapter_looks_into() -> None:
    assert isinstance(kv.ArraysCache(2).cache, list)
    assert kv.ArraysCache(2).lengths is None
    assert "max_size" in vars(kv.RotatingKVCache(8))
    assert "max_size" not in vars(kv.KVCache())
    assert isinstance(kv.CacheList(kv.KVCache()).caches, tuple | list)
    assert not kv.ArraysCache(2).is_trimmable()


@pytest.mark.parametrize("name", ["apply_top_p", "apply_min_p", "apply_top_k"])
def test_the_filters_of_a_sampler_take_logprobs_and_a_number(name: str) -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.2]]))
    kept = getattr(sample_utils, name)(logprobs, {"apply_top_k": 1}.get(name, 0.9))
    assert kept.shape == logprobs.shape


def test_only_state_space_models_that_look_at_lengths_are_prefilled_together() -> None:
    """The adapter reads the source of a model for the word; here are two that must differ."""
    import mlx_lm.models.lfm2
    import mlx_lm.models.mamba

    assert "lengths" in inspect.getsource(mlx_lm.models.lfm2)
    assert "lengths" not in inspect.getsource(mlx_lm.models.mamba)
