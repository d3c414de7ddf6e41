from __future__ import annotations

import cProfile
import hashlib
import os
import pstats
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxk.config.settings import ModelSettings, Settings, load_settings
from mlxk.store import index
from mlxk.store.catalog import Catalog, Source
from mlxk.store.errors import AmbiguousModelError, UnhealthyModelError, UnknownModelError


def catalog(*aliases: ModelSettings) -> Catalog:
    return Catalog(Settings(models={alias.name: alias for alias in aliases}))


def names(one: Catalog) -> list[str]:
    return [ref.name for ref in one.models()]


# ------------------------------------------------------------------------ what is there


def test_with_nothing_installed_the_built_in_model_is_there() -> None:
    (ref,) = catalog().models()
    assert (ref.name, ref.source, ref.revision) == ("tiny", Source.BUILTIN, None)
    assert catalog().resolve("tiny") == ref


def test_models_of_all_places_are_listed_by_name(models: Any, tmp_path: Path) -> None:
    models.in_hub("mlx-community/Qwen3-4B")
    models.in_hub("gpt2")
    models.local("mine")
    models.local("org/theirs")
    elsewhere = models.folder(tmp_path / "elsewhere")
    found = catalog(
        ModelSettings("far", path=str(elsewhere)),
        ModelSettings("fast", id="mlx-community/Qwen3-4B"),
        ModelSettings("gpt2", pinned=True),
    ).models()
    assert [(ref.name, ref.source) for ref in found] == [
        ("far", Source.CONFIG),
        ("fast", Source.CONFIG),
        ("gpt2", Source.HUB),
        ("mine", Source.LOCAL),
        ("mlx-community/Qwen3-4B", Source.HUB),
        ("org/theirs", Source.LOCAL),
        ("tiny", Source.BUILTIN),
    ]


def test_a_hub_model_carries_its_snapshot(models: Any) -> None:
    snapshot = models.in_hub("org/a", "0123456789abcdef" + "0" * 24)
    ref = catalog().resolve("org/a")
    assert ref.path == snapshot
    assert ref.revision == "0123456789abcdef" + "0" * 24
    assert ref.id == "0123456789ab"
    # The weights' own size, not the length of the link that stands for them.
    assert ref.size_bytes == (snapshot / "model.safetensors").stat().st_size > 64
    assert ref.modified_at == pytest.approx(time.time(), abs=120)


def test_a_local_model_s_id_is_a_digest_of_its_configuration(models: Any) -> None:
    path = models.local("mine")
    digest = hashlib.sha256((path / "config.json").read_bytes()).hexdigest()
    assert catalog().resolve("mine").id == digest[:12]


def test_sizes_count_what_a_load_reads(models: Any) -> None:
    path = models.local("twice")
    one_bytes = (path / "model.safetensors").stat().st_size
    models.safetensors(path / "consolidated.safetensors", 10_000)
    assert catalog().resolve("twice").size_bytes == one_bytes
    gguf = models.local("gguf")
    (gguf / "model.safetensors").unlink()
    (gguf / "a.gguf").write_bytes(bytes(123))
    sizes = {ref.name: ref.size_bytes for ref in catalog().models()}
    assert sizes["gguf"] == 123


def test_broken_models_are_listed_too(models: Any, tmp_path: Path) -> None:
    (models.local("broken") / "config.json").unlink()
    one = catalog(ModelSettings("gone", path=str(tmp_path / "gone")))
    assert names(one) == ["broken", "gone", "tiny"]


def test_what_is_no_model_is_not_listed(models: Any) -> None:
    models.local("mine")
    for folder in ("empty", "org/empty", ".hidden", "docs"):
        (models.home / "models" / folder).mkdir(parents=True, exist_ok=True)
    (models.home / "models" / "docs" / "README.md").write_text("no model")
    (models.home / "models" / "notes.txt").write_text("no model")
    models.folder(models.home / "models" / "a" / "b" / "too-deep")
    models.repo("org/begun").mkdir(parents=True)
    assert names(catalog()) == ["mine", "tiny"]


