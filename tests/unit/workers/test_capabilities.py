"""What the store says of a model's files is what its worker says when it is loaded."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import mlx_lm.models
import pytest
from mlx_lm.utils import load_tokenizer

from mlxk.store.builtin import builtin_path
from mlxk.store.inspection import inspect_model
from mlxk.workers.markers import Markers
from mlxk.workers.model_facts import UNKNOWN_CONTEXT, context_length
from tests.unit.workers.families import HARMONY_TOKENS, XTML_TOKENS, families

TEMPLATES = {
    "function_gemma": "{{ messages }}<start_function_call>call:",
    "gemma4": "{{ messages }}<|tool_call>call:<tool_call|>",
    "glm47": "<tool_call>{{ tc.name }}<arg_key>",
    "harmony": "<|start|>assistant<|channel|>{{ messages }}",
    "json_tools": "<tool_call>{{ tool_call.name }}</tool_call>",
    "kimi_k2": "<|tool_calls_section_begin|>{{ messages }}",
    "kimi_k3": "{{ messages }}",
    "laguna": "{{ messages }}",
    "longcat": "<longcat_tool_call>{{ messages }}",
    "minicpm5": '<function name="{{ name }}"><param name="',
    "minimax_m2": "<minimax:tool_call>{{ messages }}",
    "mistral": "[TOOL_CALLS]{{ messages }}",
    "muse_spark": "<atem:function_calls>{{ messages }}",
    "pythonic": "<|tool_list_start|>{{ messages }}",
    "qwen3_coder": "<tool_call>\n<function={{ name }}>",
    "none": "{{ messages }} speaks of <tool_call> and <think>",
}
TOKENS = {"harmony": HARMONY_TOKENS, "kimi_k3": XTML_TOKENS, "gemma4": ["<|channel>", "<channel|>"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "laguna": {"tool_parser_type": "laguna"},
}


def folder_of(
    path: Path,
    template: str | None,
    *,
    tokens: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    model_type: str = "llama",
    thinks: bool = False,
) -> Path:
    """tiny's tokenizer with other added tokens, a template, and no weights."""
    found = json.loads((builtin_path() / "tokenizer.json").read_text(encoding="utf-8"))
    for added in found["added_tokens"]:
        if added["content"] in ("<think>", "</think>") and not thinks:
            added["content"] = added["content"].replace("think", "unused")
    next_id = max(added["id"] for added in found["added_tokens"]) + 1
    for number, token in enumerate(tokens or []):
        found["added_tokens"].append({**found["added_tokens"][0], "id": next_id + number, "content": token})
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", **(settings or {})}
    if template is not None:
        own["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(own))
    return path


def before_and_after(path: Path) -> tuple[list[bool], list[bool]]:
    """(tools, reasoning) by the store, and by the worker."""
    said = inspect_model(path).capabilities
    markers = Markers(load_tokenizer(path))
    return ["tools" in said, "reasoning" in said], [markers.tool_format is not None, markers.has_reasoning]


def test_every_format_has_a_template_here() -> None:
    assert set(families()) == set(TEMPLATES) - {"none"}


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_before_and_after_a_load_a_model_can_do_the_same(family: str, thinks: bool, tmp_path: Path) -> None:
    path = folder_of(
        tmp_path / "m",
        TEMPLATES[family],
        tokens=TOKENS.get(family),
        settings=SETTINGS.get(family),
        thinks=thinks,
    )
    before, after = before_and_after(path)
    assert before == after
    assert before[0] is (family != "none")
    assert before[1] is (thinks or family in TOKENS)


def test_muse_spark_is_known_by_its_model_type(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "m", "{{ messages }}", model_type="muse_spark")
    assert before_and_after(path) == ([True, True], [True, True])


def test_models_whose_code_brings_tokenizer_settings_are_known_here() -> None:
    """The store cannot import mlx_lm: another such model must be written into capabilities.py."""
    names = [module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)]
    root = Path(mlx_lm.models.__path__[0])
    bring = [name for name in names if "TOKENIZER_DEFAULTS" in _text(root / f"{name}.py")]
    assert bring == ["muse_spark"]
    defaults = importlib.import_module("mlx_lm.models.muse_spark").TOKENIZER_DEFAULTS
    assert defaults["tool_parser_type"] == defaults["chat_template_type"] == "muse_spark"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_calls_known_by_tokens_alone_and_several_templates(tmp_path: Path) -> None:
    lfm = folder_of(tmp_path / "lfm", "{{ m }}", tokens=["<|tool_call_start|>", "<|tool_call_end|>"])
    assert before_and_after(lfm) == ([True, False], [True, False])
    named: Any = [
        {"name": "default", "template": "{{ m }}"},
        {"name": "tool_use", "template": TEMPLATES["json_tools"]},
    ]
    several = folder_of(tmp_path / "several", named)
    assert before_and_after(several) == ([False, False], [False, False])


def test_tokens_far_down_a_long_list_are_found(tmp_path: Path) -> None:
    tokens = [f"<unused_{n}>" for n in range(6000)] + ["<think>", "</think>"]
    path = folder_of(tmp_path / "m", "{{ m }}", tokens=tokens)
    assert inspect_model(path).capabilities == ("chat", "reasoning")


# ------------------------------------------------------------------------- the context

CONFIGS: list[tuple[dict[str, Any], dict[str, Any], int | None]] = [
    ({"max_position_embeddings": 100}, {}, 100),
    ({"text_config": {"n_positions": 7}}, {}, 7),
    ({"llm_config": {"max_position_embeddings": 8}}, {}, 8),
    ({"n_ctx": 9}, {}, 9),
    ({"model_max_length": 10}, {}, 10),
    ({"n_positions": 11, "text_config": {"max_position_embeddings": 12}}, {}, 12),
    ({"max_seq_len": 13, "max_sequence_length": 14}, {}, 14),
    ({"max_seq_len": 13, "seq_length": 14}, {}, 13),
    ({"max_position_embeddings": 4096.0}, {}, 4096),
    ({"max_position_embeddings": True, "n_ctx": 15}, {}, 15),
    ({"max_position_embeddings": 10**30}, {}, None),
    ({"max_position_embeddings": None, "text_config": None}, {}, None),
    ({"rope_scaling": {"original_max_position_embeddings": 64, "factor": 2.0}}, {}, 128),
    ({}, {"model_max_length": 2048}, 2048),
    ({}, {"model_max_length": 10**30}, None),
    ({}, {}, None),
]


@pytest.mark.parametrize(("config", "tokenizer_config", "length"), CONFIGS)
def test_the_store_and_the_worker_agree_on_the_context(
    config: dict[str, Any], tokenizer_config: dict[str, Any], length: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert inspect_model(tmp_path).context_length == length
    assert context_length(tmp_path, config, None) == (length or UNKNOWN_CONTEXT)
    assert context_length(tmp_path, config, 5) == 5
    assert context_length(tmp_path, config, 10**9) == (length or UNKNOWN_CONTEXT)
