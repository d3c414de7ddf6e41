"""What `script/bench` does with a peer that cannot be installed or does not start: one line, no more."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import environments
from bench.main import prepare
from bench.peers import CannotRun, Mlxk, Peer, RapidMlx, Served
from bench.processes import last_line
from bench.scene import Context
from mlxk.store.builtin import builtin_path


class Broken(Peer):
    name = "broken"
    requirements = ("broken==1",)

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        return [sys.executable, "-c", "print('a lot', flush=True); raise SystemExit('no GPU here')"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXK_BENCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("warm", [True, False])
def test_a_peer_that_never_answered_is_left_out_with_one_line(
    warm: bool, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, other = Broken(), Mlxk()
    context = Context([broken, other], {}, 1, True)
    for _ in range(2):
        with context.attempt("x, broken"), broken.serve([home], warm=warm):
            raise ConnectionError("nobody listens")
    (line,) = context.trouble
    assert line.startswith("broken: cannot run here: it ended with 1: no GPU here (all it said: ")
    assert "a lot" in (home / "broken.log").read_text()
    assert capsys.readouterr().err == f"trouble: {line}\n"
    assert context.able("x") == [other]


def test_a_peer_that_ends_after_it_has_answered_stays(home: Path) -> None:
    broken = Broken()
    with broken.serve([home], warm=False):
        pass  # whatever was asked was answered
    with pytest.raises(ConnectionError), broken.serve([home], warm=False):
        raise ConnectionError("it went away")
    assert broken.unable is None


def test_other_failures_are_told_in_one_line_too() -> None:
    context = Context([], {}, 1, True)
    with context.attempt("x, mlxk"):
        raise ValueError("one\n  two")
    assert context.trouble == ["x, mlxk: ValueError: one two"]


def test_half_an_environment_is_taken_away(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, other = Broken(), Mlxk()

    def fail(output: Path, lock: int, folder: Path, command: Sequence[str]) -> None:
        assert (folder / "tmp").is_dir()
        output.write_text("")
        raise error

    monkeypatch.setattr(environments, "_install", fail)
    error: BaseException = OSError("pip ended with 1: no such version")
    trouble: list[str] = []
    assert prepare([broken, other], trouble) == [other]
    assert trouble == ["broken: cannot run here: pip ended with 1: no such version"]
    assert not broken.environment().exists()
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        prepare([Broken()], trouble)
    assert [file.name for file in (home / "peers").iterdir()] == ["broken-1.lock"]
    with pytest.raises(CannotRun, match="no such version"), broken.serve([home]):
        pass


def test_an_environment_is_made_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def install(output: Path, lock: int, folder: Path, command: Sequence[str]) -> None:
        output.write_text("")
        asked.append(command[2])
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environments, "_install", install)
    Broken().prepare()
    Broken().prepare()
    assert asked == ["venv", "pip"]
    (Broken().environment() / "bin" / "python").unlink()  # the system's Python was replaced
    Broken().prepare()
    assert asked == ["venv", "pip"] * 2
    assert not (home / "peers" / "broken-1" / "tmp").exists()


def test_what_pip_says_is_found_among_its_warnings(tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text(
        "WARNING: a\nERROR: Could not find it\nERROR: No matching distribution\n\n[notice] new pip\n"
    )
    assert last_line(said) == "No matching distribution"
    said.write_text("")
    assert last_line(said) == "it said nothing"


def test_an_interruption_is_not_hidden_by_what_fails_on_the_way_out() -> None:
    context = Context([], {}, 1, True)

    def measure() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the limit's process ended")

    with pytest.raises(KeyboardInterrupt), context.attempt("x, limit"):
        measure()
    assert context.trouble == []


def test_a_peer_that_holds_one_model_gets_a_server_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]

    @contextlib.contextmanager
    def serve(peer: Peer, some: Sequence[Path], **_: object) -> Iterator[Served]:
        (folder,) = some
        yield Served(f"http://{folder.name}", {folder: folder.name}, 1)

    monkeypatch.setattr(Peer, "serve", serve)
    with RapidMlx().serve(folders) as served:
        assert served.url == "http://a"
        assert served.urls == {folders[0]: "http://a", folders[1]: "http://b"}
        assert [served.body(folder, {}) for folder in folders] == [{"model": "a"}, {"model": "b"}]


def test_an_older_mlx_lm_finds_rope_theta_where_it_looks(tmp_path: Path) -> None:
    command = RapidMlx().command([builtin_path()], 1, tmp_path)
    model = Path(command[2])
    config = json.loads((model / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert (model / "model.safetensors").exists()
