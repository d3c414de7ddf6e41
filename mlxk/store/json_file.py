"""Reads the JSON files beside the weights; says what is wrong instead of raising."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxk.store.folder import open_regular

LFS_MARK = b"version https://git-lfs.github.com/spec/"
_LARGEST_BYTES = 64 * 1024 * 1024


def read_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object in the file, or {} and what is wrong, as the end of the sentence "NAME ..."."""
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return {}, "is missing"
    except OSError as error:
        return {}, f"cannot be read ({error.strerror or error})"
    if data.startswith(LFS_MARK):
        return {}, "is a Git LFS pointer, not the file itself (run `git lfs pull` in its folder)"
    if not data.strip():
        return {}, "is empty: the download was cut off"
    if len(data) > _LARGEST_BYTES:
        return {}, "is too large to be what its name says"
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}, "is not valid JSON: the download was cut off, or the file was edited"
    return (value, None) if isinstance(value, dict) else ({}, "holds no JSON object")
