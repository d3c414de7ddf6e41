from __future__ import annotations

import json
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


# ------------------------------------------- formats (faults of each kind: test_health)


def test_a_missing_folder_is_a_reason(tmp_path: Path) -> None:
    reason = inspect_model(tmp_path / "nowhere").reason
    assert reason is not None
    assert "nowhere does not exist" in reason


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
    assert "`mlxk convert`" in facts.reason
    assert facts.healthy
    assert not facts.usable


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
        ("<think>", ("chat",)),  # its tokens decide
        ("<atem:function_calls>", ("chat", "tools")),
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


def test_of_several_templates_none_tells_of_tools(model: Path) -> None:
    """As mlx_lm has it: nothing would read the calls."""
    named = [{"name": "default", "template": "{{ m }}"}, {"name": "tool_use", "template": TOOL_TEMPLATE}, 7]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert inspect_model(model).capabilities == ("chat",)


@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
def test_thinking_marks_among_the_tokens_are_enough(model: Path, place: str) -> None:
    tokens = [{"content": "<think>"}, {"content": "</think>"}]
    (model / "chat_template.jinja").write_text("{{ messages }}")
    if place == "tokenizer.json":
        (model / place).write_text(json.dumps({"added_tokens": tokens, "normalizer": None}))
    else:
        (model / place).write_text(json.dumps({"added_tokens_decoder": dict(enumerate(tokens))}))
    assert inspect_model(model).capabilities == ("chat", "reasoning")
