from __future__ import annotations

import json
from typing import Any

import pytest

from mlxk.api.body import check_free_form, parse_object
from mlxk.workers.protocol import FaultCode, FaultError


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  ",
        b"[]",
        b'"text"',
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800", "b": 1e999}',
        b'{"a": "\\ud800", "b": NaN}',
        b'{"a": "\xff"}',
        b'{"a": ' + b"9" * 6000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x1f\x8b\x08 gzip",
        b"\x00",
    ],
)
def test_a_body_that_is_no_json_object_is_an_invalid_request(raw: bytes) -> None:
    with pytest.raises(FaultError) as caught:
        parse_object(raw)
    assert caught.value.fault.code is FaultCode.INVALID_REQUEST


def test_texts_of_all_scripts_arrive_unchanged() -> None:
    body = {"a": "naïve 你好 🙂 \u0000", "b": [1, 2.5, None, True]}
    assert parse_object(json.dumps(body).encode()) == body
    assert parse_object(json.dumps(body, ensure_ascii=False).encode()) == body


def test_a_lone_surrogate_is_read_so_that_its_field_can_be_named() -> None:
    assert parse_object(b'{"stop": "\\ud800"}') == {"stop": "\ud800"}


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, [2**64], {"a": [-(2**63) - 1]}, _nested(65)])
def test_free_form_json_that_cannot_travel_is_refused(value: Any) -> None:
    with pytest.raises(FaultError) as caught:
        check_free_form(value, "tools[0]")
    assert caught.value.fault.param == "tools[0]"


@pytest.mark.parametrize("value", [_nested(64), {"a": [True, None, 1.5, "é", 2**64 - 1, -(2**63)]}])
def test_free_form_json_that_can_travel_passes(value: Any) -> None:
    check_free_form(value, "tools[0]")
