from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mlxk.store.cache_survey import survey_cache
from mlxk.store.hub_cache import hub_cache_dir
from tests.unit.store.conftest import ModelFactory


def test_no_cache_is_not_there_and_none_is_made() -> None:
    survey = survey_cache(5)
    assert not survey.exists
    assert not hub_cache_dir().exists()


def test_blobs_count_once_however_many_snapshots_link_to_them(models: ModelFactory) -> None:
    models.in_hub("org/one")
    models.in_hub("org/two")
    models.repo("org/one").joinpath("snapshots", "b" * 40).mkdir()
    for link in models.repo("org/one").joinpath("snapshots", "a" * 40).iterdir():
        link.parent.parent.joinpath("b" * 40, link.name).symlink_to(os.readlink(link))
    survey = survey_cache(5)
    files = [path for path in models.hub.rglob("*") if path.is_file() and not path.is_symlink()]
    assert survey.size_bytes == sum(path.stat().st_size for path in files)
    assert survey.n_repos == 2
    assert survey.is_whole
    assert not survey.unreadable


def test_a_broken_download_is_unfinished_and_a_running_one_is_running(models: ModelFactory) -> None:
    models.in_hub("org/one")
    blobs = models.repo("org/one") / "blobs"
    broken, running = blobs / "abc.incomplete", blobs / "def.12345678.incomplete"
    broken.write_bytes(bytes(1000))
    running.write_bytes(bytes(10))
    os.utime(broken, (time.time() - 86400,) * 2)
    survey = survey_cache(5)
    assert survey.unfinished == [broken]
    assert survey.unfinished_bytes == 1000
    assert survey.running == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(models: ModelFactory) -> None:
    models.in_hub("org/one")
    blobs = models.repo("org/one") / "blobs"
    blobs.chmod(0)
    try:
        (text,) = survey_cache(5).unreadable
    finally:
        blobs.chmod(0o755)
    assert text == f"{blobs} (Permission denied)"


def test_a_file_in_place_of_the_cache_is_named(models: ModelFactory) -> None:
    models.hub.parent.mkdir(parents=True, exist_ok=True)
    models.hub.touch()
    (text,) = survey_cache(5).unreadable
    assert text == f"{models.hub} (Not a directory)"


def test_a_cache_that_takes_too_long_is_counted_in_part(models: ModelFactory) -> None:
    models.in_hub("org/one")
    survey = survey_cache(-1)
    assert survey.exists
    assert not survey.is_whole


def test_links_that_lead_in_circles_end(models: ModelFactory, tmp_path: Path) -> None:
    models.in_hub("org/one")
    (models.repo("org/one") / "blobs" / "loop").symlink_to(models.hub)
    assert survey_cache(5).n_repos == 1
