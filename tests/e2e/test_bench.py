"""The pieces of `bench.lifecycle` run, and its table has a line for what they give. No figure is judged."""

from __future__ import annotations

from pathlib import Path

from bench import lifecycle_scenes as scenes
from bench.lifecycle import FIGURES, table


def test_a_disconnect_is_measured(home: Path) -> None:
    with scenes.serving(home, scenes.MODELS[0], spare=False) as server:
        values = scenes.disconnect(server)
    assert set(values) <= {figure.key for figure in FIGURES}
    assert all(0 <= value < scenes.WAIT_S for value in values.values())


def test_the_table_has_a_line_with_its_method_for_each_figure() -> None:
    text = table({figure.key: [1.0, 3.0, 2.0] for figure in FIGURES})
    assert len(text.splitlines()) == len(FIGURES) + 2
    assert "| stop of an idle model | 2000 ms | 1000 to 3000 |" in text
    assert all(figure.how for figure in FIGURES)
