"""transformers offers the same things, and has read its own files once only."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mlxk.workers.quick_imports import last_names

OFFERED = """
import json, sys
if sys.argv[1] == "quick":
    from mlxk.workers.quick_imports import remember_import_structures
    remember_import_structures()
import transformers, transformers.models
from transformers.utils import import_utils
look = import_utils.create_import_structure_from_path
print(json.dumps({
    "all": sorted(dir(transformers)),
    "models": sorted(dir(transformers.models)),
    "auto": transformers.AutoTokenizer.__module__,
    "hits": look.cache_info().hits,
    "misses": look.cache_info().misses,
    "finders": [type(finder).__name__ for finder in sys.meta_path],
}))
"""


def offered(how: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-c", OFFERED, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return dict(json.loads(done.stdout))


def test_transformers_is_the_same_and_reads_each_folder_once() -> None:
    plain, quick = offered("plain"), offered("quick")
    for name in ("all", "models", "auto", "finders"):
        assert quick[name] == plain[name]
    assert len(quick["all"]) > 1000
    assert quick["misses"] < 0.6 * plain["misses"], (
        "this transformers reads its files otherwise: is it still of use?"
    )


@pytest.mark.parametrize(
    ("content", "end"),
    [
        ('import x\n__all__ = ["a"]\n\n__all__ = ["b"]\n', '__all__ = ["b"]\n'),
        ('__all__ = ["a"]\n', '__all__ = ["a"]\n'),
        ("def f():\n    print(module.__all__)\n", "def f():\n    print(module.__all__)\n"),
        ('__all__ = [\n    "a",\n]\nx = "__all__"\n', '__all__ = [\n    "a",\n]\nx = "__all__"\n'),
        ("", ""),
    ],
)
def test_only_the_last_line_that_begins_with_all_counts(content: str, end: str) -> None:
    assert last_names(content) == end
