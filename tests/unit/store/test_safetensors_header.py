"""Headers that no honest program writes; each is refused, at once, in words."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from mlxk.store.safetensors_header import Header, read_header
from mlxk.store.tensor_table import decode_index

GOOD = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
HOSTILE: dict[str, Any] = {
    "no_dtype": {"shape": [12], "data_offsets": [0, 12]},
    "no_shape": {"dtype": "U8", "data_offsets": [0, 12]},
    "no_offsets": {"dtype": "U8", "shape": [12]},
    "nothing": {},
    "one_offset": GOOD | {"data_offsets": [12]},
    "three_offsets": GOOD | {"data_offsets": [0, 6, 12]},
    "backwards": GOOD | {"data_offsets": [12, 0]},
    "negative_offset": GOOD | {"data_offsets": [-12, 0]},
    "negative_shape": GOOD | {"shape": [-2, -3]},
    "huge_offset": GOOD | {"data_offsets": [0, 2**70]},
    "huge_shape": GOOD | {"shape": [10**400]},
    "fraction": GOOD | {"shape": [2.5, 3]},
    "truth": GOOD | {"shape": [True, 6]},
    "text": GOOD | {"shape": "23"},
    "list": [1, 2],
    "null": None,
    "deep": json.loads("[" * 500 + "]" * 500),
}


def header_of(path: Path, table: bytes, data: bytes = bytes(12)) -> Header:
    path.write_bytes(struct.pack("<Q", len(table)) + table + data)
    return read_header(path, path.stat().st_size)


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_entry_that_makes_no_sense_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    header = header_of(path, json.dumps({"__metadata__": {"format": "mlx"}, "w": HOSTILE[kind]}).encode())
    assert (header.kind, "'w'" in (header.fault or "")) == ("bad_header", True), header.fault
    with pytest.raises(SafetensorError):
        safe_open(path, "np")


@pytest.mark.parametrize(
    "table", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"w":NaN}', b"[" * 100_000, b"{}}"]
)
def test_what_is_no_table_is_said(tmp_path: Path, table: bytes) -> None:
    header = header_of(tmp_path / "model.safetensors", table)
    assert header.kind == "bad_header"
    assert header.tensors == {}


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, {"dtype": "F16", "shape": "[2]", "data_offsets": "x"}],
    ids=["empty", "usual", "like_a_tensor"],
)
def test_metadata_is_no_tensor_whatever_it_holds(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "model.safetensors"
    header = header_of(path, json.dumps({"__metadata__": metadata, "w": GOOD}).encode())
    assert (header.fault, list(header.tensors), header.data_bytes) == (None, ["w"], 12)
    with safe_open(path, "np") as file:
        assert list(file.keys()) == ["w"]


def test_tensors_may_be_listed_in_any_order(tmp_path: Path) -> None:
    table = {"b": GOOD | {"data_offsets": [12, 24]}, "a": GOOD}
    header = header_of(tmp_path / "model.safetensors", json.dumps(table).encode(), bytes(24))
    assert (header.fault, header.data_bytes) == (None, 24)


def test_a_shape_of_a_million_dimensions_costs_no_time(tmp_path: Path) -> None:
    table = json.dumps({"w": GOOD | {"shape": [2**62] * 1_000_000}}).encode()
    began = time.process_time()
    assert header_of(tmp_path / "model.safetensors", table).kind == "bad_header"
    assert time.process_time() - began < 10  # their product: minutes


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": {"a": "x", "b": 7}, "metadata": {"total_size": 3}}',
        '{"weight_map": {"a": "x"}, "metadata": null}',
        '{"weight_map": {"a": "x"}, "metadata": {"total_size": NaN}}',
        '{"metadata": {}}',
        "[]",
    ],
)
def test_an_odd_index_is_read_as_json_reads_it(text: str) -> None:
    assert repr(decode_index(text.encode())) == repr(json.loads(text))
