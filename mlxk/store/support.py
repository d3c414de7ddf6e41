"""Can the installed MLX and mlx_lm run this model? Read from its files and from mlx_lm's; imports neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from mlxk.store import config_facts
from mlxk.store.architectures import known_architectures
from mlxk.store.config_values import value_faults
from mlxk.store.faults import Fault, unsupported, warning
from mlxk.store.folder import Folder
from mlxk.store.weight_formats import (
    AFFINE_BITS,
    AFFINE_GROUPS,
    FIXED_MODES,
    SINCE_MLX,
    quantization_tables,
)

_KNOWN_METHODS = ("bitnet", "mxfp4", "mxfp8", "fp8", "compressed-tensors", "modelopt", "awq", "gptq")
"""Foreign quantizations that `mlx_lm.utils.load_model` takes in (of some of them only one kind)."""
_KNOWN_COMPRESSED = ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "pack-quantized")
_MLX_WEIGHTS = "pull a version in MLX format (mlx-community has many)"
_OTHER_TASKS = {
    "ForSequenceClassification": "classify texts",
    "ForTokenClassification": "classify words",
    "ForQuestionAnswering": "mark answers in a text",
    "ForMaskedLM": "fill in masked words",
    "ForMultipleChoice": "choose among answers",
    "ForImageClassification": "classify images",
    "ForCTC": "transcribe speech",
    "ForSpeechSeq2Seq": "transcribe speech",
}


def format_faults(folder: Folder) -> Iterator[Fault]:
    """Weights that are no safetensors. Where there are safetensors too, mlx_lm reads those."""
    if folder.ending(".safetensors"):
        return
    if folder.ending(".gguf"):
        yield unsupported(
            "gguf",
            "it holds GGUF weights only, which are for llama.cpp and Ollama",
            f"{_MLX_WEIGHTS}, or convert the original safetensors with `mlxk convert`",
        )
    elif folder.ending(".npz"):
        yield unsupported(
            "npz_weights",
            "its weights.npz is a format of early MLX, which mlx_lm does not read any more",
            f"{_MLX_WEIGHTS}, or convert the original safetensors again with `mlxk convert`",
        )
    elif folder.ending(".bin", ".pt", ".pth"):
        yield unsupported(
            "pickled_weights",
            "it holds PyTorch weights only (pickled: to load them can run code), which MLX cannot read",
            f"{_MLX_WEIGHTS} or with safetensors, or convert with transformers (`save_pretrained` writes "
            "safetensors) and then with `mlxk convert`",
        )


def architecture_faults(folder: Folder, config: Mapping[str, Any], *, trusted: bool) -> Iterator[Fault]:
    """Is there an implementation in mlx_lm, or one of the model's own that may be run?"""
    own_code = config.get("model_file")
    if isinstance(own_code, str) and own_code:
        if not trusted:
            yield unsupported(
                "custom_code",
                f"its architecture is code of its own ({own_code}), which is not run unasked",
                "if you trust it, set trust_remote_code = true for this model in config.toml",
            )
        return
    model_type, known = config_facts.model_type(config), known_architectures()
    if model_type is None or known is None:
        return
    module = known.module_of(config)
    if module is None:
        yield _unknown_architecture(folder, config, model_type)
        return
    if missing := known.missing_packages(module):
        yield unsupported(
            "missing_package",
            f"mlx_lm's implementation of {model_type!r} needs {', '.join(missing)}, which is not installed",
            f"install it beside mlxk (pip install {' '.join(_PACKAGE_OF.get(one, one) for one in missing)})",
        )
    yield from value_faults(folder, config, known, module)
    yield from _other_task(folder, config)


_PACKAGE_OF = {"hf_olmo": "ai2-olmo"}


def _unknown_architecture(folder: Folder, config: Mapping[str, Any], model_type: str) -> Fault:
    if folder.named("modules.json") or folder.named("config_sentence_transformers.json"):
        return unsupported(
            "not_a_language_model",
            f"it is an embedding model ({model_type!r}); mlxk serves models that write text",
            "use it with mlx-embeddings or sentence-transformers",
        )
    if task := _task_of(config):
        return unsupported(
            "not_a_language_model",
            f"it is made to {task} ({model_type!r}); mlxk serves models that write text",
            "use it with the library that it was made for",
        )
    if any(isinstance(config.get(key), dict) for key in ("vision_config", "audio_config")):
        return unsupported(
            "unsupported_architecture",
            f"mlx_lm has no model type {model_type!r}; this is a model for images or sound",
            "use it with mlx-vlm or mlx-audio",
        )
    return unsupported(
        "unsupported_architecture",
        f"mlx_lm {_version_of('mlx-lm') or ''} has no model type {model_type!r}".replace("  ", " "),
        "a newer mlx-lm may have it (pip install -U mlx-lm)",
    )