def test_a_linked_folder_is_a_local_model(models: Any, tmp_path: Path) -> None:
    target = models.folder(tmp_path / "target")
    (models.home / "models").mkdir(parents=True)
    (models.home / "models" / "linked").symlink_to(target)
    assert catalog().resolve("linked").source is Source.LOCAL


def test_a_local_model_hides_the_hub_s_and_an_alias_hides_both(models: Any, tmp_path: Path) -> None:
    models.in_hub("org/a")
    models.local("org/a")
    assert catalog().resolve("org/a").source is Source.LOCAL
    alias = ModelSettings("org/a", path=str(models.folder(tmp_path / "x")))
    assert catalog(alias).resolve("org/a").source is Source.CONFIG
    assert names(catalog(alias)) == ["org/a", "tiny"]


# ------------------------------------------------------------------------- what a name means


def test_names_resolve_in_the_order_that_is_promised(models: Any) -> None:
    models.in_hub("mlx-community/Qwen3-4B-4bit")
    models.in_hub("mlx-community/Llama")
    models.local("Llama")
    one = catalog(ModelSettings("chat", id="Llama"))
    assert one.resolve("chat").name == "chat"
    assert one.resolve("Llama").source is Source.LOCAL
    assert one.resolve("Qwen3-4B-4bit").name == "mlx-community/Qwen3-4B-4bit"
    assert one.resolve("qwen").name == "mlx-community/Qwen3-4B-4bit"
    assert one.resolve("MLX-Community/Llama").name == "mlx-community/Llama"


def test_an_alias_keeps_its_name_and_leads_to_its_target(models: Any, tmp_path: Path) -> None:
    snapshot = models.in_hub("mlx-community/Qwen3-4B")
    folder = models.folder(tmp_path / "folder")
    one = catalog(
        ModelSettings("a", id="Qwen3-4B"),
        ModelSettings("b", id="a"),
        ModelSettings("c", path=str(folder)),
        ModelSettings("my-qwen3", id="qwen"),
    )
    for name in ("a", "b", "my-qwen3"):
        ref = one.resolve(name)
        assert (ref.name, ref.path, ref.source) == (name, snapshot, Source.CONFIG)
    assert one.resolve("c").path == folder


def test_an_alias_that_leads_nowhere_says_so(models: Any, tmp_path: Path) -> None:
    models.in_hub("x/qwen-1")
    models.in_hub("x/qwen-2")
    one = catalog(
        ModelSettings("missing", id="org/none"),
        ModelSettings("there", id="back"),
        ModelSettings("back", id="there"),
        ModelSettings("vague", id="qwen"),
        ModelSettings("gone", path=str(tmp_path / "gone")),
    )
    with pytest.raises(UnhealthyModelError, match="'org/none', which is not installed"):
        one.resolve("missing")
    with pytest.raises(UnhealthyModelError, match="not installed"):
        one.resolve("there")
    with pytest.raises(UnhealthyModelError, match="fits several: x/qwen-1, x/qwen-2"):
        one.resolve("vague")
    with pytest.raises(UnhealthyModelError, match="gone does not exist"):
        one.resolve("gone")
    assert "missing" not in names(one)


def test_several_matches_are_an_error_that_lists_them(models: Any) -> None:
    models.in_hub("mlx-community/Qwen3-4B")
    models.in_hub("mlx-community/Qwen3-4B-bf16")
    with pytest.raises(AmbiguousModelError) as caught:
        catalog().resolve("qwen3")
    assert caught.value.matches == ("mlx-community/Qwen3-4B", "mlx-community/Qwen3-4B-bf16")
    assert "mlx-community/Qwen3-4B-bf16" in str(caught.value)


def test_a_typo_is_unknown_and_near_names_are_told(models: Any) -> None:
    models.in_hub("mlx-community/Qwen3-4B")
    with pytest.raises(UnknownModelError) as caught:
        catalog().resolve("Qwem3-4B")
    assert caught.value.nearest == ("mlx-community/Qwen3-4B",)
    assert "Did you mean mlx-community/Qwen3-4B?" in str(caught.value)
    with pytest.raises(UnknownModelError, match="mlxk list"):
        catalog().resolve("zzzzzz")


