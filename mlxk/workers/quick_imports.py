"""`import transformers`, with less reading.

As it is imported, transformers looks through all of its own source files for what each offers: 1,650 files.
It does so twice, for itself and for `transformers.models`, because the function that looks through a folder
keeps 128 answers, and there are 550 folders. With a place for all of them the second time costs nothing. And
of each file it looks at every line for the `__all__` at its end; it is given the end only. A worker is warm
0.4 s of CPU sooner by the one (of 1.9 s) and 0.3 s by the other. Where a version of transformers is made
otherwise, nothing is changed.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "transformers.utils.import_utils"
_LOOK_THROUGH_FOLDER = "create_import_structure_from_path"
_READ_NAMES = "fetch__all__"


def remember_import_structures() -> None:
    """To be called once, before transformers is imported."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds that one module, as it would be found anyway, and then goes away."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        function = getattr(getattr(module, _LOOK_THROUGH_FOLDER, None), "__wrapped__", None)
        if function is not None:  # it calls itself for the folders below, by this name
            setattr(module, _LOOK_THROUGH_FOLDER, functools.cache(function))
        read_names = getattr(module, _READ_NAMES, None)
        if read_names is not None:
            setattr(module, _READ_NAMES, lambda content: read_names(last_names(content)))


def last_names(content: str) -> str:
    """The source from the last line on that begins with `__all__`: the last one is what counts."""
    return content[content.rfind("\n__all__") + 1 :]
