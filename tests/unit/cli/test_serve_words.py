from __future__ import annotations

import pytest

from mlxk.cli.serve import words_to_begin_anew


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/mlxk", "serve"], ["/usr/bin/mlxk", "serve"]),
        (["-P", "-m", "mlxk", "serve", "--ready-fd", "7", "tiny"], ["-P", "-m", "mlxk", "serve", "tiny"]),
        (["mlxk", "serve", "--ready-fd=7", "--port=1"], ["mlxk", "serve", "--port=1"]),
        (["mlxk", "serve", "--", "--ready-fd", "tiny"], ["mlxk", "serve", "--", "--ready-fd", "tiny"]),
    ],
)
def test_what_belonged_to_that_one_start_is_left_out(words: list[str], expected: list[str]) -> None:
    assert words_to_begin_anew(words) == expected
