"""The models under measurement: the built-in one, and some of about 5 million random parameters.

Larger ones say nothing on a machine whose BLAS gives 5 GFLOP/s. The random ones speak the built-in model's
tokens, but only plain words: no end of sequence, so that every reply has exactly `max_tokens` tokens with
every peer, and no half characters or markers, so that every token brings text at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxk.store.builtin import builtin_path

VERSION = 1
"""Of the recipe: a new number makes all models anew."""
SEED = 6
FORBIDDEN_LOGIT = 64.0
_WORD = re.compile(r"Ġ?[A-Za-z]+|Ċ")
"""The line break too: it ends every prompt, and a forbidden token turns the sign of its own position."""
_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
_COMMON: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "5m": {
        "model_type": "llama",
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "5m-window": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 256,
        "sliding_window_pattern": 3,
        "rms_norm_eps": 1e-6,
    },
    "5m-state": {
        "model_type": "lfm2",
        "num_hidden_layers": 6,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 256,
        "block_ff_dim": 768,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention", "conv", "full_attention"],
    },
}
"""5m: KV caches that can be trimmed · 5m-window: RotatingKVCache, not trimmable once 256 tokens are in it ·
5m-state: ArraysCache (and KVCache), never trimmable."""
QUANTIZED = "5m-4bit"
LARGER = "38m"
"""For loads only; nothing is generated with it."""
ENDLESS = "1m"
"""As large as `tiny`, but it never says EOS: 2,000 tokens of prompt take it seconds."""
EXPERTS = "400m-a3m"
"""Of 2,048 experts a token uses one: 1.6 GB of weights, and the work of a model of 3 M. To change the model
is to read weights, as with real ones; no other model here can show that."""
ON_REQUEST: dict[str, dict[str, Any]] = {
    LARGER: {
        "model_type": "llama",
        "hidden_size": 512,
        "num_key_value_heads": 8,
        "num_hidden_layers": 12,
        "intermediate_size": 1376,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    ENDLESS: {
        "model_type": "llama",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "intermediate_size": 384,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    EXPERTS: {
        "model_type": "qwen3_moe",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_experts": 2048,
        "num_experts_per_tok": 1,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
}


def bench_home() -> Path:
    """Where models and the peers' environments are kept between runs: `MLXK_BENCH_HOME`."""
    return Path(os.environ.get("MLXK_BENCH_HOME") or Path.home() / ".cache" / "mlxk-bench")


def prepare(folder: Path | None = None) -> dict[str, Path]:
    """Name → folder of every model; what is missing is made, in processes of their own."""
    return {"tiny": builtin_path()} | {name: _made(name, folder) for name in (*CONFIGS, QUANTIZED)}


def larger_model() -> Path:
    """About 38 M parameters."""
    return _made(LARGER, None)


def endless_model() -> Path:
    return _made(ENDLESS, None)


def experts_model() -> Path:
    return _made(EXPERTS, None)


def _made(name: str, folder: Path | None) -> Path:
    folder = (folder or bench_home()) / f"models-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        print(f"making the model {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-P", "-m", "bench.models", name, str(folder)], check=True)
    return folder / name


def _make(name: str, target: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes  # the bench is pinned to the mlx_lm it measures

    tokens = _vocabulary()
    config = {
        **_COMMON,
        **(CONFIGS | ON_REQUEST)[name],
        "vocab_size": len(tokens),
        "eos_token_id": tokens["<|im_end|>"],
    }
    model_class, arguments_class = _get_classes(config)
    mx.random.seed(SEED)
    model = model_class(arguments_class.from_dict(config))
    # MLX's CPU multiplies by chosen experts in float32 only.
    kind = mx.float32 if name == EXPERTS else mx.bfloat16
    weights = _words_only(dict(tree_flatten(model.parameters())), tokens, kind)
    target.mkdir()
    for part in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin_path() / part, target)
    settings = json.loads((target / "tokenizer_config.json").read_text())
    settings.pop("tool_parser_type", None)
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (target / "chat_template.jinja").write_text(_TEMPLATE)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})


def _vocabulary() -> dict[str, int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))
    return dict(tokenizer.get_vocab(with_added_tokens=True))


def _words_only(weights: dict[str, Any], tokens: dict[str, int], kind: Any) -> dict[str, Any]:
    """Random weights that cannot say a forbidden token.

    The first dimension carries a constant through all layers: the embeddings put 1 there, no layer writes to
    it, and the head turns it into a very small logit for every token that is not a plain word.
    """
    import mlx.core as mx

    words = [number for piece, number in tokens.items() if _WORD.fullmatch(piece)]
    verdict = mx.full((len(tokens),), -FORBIDDEN_LOGIT)
    verdict[mx.array(words)] = 0.0
    tied = "lm_head.weight" not in weights
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "w2.weight")):
            value[0] = 0.0
        elif name.endswith("embed_tokens.weight"):
            value[:, 0] = verdict + 1.0 if tied else 1.0
        elif name == "lm_head.weight":
            value[:, 0] = verdict
        weights[name] = value.astype(kind)
    return weights


def main() -> None:
    """Makes one model; it appears under its name when it is whole."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    a = parser.parse_args()
    rough = a.folder / f"{a.name}.{os.getpid()}.rough"
    if a.name == QUANTIZED:
        from mlx_lm import convert

        convert(str(a.folder / "5m"), str(rough), quantize=True, q_bits=4, q_group_size=64)
    else:
        _make(a.name, rough)
    rough.rename(a.folder / a.name)


if __name__ == "__main__":
    main()
