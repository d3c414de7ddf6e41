"""The limit of the scenes (b) to (d) and (f): mlx_lm's own parts in a process of their own, with no server.

`in_own_process` runs one of these functions in a fresh interpreter, so that what it leaves in memory is
nobody else's. Prompts are chat messages, as the servers get them; encoding them is not part of the times.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Messages = list[dict[str, str]]
NEVER_ENDS: list[list[int]] = []
"""No stop tokens: a random model's end of sequence is an accident."""
PREFILL_CHUNK = 512
BUSY_PREFILL_CHUNK = 128
"""mlxk's while something decodes (`workers.mlx_engine`), so that both are compared at the same choice."""


def in_own_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def prefixes(folder: str, cases: Sequence[dict[str, Any]]) -> list[list[dict[str, float]]]:
    """The rows of each case of the scene (b): arguments of `_reuse` or of `_converse`."""
    model, tokenizer = _load(folder)
    _first_token(model, _encode(tokenizer, [{"role": "user", "content": "one"}]), 0)  # compile, warm up
    return [
        _reuse(model, tokenizer, case["pairs"]) if "pairs" in case else _converse(model, tokenizer, **case)
        for case in cases
    ]


def _reuse(model: Any, tokenizer: Any, pairs: Sequence[tuple[Messages, Messages]]) -> list[dict[str, float]]:
    """Of each pair: TTFT of the first prompt cold, and of the second with all that it shares with the first
    already in the cache, whatever the cache's class: no server can find more."""
    found = []
    for first, second in pairs:
        before, after = _encode(tokenizer, first), _encode(tokenizer, second)
        shared = _shared(before, after)
        cold_ms, warm_ms = _first_token(model, before, 0), _first_token(model, after, shared)
        found.append(_row(cold_ms, warm_ms, shared, after))
    return found


def _converse(
    model: Any, tokenizer: Any, systems: Sequence[str], turns: Sequence[Sequence[str]], max_tokens: int
) -> list[dict[str, float]]:
    """Conversations with all that was said before in the cache, answers too. A row for each later turn."""
    rows = []
    for system, said in zip(systems, turns, strict=True):
        messages = [{"role": "system", "content": system}]
        known: list[int] = []
        cold_ms = 0.0
        for text in said:
            messages.append({"role": "user", "content": text})
            prompt = _encode(tokenizer, messages)
            shared = _shared(known, prompt)
            took_ms, answer = _answer(model, prompt, shared, max_tokens, tokenizer.eos_token_ids)
            if known:
                rows.append(_row(cold_ms, took_ms, shared, prompt))
            else:
                cold_ms = took_ms
            known = prompt + answer
            messages.append({"role": "assistant", "content": tokenizer.decode(answer)})
    return rows


def _row(cold_ms: float, warm_ms: float, cached: int, prompt: Sequence[int]) -> dict[str, float]:
    return {
        "ttft_cold_ms": cold_ms,
        "ttft_warm_ms": warm_ms,
        "cached_tokens": cached,
        "prompt_tokens": len(prompt),
    }


def alternate(folders: Sequence[str], prompts: Sequence[Messages], max_tokens: int) -> float:
    """Seconds a request, the models taking turns in one process."""
    from mlx_lm.generate import BatchGenerator

    loaded = [_load(folder) for folder in folders]
    generators = [BatchGenerator(model, stop_tokens=NEVER_ENDS) for model, _ in loaded]
    tokens = [_encode(loaded[n % len(loaded)][1], one) for n, one in enumerate(prompts)]
    for generator in generators:
        _finish(generator, tokens[0], 2)
    began = time.perf_counter()
    for number, prompt in enumerate(tokens):
        _finish(generators[number % len(generators)], prompt, max_tokens)
    return (time.perf_counter() - began) / len(tokens)


def swap(folders: Sequence[str], prompts: Sequence[Messages], max_tokens: int) -> float:
    """Seconds a request if each one loads its model anew, in a warm process, and drops the one before."""
    from mlx_lm.generate import BatchGenerator

    _load(folders[0])
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        model, tokenizer = _load(folders[number % len(folders)])
        _finish(BatchGenerator(model, stop_tokens=NEVER_ENDS), _encode(tokenizer, prompt), max_tokens)
    return (time.perf_counter() - began) / len(prompts)