@pytest.mark.parametrize("name", ["", "/", "..", "../models/mine", "~/x", "mine\0", "mi\nne", "m" * 201])
def test_a_path_is_never_a_name(models: Any, name: str) -> None:
    models.local("mine")
    with pytest.raises(UnknownModelError):
        catalog().resolve(name)


def test_an_absolute_path_of_a_real_model_is_unknown(models: Any) -> None:
    with pytest.raises(UnknownModelError):
        catalog().resolve(str(models.local("mine")))


def test_a_hash_chooses_among_the_snapshots(models: Any) -> None:
    old = models.in_hub("mlx-community/a", "abc1" + "0" * 36)
    models.in_hub("mlx-community/a", "abc2" + "0" * 36)
    one = catalog(ModelSettings("pinned-down", id="mlx-community/a@abc1"))
    # The current snapshot is the model itself: it must not get a second worker under another name.
    assert one.resolve("mlx-community/a@abc2").name == "mlx-community/a"
    ref = one.resolve("a@ABC1")
    assert (ref.name, ref.path, ref.id) == ("mlx-community/a@abc100000000", old, "abc100000000")
    assert one.resolve(ref.name) == ref
    assert one.resolve("pinned-down").path == old
    with pytest.raises(AmbiguousModelError) as caught:
        one.resolve("a@abc")
    assert caught.value.matches == ("mlx-community/a@abc100000000", "mlx-community/a@abc200000000")
    with pytest.raises(UnknownModelError) as unknown:
        one.resolve("a@fff")
    assert unknown.value.nearest == ("mlx-community/a",)


def test_a_local_model_s_hash_must_fit(models: Any) -> None:
    models.local("mine")
    models.local("with@sign")
    one = catalog()
    digits = one.resolve("mine").id[:4]
    assert one.resolve(f"mine@{digits}").name == "mine"
    assert one.resolve("with@sign").name == "with@sign"
    with pytest.raises(UnknownModelError):
        one.resolve("mine@zzzz")


def test_a_broken_model_is_refused_with_its_reason(models: Any) -> None:
    snapshot = models.in_hub("org/broken")
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(UnhealthyModelError, match="its download did not finish") as caught:
        catalog().resolve("broken")
    assert caught.value.name == "org/broken"


# -------------------------------------------------------------------- changes while it runs


