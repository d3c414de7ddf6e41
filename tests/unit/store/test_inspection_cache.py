"""What is remembered of the models across processes: used, never believed too long, never in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlxk.config.settings import load_settings
from mlxk.store import inspection, inspection_cache
from mlxk.store.catalog import Catalog
from mlxk.store.inspection import ModelFacts
from mlxk.store.inspection_cache import cache_file

LONG_AGO_NS = time.time_ns() + 60 * 1_000_000_000


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of the test are older than the file system's clock is coarse."""
    monkeypatch.setattr(inspection_cache, "_SETTLED_NS", -LONG_AGO_NS)


def survey() -> dict[str, ModelFacts]:
    """As a fresh process would see it."""
    inspection._known.clear()
    return {ref.name: facts for ref, facts in Catalog(load_settings({})).survey()}


def forbid_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_inspect", lambda folder, trusted: pytest.fail("looked again"))


def test_the_next_process_need_not_look_again(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models.local("whole")
    (models.local("broken") / "model.safetensors").write_bytes(b"")
    first = survey()
    forbid_looking(monkeypatch)
    assert survey() == first
    assert not first["broken"].healthy


@pytest.mark.parametrize("change", ["content", "same size and time", "rights", "another file", "gone"])
def test_whatever_changes_is_looked_at_again(models: Any, change: str) -> None:
    model = models.local("m")
    assert survey()["m"].usable
    file = model / "model.safetensors"
    before = os.stat(file)
    if change == "content":
        file.write_bytes(b"")
    elif change == "same size and time":
        file.write_bytes(bytes(before.st_size))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "rights":
        os.chmod(file, 0o600)
    elif change == "another file":
        (model / "model-00001-of-00002.safetensors").write_bytes(b"")
    else:
        (model / "config.json").unlink()
    looked: list[Path] = []
    whole = inspection._inspect

    def look(folder: Any, *, trusted: bool) -> ModelFacts:
        looked.append(folder.path)
        return whole(folder, trusted=trusted)

    inspection._inspect = look
    try:
        facts = survey()["m"]
    finally:
        inspection._inspect = whole
    assert model in looked
    assert facts.usable is (change == "rights")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"models": 3}',
        '{"rules": "?", "models": {}}',
        "\x00" * 99,
        "[" * 100_000,
    ],
)
def test_a_broken_file_is_an_empty_one(models: Any, content: str) -> None:
    models.local("m")
    first = survey()
    cache_file().write_text(content)
    assert survey() == first
    assert json.loads(cache_file().read_text())["models"], "and is written anew"


@pytest.mark.parametrize("value", [None, 3, {}, "x", {"kind": 1}, [{"kind": 1}]])
@pytest.mark.parametrize("key", ["mark", "facts", "faults", "capabilities"])
def test_an_entry_that_makes_no_sense_is_none(models: Any, key: str, value: Any) -> None:
    models.local("m")
    first = survey()
    entries = json.loads(cache_file().read_text())
    for entry in entries["models"].values():
        (entry if key in entry else entry["facts"])[key] = value
    cache_file().write_text(json.dumps(entries))
    found = survey()
    assert key == "capabilities" or found == first
    assert found["m"].usable


def test_other_rules_start_anew(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mlx_lm may know another architecture."""
    models.local("m", {"model_type": "nobody_knows"})
    assert not survey()["m"].usable
    monkeypatch.setattr(inspection_cache, "_rules", lambda: "another mlx_lm")
    monkeypatch.setattr("mlxk.store.health.architecture_faults", lambda *_, **__: ())
    assert survey()["m"].usable


def test_what_changed_just_now_is_not_remembered(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the file system's tick would not show."""
    monkeypatch.setattr(inspection_cache, "_SETTLED_NS", 3600 * 1_000_000_000)
    models.local("m")
    survey()
    assert not cache_file().exists() or "m" not in cache_file().read_text()


def test_models_that_are_gone_are_forgotten_when_something_is_learnt(models: Any) -> None:
    old = models.local("old")
    survey()
    assert str(old) in cache_file().read_text()
    shutil.rmtree(old)
    models.local("new")
    survey()
    assert str(old) not in cache_file().read_text()


def test_a_home_that_cannot_be_written_is_no_hindrance(models: Any) -> None:
    models.local("m")
    cache_file().mkdir(parents=True)  # root may write everywhere, but not over a folder
    assert survey()["m"].usable
    assert [path.name for path in models.home.iterdir() if ".new" in path.name] == []


LIST = "from mlxk.cli.main import invoke; invoke(['list', '--json'])"


def test_many_at_once_see_the_same_and_leave_a_whole_file(models: Any) -> None:
    for n in range(5):
        models.local(f"m{n}")
    package = str(Path(inspection.__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": package}
    started = [
        subprocess.Popen([sys.executable, "-P", "-c", LIST], stdout=subprocess.PIPE, env=environ)
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in started}
    assert len(answers) == 1
    assert json.loads(answers.pop())["data"]["count"] == 6
    assert not [path for path in models.home.iterdir() if ".new" in path.name]
