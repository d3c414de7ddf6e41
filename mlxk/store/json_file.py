"""Reads the JSON files beside the weights; says what is wrong instead of raising."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxk.store.folder import open_regular

LFS_MARK = b"version https://git-lfs.github.com/spec/"
_LARGEST_BYTES = 64 * 1024 * 1024


def read_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object in the file, or {} and what is wrong, as the end of the sentence "NAME ..."."""
    value, wrong = read_judged(path)
    return value, wrong[1] if wrong else None


def json_fault(path: Path) -> tuple[str, str] | None:
    """Kind (`faults`) and words of what is wrong with the file; None if it holds a JSON object."""
    return read_judged(path)[1]


def read_fault(error: OSError) -> tuple[str, str]:
    """Kind and words for a file that cannot be read."""
    kind = "unreadable" if isinstance(error, PermissionError) else "read_error"
    return kind, f"cannot be read ({error.strerror or error})"


def read_judged(
    path: Path, decode: Callable[[bytes], Any] = json.loads
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The JSON object in the file, or {} and what `json_fault` says. `decode` raises ValueError."""
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return {}, ("missing_file", "is missing")
    except OSError as error:
        return {}, read_fault(error)
    if data.startswith(LFS_MARK):
        return {}, ("lfs_pointer", "is a Git LFS pointer, not the file itself")
    if not data.strip():
        return {}, ("empty_file", "is empty: the download was cut off")
    if len(data) > _LARGEST_BYTES:
        return {}, ("bad_json", "is too large to be what its name says")
    try:
        value = decode(data)
    except (ValueError, RecursionError):
        return {}, ("bad_json", "is not valid JSON: the download was cut off, or the file was edited")
    return (value, None) if isinstance(value, dict) else ({}, ("bad_json", "holds no JSON object"))
