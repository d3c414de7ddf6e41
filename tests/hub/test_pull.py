"""`mlxk pull` brings what a model needs, whole, however the line behaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from typing import IO

import pytest

from tests.hub.conftest import NAME, Machine, model_files, weights
from tests.hub.stand_in import Fault, Hub, etag_of

WEIGHTS = "model.safetensors"


def test_a_bare_name_is_one_of_mlx_community_and_only_needed_files_come(hub: Hub, machine: Machine) -> None:
    commit = hub.add(NAME, model_files())
    result = machine.mlxk("pull", "Small-4bit", "--json")
    assert result.code == 0
    model = result.data["models"][0]
    assert model == model | {"name": NAME, "hash": commit, "files": 5, "already_complete": False}
    assert model["downloaded_bytes"] == model["size_bytes"]
    assert model["health"] == "healthy"
    names = {path.name for path in (machine.repo() / "snapshots" / commit).rglob("*")}
    assert names == {"README.md", "config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
    assert (machine.repo() / "refs" / "main").read_text() == commit
    assert machine.partials() == []


def test_huggingface_hub_and_mlx_lm_find_what_we_pulled(hub: Hub, machine: Machine) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    commit = hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    scan = scan_cache_dir(machine.cache)
    assert scan.warnings == []
    (repo,) = scan.repos
    assert (repo.repo_id, repo.size_on_disk) == (
        NAME,
        sum(path.stat().st_size for path in (machine.repo() / "blobs").iterdir()),
    )
    found = try_to_load_from_cache(NAME, WEIGHTS, cache_dir=machine.cache)
    assert isinstance(found, str)
    assert commit in found


def test_huggingface_hub_and_we_go_on_with_what_the_other_left(hub: Hub, machine: Machine) -> None:
    """The files that mlx_lm asks for, by the real `snapshot_download`, in processes of their own: it reads
    HF_HOME at its import. It also leaves a list of all files (`trees/`), which makes it stricter offline."""
    asked = "allow_patterns=['*.json', 'model*.safetensors', '*.txt', '*.jinja']"

    def theirs(name: str, more: str = "") -> str:
        code = f"from huggingface_hub import snapshot_download as s; print(s({name!r}, {asked}, {more}))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=machine.env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    commit = hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    came = len(hub.gets(WEIGHTS))
    assert theirs(NAME).endswith(commit)
    assert len(hub.gets(WEIGHTS)) == came, "it takes our blobs for its own"
    assert theirs(NAME, "local_files_only=True").endswith(commit)
    hub.add("org/Theirs", model_files(fill=3))
    theirs("org/Theirs")
    came = len(hub.gets(WEIGHTS))
    pulled = machine.mlxk("pull", "org/Theirs", "--json").data["models"][0]
    assert (pulled["health"], len(hub.gets(WEIGHTS))) == ("healthy", came)
    assert machine.mlxk("rm", "org/Theirs", NAME, "--yes").code == 0
    assert machine.files() == set()


def test_program_code_comes_only_if_the_model_cannot_do_without(hub: Hub, machine: Machine) -> None:
    files = model_files() | {"modeling_x.py": b"import os"}
    hub.add("org/plain", files)
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModel": "modeling_x.X"}}
    hub.add("org/coded", files | {"config.json": json.dumps(config).encode()})
    machine.mlxk("pull", "org/plain")
    machine.mlxk("pull", "org/coded")
    assert not list(machine.repo("org/plain").rglob("*.py"))
    assert list(machine.repo("org/coded").rglob("*.py"))


@pytest.mark.parametrize("kind", ["branch", "tag", "commit", "short", "capitals", "page"])
def test_a_revision_can_be_named_in_every_way(hub: Hub, machine: Machine, kind: str) -> None:
    old = hub.add(NAME, model_files(fill=1))
    new = hub.add(NAME, model_files(fill=2))
    hub.repos[NAME].branches |= {"dev/one": old, "v1.0": old}
    word = {
        "branch": f"{NAME}@dev/one",
        "tag": f"{NAME}@v1.0",
        "commit": f"{NAME}@{old}",
        "short": f"{NAME}@{old[:8]}",
        "capitals": f"{NAME}@{old[:8].upper()}",
        "page": f"https://huggingface.co/{NAME}/tree/dev/one",
    }[kind]
    assert machine.mlxk("pull", word, "--json").data["models"][0]["hash"] == old
    assert machine.mlxk("pull", NAME, "--json").data["models"][0]["hash"] == new
    again = machine.mlxk("pull", word, "--json").data["models"][0]
    assert (again["name"], again["already_complete"]) == (f"{NAME}@{old[:12]}", True)
    refs = {path.name for path in (machine.repo() / "refs").rglob("*") if path.is_file()}
    assert refs == {"main"} | {"branch": {"one"}, "page": {"one"}, "tag": {"v1.0"}}.get(kind, set())


def test_an_alias_of_the_configuration_leads_to_its_id(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.home.mkdir()
    (machine.home / "config.toml").write_text(f'[models."fast"]\nid = "{NAME}"\n')
    assert machine.mlxk("pull", "fast", "--json").data["models"][0]["name"] == NAME


def test_the_second_time_nothing_is_asked_for_but_the_list(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    hub.requests.clear()
    result = machine.mlxk("pull", NAME)
    assert result.code == 0
    assert "is up to date" in result.out
    assert [one.path for one in hub.requests if "/resolve/" in one.path][1:] == []


def test_complete_models_are_fine_without_the_hub(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = machine.mlxk("pull", NAME, "--json")
    assert result.data["models"][0] == result.data["models"][0] | {"already_complete": True, "checked": False}
    exact = machine.mlxk("pull", f"{NAME}@{commit}", "--json")
    assert exact.data["models"][0]["checked"] is True
    assert machine.run("pull", NAME, HF_HUB_OFFLINE="1").code == 0


def test_a_new_commit_brings_only_what_changed_and_takes_over_last(hub: Hub, machine: Machine) -> None:
    old = hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    new = hub.add(NAME, model_files() | {"README.md": b"# New\n"})
    hub.faults["README.md"] = Fault(status=500, times=99)
    machine.monkeypatch.setattr("mlxk.store.retries.wait_s", lambda *_: None)
    assert machine.mlxk("pull", NAME).code == 1
    assert (machine.repo() / "refs" / "main").read_text() == old
    hub.faults.clear()
    result = machine.mlxk("pull", NAME, "--json").data["models"][0]
    assert (result["hash"], result["downloaded_bytes"]) == (new, len(b"# New\n"))
    assert (machine.repo() / "refs" / "main").read_text() == new


# ------------------------------------------------------------------------- a bad line


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    hub.storage_faults[WEIGHTS] = Fault(cut_after=100_000, times=2)
    result = machine.mlxk("pull", NAME, "--json")
    assert result.code == 0
    ranges = [one.range for one in hub.requests if one.path.startswith("/storage/") and one.method == "GET"]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert result.data["models"][0]["downloaded_bytes"] == result.data["models"][0]["size_bytes"]


def test_a_line_that_stays_dead_is_given_up_and_what_came_is_kept(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    hub.storage_faults[WEIGHTS] = Fault(cut_after=1000, times=1)
    machine.monkeypatch.setattr("mlxk.store.retries.wait_s", lambda *_: None)
    result = machine.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "download_failed"
    (partial,) = machine.partials()
    assert partial.stat().st_size == 1000
    assert "no weights" in machine.mlxk("list").out or "unhealthy" in machine.mlxk("list").out
    machine.mlxk("pull", NAME)
    assert [one.range for one in hub.gets(WEIGHTS) if one.path.startswith("/storage/")][-1] == "bytes=1000-"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_of_a_file_is_tried_again(hub: Hub, machine: Machine, status: int) -> None:
    hub.add(NAME, model_files())
    hub.storage_faults[WEIGHTS] = Fault(status=status, retry_after="0", times=3)
    result = machine.mlxk("pull", NAME)
    assert result.code == 0
    assert f"the hub answered {status}" in result.err


def test_a_server_that_knows_no_ranges_sends_all_again(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    hub.storage_faults[WEIGHTS] = Fault(cut_after=100_000, ignore_range=True, times=1)
    hub.storage_faults["/" + WEIGHTS] = Fault(ignore_range=True)
    result = machine.mlxk("pull", NAME, "--json").data["models"][0]
    assert result["health"] == "healthy"
    assert result["downloaded_bytes"] == result["size_bytes"] + 100_000


def test_a_partial_longer_than_the_file_is_thrown_away(hub: Hub, machine: Machine) -> None:
    files = model_files()
    hub.add(NAME, files)
    partial = machine.repo() / "blobs" / (etag_of(files[WEIGHTS]) + ".incomplete")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 400_000)
    assert machine.mlxk("pull", NAME, "--json").data["models"][0]["health"] == "healthy"


def test_a_damaged_partial_is_found_by_its_checksum(hub: Hub, machine: Machine) -> None:
    files = model_files()
    hub.add(NAME, files)
    partial = machine.repo() / "blobs" / (etag_of(files[WEIGHTS]) + ".incomplete")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    result = machine.mlxk("pull", NAME)
    assert result.code == 0
    assert "arrived damaged; once more" in result.err
    blob = machine.repo() / "blobs" / etag_of(files[WEIGHTS])
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


@pytest.mark.parametrize(
    ("change", "kind"),
    [(lambda data: data[:-1] + b"?", "checksum_mismatch"), (lambda data: data + b"more", "size_mismatch")],
    ids=["other bytes", "too long"],
)
def test_other_contents_than_announced_are_not_kept(
    hub: Hub, machine: Machine, change: object, kind: str
) -> None:
    files = model_files()
    hub.add(NAME, files)
    assert callable(change)
    wrong = change(files[WEIGHTS])
    hub.storage_faults[WEIGHTS] = Fault(content=wrong, announce=len(wrong))
    assert machine.mlxk("pull", NAME, "--json").error["type"] == kind
    assert not (machine.repo() / "blobs" / etag_of(files[WEIGHTS])).exists()
    assert all(path.stat().st_size == 0 for path in machine.partials())


def test_a_short_file_is_never_taken_for_whole(hub: Hub, machine: Machine) -> None:
    files = model_files()
    hub.add(NAME, files)
    hub.storage_faults[WEIGHTS] = Fault(content=files[WEIGHTS][:5000], announce=5000)
    machine.monkeypatch.setattr("mlxk.store.retries.wait_s", lambda *_: None)
    result = machine.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "download_failed"
    assert f"5000 of {len(files[WEIGHTS])} bytes" in result.error["message"]


def test_pulling_again_mends_a_damaged_model(hub: Hub, machine: Machine) -> None:
    files = model_files()
    commit = hub.add(NAME, files)
    machine.mlxk("pull", NAME)
    blob = machine.repo() / "blobs" / etag_of(files[WEIGHTS])
    os.truncate(blob, 1000)
    (machine.repo() / "snapshots" / commit / "tokenizer.json").unlink()
    assert "unhealthy" in machine.mlxk("list", "--json").out
    result = machine.mlxk("pull", NAME, "--json").data["models"][0]
    assert (result["health"], result["already_complete"]) == ("healthy", False)
    assert blob.stat().st_size == len(files[WEIGHTS])


def test_damage_that_leaves_the_length_is_mended_too(hub: Hub, machine: Machine) -> None:
    """As `mlxk health` advises it. A disk that filled up, or a download into a file of the final length."""
    files = model_files()
    hub.add(NAME, files)
    machine.mlxk("pull", NAME)
    blob = machine.repo() / "blobs" / etag_of(files[WEIGHTS])
    with blob.open("r+b") as file:
        file.write(bytes(200))
    assert "mlxk pull" in machine.mlxk("health", NAME).out
    before = len(hub.gets("tokenizer.json"))
    result = machine.mlxk("pull", NAME)
    assert (result.code, "model.safetensors is damaged on this disk" in result.err) == (0, True)
    assert len(hub.gets("tokenizer.json")) == before, "what is intact does not come again"
    assert blob.read_bytes() == files[WEIGHTS]


def test_files_too_large_for_plain_http_are_left_to_huggingface_hub(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.monkeypatch.setattr("mlxk.store.model_download._LARGEST_HTTP", 100_000)
    assert machine.mlxk("pull", NAME, "--json").data["models"][0]["health"] == "healthy"


def test_a_broken_set_of_shards_is_said_at_the_end(hub: Hub, machine: Machine) -> None:
    files = model_files()
    files["model-00001-of-00002.safetensors"] = files.pop(WEIGHTS)
    hub.add(NAME, files)
    result = machine.mlxk("pull", NAME)
    assert result.code == 0
    assert "it cannot be used: model-00002-of-00002.safetensors" in result.err


def test_a_disk_that_fills_up_is_named_and_what_came_is_kept(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files(3_000_000))

    def full(output: IO[bytes], chunk: bytes) -> None:
        if output.tell() >= 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        output.write(chunk)

    with machine.monkeypatch.context() as patch:
        patch.setattr("mlxk.store.blob_download._write_all", full)
        result = machine.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "no_space"
    assert "the same command goes on" in result.error["message"]
    assert machine.partials()[0].stat().st_size >= 1_000_000
    assert machine.mlxk("pull", NAME, "--json").data["models"][0]["downloaded_bytes"] < 2_100_000


def test_several_models_and_the_failure_of_one(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    result = machine.mlxk("pull", NAME, "none", "--json")
    assert result.code == 4
    assert [one["name"] for one in result.error["pulled"]] == [NAME]


# -------------------------------------------------------------------------- what is said


def test_stdout_is_one_sentence_and_the_progress_is_on_stderr(hub: Hub, machine: Machine) -> None:
    commit = hub.add(NAME, model_files())
    result = machine.run("pull", NAME)
    assert len(result.out.splitlines()) == 1
    assert result.out.startswith(f"pulled {NAME}: 300 KB in ")
    assert result.out.rstrip().endswith(f"/s), {commit[:12]}")
    assert result.err.startswith(f"pulling {NAME} at {commit[:12]}: 5 files, 300 KB\n")


def test_no_telemetry_and_no_xet_is_asked_for(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    paths = {one.path.split("/")[1] for one in hub.requests}
    assert paths == {"api", "mlx-community", "storage"}
    assert all(one.agent.startswith("mlxk/") for one in hub.requests)


def test_weights_are_announced_as_large_by_the_stand_in() -> None:
    assert len(etag_of(weights(300_000))) == 64
