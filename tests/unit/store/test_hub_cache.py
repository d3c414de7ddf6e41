from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxk.store.hub_cache import hub_cache_dir, read_repo, repo_folders

VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HF_HOME": "/data/hf"},
        {"HF_HOME": "~/hf"},
        {"HF_HUB_CACHE": "/data/hub", "HF_HOME": "/data/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/data/legacy", "HF_HOME": "/data/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/data/legacy", "HF_HUB_CACHE": "~/hub"},
        {"XDG_CACHE_HOME": "/data/cache"},
        {"HF_HOME": "$HOME/expanded"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert str(hub_cache_dir()) == theirs.stdout.strip()


def test_only_model_repositories_are_listed(models: Any) -> None:
    models.in_hub("org/name")
    models.in_hub("gpt2")
    for other in ("datasets--org--data", "models--", "version.txt", ".locks"):
        (models.hub / other).mkdir()
    assert [read_repo(path).name for path in repo_folders(models.hub)] == ["gpt2", "org/name"]


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert repo_folders(tmp_path / "nowhere") == []


def test_main_says_which_snapshot_is_current(models: Any) -> None:
    models.in_hub("org/a", "1" * 40)
    models.in_hub("org/a", "2" * 40, main=False)
    repo = read_repo(models.repo("org/a"))
    assert repo.current == "1" * 40
    assert repo.snapshots == ("1" * 40, "2" * 40)
    models.set_main("org/a", "2" * 40)
    assert read_repo(models.repo("org/a")).current == "2" * 40


@pytest.mark.parametrize("main", [None, "f" * 40, "", "../../.."])
def test_without_a_usable_main_the_newest_snapshot_is_current(models: Any, main: str | None) -> None:
    old = models.in_hub("org/a", "2" * 40, main=False)
    models.in_hub("org/a", "1" * 40, main=False)
    os.utime(old, (1_000_000, 1_000_000))
    if main is not None:
        models.set_main("org/a", main)
    assert read_repo(models.repo("org/a")).current == "1" * 40


def test_a_repository_without_snapshots_has_no_current_one(models: Any) -> None:
    models.repo("org/a").mkdir(parents=True)
    assert read_repo(models.repo("org/a")).current is None
    (models.repo("org/a") / "snapshots").write_text("a file where a folder should be")
    assert read_repo(models.repo("org/a")).snapshots == ()
