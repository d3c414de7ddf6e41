from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxk.store.builtin import builtin_path
from mlxk.store.inspection import inspect_model

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123456789\n"


@pytest.fixture
def model(models: Any, tmp_path: Path) -> Path:
    return Path(models.folder(tmp_path / "model"))


def test_a_whole_model_is_healthy(model: Path) -> None:
    facts = inspect_model(model)
    assert facts.reason is None
    assert facts.healthy
    assert (facts.model_type, facts.architecture) == ("qwen3", "Qwen3ForCausalLM")
    assert facts.context_length == 8192
    assert facts.framework == "MLX"
    assert facts.quantization is None


def test_the_built_in_model_is_healthy_and_says_what_it_can() -> None:
    facts = inspect_model(builtin_path())
    assert facts.reason is None
    assert facts.capabilities == ("chat", "tools", "reasoning")
    assert facts.context_length == 8192


# --------------------------------------------------------------------------- health


def truncate(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])


def write_header(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda m: (m / "config.json").unlink(), "config.json is missing"),
    "empty config": (lambda m: (m / "config.json").write_text(""), "config.json is empty"),
    "cut config": (lambda m: truncate(m / "config.json", 20), "config.json is not valid JSON"),
    "list as config": (lambda m: (m / "config.json").write_text("[]"), "config.json holds no JSON object"),
    "deep config": (lambda m: (m / "config.json").write_text("[" * 100_000), "config.json is not valid JSON"),
    "binary config": (
        lambda m: (m / "config.json").write_bytes(b"\xff\x00\xfe"),
        "config.json is not valid JSON",
    ),
    "no model_type": (lambda m: (m / "config.json").write_text("{}"), "names no model_type"),
    "pointer as config": (
        lambda m: (m / "config.json").write_bytes(LFS_POINTER),
        "config.json is a Git LFS pointer",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "has no weights"),
    "empty weights": (lambda m: (m / "model.safetensors").write_bytes(b""), "only 0 bytes long"),
    "tiny weights": (lambda m: (m / "model.safetensors").write_bytes(b"1234"), "only 4 bytes long"),
    "cut header": (lambda m: truncate(m / "model.safetensors", 30), "ends inside its header"),
    "cut data": (lambda m: truncate(m / "model.safetensors", -1), "is cut off"),
    "too long": (
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes() + b"!"),
        "is longer than its header says",
    ),
    "pointer as weights": (
        lambda m: (m / "model.safetensors").write_bytes(LFS_POINTER),
        "model.safetensors is a Git LFS pointer, not the file itself (run `git lfs pull`",
    ),
    "header is no JSON": (
        lambda m: write_header(m / "model.safetensors", b"{{{}"),
        "its header cannot be read",
    ),
    "header is a list": (
        lambda m: write_header(m / "model.safetensors", b"[1]"),
        "its header cannot be read",
    ),
    "header without offsets": (
        lambda m: write_header(m / "model.safetensors", b'{"w": {}}'),
        "its header cannot be read",
    ),
    "absurd header length": (
        lambda m: write_header(m / "model.safetensors", b"{}", 2**63),
        "impossible length",
    ),
    "other weight names": (
        lambda m: (m / "model.safetensors").rename(m / "consolidated.safetensors"),
        "rename consolidated.safetensors",
    ),
    "dangling weights": (
        lambda m: ((m / "model.safetensors").unlink(), (m / "model.safetensors").symlink_to("../blobs/none")),
        "model.safetensors is not in the cache: its download did not finish",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer"),
    "cut tokenizer": (
        lambda m: truncate(m / "tokenizer.json", 20),
        "tokenizer.json is not a whole JSON object",
    ),
    "empty tokenizer": (lambda m: (m / "tokenizer.json").write_text(""), "tokenizer.json is empty"),
    "pointer as tokenizer": (
        lambda m: (m / "tokenizer.json").write_bytes(LFS_POINTER),
        "tokenizer.json is a Git LFS pointer",
    ),
    "dangling tokenizer": (
        lambda m: ((m / "tokenizer.json").unlink(), (m / "tokenizer.json").symlink_to("../blobs/none")),
        "tokenizer.json is not in the cache",
    ),
    "cut tokenizer_config": (
        lambda m: truncate(m / "tokenizer_config.json", 5),
        "tokenizer_config.json is not valid JSON",
    ),
    "pipe as config": (
        lambda m: ((m / "config.json").unlink(), os.mkfifo(m / "config.json")),
        "config.json cannot be read",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_each_fault_is_reported_in_its_own_words(model: Path, breakage: str) -> None:
    damage, words = BREAKAGES[breakage]
    damage(model)
    facts = inspect_model(model)
    assert not facts.healthy
    assert facts.reason is not None
    assert words in facts.reason


def test_a_missing_folder_is_a_reason(tmp_path: Path) -> None:
    reason = inspect_model(tmp_path / "nowhere").reason
    assert reason is not None
    assert "there are no files" in reason


def test_shards_are_complete_or_the_lost_one_is_named(models: Any, model: Path) -> None:
    (model / "model.safetensors").unlink()
    shards = [models.safetensors(model / f"model-0000{n}-of-00003.safetensors") for n in (1, 2, 3)]
    assert inspect_model(model).healthy
    weight_map = {f"w{n}": shard.name for n, shard in enumerate(shards)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert inspect_model(model).healthy
    shards[1].unlink()
    reason = inspect_model(model).reason
    assert reason is not None
    assert "model-00002-of-00003.safetensors of 3 weight files is missing" in reason


def test_a_lost_shard_shows_without_an_index(models: Any, model: Path) -> None:
    (model / "model.safetensors").unlink()
    models.safetensors(model / "model-00002-of-00003.safetensors")
    reason = inspect_model(model).reason
    assert reason is not None
    assert "model-00001-of-00003.safetensors and 1 more of 3" in reason


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not valid JSON"), ("{}", "holds no weight_map"), ("[]", "no JSON object")]
)
def test_a_broken_shard_index_is_a_reason(model: Path, text: str, words: str) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    reason = inspect_model(model).reason
    assert reason is not None
    assert reason.startswith("model.safetensors.index.json")
    assert words in reason


@pytest.mark.parametrize(
    ("file", "framework", "words"),
    [
        ("model-Q4_K_M.gguf", "GGUF", "GGUF weights only"),
        ("Q4/model.gguf", "GGUF", "GGUF weights only"),
        ("pytorch_model.bin", "PyTorch", "PyTorch weights only"),
        ("weights.npz", "MLX", "format of early MLX"),
    ],
)
def test_foreign_formats_are_named_with_what_to_do(
    model: Path, file: str, framework: str, words: str
) -> None:
    (model / "model.safetensors").unlink()
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_bytes(b"weights")
    facts = inspect_model(model)
    assert facts.framework == framework
    assert facts.reason is not None
    assert words in facts.reason
    assert "convert with" in facts.reason


def test_a_repaired_model_is_healthy_at_once(models: Any, model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    truncate(model / "model.safetensors", -1)
    assert not inspect_model(model).healthy
    (model / "model.safetensors").write_bytes(whole)
    assert inspect_model(model).healthy


def test_an_unchanged_model_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = inspect_model(model)
    monkeypatch.setattr("mlxk.store.inspection._inspect", lambda folder: pytest.fail("read again"))
    assert inspect_model(model) is facts


# --------------------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"vision_config": {"max_position_embeddings": 77}}, None),
        ({"max_sequence_length": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"seq_length": 32768}, 32768),
        ({"max_position_embeddings": 4096, "n_positions": 1}, 4096),
        ({"rope_scaling": {"original_max_position_embeddings": 8192, "factor": 4.0}}, 32768),
        ({"rope_scaling": {"original_max_position_embeddings": 8192, "factor": "x"}}, 8192),
        ({"max_position_embeddings": 8192.0}, 8192),
        ({"max_position_embeddings": "8192"}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": 1e30}, None),
        ({"text_config": 3, "rope_scaling": None}, None),
        ({}, None),
    ],
)
def test_the_context_length_is_found_where_models_say_it(
    model: Path, config: dict[str, Any], length: int | None
) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    assert inspect_model(model).context_length == length


def test_the_tokenizer_s_length_is_the_last_resort_when_sane(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "x"}')
    (model / "tokenizer_config.json").write_text('{"model_max_length": 2048}')
    assert inspect_model(model).context_length == 2048
    (model / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert inspect_model(model).context_length is None


def test_quantization_is_told_without_its_long_list_of_layers(model: Path) -> None:
    layers = {f"model.layers.{n}": {"bits": 8, "group_size": 64} for n in range(3)}
    table = {"bits": 4, "group_size": 64, "mode": "affine", **layers}
    (model / "config.json").write_text(json.dumps({"model_type": "x", "quantization": table}))
    expected = {"bits": 4, "group_size": 64, "mode": "affine", "layer_overrides": 3}
    assert inspect_model(model).quantization == expected
    (model / "config.json").write_text(
        '{"model_type": "x", "quantization_config": {"quant_method": "mxfp4"}}'
    )
    assert inspect_model(model).quantization == {"quant_method": "mxfp4"}


TOOL_TEMPLATE = "{% for tool_call in m.tool_calls %}<tool_call>{{ tool_call.name }}</tool_call>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, ()),
        ("{{ messages }}", ("chat",)),
        (TOOL_TEMPLATE, ("chat", "tools")),
        ("<tool_call>", ("chat",)),
        ("[TOOL_CALLS]", ("chat", "tools")),
        ("<think>", ("chat", "reasoning")),
        ("<|start|>assistant<|channel|>final", ("chat", "reasoning")),
        (TOOL_TEMPLATE + "<think>", ("chat", "tools", "reasoning")),
    ],
)
@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
def test_capabilities_are_read_from_the_template_wherever_it_is(
    model: Path, template: str | None, expected: tuple[str, ...], place: str
) -> None:
    if template is not None:
        text = template if place.endswith("jinja") else json.dumps({"chat_template": template})
        (model / place).write_text(text)
    assert inspect_model(model).capabilities == expected


def test_several_templates_count_together(model: Path) -> None:
    named = [{"name": "default", "template": "{{ m }}"}, {"name": "tool_use", "template": TOOL_TEMPLATE}, 7]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert inspect_model(model).capabilities == ("chat", "tools")


def test_thinking_markers_among_the_tokens_are_enough(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "tokenizer.json").write_text('{"added_tokens": [{"content": "<think>"}], "normalizer": null}')
    assert inspect_model(model).capabilities == ("chat", "reasoning")
