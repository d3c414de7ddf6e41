"""Model folders as they are found on disk: whole ones, to be broken by the tests."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

DEFAULT_CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "max_position_embeddings": 8192,
}


class ModelFactory:
    """Writes models under this test's MLXK_HOME and Hugging Face cache."""

    def __init__(self, home: Path, hub: Path) -> None:
        self.home = home
        self.hub = hub

    def safetensors(self, path: Path, n_bytes: int = 64) -> Path:
        """A file with one tensor of `n_bytes`."""
        tensor = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}
        header = json.dumps({"__metadata__": {"format": "mlx"}, "w": tensor}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(n_bytes))
        return path

    def folder(self, path: Path, config: dict[str, Any] | None = None) -> Path:
        """A whole model in `path`."""
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(DEFAULT_CONFIG | (config or {})))
        (path / "tokenizer.json").write_text('{"added_tokens": [], "normalizer": null}')
        (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        self.safetensors(path / "model.safetensors")
        return path

    def local(self, name: str, config: dict[str, Any] | None = None) -> Path:
        return self.folder(self.home / "models" / name, config)

    def repo(self, name: str) -> Path:
        return self.hub / f"models--{name.replace('/', '--')}"

    def in_hub(self, name: str, revision: str = "a" * 40, *, main: bool = True) -> Path:
        """A whole snapshot in the hub's layout: links into blobs, refs/main. Gives the snapshot's folder."""
        repo = self.repo(name)
        drafts = self.folder(self.hub.parent / "drafts" / name / revision)
        snapshot = repo / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (repo / "blobs").mkdir(exist_ok=True)
        for file in drafts.iterdir():
            blob = repo / "blobs" / hashlib.sha256(revision.encode() + file.read_bytes()).hexdigest()
            os.replace(file, blob)
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
        if main:
            self.set_main(name, revision)
        return snapshot

    def set_main(self, name: str, revision: str) -> None:
        refs = self.repo(name) / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(revision)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFactory:
    """Writes models where the store will look for them. The user's own places are out of reach."""
    for variable in [*os.environ]:
        if variable.startswith(("MLXK_", "HF_")) or variable in ("HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "mlxk-home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    factory = ModelFactory(tmp_path / "mlxk-home", tmp_path / "hf-home" / "hub")
    # The built-in model's weights are not this room's business: a stand-in has the same place in the catalog.
    builtin = factory.folder(tmp_path / "builtin" / "tiny")
    monkeypatch.setattr("mlxk.store.index.builtin_path", lambda: builtin)
    return factory