@pytest.fixture(params=["at once", "settled"])
def pause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: with the caution about fresh changes, and without, as if time had passed."""
    if request.param == "settled":
        monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))


@pytest.mark.usefixtures("pause")
def test_models_that_come_and_go_are_noticed(models: Any) -> None:
    one = catalog()
    for name, add in (("a", models.local), ("org/b", models.local), ("org/c", models.in_hub)):
        with pytest.raises(UnknownModelError):
            one.resolve(name)
        add(name)
        path = one.resolve(name).path
        shutil.rmtree(models.repo(name) if "snapshots" in path.parts else path)
        with pytest.raises(UnknownModelError):
            one.resolve(name)
        add(name)
        assert one.resolve(name).path == path


@pytest.mark.usefixtures("pause")
def test_a_download_that_finishes_is_noticed(models: Any) -> None:
    (models.repo("org/a") / "blobs").mkdir(parents=True)
    one = catalog()
    with pytest.raises(UnknownModelError):
        one.resolve("org/a")
    models.in_hub("org/a")
    assert one.resolve("org/a").source is Source.HUB


@pytest.mark.usefixtures("pause")
def test_a_new_snapshot_is_noticed(models: Any) -> None:
    models.in_hub("org/a", "1" * 40)
    one = catalog()
    assert one.resolve("org/a").revision == "1" * 40
    models.in_hub("org/a", "2" * 40)
    assert one.resolve("org/a").revision == "2" * 40


@pytest.mark.usefixtures("pause")
def test_a_part_of_a_name_that_becomes_ambiguous_is_noticed(models: Any) -> None:
    models.in_hub("org/qwen-1")
    (models.repo("org/qwen-2") / "blobs").mkdir(parents=True)
    one = catalog()
    assert one.resolve("qwen").name == "org/qwen-1"
    models.in_hub("org/qwen-2")
    with pytest.raises(AmbiguousModelError):
        one.resolve("qwen")


def test_damage_and_repair_are_noticed(models: Any) -> None:
    path = models.local("mine")
    one = catalog()
    one.resolve("mine")
    (path / "tokenizer.json").rename(path / "aside")
    with pytest.raises(UnhealthyModelError):
        one.resolve("mine")
    (path / "aside").rename(path / "tokenizer.json")
    one.resolve("mine")


def test_another_cache_in_the_environment_is_noticed(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.in_hub("org/a")
    one = catalog()
    one.resolve("org/a")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(UnknownModelError):
        one.resolve("org/a")


def test_a_change_within_one_tick_of_the_clock_is_seen_later(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED_NS", 10_000_000)
    models.in_hub("org/a", "1" * 40)
    fresh_ns = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(index, "_mark", lambda path: (fresh_ns, 0, 0) if os.path.exists(path) else None)
    one = catalog()
    one.resolve("org/a")
    models.in_hub("org/a", "2" * 40)  # the marks, frozen, do not show it
    deadline = time.monotonic() + 10
    while one.resolve("org/a").revision != "2" * 40:
        assert time.monotonic() < deadline


# --------------------------------------------------------------------------- what it costs


def test_the_success_path_reads_no_file(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))
    models.in_hub("mlx-community/a")
    one = catalog()
    ref = one.resolve("a")
    monkeypatch.setattr("mlxk.store.folder.os.open", lambda *_: pytest.fail("a file was read"))
    monkeypatch.setattr("mlxk.store.catalog.Index", lambda *_: pytest.fail("the places were read again"))
    assert one.resolve("a") == one.resolve("mlx-community/a") == ref


def test_two_hundred_models_cost_little(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the time is the disk, so its visits are counted. (`bench.cli` takes the seconds.)"""
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))
    one = catalog()
    visits = {}
    for first, last in ((0, 10), (10, 200)):
        for n in range(first, last):
            models.in_hub(f"mlx-community/Model-{n:03d}")
        assert len(one.models()) == last + 1
        one.resolve("Model-003")
        visits[last] = n_disk_visits(one.models), n_disk_visits(lambda: one.resolve("Model-003"))
    assert visits[200][0] < 20 * 200
    assert 0 < visits[200][1] == visits[10][1] < 20


def n_disk_visits(action: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(action)
    calls = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]  # typeshed has no name for it
    on_disk = ("stat>", "fstat>", "listdir>", "scandir>", "posix.open>", "io.open>", "'stat' of")
    return sum(call[1] for (_, _, name), call in calls if any(word in name for word in on_disk))


def test_importing_the_catalog_loads_nothing_heavy() -> None:
    code = "import sys, mlxk.store.catalog; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout.split()
    heavy = {"asyncio", "click", "difflib", "huggingface_hub", "msgspec", "mlx", "psutil", "pydantic", "zmq"}
    assert heavy.isdisjoint(loaded)


def test_aliases_of_a_real_configuration_file_are_found(models: Any) -> None:
    folder = models.folder(models.home / "weights" / "mine")
    (models.home / "config.toml").write_text('[models."mine"]\npath = "weights/mine"\n')
    assert Catalog(load_settings()).resolve("mine").path == folder


def test_gguf_files_in_one_model_do_not_swallow_its_organisation(models: Any) -> None:
    models.local("org/whole")
    gguf = models.local("org/variants")
    (gguf / "model.safetensors").rename(gguf / "m-Q4_K_M.gguf")
    names = [ref.name for ref in Catalog(load_settings({})).models()]
    assert names == ["org/variants", "org/whole", "tiny"]
