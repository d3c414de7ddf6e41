"""Files beside the weights that are missing, cut off, pointers instead of the file, or not readable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mlxk.store.faults import Fault, damaged, warning
from mlxk.store.folder import FileEntry, Folder, open_regular
from mlxk.store.json_file import LFS_MARK, json_fault, read_fault

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
"""One of them is needed (or a *.tiktoken)."""
_PARSED = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json")
"""Small files that the tokenizer reads if they are there."""
_PEEKED = (*TOKENIZER_FILES, "merges.txt", "chat_template.jinja", "tiktoken.model")
"""Looked at from both ends: parsing tokenizer.json (up to 30 MB) would hold up the first request."""
_LARGEST_TEMPLATE_LOOK = 64


def folder_faults(folder: Folder) -> Iterator[Fault]:
    """Nothing there at all."""
    if folder.files:
        return
    try:
        with os.scandir(folder.path) as entries:
            empty = not any(entries)
    except OSError as error:
        why = f"its folder {folder.path} cannot be read ({error.strerror or error})"
        if isinstance(error, PermissionError):
            yield damaged("unreadable", why, "give yourself the right to read it (chmod, chown)")
            return
        empty = True
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            yield damaged("no_files", f"the folder {folder.path} does not exist", _bring(folder.path))
            return
    text = f"there are no files in {folder.path}" if empty else f"there is no model in {folder.path}"
    yield damaged("no_files", text, mend(folder.path))


def tokenizer_faults(folder: Folder) -> Iterator[Fault]:
    if not any(folder.named(name) for name in TOKENIZER_FILES) and not folder.ending(".tiktoken"):
        yield damaged(
            "no_tokenizer", "it has no tokenizer (tokenizer.json or tokenizer.model)", mend(folder.path)
        )


def side_file_faults(folder: Folder) -> Iterator[Fault]:
    """Those that a load reads beside weights and config.json."""
    for entry in folder.files:
        if entry.name in _PARSED:
            yield from file_faults(folder, entry, parse=True)
        elif entry.name in _PEEKED or entry.name.endswith(".tiktoken"):
            yield from file_faults(folder, entry, parse=False)
        elif entry.name == "generation_config.json":
            for fault in file_faults(folder, entry, parse=True):
                yield warning(fault.kind, f"{fault.text}, so its defaults are not used", fault.advice)


def file_faults(folder: Folder, entry: FileEntry, *, parse: bool) -> Iterator[Fault]:
    if entry.dangling:
        yield unfinished(folder, entry)
        return
    path = folder.path / entry.name
    wrong = json_fault(path) if parse else _look(path)
    if wrong is not None:
        kind, text = wrong
        yield damaged(kind, f"{entry.name} {text}", mend_file(path, kind))


def unfinished(folder: Folder, entry: FileEntry) -> Fault:
    """A link of the hub's that leads nowhere."""
    return damaged(
        "partial_download",
        f"{entry.name} is not in the cache: its download did not finish",
        mend(folder.path),
    )


def _look(path: Path) -> tuple[str, str] | None:
    try:
        with open_regular(path) as file:
            start = file.read(len(LFS_MARK))
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LARGEST_TEMPLATE_LOOK))
            end = file.read(_LARGEST_TEMPLATE_LOOK)
    except OSError as error:
        return read_fault(error)
    if start == LFS_MARK:
        return "lfs_pointer", "is a Git LFS pointer, not the file itself"
    if not start:
        return "empty_file", "is empty (0 bytes): the download was cut off"
    if path.suffix == ".json" and not (start.lstrip()[:1] == b"{" and end.rstrip()[-1:] == b"}"):
        return "bad_json", "is not a whole JSON object: the download was cut off"
    return None


# ------------------------------------------------------------------- what to do


def hub_name(path: Path) -> str | None:
    """ORG/NAME if `path` is a snapshot in the hub's cache (with @HASH if `main` means another one)."""
    repo = path.parent.parent
    if path.parent.name != "snapshots" or not repo.name.startswith("models--"):
        return None
    name = repo.name.removeprefix("models--").replace("--", "/")
    try:
        current = (repo / "refs" / "main").read_text(encoding="utf-8", errors="replace")[:256].strip()
    except OSError:
        return name
    return name if current in (path.name, "") else f"{name}@{path.name[:12]}"


def mend(path: Path) -> str:
    """How to get what is missing."""
    name = hub_name(path)
    return f"fetch it with: mlxk pull {name}" if name else f"copy the model to {path} again"


def _bring(path: Path) -> str:
    """What to do about a folder that is not there. Only a path of the configuration is asked for then, or a
    model that was removed a moment ago."""
    return mend(path) if hub_name(path) else "correct its path in the configuration, or put the model there"


def mend_file(path: Path, kind: str) -> str:
    """How to mend one broken file."""
    if kind == "lfs_pointer":
        name = hub_name(path.parent)
        # A snapshot of the hub's never holds pointers, unless the repository itself does.
        return f"fetch it with: mlxk pull {name}" if name else f"run `git lfs pull` in {path.parent}"
    if kind == "unreadable":
        return f"give yourself the right to read it: chmod u+r '{path}'"
    return mend(path.parent)
