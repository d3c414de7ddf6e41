"""What people write for a model of the hub."""

from __future__ import annotations

import pytest

from mlxk.store.hub_errors import OperationError
from mlxk.store.hub_reference import parse_reference


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Qwen3-4bit", "mlx-community/Qwen3-4bit"),
        ("Qwen/Qwen3", "Qwen/Qwen3"),
        (" Qwen/Qwen3 ", "Qwen/Qwen3"),
        ("Qwen/Qwen3@V1.0", "Qwen/Qwen3@V1.0"),
        ("Qwen3@refs/pr/1", "mlx-community/Qwen3@refs/pr/1"),
        ("https://huggingface.co/Qwen/Qwen3", "Qwen/Qwen3"),
        ("hf.co/Qwen/Qwen3/", "Qwen/Qwen3"),
        ("https://huggingface.co/Qwen/Qwen3/tree/dev/x?a=b#c", "Qwen/Qwen3@dev/x"),
        ("https://huggingface.co/Qwen/Qwen3@v1", "Qwen/Qwen3@v1"),
    ],
)
def test_names_pages_and_revisions(text: str, meant: str) -> None:
    assert str(parse_reference(text)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "../b",
        "a/..",
        "~/a",
        ".hidden",
        "a--b",
        "a b",
        "a@",
        "@b",
        "a/b@../x",
        "a/b@x y",
        "a\x00b",
        "https://example.com/a/b",
        "https://huggingface.co/datasets/a/b",
        "x" * 100,
    ],
)
def test_what_is_no_name_is_a_usage_error(text: str) -> None:
    with pytest.raises(OperationError) as caught:
        parse_reference(text)
    assert caught.value.type == "usage"
