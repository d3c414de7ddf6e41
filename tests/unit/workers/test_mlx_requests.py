"""One request's settings: what ends it, what picks its tokens, what refuses it; and no other notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxk.store.builtin import builtin_path
from mlxk.workers.protocol import (
    Deltas,
    FaultCode,
    FaultError,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    Started,
)
from tests.unit.workers.engines import (
    GREEDY,
    Conversation,
    RecordingEngine,
    encode,
    load_engine,
    run,
    run_one,
)

CHAT = [{"role": "user", "content": "Hello, who are you?"}]


def fault_of(engine: RecordingEngine, **request: Any) -> tuple[FaultCode, str, str | None]:
    """The refusal of one request; the engine is as idle as before."""
    with pytest.raises(FaultError) as caught:
        engine.submit(Generate("refused", **{"sampling": GREEDY, **request}))
    assert engine.idle
    return caught.value.fault.code, caught.value.fault.message, caught.value.fault.param


# ------------------------------------------------------------------------ refusals


def test_an_empty_prompt_is_refused(tiny: RecordingEngine) -> None:
    for request in ({"prompt": ""}, {"tokens": []}):
        code, message, param = fault_of(tiny, **request)
        assert (code, param) == (FaultCode.INVALID_REQUEST, "prompt")
        assert "empty" in message


@pytest.mark.parametrize("token", [-1, 640, 10**6, 2**40])
def test_a_prompt_token_out_of_range_is_refused(token: int, tiny: RecordingEngine) -> None:
    assert tiny._vocab_size <= 640
    code, message, param = fault_of(tiny, tokens=[1, token, 2])
    assert (code, param) == (FaultCode.INVALID_REQUEST, "prompt")
    assert str(tiny._vocab_size - 1) in message


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"stop_token_ids": [640]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"sampling": Sampling(logit_bias={700: 1.0})}, "logit_bias"),
        ({"sampling": Sampling(min_p=1.5)}, "min_p"),
        ({"sampling": Sampling(min_p=-0.1)}, "min_p"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(top_p=1.01)}, "top_p"),
        ({"sampling": Sampling(repetition_penalty=-1.0)}, "repetition_penalty"),
    ],
)
def test_a_setting_that_would_fail_in_the_batch_is_refused_at_the_door(
    request_fields: dict[str, Any], param: str, tiny: RecordingEngine
) -> None:
    code, message, at_fault = fault_of(tiny, tokens=[1, 2], **request_fields)
    assert (code, at_fault) == (FaultCode.INVALID_REQUEST, param)
    assert message


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("llama", context_length=100)
    code, message, param = fault_of(engine, tokens=[1] * 123)
    assert (code, param) == (FaultCode.CONTEXT_LENGTH_EXCEEDED, "prompt")
    assert "123" in message
    assert "100" in message
    assert fault_of(engine, tokens=[1] * 100)[0] == FaultCode.CONTEXT_LENGTH_EXCEEDED
    assert run_one(engine, tokens=[1] * 99, max_tokens=50, ignore_eos=True).reported == 1


def test_a_template_that_raises_refuses_its_request_alone(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(model_paths["llama"], folder)
    (folder / "chat_template.jinja").write_text(
        "{%- for m in messages -%}{%- if m.role == 'tool' -%}{{ raise_exception('No tools here!') }}"
        "{%- endif -%}{{ m.content }}{%- endfor -%}"
    )
    engine = load_engine(folder)
    conversation = Conversation(engine)
    conversation.submit(Generate("good", messages=CHAT, max_tokens=5, ignore_eos=True, sampling=GREEDY))
    with pytest.raises(FaultError) as caught:
        engine.submit(Generate("bad", messages=[{"role": "tool", "content": "x"}]))
    assert caught.value.fault.code == FaultCode.TEMPLATE_ERROR
    assert "No tools here!" in caught.value.fault.message
    conversation.finish()
    assert len(conversation.replies["good"].tokens) == 5
    engine.close()


def test_a_template_that_renders_nothing_is_an_empty_prompt(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    folder = tmp_path / "silent"
    shutil.copytree(model_paths["llama"], folder)
    (folder / "chat_template.jinja").write_text("{# nothing #}")
    engine = load_engine(folder)
    assert fault_of(engine, messages=CHAT)[0] == FaultCode.INVALID_REQUEST
    engine.close()


def test_an_id_in_use_is_refused_and_its_owner_goes_on(tiny: RecordingEngine) -> None:
    conversation = Conversation(tiny)
    conversation.submit(Generate("a", tokens=[1, 2], max_tokens=4, ignore_eos=True, sampling=GREEDY))
    with pytest.raises(FaultError):
        tiny.submit(Generate("a", tokens=[3]))
    conversation.finish()
    assert len(conversation.replies["a"].tokens) == 4


def test_a_folder_without_a_model_is_a_fault_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FaultError) as caught:
        load_engine(tmp_path)
    assert caught.value.fault.code == FaultCode.MODEL_LOAD_FAILED
    assert str(tmp_path) in caught.value.fault.message


# ---------------------------------------------------------------------- max_tokens


def test_without_max_tokens_a_share_of_the_context_is_the_bound(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("llama", context_length=200)

    def decided(n_prompt: int, **request: Any) -> int:
        conversation = Conversation(engine)
        conversation.submit(Generate("a", tokens=[1] * n_prompt, **request))
        conversation.abort("a")
        started = conversation.replies["a"].started
        assert started is not None
        return started.max_tokens

    assert decided(10) == 100
    assert decided(10, context_share=1.0) == 190
    assert decided(150) == 50
    assert decided(199) == 1
    assert decided(10, max_tokens=7) == 7
    assert decided(10, max_tokens=10_000) == 190


@pytest.mark.parametrize("context", [8192, 32_768, 131_072])
def test_larger_windows_get_larger_defaults(tmp_path: Path, context: int) -> None:
    """Seed 002: half of the window on the server, all that is left of it in `mlxk run`."""
    folder = shutil.copytree(builtin_path(), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    engine = load_engine(folder)

    def decided(**fields: Any) -> int:
        request_id = f"r{len(seen)}"
        seen.append(request_id)
        (started,) = engine.submit(Generate(request_id, tokens=[1] * 100, **fields))
        engine.abort(request_id)
        assert isinstance(started, Started)
        return started.max_tokens

    seen: list[str] = []
    assert decided() == context // 2
    assert decided(context_share=1.0) == context - 100
    assert decided(max_tokens=500) == 500
    assert decided(max_tokens=context) == context - 100
    engine.close()


def test_max_tokens_ends_a_reply_with_length(tiny: RecordingEngine) -> None:
    reply = run_one(tiny, messages=CHAT, max_tokens=3)
    assert reply.finished is not None
    assert reply.finished.reason == FinishReason.LENGTH
    assert reply.finished.usage.completion_tokens == len(reply.tokens) == 3


# ----------------------------------------------------------------------------- stops


def test_a_stop_token_ends_the_reply_and_is_reported_and_not_shown(tiny: RecordingEngine) -> None:
    """Token 20 is "5"; the prompt is one that the built-in model counts on from."""
    assert tiny._tokenizer.decode([20]) == "5"
    reply = run_one(
        tiny, tokens=[1, 2], stop_token_ids=[20], sampling=Sampling(temperature=0, logit_bias={20: 1000.0})
    )
    assert reply.finished is not None
    assert (reply.finished.reason, reply.finished.matched_stop) == (FinishReason.STOP, 20)
    assert (reply.content, reply.tokens) == ("", [20])


def test_the_end_of_text_is_no_matched_stop(tiny: RecordingEngine) -> None:
    eos = min(tiny._tokenizer.eos_token_ids)
    biased = Sampling(temperature=0, logit_bias={eos: 1000.0})
    reply = run_one(tiny, tokens=[1, 2], sampling=biased)
    assert reply.finished is not None
    assert (reply.finished.reason, reply.finished.matched_stop) == (FinishReason.STOP, None)
    asked = run_one(tiny, tokens=[1, 2], sampling=biased, stop_token_ids=[eos])
    assert asked.finished is not None
    assert asked.finished.matched_stop == eos


def test_ignore_eos_goes_on_to_max_tokens(tiny: RecordingEngine) -> None:
    eos = min(tiny._tokenizer.eos_token_ids)
    biased = Sampling(temperature=0, logit_bias={eos: 1000.0})
    reply = run_one(tiny, tokens=[1, 2], sampling=biased, ignore_eos=True, max_tokens=6)
    assert reply.tokens == [eos] * 6
    assert reply.finished is not None
    assert reply.finished.reason == FinishReason.LENGTH


@pytest.mark.parametrize("model", ["tiny", "state_space", "chunked"])
def test_a_stop_string_cuts_the_text_where_it_begins_and_keeps_the_prefix(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model)
    prompt = encode(engine, "Count from 1 to 10, one number per line:\n1\n2\n3\n4\n")
    whole = run_one(engine, tokens=prompt, max_tokens=24, ignore_eos=True)
    text = "".join(filter(str.isascii, whole.content))
    stop = next(
        text[i : i + 3] for i in range(len(text) // 3, len(text)) if whole.content.find(text[i : i + 3]) > 0
    )
    reply = run_one(engine, tokens=prompt, max_tokens=24, ignore_eos=True, stop=["never there", stop])
    assert reply.content == whole.content[: whole.content.index(stop)]
    assert reply.finished is not None
    assert (reply.finished.reason, reply.finished.matched_stop) == (FinishReason.STOP, stop)
    assert len(reply.tokens) < len(whole.tokens)
    after = run_one(engine, tokens=[*prompt, *reply.tokens, 5], max_tokens=2)
    assert after.cached >= len(prompt) + len(reply.tokens) - 1
    hidden = run_one(engine, tokens=prompt, max_tokens=24, ignore_eos=True, hidden_stop=[stop])
    assert hidden.content == reply.content
    assert hidden.finished is not None
    assert hidden.finished.matched_stop is None


def test_a_stop_that_matches_with_the_last_allowed_token_is_a_stop(tiny: RecordingEngine) -> None:
    biased = Sampling(temperature=0, logit_bias={20: 1000.0})  # "5" for ever
    reply = run_one(tiny, tokens=[1, 2], sampling=biased, stop=["555"], max_tokens=3)
    assert reply.finished is not None
    assert (reply.finished.reason, reply.finished.matched_stop) == (FinishReason.STOP, "555")
    assert reply.content == ""


# -------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("top_k", [639, 640, 641, 10**9, 0, -1])
def test_any_top_k_works_beside_others(top_k: int, tiny: RecordingEngine) -> None:
    hot = Sampling(temperature=1.0, top_k=top_k)
    replies = run(
        tiny,
        Generate("k", tokens=[1, 2], max_tokens=4, ignore_eos=True, sampling=hot),
        Generate(
            "seeded",
            tokens=[1, 2],
            max_tokens=4,
            ignore_eos=True,
            sampling=Sampling(temperature=1.0, top_k=top_k, seed=1),
        ),
        Generate("other", tokens=[1, 2], max_tokens=4, ignore_eos=True, sampling=GREEDY),
    )
    assert all(reply.fault is None and len(reply.tokens) == 4 for reply in replies.values())


def test_top_k_1_and_temperature_0_and_top_p_0_are_greedy(tiny: RecordingEngine) -> None:
    wanted = run_one(tiny, messages=CHAT, max_tokens=10).tokens
    for sampling in (Sampling(temperature=1.0, top_k=1), Sampling(temperature=1.0, top_p=0.0)):
        assert run_one(tiny, messages=CHAT, max_tokens=10, sampling=sampling).tokens == wanted


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -5])
def test_a_seed_gives_the_same_text_alone_and_in_company(
    seed: int, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine("llama")
    sampling = Sampling(temperature=1.0, top_p=0.9, min_p=0.01, top_k=50, seed=seed)
    mine = Generate("mine", tokens=[1, 2, 3], max_tokens=12, ignore_eos=True, sampling=sampling)
    alone = run(engine, mine)["mine"].tokens
    assert run(engine, mine)["mine"].tokens == alone
    hot = Sampling(temperature=1.0)
    others = [Generate(str(i), tokens=[9, i], max_tokens=20, sampling=hot) for i in range(3)]
    assert run(engine, others[0], mine, *others[1:])["mine"].tokens == alone


def test_different_seeds_differ(new_engine: Callable[..., RecordingEngine]) -> None:
    engine = new_engine("llama")
    texts = {
        tuple(
            run_one(
                engine,
                tokens=[1, 2, 3],
                max_tokens=12,
                ignore_eos=True,
                sampling=Sampling(temperature=1.0, seed=seed),
            ).tokens
        )
        for seed in range(5)
    }
    assert len(texts) == 5


def test_requests_that_sample_alike_share_a_sampler(tiny: RecordingEngine) -> None:
    hot = Sampling(temperature=0.7, top_p=0.9)
    samplers = tiny._maker._samplers
    assert samplers.sampler(hot) is samplers.sampler(Sampling(temperature=0.7, top_p=0.9))
    assert samplers.sampler(hot) is not samplers.sampler(Sampling(temperature=0.8, top_p=0.9))


def test_logit_bias_and_penalties_work_in_a_batch(tiny: RecordingEngine) -> None:
    replies = run(
        tiny,
        Generate(
            "bias",
            tokens=[1, 2],
            max_tokens=3,
            ignore_eos=True,
            sampling=Sampling(temperature=0, logit_bias={30: 1000.0}),
        ),
        Generate(
            "penalties",
            tokens=[1, 2],
            max_tokens=12,
            ignore_eos=True,
            sampling=Sampling(
                temperature=0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=2.0
            ),
        ),
        Generate("plain", tokens=[1, 2], max_tokens=12, ignore_eos=True, sampling=GREEDY),
    )
    assert replies["bias"].tokens == [30, 30, 30]
    assert len(set(replies["penalties"].tokens)) > 6
    alone = run_one(tiny, tokens=[1, 2], max_tokens=12, ignore_eos=True).tokens
    assert replies["plain"].tokens == alone


def test_the_models_own_settings_are_the_defaults(tmp_path: Path, model_paths: dict[str, Path]) -> None:
    folder = tmp_path / "own"
    shutil.copytree(model_paths["llama"], folder)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_k": 1, "top_p": 0.9}))
    engine = load_engine(folder)
    greedy = run_one(engine, tokens=[1, 2], max_tokens=8, ignore_eos=True)
    assert run_one(engine, tokens=[1, 2], max_tokens=8, ignore_eos=True, sampling=Sampling()).tokens == (
        greedy.tokens
    )
    engine.close()


# ------------------------------------------------------------------- text and counts


def test_a_message_that_speaks_of_the_thinking_mark_does_not_begin_thoughts(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    """Only a template that ends the prompt with the mark has opened the thoughts."""
    engine = new_engine("llama")
    engine._running.by_uid.clear()
    build = engine._prompts.build
    asks = Generate("a", messages=[{"role": "user", "content": "What does <think> mean?"}])
    assert build(asks).initial_state == "normal"
    assert build(Generate("a", messages=CHAT)).initial_state == "normal"


def test_a_template_that_opens_the_thoughts_begins_in_them(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    folder = tmp_path / "thinker"
    shutil.copytree(model_paths["llama"], folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{%- if add_generation_prompt -%}<think>\n{% endif -%}")
    engine = load_engine(folder)
    assert engine._prompts.build(Generate("a", messages=CHAT)).initial_state == "reasoning"
    reply = run_one(engine, messages=CHAT, max_tokens=6, ignore_eos=True)
    assert reply.content == ""
    assert reply.finished is not None
    assert reply.finished.usage.reasoning_tokens == 6
    engine.close()


def test_every_token_is_counted_once(new_engine: Callable[..., RecordingEngine]) -> None:
    """Also those whose text is held back, as random tokens' half characters are."""
    engine = new_engine("llama")
    before = engine.stats()
    requests = [
        Generate(str(i), tokens=[i, i + 1], max_tokens=20 + i, ignore_eos=True, sampling=GREEDY)
        for i in range(4)
    ]
    replies = run(engine, *requests)
    for i, reply in enumerate(replies.values()):
        assert reply.finished is not None
        assert reply.finished.usage.completion_tokens == len(reply.tokens) == 20 + i
        assert reply.finished.usage.prompt_tokens == 2
        assert reply.reported <= len(reply.tokens)
        assert reply.content == engine._tokenizer.decode(reply.tokens)
    stats = engine.stats()
    assert stats.generated_tokens - before.generated_tokens == 20 + 21 + 22 + 23
    assert stats.prompt_tokens - before.prompt_tokens == 8
    assert (stats.in_flight, stats.step_age_s) == (0, 0.0)
    assert stats.active_bytes > 0


