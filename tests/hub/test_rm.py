"""`mlxk rm` removes what was named, gives the bytes back, and nothing else is touched."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.conftest import NAME, Machine, StartProcess, model_files
from tests.hub.stand_in import Fault, Hub
from tests.process.watch import until
from tests.server import Server, add_fake_model, add_tiny_copy, wait_gone


def pulled(hub: Hub, machine: Machine, name: str = NAME, **more: int) -> str:
    commit = hub.add(name, model_files(**more))
    assert machine.mlxk("pull", name).code == 0
    return commit


def two_snapshots(hub: Hub, machine: Machine) -> tuple[str, str]:
    """They share all but their README."""
    old = pulled(hub, machine)
    new = hub.add(NAME, model_files() | {"README.md": b"# The second edition\n"})
    assert machine.mlxk("pull", NAME).code == 0
    return old, new


def test_without_a_terminal_and_without_yes_it_is_a_usage_error(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    before = machine.files()
    result = machine.mlxk("rm", NAME, "--json")
    assert (result.code, result.error["type"]) == (2, "usage")
    assert "--yes" in result.error["message"]
    assert machine.files() == before


def test_a_person_sees_what_goes_and_how_much_comes_back(hub: Hub, machine: Machine) -> None:
    two_snapshots(hub, machine)
    result = machine.typing("y\n", "rm", NAME)
    assert result.code == 0
    assert f"{NAME}: 300 KB, 2 snapshots" in result.err
    assert "Remove this? 300 KB come back [y/N]" in result.err
    assert result.out == f"removed {NAME}, freed 300 KB\n"
    assert machine.files() == set()
    assert not list((machine.cache / ".locks").iterdir())


@pytest.mark.parametrize("answer", ["n\n", "\n", ""], ids=["no", "default", "end of input"])
def test_who_does_not_agree_keeps_it(hub: Hub, machine: Machine, answer: str) -> None:
    pulled(hub, machine)
    before = machine.files()
    result = machine.typing(answer, "rm", NAME)
    assert result.code == 1
    assert "nothing was removed" in result.err
    assert machine.files() == before


def test_one_snapshot_goes_and_what_the_other_needs_stays(hub: Hub, machine: Machine) -> None:
    old, new = two_snapshots(hub, machine)
    result = machine.mlxk("rm", f"Small-4bit@{old[:7]}", "--yes", "--json")
    (model,) = result.data["models"]
    assert model == model | {"kind": "snapshot", "hash": old, "freed_bytes": len(b"# Small\n")}
    assert os.listdir(machine.repo() / "snapshots") == [new]
    assert machine.mlxk("pull", NAME, "--json").data["models"][0]["already_complete"] is True


def test_the_current_snapshot_goes_and_its_ref_with_it(hub: Hub, machine: Machine) -> None:
    old, new = two_snapshots(hub, machine)
    assert machine.mlxk("rm", f"{NAME}@main", "--yes").code == 0
    assert not (machine.repo() / "refs" / "main").exists()
    assert os.listdir(machine.repo() / "snapshots") == [old]
    assert f"{old[:12]}" in machine.mlxk("list").out
    assert new not in machine.mlxk("list", "--json").out


def test_with_its_last_snapshot_the_repository_goes(hub: Hub, machine: Machine) -> None:
    commit = pulled(hub, machine)
    assert machine.mlxk("rm", f"{NAME}@{commit}", "--yes").code == 0
    assert machine.files() == set()


def test_half_a_download_can_be_removed(hub: Hub, machine: Machine) -> None:
    partial = machine.repo() / "blobs" / "abc.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 5000)
    result = machine.mlxk("rm", NAME, "--yes", "--json")
    assert result.data["freed_bytes"] == 5000
    assert machine.files() == set()


def test_a_part_of_a_name_is_enough_for_a_person_only(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    refused = machine.mlxk("rm", "small", "--yes", "--json")
    assert (refused.code, refused.error["nearest"]) == (4, [NAME])
    assert machine.typing("y\n", "rm", "small").code == 0


def test_one_wrong_name_removes_nothing(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    before = machine.files()
    result = machine.mlxk("rm", NAME, "Smal-4bit", "--yes", "--json")
    assert (result.code, result.error["nearest"]) == (4, [NAME])
    assert machine.files() == before


def test_an_ambiguous_name_lists_the_matches(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    pulled(hub, machine, "org/Small-8bit")
    result = machine.mlxk("rm", "small", "--yes", "--json")
    assert (result.code, result.error["matches"]) == (4, [NAME, "org/Small-8bit"])


def test_local_models_and_their_empty_organisation_go(hub: Hub, machine: Machine) -> None:
    add_tiny_copy(machine.home, "me/mine")
    add_tiny_copy(machine.home, "other")
    assert machine.mlxk("rm", "me/mine", "--yes").code == 0
    assert os.listdir(machine.home / "models") == ["other"]


def test_tiny_aliases_and_folders_of_the_configuration_are_refused(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    folder = add_tiny_copy(machine.root / "elsewhere", "mine")
    machine.home.mkdir(exist_ok=True)
    (machine.home / "config.toml").write_text(
        f'[models."fast"]\nid = "{NAME}"\n[models."own"]\npath = "{folder}"\n'
    )
    for name, words in (("tiny", "comes with mlxk"), ("fast", f"mlxk rm {NAME}"), ("own", "does not own")):
        result = machine.mlxk("rm", name, "--yes", "--json")
        assert (result.code, result.error["type"]) == (1, "not_removable")
        assert words in result.error["message"]
    assert folder.is_dir()
    told = machine.typing("n\n", "rm", NAME)
    assert "fast of config.toml will lead nowhere" in told.err


def test_a_local_model_has_no_snapshots_to_name(hub: Hub, machine: Machine) -> None:
    add_tiny_copy(machine.home, "me/mine")
    add_tiny_copy(machine.home, "mlx-community/near")
    for name, whole in (("me/mine", "me/mine"), ("near", "mlx-community/near")):
        id = machine.mlxk("show", name, "--json").data["model"]["hash"]
        for digits in (id, id[:4], "ffff"):
            result = machine.mlxk("rm", f"{name}@{digits}", "--yes", "--json")
            assert (result.code, result.error["type"]) == (1, "not_removable")
            assert result.error["message"].endswith(f"To remove all of it: mlxk rm {whole}")
    assert "comes with mlxk" in machine.mlxk("rm", "tiny@1a2b", "--yes", "--json").error["message"]
    assert sorted(os.listdir(machine.home / "models")) == ["me", "mlx-community"]


# --------------------------------------------------------------------------- links


def test_links_are_removed_and_not_followed(hub: Hub, machine: Machine) -> None:
    commit = pulled(hub, machine)
    treasure = machine.root / "treasure"
    (treasure / "deep").mkdir(parents=True)
    (treasure / "gold").write_text("gold")
    (machine.repo() / "snapshots" / commit / "way-out").symlink_to(treasure)
    (machine.repo() / "blobs" / "way-out").symlink_to(treasure / "gold")
    assert machine.mlxk("rm", NAME, "--yes").code == 0
    assert (treasure / "gold").read_text() == "gold"
    assert (treasure / "deep").is_dir()


def test_a_model_that_is_a_link_loses_the_link_only(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    disk = machine.root / "other-disk"
    shutil.move(machine.repo(), disk)
    machine.repo().symlink_to(disk)
    result = machine.mlxk("rm", NAME, "--yes")
    assert f"removed the link {NAME}; {disk} is still there" in result.out
    assert (disk / "snapshots").is_dir()
    assert not os.path.lexists(machine.repo())


def test_a_cache_that_is_itself_reached_by_a_link_is_no_trick(hub: Hub, machine: Machine) -> None:
    disk = machine.root / "big-disk"
    disk.mkdir()
    (machine.root / "hf").symlink_to(disk)
    old, new = two_snapshots(hub, machine)
    assert machine.mlxk("rm", f"{NAME}@{old}", "--yes").code == 0
    assert os.listdir(machine.repo() / "snapshots") == [new]
    assert machine.mlxk("rm", NAME, "--yes").code == 0
    assert machine.files() == set()


def test_a_snapshot_behind_a_link_is_not_removed(hub: Hub, machine: Machine) -> None:
    old, _new = two_snapshots(hub, machine)
    disk = machine.root / "other-disk"
    shutil.move(machine.repo(), disk)
    machine.repo().symlink_to(disk)
    result = machine.mlxk("rm", f"{NAME}@{old}", "--yes", "--json")
    assert result.error["type"] == "not_removable"
    assert len(os.listdir(disk / "snapshots")) == 2


def test_blobs_that_lie_elsewhere_are_not_removed_with_a_snapshot(hub: Hub, machine: Machine) -> None:
    old, _new = two_snapshots(hub, machine)
    elsewhere = machine.root / "elsewhere"
    shutil.move(machine.repo() / "blobs", elsewhere)
    (machine.repo() / "blobs").symlink_to(elsewhere)
    count = len(os.listdir(elsewhere))
    assert machine.mlxk("rm", f"{NAME}@{old}", "--yes", "--json").error["type"] == "not_removable"
    assert len(os.listdir(elsewhere)) == count


# --------------------------------------------------------------- at the same time, and cut off


def test_a_model_that_is_being_pulled_is_refused(hub: Hub, machine: Machine, start: StartProcess) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults["model.safetensors"] = Fault(hold_after=1_000_000, times=1)
    process = start("pull", NAME)
    assert hub.holding.wait(60)
    result = machine.mlxk("rm", NAME, "--yes", "--json")
    assert result.error["type"] == "model_busy"
    hub.release.set()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_is_pulled_while_a_person_thinks_is_not_removed(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only snapshot means the repository, and all blobs are its own; until a second one comes."""
    old = pulled(hub, machine, fill=1)
    pull = list(machine.command("pull", NAME))
    new = hub.add(NAME, model_files(fill=2))

    def think(*_: object, **__: object) -> bool:
        subprocess.run(pull, env=machine.env, check=True, capture_output=True)
        return True

    with monkeypatch.context() as patch:
        patch.setattr("mlxk.cli.question.agreed", think)
        assert machine.mlxk("rm", f"{NAME}@{old}", stdin=None).code == 0
    assert os.listdir(machine.repo() / "snapshots") == [new]
    assert [one["health"] for one in machine.mlxk("list", NAME, "--json").data["models"]] == ["healthy"]


