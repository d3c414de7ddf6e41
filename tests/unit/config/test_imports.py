"""Imports make no garbage: nothing looks for it meanwhile, nor ever again through what they have made."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mlxk.config.imports import nothing_to_collect


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_nothing_is_collected_and_what_was_made_is_left_alone() -> None:
    frozen = gc.get_freeze_count()
    with nothing_to_collect():
        assert not gc.isenabled()
        made = [[n] for n in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(made)


def test_garbage_is_collected_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), nothing_to_collect():
        raise ImportError
    assert gc.isenabled()