def _task_of(config: Mapping[str, Any]) -> str | None:
    architecture = config_facts.architecture(config) or ""
    return next((task for end, task in _OTHER_TASKS.items() if architecture.endswith(end)), None)


def _other_task(folder: Folder, config: Mapping[str, Any]) -> Iterator[Fault]:
    """mlx_lm has the architecture, but these weights were trained for something else."""
    if task := _task_of(config):
        yield unsupported(
            "not_a_language_model",
            f"it was trained to {task} ({config_facts.architecture(config)}), not to write text",
            "use it with the library that it was made for",
        )
    elif folder.named("modules.json") and folder.named("config_sentence_transformers.json"):
        yield warning("embedding_model", "it is an embedding model: what it writes will make no sense")
    elif isinstance(config.get("vision_config"), dict):
        yield warning("text_only", "of this model for images, mlx_lm uses the part for text only")


# -------------------------------------------------------------------- quantization


def quantization_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Modes that this MLX cannot compute, and foreign methods that mlx_lm does not take in."""
    table, foreign = quantization_tables(config)
    if table:
        asked = [table, *(one for one in table.values() if isinstance(one, dict) and "bits" in one)]
        yield from dict.fromkeys(fault for one in asked if (fault := _mode_fault(one)))
    elif foreign:
        yield from _foreign_fault(foreign)


def _mode_fault(asked: Mapping[str, Any]) -> Fault | None:
    mode, bits, group_size = str(asked.get("mode", "affine")), asked.get("bits"), asked.get("group_size")
    again = "convert it again from the original weights with `mlxk convert`"
    if mode in FIXED_MODES:
        if (missing := missing_mlx(mode)) is not None:
            return missing
        if (bits, group_size) != FIXED_MODES[mode]:
            right = "{} bits in groups of {}".format(*FIXED_MODES[mode])
            said = f"{_short(bits)} bits in groups of {_short(group_size)}"
            text = f"its quantization says {mode} with {said}; {mode} is {right}"
            return unsupported("unsupported_quantization", text, again)
    elif mode != "affine":
        text = f"MLX {installed_mlx() or ''} has no quantization mode {mode[:40]!r}".replace("  ", " ")
        return unsupported(
            "unsupported_quantization", text, "a newer MLX may have it (pip install -U mlx mlx-lm)"
        )
    elif not _is_one_of(bits, AFFINE_BITS) or not _is_one_of(group_size, AFFINE_GROUPS):
        text = f"MLX cannot compute with {_short(bits)} bits in groups of {_short(group_size)}"
        return unsupported("unsupported_quantization", text, again)
    return None


def missing_mlx(mode: str) -> Fault | None:
    """The mode needs a newer MLX than the installed one."""
    installed, needed = installed_mlx(), SINCE_MLX.get(mode)
    if needed is None or installed is None or not is_older(installed, needed):
        return None
    text = f"its weights are {mode}, which needs MLX {needed} or newer, and MLX {installed} is installed"
    return unsupported("old_mlx", text, "pip install -U mlx mlx-lm")


def _foreign_fault(foreign: Mapping[str, Any]) -> Iterator[Fault]:
    method = str(foreign.get("quant_method") or "a method that it does not name")[:40]
    advice = f"{_MLX_WEIGHTS}, or convert the original, unquantized weights with `mlxk convert`"
    text: str | None = None
    if method not in _KNOWN_METHODS:
        text = f"it is quantized by {method}, which mlx_lm cannot read"
    elif method in ("awq", "gptq") and foreign.get("bits", 4) != 4:
        bits = _short(foreign.get("bits"))
        text = f"it is quantized by {method} with {bits} bits; mlx_lm reads only 4 of those"
    elif method == "compressed-tensors" and str(foreign.get("format")) not in _KNOWN_COMPRESSED:
        kind = str(foreign.get("format"))[:40]
        text = f"its weights are compressed-tensors of the kind {kind!r}, which mlx_lm cannot read"
    elif method == "modelopt":
        inner = foreign.get("quantization")
        algorithm = (inner if isinstance(inner, dict) else foreign).get("quant_algo")
        if algorithm != "NVFP4":
            text = f"its weights are ModelOpt's {str(algorithm)[:40]}; mlx_lm reads only NVFP4 of those"
    if text is not None:
        yield unsupported("unsupported_quantization", text, advice)


def _is_one_of(value: Any, numbers: tuple[int, ...]) -> bool:
    return type(value) is int and value in numbers


def _short(value: Any) -> str:
    return str(value)[:20]


def installed_mlx() -> str | None:
    return _version_of("mlx")


@lru_cache(maxsize=4)
def _version_of(package: str) -> str | None:
    from importlib import metadata  # some milliseconds, for the few models that ask

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def is_older(installed: str, needed: str) -> bool:
    def numbers(version: str) -> list[int]:
        return [int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3]]

    return numbers(installed) < numbers(needed)
