"""Values of a config.json that the model's code in mlx_lm cannot be built with: a text in a number's place.

What kind a value is of stands in mlx_lm's own `ModelArgs`. Careful: its annotations are not checked by
anybody, so only what cannot work is damage; for the rest of it the load has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlxk.store.architectures import KnownArchitectures
from mlxk.store.faults import Fault, damaged, warning
from mlxk.store.file_faults import mend_file
from mlxk.store.folder import Folder

_COUNTS = ("hidden_size", "num_hidden_layers", "vocab_size")
"""Every model needs these; none can be built with less than 1."""
_NUMBERS = frozenset({"int", "float", "Optional[int]", "Optional[float]", "int | None", "float | None"})
_TABLES = ("dict", "Dict", "Optional[dict", "Optional[Dict")


def value_faults(
    folder: Folder, config: Mapping[str, Any], known: KnownArchitectures, module: str
) -> Iterator[Fault]:
    path = folder.path / "config.json"
    for name, kind in known.arguments(module).items():
        value = config.get(name)
        if value is None:
            continue
        said = f"config.json says {name} is {_short(value)}"
        if name in _COUNTS and kind in _NUMBERS:
            if type(value) is not int or value < 1:
                text = f"{said}, which is no number that a model can be built with"
                yield damaged("invalid_value", text, mend_file(path, "invalid_value"))
        elif kind in _NUMBERS and isinstance(value, str | Mapping):
            yield warning(
                "doubtful_value", f"{said}, where mlx_lm's {module} takes a number: it may not load"
            )
        elif kind.startswith(_TABLES) and not isinstance(value, Mapping):
            yield warning("doubtful_value", f"{said}, where mlx_lm's {module} takes a table: it may not load")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else f"{text[:40]}..."