def test_thirty_two_requests_say_what_each_says_alone(new_engine: Callable[..., RecordingEngine]) -> None:
    engine = new_engine("llama", cache_bytes=0)
    requests = [
        Generate(str(i), tokens=[i] * (1 + i % 5), max_tokens=12, ignore_eos=True, sampling=GREEDY)
        for i in range(32)
    ]
    alone = {request.id: run(engine, request)[request.id].text for request in requests}
    together = run(engine, *requests)
    assert {name: reply.text for name, reply in together.items()} == alone


def test_new_work_does_not_wait_for_a_long_prefill(new_engine: Callable[..., RecordingEngine]) -> None:
    """While something decodes, each step gives it a token, however long the other's prompt is."""
    engine = new_engine("llama", prefill_chunk=64, busy_prefill_chunk=8)
    conversation = Conversation(engine)
    conversation.submit(Generate("a", tokens=[1], max_tokens=100, ignore_eos=True, sampling=GREEDY))
    conversation.run_until(lambda: bool(conversation.replies["a"].tokens))
    conversation.submit(Generate("b", tokens=[3] * 200, max_tokens=5, ignore_eos=True, sampling=GREEDY))
    before = len(conversation.replies["a"].tokens)
    conversation.step(10)
    assert len(conversation.replies["a"].tokens) == before + 10
    assert conversation.replies["b"].progress[-1].done == 80


def test_the_last_word_follows_the_last_delta(tiny: RecordingEngine) -> None:
    tiny.submit(Generate("a", tokens=[1, 2], max_tokens=2, ignore_eos=True, sampling=GREEDY))
    words: list[Any] = []
    while not tiny.idle:
        words += tiny.step()
    assert isinstance(words[-1], Finished)
    assert isinstance(words[-2], Deltas)


def test_closing_gives_the_memory_back(model_paths: dict[str, Path]) -> None:
    import mlx.core as mx

    before = mx.get_active_memory()
    engine = load_engine(model_paths["sliding_window"])
    run_one(engine, tokens=[1] * 50, max_tokens=5)
    assert mx.get_active_memory() > before + 500_000
    engine.close()
    engine.close()
    del engine
    assert mx.get_active_memory() < before + 100_000
