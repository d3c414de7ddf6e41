"""Which of a repository's files a model needs, and whether MLX can load what they make. Pure functions."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from mlxk.store.hub_client import RemoteFile

NEEDED = (
    "*.json",
    "*.jsonl",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "model*.safetensors",
)
"""What mlx_lm downloads (its DEFAULT_ALLOW_PATTERNS), but without program code, see `needs_code`."""
WANTED = ("README.md", "LICENSE*", "USE_POLICY*", "NOTICE*")
"""What nobody needs and everybody should have."""
_TEMPLATES = "additional_chat_templates/*.jinja"
_CODE = "*.py"
_CODE_KEYS = ("auto_map", "model_file")
"""Keys of config.json and tokenizer_config.json that name a file of program code."""


def files_to_pull(files: Iterable[RemoteFile], *, with_code: bool, everything: bool) -> list[RemoteFile]:
    """Those that are downloaded: what explains the model first and small before large, so that a download
    that is broken off can be named for what it is; the weights last."""
    patterns = (*NEEDED, *WANTED, *((_CODE,) if with_code else ()))
    chosen = [one for one in files if everything or _is_chosen(one.name, patterns)]
    return sorted(chosen, key=lambda one: (is_weight(one.name), _rank(one)))


def _rank(file: RemoteFile) -> tuple[int, str]:
    return (0, file.name) if is_weight(file.name) else (file.size_bytes, file.name)


def _is_chosen(name: str, patterns: tuple[str, ...]) -> bool:
    if "/" in name:
        return fnmatch.fnmatchcase(name, _TEMPLATES)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_weight(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz", ".h5", ".onnx"))


def has_code(files: Iterable[RemoteFile]) -> bool:
    return any("/" not in one.name and one.name.endswith(".py") for one in files)


def needs_code(*configs: Mapping[str, Any]) -> bool:
    """Whether the model cannot be loaded without its own program code. It is never run unless the
    configuration says so."""
    return any(config.get(key) for config in configs for key in _CODE_KEYS)


def format_problem(repo_id: str, files: Iterable[RemoteFile], config: Mapping[str, Any]) -> str | None:
    """Why this is no model that MLX can load, and what to do; None if it may be one."""
    names = [one.name for one in files]
    top = [name for name in names if "/" not in name]
    if any(fnmatch.fnmatchcase(name, "model*.safetensors") for name in top):
        if "config.json" not in top:
            return f"{repo_id} has weights but no config.json: it is part of a model (an adapter?)"
        if not config.get("model_type"):
            return f"{repo_id}'s config.json names no model_type: it is no language model"
        return None
    if any(name.endswith(".gguf") for name in names):
        return (
            f"{repo_id} holds GGUF weights only, which MLX cannot load. Look for the same model in MLX "
            "format (mlx-community has most), or pull the original with safetensors and make it smaller "
            "with `mlxk convert`"
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return (
            f"{repo_id} holds PyTorch weights only, which MLX cannot load. Look for a repository with "
            "safetensors; `mlxk convert` makes a quantized MLX model of one"
        )
    if any(name.endswith(".safetensors") for name in names):
        return (
            f"{repo_id} has no model*.safetensors, which is what mlx_lm loads (it has "
            f"{next(name for name in names if name.endswith('.safetensors'))}): no language model, or an "
            "adapter"
        )
    if any(name.endswith((".npz", ".onnx", ".h5")) for name in names):
        return f"{repo_id} holds weights in a format that mlx_lm does not load"
    return f"{repo_id} holds no weights"
