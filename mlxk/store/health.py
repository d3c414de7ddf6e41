"""The one judgement of whether a model can be used: `mlxk list`, `show` and `health`, every request's look-up
in the server and `/v1/models` all ask here.

Reads headers and small files only, and finds all that is wrong, not just the first thing. What takes longer
(parsing large files, importing mlx_lm) is `checkup`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlxk.store import config_facts
from mlxk.store.faults import Fault, Severity, damaged, unsupported, warning
from mlxk.store.file_faults import (
    folder_faults,
    mend_file,
    side_file_faults,
    tokenizer_faults,
    unfinished,
)
from mlxk.store.folder import Folder
from mlxk.store.json_file import read_judged
from mlxk.store.support import architecture_faults, format_faults, quantization_faults
from mlxk.store.weight_faults import read_weights

_ORDER = (Severity.DAMAGED, Severity.UNSUPPORTED, Severity.WARNING)


def find_faults(folder: Folder, *, has_template: bool, trusted: bool) -> tuple[Fault, ...]:
    """All that is wrong with the model in `folder`, the worst first. Never raises.

    `has_template`: for chats, by `capabilities`. `trusted`: the configuration lets it run code of its own.
    """
    empty = tuple(folder_faults(folder))
    if empty:
        return empty
    found = list(_find(folder, has_template=has_template, trusted=trusted))
    return tuple(sorted(dict.fromkeys(found), key=lambda fault: _ORDER.index(fault.severity)))


def _find(folder: Folder, *, has_template: bool, trusted: bool) -> Iterator[Fault]:
    foreign = list(format_faults(folder))
    yield from foreign
    config, wrong = read_judged(folder.path / "config.json")
    if not foreign or folder.named("config.json"):  # GGUF comes without one
        yield from _config_faults(folder, config, wrong, trusted=trusted)
    yield from read_weights(folder, config).faults
    if foreign:
        yield from _cut_off_foreign(folder)
    if not folder.ending(".gguf"):
        yield from tokenizer_faults(folder)
    yield from side_file_faults(folder)
    if not has_template and not foreign:
        yield warning(
            "no_chat_template",
            "it has no chat template, as base models have none: a conversation is written as Human: and "
            "Assistant:",
        )


def _config_faults(
    folder: Folder, config: Mapping[str, Any], wrong: tuple[str, str] | None, *, trusted: bool
) -> Iterator[Fault]:
    path, entry = folder.path / "config.json", folder.named("config.json")
    if entry is not None and entry.dangling:
        yield unfinished(folder, entry)
    elif wrong is not None:
        kind, text = wrong
        yield damaged(kind, f"config.json {text}", mend_file(path, kind))
    elif config_facts.model_type(config) is None:
        yield unsupported(
            "no_model_type",
            "config.json names no model_type, so its architecture is not known",
            "this is no language model of mlx_lm's; use it with the library that it was made for",
        )
    else:
        yield from architecture_faults(folder, config, trusted=trusted)
        yield from quantization_faults(config)


def _cut_off_foreign(folder: Folder) -> Iterator[Fault]:
    """Of formats that we do not read: what shows without reading them."""
    for entry in folder.weights():
        path = folder.path / entry.name
        if entry.dangling:
            yield unfinished(folder, entry)
        elif entry.size_bytes == 0:
            text = f"{entry.name} is empty (0 bytes): the download was cut off"
            yield damaged("empty_file", text, mend_file(path, "empty_file"))
