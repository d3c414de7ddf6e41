"""GGUF files by variant: a repository often holds one model quantized in many ways. By their names only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlxk.store.folder import Folder

_VARIANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:IQ\d\w*?|TQ\d\w*?|Q\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?=$|[-./]|_\d{5}-of)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class GgufVariant:
    name: str
    """ "Q4_K_M"; the file's name where it says none."""
    files: tuple[str, ...]
    size_bytes: int
    """Of all its parts."""


def gguf_variants(folder: Folder) -> list[GgufVariant]:
    """Smallest first."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for entry in folder.ending(".gguf"):
        groups.setdefault(_variant(entry.name), []).append((entry.name, entry.size_bytes))
    found = [
        GgufVariant(name, tuple(file for file, _ in files), sum(n_bytes for _, n_bytes in files))
        for name, files in groups.items()
    ]
    return sorted(found, key=lambda one: (one.size_bytes, one.name))


def _variant(path: str) -> str:
    name = path.rpartition("/")[2].removesuffix(".gguf")
    found = _VARIANT.findall(name) or _VARIANT.findall(path.rpartition("/")[0])
    if name.startswith("mmproj"):
        return "mmproj" + (f"-{found[-1].upper()}" if found else "")
    return found[-1].upper() if found else name
