"""Which architectures the installed mlx_lm knows, without importing it: that would take seconds and load MLX.

Follows `mlx_lm.utils._get_classes`: its two tables of other names are read from its source, and a model type
is known if `mlx_lm/models/` has a module of that name with a `Model` in it. A unit test compares the answer
with mlx_lm's own for all of its models; `mlxk health` asks mlx_lm itself (`architecture_probe`).
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)
_MODEL = re.compile(r"^class Model\b|^Model\s*=|^from .* import .*\bModel\b", re.MULTILINE)
_ARGS = re.compile(r"^class ModelArgs\b|^ModelArgs\s*=|^from .* import .*\bModelArgs\b", re.MULTILINE)
_ARGS_CLASS = re.compile(r"^class ModelArgs\b.*\n(?:[ \t]+.*\n|[ \t]*\n)*", re.MULTILINE)
"""Only this class is parsed: the whole file would take ten times as long."""


@dataclass(frozen=True, slots=True)
class KnownArchitectures:
    """What one installation of mlx_lm knows."""

    folder: Path
    remapping: Mapping[str, str]
    by_architecture: Mapping[tuple[str, str], str]
    """(model type, architecture) -> module."""

    def module_of(self, config: Mapping[str, Any]) -> str | None:
        """The module that mlx_lm would load for this config.json; None if there is none."""
        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            return None
        listed = config.get("architectures") or ()
        names = (listed,) if isinstance(listed, str) else listed if isinstance(listed, list) else ()
        for name in names:
            found = self.by_architecture.get((model_type, name)) if isinstance(name, str) else None
            if found is not None:
                module = found
                break
        else:
            module = self.remapping.get(model_type, model_type)
        return module if _defines_model(self.folder / "models", module) else None

    def missing_packages(self, module: str) -> tuple[str, ...]:
        """What the module imports and is not installed (mlx_lm's olmo needs a package of its own)."""
        return _missing_packages(self.folder / "models" / f"{module}.py")

    def arguments(self, module: str) -> Mapping[str, str]:
        """What the module takes of a config.json: names and annotations, as far as it says so itself."""
        return _arguments(self.folder / "models" / f"{module}.py")


@lru_cache(maxsize=1)
def known_architectures() -> KnownArchitectures | None:
    """None if mlx_lm is not installed here: then nobody can say."""
    try:
        spec = importlib.util.find_spec("mlx_lm")  # finds, does not import
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            return None
        source = (Path(places[0]) / "utils.py").read_text(encoding="utf-8")
    except (OSError, ValueError, ImportError):
        return None
    return KnownArchitectures(
        Path(places[0]),
        _table(source, "MODEL_REMAPPING"),
        _table(source, "MODEL_ARCHITECTURE_REMAPPING"),
    )


def stamp() -> str:
    """Changes when another mlx_lm is installed."""
    known = known_architectures()
    if known is None:
        return ""
    try:
        status = os.stat(known.folder / "utils.py"), os.stat(known.folder / "models")
    except OSError:
        return str(known.folder)
    return f"{known.folder} " + " ".join(f"{one.st_mtime_ns} {one.st_ctime_ns}" for one in status)


def _table(source: str, name: str) -> Mapping[Any, str]:
    """The dictionary that `name` is set to at the top level. Only its own lines are parsed, not the file."""
    found = re.search(rf"^{name}\b[^=\n]*=\s*(\{{.*?^\}}|\{{[^\n]*\}})", source, re.MULTILINE | re.DOTALL)
    try:
        value = ast.literal_eval(found[1]) if found else {}
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=512)
def _defines_model(folder: Path, module: str) -> bool:
    if not module.isprintable() or not module.strip() or "." in module or "/" in module or "\\" in module:
        return False
    # `listdir`, not `exists`: on macOS "Llama" would be found as "llama", but not by Python's import.
    if f"{module}.py" not in _listing(folder):
        return False
    try:
        source = (folder / f"{module}.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return bool(_MODEL.search(source) and _ARGS.search(source))


@lru_cache(maxsize=512)
def _missing_packages(file: Path) -> tuple[str, ...]:
    try:
        names = set(_IMPORT.findall(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ()
    others = names - sys.stdlib_module_names - {"mlx", "mlx_lm"}
    return tuple(sorted(name for name in others if importlib.util.find_spec(name) is None))


@lru_cache(maxsize=512)
def _arguments(file: Path) -> Mapping[str, str]:
    try:
        found = _ARGS_CLASS.search(file.read_text(encoding="utf-8"))
        body = ast.parse(found[0]).body[0] if found else None
    except (OSError, ValueError, SyntaxError):
        return {}
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in (body.body if isinstance(body, ast.ClassDef) else ())
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


@lru_cache(maxsize=4)
def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