def test_two_removals_of_one_model_and_the_second_says_so(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(hub, machine)

    def think(*_: object, **__: object) -> bool:
        command = machine.command("rm", NAME, "--yes")
        subprocess.run(command, env=machine.env, check=True, capture_output=True)
        return True

    with monkeypatch.context() as patch:
        patch.setattr("mlxk.cli.question.agreed", think)
        result = machine.mlxk("rm", NAME, stdin=None)
    assert (result.code, "gone already" in result.err) == (4, True)


def test_a_blob_that_another_snapshot_links_to_by_its_whole_path_stays(hub: Hub, machine: Machine) -> None:
    old, new = two_snapshots(hub, machine)
    for link in (machine.repo() / "snapshots" / new).iterdir():
        target = link.resolve()
        link.unlink()
        link.symlink_to(target)
    real = machine.root / "real"
    (machine.root / "hf").rename(real)
    (machine.root / "hf").symlink_to(real)
    for link in (machine.repo() / "snapshots" / new).iterdir():
        target = real / link.readlink().relative_to(machine.root / "hf")
        link.unlink()
        link.symlink_to(target)
    assert machine.mlxk("rm", f"{NAME}@{old}", "--yes").code == 0
    assert [one["health"] for one in machine.mlxk("list", NAME, "--json").data["models"]] == ["healthy"]


def test_a_stray_file_does_not_make_an_organisation_removable(hub: Hub, machine: Machine) -> None:
    mine = add_tiny_copy(machine.home, "me/mine")
    (mine.parent / "config.json").write_text("{}")
    result = machine.mlxk("rm", "me", "--yes", "--json")
    assert (result.error["type"], "mine" in result.error["message"]) == ("not_removable", True)
    assert (mine / "config.json").is_file()


def test_the_lock_of_another_program_is_respected(hub: Hub, machine: Machine) -> None:
    pulled(hub, machine)
    lock = next(one for one in (machine.cache / ".locks").rglob("*.lock") if one.name != "mlxk.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert machine.mlxk("rm", NAME, "--yes", "--json").error["type"] == "model_busy"
    assert machine.mlxk("rm", NAME, "--yes").code == 0


def test_a_removal_that_was_broken_off_is_finished_by_the_next(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(hub, machine)
    with monkeypatch.context() as patch:
        patch.setattr("mlxk.store.trash.destroy", _interrupt)
        assert machine.mlxk("rm", NAME, "--yes").code == 130
    assert NAME not in machine.mlxk("list").out
    assert machine.files(), "the bytes are still there"
    result = machine.mlxk("rm", NAME, "--yes", "--json")
    assert result.data["models"][0]["kind"] == "leftover"
    assert machine.files() == set()


def _interrupt(_path: Path) -> None:
    raise KeyboardInterrupt


def test_a_killed_removal_is_finished_by_the_next(hub: Hub, machine: Machine, start: StartProcess) -> None:
    commit = pulled(hub, machine)
    many = machine.repo() / "snapshots" / commit / "many"
    many.mkdir()
    for number in range(3000):
        (many / str(number)).touch()
    process = start("rm", NAME, "--yes")
    until(lambda: not machine.repo().exists(), 60)
    process.kill()
    process.wait()
    assert NAME not in machine.mlxk("list").out
    assert machine.mlxk("rm", NAME, "--yes").code in (0, 4), "4: the first one was quicker than we"
    assert machine.files() == set()


def test_half_a_removed_snapshot_is_named_damaged_and_can_be_removed(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pulled(hub, machine, fill=1)
    pulled(hub, machine, fill=2)
    hub.repos[NAME].branches["main"] = old
    with monkeypatch.context() as patch:
        patch.setattr("mlxk.store.trash.discard", lambda *_: _interrupt(Path()))
        assert machine.mlxk("rm", f"{NAME}@{old}", "--yes").code == 130
    assert machine.mlxk("rm", f"{NAME}@{old[:9]}", "--yes").code == 0
    assert old not in str(machine.files())


# ------------------------------------------------------------------------- models in use


@pytest.fixture
def server(machine: Machine) -> Iterator[Server]:
    one = Server(
        machine.home, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "HF_HOME": machine.env["HF_HOME"]}
    )
    yield one
    one.close()


def test_a_loaded_model_is_stopped_first_under_all_its_names(
    hub: Hub, machine: Machine, server: Server
) -> None:
    add_tiny_copy(machine.home, "mine")
    (machine.home / "config.toml").write_text('[models."fast"]\nid = "mine"\n')
    server.call("reload")
    server.call("load", {"models": ["mine", "fast", "tiny"]})
    pids = [server.ps()[name]["pid"] for name in ("mine", "fast")]
    result = machine.mlxk("rm", "mine", "--yes", "--json")
    assert sorted(result.data["models"][0]["stopped"]) == ["fast", "mine"]
    assert not (machine.home / "models" / "mine").exists()
    assert wait_gone(pids, 20) == []
    assert server.ps()["tiny"]["pid"]


def test_a_busy_model_is_removed_when_its_requests_are_done(
    hub: Hub, machine: Machine, server: Server, start: StartProcess
) -> None:
    add_fake_model(machine.home, "slow", step_s=0.05)
    server.call("load", {"models": ["slow"]})
    asking = start("run", "slow", "hello", "--max-tokens", "60")
    server.wait_for(lambda models: models["slow"]["in_flight"] == 1)
    result = machine.mlxk("rm", "slow", "--yes", "--json")
    assert result.data["models"][0]["stopped"] == ["slow"]
    asking.communicate(timeout=60)
    assert asking.returncode == 0


def test_what_runs_without_files_can_still_be_stopped_by_name(machine: Machine, server: Server) -> None:
    folder = add_tiny_copy(machine.home, "mine")
    server.call("load", {"models": ["mine"]})
    shutil.rmtree(folder)
    assert server.call("stop", {"models": ["mine"]})["models"][0]["stopped"] is True
