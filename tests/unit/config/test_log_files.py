"""Names of log files, their rotation, and what is thrown away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.config.crash_file import newest_crash, read_crash, write_crash
from mlxk.config.log_files import file_stem, model_log, old_file, prune, rotate

NAMES = [
    "org/Model-7B",
    "tiny@abc",
    "模型",
    "../../etc/passwd",
    "..",
    "server",
    "spare",
    "a" * 600,
    "x\0y",
    "é/ü",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_gives_a_file_in_the_folder(name: str, tmp_path: Path) -> None:
    path = model_log(tmp_path, name)
    path.write_bytes(b"x")
    assert path.parent == tmp_path
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.name not in ("server.log", "spare.log")


def test_a_plain_name_stands_for_itself_and_others_stay_readable() -> None:
    assert file_stem("tiny") == "tiny"
    assert file_stem("qwen2.5-7b") == "qwen2.5-7b"
    assert file_stem("mlx-community/Qwen").startswith("mlx-community--Qwen--")


@given(
    st.lists(
        st.text(st.sampled_from("aA/-._ é@"), min_size=1, max_size=6), min_size=2, max_size=20, unique=True
    )
)
def test_no_two_names_share_a_file_also_where_case_does_not_count(names: list[str]) -> None:
    assert len({file_stem(name).lower() for name in names}) == len(names)


def test_a_rotation_keeps_so_many_old_files(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    for number in range(5):
        path.write_text(str(number))
        rotate(path, 2)
    assert not path.exists()
    assert [old_file(path, n).read_text() for n in (1, 2)] == ["4", "3"]
    assert len(list(tmp_path.iterdir())) == 2


def _aged(path: Path, size: int, age_s: float) -> Path:
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_what_is_too_old_goes_and_nothing_that_is_no_log(tmp_path: Path) -> None:
    old = [
        _aged(tmp_path / name, 1, 100)
        for name in ("m.log", "m.log.1", "m.crash.json", "w1.log", "server.out")
    ]
    kept = [_aged(tmp_path / name, 1, 100) for name in ("notes.txt", "x.json", ".log")]
    kept.append(_aged(tmp_path / "new.log", 1, 10))
    (tmp_path / "folder.log").mkdir()
    assert sorted(prune(tmp_path, keep_s=50)) == sorted(old)
    assert all(path.exists() for path in kept)


def test_too_much_goes_old_and_full_files_first(tmp_path: Path) -> None:
    full = _aged(tmp_path / "b.log.1", 100, 5)
    idle = _aged(tmp_path / "a.log", 100, 50)
    used = _aged(tmp_path / "b.log", 100, 1)
    crash = _aged(tmp_path / "a.crash.json", 100, 50)
    assert prune(tmp_path, folder_bytes=300) == [full]
    assert prune(tmp_path, folder_bytes=250) == [idle]
    assert prune(tmp_path, folder_bytes=250) == []
    assert used.exists()
    assert crash.exists()


def test_pruning_nowhere_is_nothing(tmp_path: Path) -> None:
    assert prune(tmp_path / "none") == []


def test_the_last_crash_of_each_model_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for number, model in enumerate(["a", "org/B", "a"]):
        write_crash(folder, {"model": model, "ended_at": f"2026-01-0{number + 1}", "lines": ["\ud800 é"]})
    crash = read_crash(folder, "a")
    assert crash is not None
    assert crash["ended_at"] == "2026-01-03"
    assert read_crash(folder, "B") is None
    assert (newest_crash(folder) or {})["model"] == "a"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"model": 7}', b"\xff" * 10, b"[" * 100_000])
def test_a_broken_crash_note_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.crash.json").write_bytes(content)
    assert read_crash(tmp_path, "m") is None
    assert newest_crash(tmp_path) is None
