"""What `mlxk health` finds beyond what everybody looks at: mlx_lm's own word, the cache's leftovers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mlxk.config.settings import load_settings
from mlxk.store.cache_locks import blob_lock, lock_folder
from mlxk.store.catalog import Catalog
from mlxk.store.checkup import check_up, fragments
from tests.unit.store.damage import change_json, copy_tiny


def hub_copy(models: Any, name: str, revision: str = "a" * 40) -> Path:
    path = models.repo(name) / "snapshots" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    (models.repo(name) / "blobs").mkdir(exist_ok=True)
    models.set_main(name, revision)
    return copy_tiny(path)


def incomplete(models: Any, name: str) -> None:
    blobs = models.repo(name) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / "abc.incomplete").write_bytes(bytes(1500))


@contextmanager
def downloading(models: Any, name: str) -> Iterator[None]:
    """As huggingface_hub and we do it."""
    repo = models.repo(name)
    with blob_lock(lock_folder(repo.parent, repo.name) / "abc.lock", threading.Event(), lambda: None):
        yield


def test_all_is_found_in_one_go(models: Any) -> None:
    """One process is started to ask mlx_lm, for all of them."""
    hub_copy(models, "org/whole")
    change_json(hub_copy(models, "org/lacks") / "config.json", hidden_size=None)
    change_json(hub_copy(models, "org/unknown") / "config.json", model_type="nobody_knows")
    tokenizer = hub_copy(models, "org/tokenizer") / "tokenizer.json"
    text = tokenizer.read_text()
    tokenizer.write_text(text[:5000] + "!!" + text[5002:])  # both ends are as they should be
    hub_copy(models, "org/broke-off")
    incomplete(models, "org/broke-off")
    with downloading(models, "org/broke-off"):
        pass  # the lock's file stays
    hub_copy(models, "org/running")
    incomplete(models, "org/running")
    hub_copy(models, "org/ref")
    models.set_main("org/ref", "b" * 40)
    catalog = Catalog(load_settings({}))
    refs = [ref for ref in catalog.models() if ref.name != "tiny"]
    with downloading(models, "org/running"):
        found = {one.name.removeprefix("org/"): one for one in check_up(catalog, refs)}

    kinds = {name: [fault.kind for fault in one.faults] for name, one in found.items()}
    assert kinds == {
        "whole": [],
        "lacks": ["mlx_lm_refuses"],
        "unknown": ["unsupported_architecture"],
        "tokenizer": ["bad_json"],
        "broke-off": ["partial_download"],
        "running": ["running_download"],
        "ref": ["dangling_ref"],
    }
    first = {name: one.faults[0] for name, one in found.items() if one.faults}
    assert "hidden_size" in first["lacks"].text, "mlx_lm's own word"
    assert "1.5 KB" in first["broke-off"].text
    assert first["broke-off"].advice == "go on with: mlxk pull org/broke-off"
    assert "snapshot bbbbbbbbbbbb, which is not there; aaaaaaaaaaaa is used" in first["ref"].text
    assert first["ref"].advice == "fetch the newer one with: mlxk pull org/ref"
    assert {name for name, one in found.items() if not one.healthy} == {"tokenizer"}
    assert {name for name, one in found.items() if not one.runnable} == {"tokenizer", "lacks", "unknown"}


@pytest.mark.parametrize(
    ("has_ref", "is_running", "kind", "words"),
    [
        (True, False, "dangling_ref", "refs/main names the snapshot aaaaaaaaaaaa, which is not there"),
        (False, False, "partial_download", "broke off before its first file was whole (1.5 KB came)"),
        (False, True, "partial_download", "its download is running"),
    ],
)
def test_a_repository_without_a_snapshot_is_a_broken_download(
    models: Any, has_ref: bool, is_running: bool, kind: str, words: str
) -> None:
    incomplete(models, "org/part")
    if has_ref:
        models.set_main("org/part", "a" * 40)
    with downloading(models, "org/part") if is_running else nullcontext():
        [found] = fragments()
    assert found.name == "org/part"
    assert not found.healthy
    assert found.faults[0].kind == kind
    assert words in found.faults[0].text