def arrival(
    folder: str, others: Sequence[Messages], shorts: Sequence[str], longs: Sequence[Messages], alone: int
) -> dict[str, dict[str, float]]:
    """`others` decode, the short prompts arrive between two steps, then a long one, then another and a short
    one in the middle of its prefill: what the scene (d) does to servers, with mlxk's
    chunks. The values of
    its cases; `chunk_step_ms` is the median step with one chunk in it."""
    import statistics

    from mlx_lm.generate import BatchGenerator

    model, tokenizer = _load(folder)
    generator = BatchGenerator(model, stop_tokens=NEVER_ENDS, completion_batch_size=64)
    generator.prefill_step_size = BUSY_PREFILL_CHUNK
    generator.insert([_encode(tokenizer, one) for one in others], [100_000] * len(others))
    while len(generator.next()[1]) < len(others):
        pass
    _steps(generator, 10)
    before = _steps(generator, alone)
    step_ms = statistics.median(before)
    beside = []
    for short in shorts[:-1]:
        beside.append(sum(_until_first(generator, tokenizer.encode(short))))
        _steps(generator, 5)
    during = _until_first(generator, _encode(tokenizer, longs[0]))
    _steps(generator, 5)
    generator.insert([_encode(tokenizer, longs[1])], [2])
    _steps(generator, len(during) // 3)
    last = sum(_until_first(generator, tokenizer.encode(shorts[-1])))
    chunks = during[:-2] or during
    return {
        "8 streams decode": _of_steps(before),
        "a long prompt arrives": {
            **_of_steps(during),
            "ttft_ms": sum(during),
            "chunk_step_ms": statistics.median(chunks),
            "chunk_tokens": BUSY_PREFILL_CHUNK,
        },
        "a short request beside the 8": _of_ttft(statistics.median(beside), step_ms),
        "a short request beside the 8 and the prefill": _of_ttft(last, step_ms),
    }


def loads(folder: str, rounds: int) -> dict[str, float]:
    """Milliseconds of `mlx_lm.load` in a process that has imported mlx_lm: the first one, later ones into
    memory that no earlier model had (as in each new process), and later ones into an earlier model's."""
    import statistics

    import mlx_lm

    def once() -> tuple[float, Any]:
        began = time.perf_counter()
        loaded = mlx_lm.load(folder)
        return 1e3 * (time.perf_counter() - began), loaded

    kept = [once() for _ in range(rounds + 1)]
    first, *fresh = [took for took, _ in kept]
    kept.clear()
    again = [once()[0] for _ in range(rounds)]
    return {
        "first_load_ms": first,
        "fresh_load_ms": statistics.median(fresh),
        "load_ms": statistics.median(again),
    }


# ------------------------------------------------------------------------------ pieces


def _load(folder: str) -> tuple[Any, Any]:
    import mlx_lm

    model, tokenizer = mlx_lm.load(folder)[:2]
    return model, tokenizer


def _encode(tokenizer: Any, messages: Messages) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))


def _shared(before: Sequence[int], after: Sequence[int]) -> int:
    """Tokens that both begin with. One of `after` must be computed: what else is there to sample?"""
    same = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return min(same, len(before), len(after) - 1)


def _first_token(model: Any, tokens: list[int], cached: int) -> float:
    """Milliseconds to the first token, with the first `cached` ones computed before."""
    return _answer(model, tokens, cached, 1)[0]


def _answer(
    model: Any, tokens: list[int], cached: int, max_tokens: int, ends: Collection[int] = ()
) -> tuple[float, list[int]]:
    """The same, and the tokens of the answer."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import make_prompt_cache

    generator = BatchGenerator(model, stop_tokens=NEVER_ENDS)
    caches = None
    if cached:
        cache = make_prompt_cache(model)
        for start in range(0, cached, PREFILL_CHUNK):
            part = tokens[start : min(start + PREFILL_CHUNK, cached)]
            with mx.stream(generator.stream):
                model(mx.array(part)[None], cache=cache)
                mx.eval([one.state for one in cache])
        caches = [cache]
    began, took_ms = time.perf_counter(), 0.0
    generator.insert([tokens[cached:]], [max_tokens], caches=caches, all_tokens=[tokens[:cached]])
    answer: list[int] = []
    while len(answer) < max_tokens and not (answer and answer[-1] in ends):
        for response in generator.next()[1]:
            took_ms = took_ms or 1e3 * (time.perf_counter() - began)
            answer.append(response.token)
    generator.close()
    return took_ms, answer


def _finish(generator: Any, tokens: list[int], max_tokens: int) -> None:
    generator.insert([tokens], [max_tokens])
    while not any(one.finish_reason for one in generator.next()[1]):
        pass


def _steps(generator: Any, count: int) -> list[float]:
    """Milliseconds of each step."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        generator.next()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def _until_first(generator: Any, tokens: list[int]) -> list[float]:
    """Milliseconds of each step from the prompt's arrival to its first token."""
    times = []
    (uid,) = generator.insert([tokens], [2])
    while True:
        began = time.perf_counter()
        _, responses = generator.next()
        times.append(1e3 * (time.perf_counter() - began))
        if any(one.uid == uid for one in responses):
            return times


def _of_steps(times_ms: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    return {
        "inter_token_ms_p50": ordered[len(ordered) // 2],
        "inter_token_ms_p95": ordered[int(0.95 * len(ordered))],
        "inter_token_ms_max": ordered[-1],
    }


def _of_ttft(ttft_ms: float, step_ms: float) -> dict[str, float]:
    over_ms = ttft_ms - 2 * step_ms
    return {"ttft_ms": ttft_ms, "ttft_steps": ttft_ms / step_ms, "over_two_steps_ms": over_ms}
