"""Bodies of all kinds to every POST endpoint: no 5xx, no hang, the worker lives, the next request works."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.bodies import BODIES, LOAD, PATHS, as_json, headers, models, raw_bodies, texts
from tests.fuzz.conftest import LONG_EXAMPLES
from tests.fuzz.target import Target


def fuzz_json(target: Target, path: str, n: int, *, random: bool = False) -> None:
    @settings(max_examples=n, derandomize=not random)
    @given(body=BODIES[path])
    def run(body: Any) -> None:
        target.post(path, as_json(body), {"Content-Type": "application/json"})

    run()
    target.check_unharmed()


def fuzz_bytes(target: Target, path: str, n: int, *, random: bool = False) -> None:
    @settings(max_examples=n, derandomize=not random)
    @given(raw=raw_bodies(path), sent=headers)
    def run(raw: bytes, sent: dict[str, str]) -> None:
        target.post(path, raw, sent)

    run()
    target.check_unharmed()


def fuzz_loads(target: Target, n: int, *, random: bool = False) -> None:
    @settings(max_examples=n, derandomize=not random)
    @given(name=models.map(str) | texts.filter(lambda text: text.isprintable()), raw=st.binary(max_size=20))
    def run(name: str, raw: bytes) -> None:
        path = f"/pool/{quote(name.encode('utf-8', 'replace'), safe='/')}/load"
        status, names, answer = target._send("POST", path, raw, {})
        if b'"not_found"' not in answer:  # an empty name is no path of ours
            target.check(status, names, answer, LOAD)

    run()
    target.check_unharmed()


@pytest.mark.parametrize("path", PATHS)
def test_json_of_about_the_right_shape(target: Target, path: str) -> None:
    fuzz_json(target, path, 30)


@pytest.mark.parametrize("path", PATHS)
def test_bytes_of_any_kind(target: Target, path: str) -> None:
    fuzz_bytes(target, path, 20)


def test_names_of_models(target: Target) -> None:
    fuzz_loads(target, 15)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_more(target: Target) -> None:
    for path in PATHS:
        fuzz_json(target, path, LONG_EXAMPLES, random=True)
        fuzz_bytes(target, path, LONG_EXAMPLES, random=True)
    fuzz_loads(target, LONG_EXAMPLES // 4, random=True)
