from __future__ import annotations

from pathlib import Path

import pytest

from mlxk.config import paths


def test_all_paths_are_in_the_home_and_follow_it_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("MLXK_HOME", str(tmp_path / name))
        assert paths.home() == tmp_path / name
        assert paths.instance_file() == tmp_path / name / "instance.json"
        assert paths.lock_file() == tmp_path / name / "lock"
        assert paths.config_file() == tmp_path / name / "config.toml"
        assert paths.log_dir() == tmp_path / name / "logs"
        assert paths.models_dir() == tmp_path / name / "models"


def test_without_a_variable_the_home_is_in_the_users_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLXK_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.home() == tmp_path / ".mlxk"


def test_an_empty_variable_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLXK_HOME", "")
    monkeypatch.setenv("MLXK_CONFIG", "")
    assert paths.config_file() == tmp_path / ".mlxk" / "config.toml"


def test_tilde_is_expanded_and_relative_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLXK_HOME", "~/here")
    monkeypatch.setenv("MLXK_CONFIG", "etc/mlxk.toml")
    assert paths.home() == tmp_path / "here"
    assert paths.config_file() == tmp_path / "etc" / "mlxk.toml"


def test_a_given_environment_is_used_instead_of_the_process_s(tmp_path: Path) -> None:
    assert paths.config_file({"MLXK_HOME": str(tmp_path / "x")}) == tmp_path / "x" / "config.toml"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MLXK_HOME")
    monkeypatch.setattr(Path, "home", refuse)
    with pytest.raises(OSError, match="set MLXK_HOME"):
        paths.home()
