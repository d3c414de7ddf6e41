"""Models made at run time: real architectures with random weights and the built-in model's tokenizer.

Their texts mean nothing, but they are computed like any other model's, and their KV caches are of the
kinds that the built-in model has not: ones that cannot be cut back to a shorter prefix.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

from mlxk.store.builtin import builtin_path

ModelKind = Literal["llama", "sliding_window", "hybrid", "state_space", "chunked"]
"""llama: plain KV caches, always trimmable · sliding_window: gemma3, rotating caches that cannot be trimmed
once full · hybrid: lfm2, attention and convolutions whose state cannot be trimmed · state_space: mamba, no
attention at all, and mlx_lm's implementation knows no padding · chunked: llama4, cannot be batched."""
MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
FurtherKind = Literal["gpt_oss", "mamba2", "qwen3_next", "jamba", "falcon_h1", "deepseek_v32"]
"""Other architectures, for the tests of the prefix cache. gpt_oss: rotating caches and attention sinks ·
mamba2: a state space that knows padding · qwen3_next: linear and full attention, experts · jamba: state
space and attention, and mlx_lm's implementation knows no padding · falcon_h1: a `CacheList` of state and
attention · deepseek_v32: a `CacheList` of two KV caches, trimmable."""
FURTHER_KINDS: tuple[FurtherKind, ...] = get_args(FurtherKind)
SLIDING_WINDOW = 24
CONTEXT = 2048

_COMMON = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_ARCHITECTURES: dict[ModelKind | FurtherKind, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 3,
        "intermediate_size": 128,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "sliding_window": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "intermediate_size": 128,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": SLIDING_WINDOW,
        "sliding_window_pattern": 2,
    },
    "hybrid": {
        "model_type": "lfm2",
        "num_hidden_layers": 4,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 128,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "state_space": {
        "model_type": "mamba",
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "chunked": {
        "model_type": "llama4",
        "text_config": {
            **_COMMON,
            "model_type": "llama4_text",
            "num_hidden_layers": 4,
            "head_dim": 16,
            "attention_bias": False,
            "attention_chunk_size": 32,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 64,
            "intermediate_size_mlp": 64,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "use_qk_norm": True,
        },
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": SLIDING_WINDOW,
    },
    "mamba2": {
        "model_type": "mamba2",
        "num_hidden_layers": 2,
        "num_heads": 4,
        "head_dim": 32,
        "intermediate_size": 128,
        "state_size": 8,
        "n_groups": 1,
        "conv_kernel": 4,
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
    },
    "qwen3_next": {
        "model_type": "qwen3_next",
        "num_hidden_layers": 2,
        "full_attention_interval": 2,
        "intermediate_size": 128,
        "head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    "jamba": {
        "model_type": "jamba",
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "rms_norm_eps": 1e-6,
    },
    "falcon_h1": {
        "model_type": "falcon_h1",
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "head_dim": 16,
        "mamba_d_head": 32,
        "mamba_d_ssm": 128,
        "mamba_d_state": 8,
        "mamba_n_heads": 4,
        "lm_head_multiplier": 1.0,
    },
    "deepseek_v32": {
        "model_type": "deepseek_v32",
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_key_value_heads": 4,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "index_topk": 32,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "first_k_dense_replace": 2,
        "n_routed_experts": 4,
    },
}
_BORROWED_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def make_random_model(
    folder: Path, kind: ModelKind | FurtherKind = "sliding_window", *, seed: int = 7
) -> Path:
    """Write a loadable model of about 0.2 M float32 parameters into `folder`; the same for the same seed.

    Returns `folder`. Takes about 20 ms once mlx_lm is imported.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    config = _config(kind)
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    folder.mkdir(parents=True, exist_ok=True)
    weights = _random_weights(dict(tree_flatten(model.parameters())), seed)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in _BORROWED_FILES:
        shutil.copyfile(builtin_path() / name, folder / name)
    return folder


def copy_builtin_model(folder: Path) -> Path:
    """The built-in model once more, under another name."""
    shutil.copytree(builtin_path(), folder)
    return folder


def _random_weights(weights: dict[str, Any], seed: int) -> dict[str, Any]:
    """Weights a good deal larger than an initialization's, so that what is said depends on what was said
    before. Numbers that mean something to a layer (state matrices, norms) stay as they were made."""
    import mlx.core as mx

    keys = mx.random.split(mx.random.key(seed), len(weights))
    result = {}
    for key, (name, value) in zip(keys, sorted(weights.items()), strict=True):
        if name.endswith(".weight") and value.ndim >= 2:
            inputs = (
                value.shape[1] * value.shape[2] if "conv" in name and value.ndim == 3 else value.shape[-1]
            )
            result[name] = mx.random.normal(value.shape, key=key) * (1.6 / inputs**0.5)
        elif name.endswith(".bias"):
            result[name] = mx.random.normal(value.shape, key=key) * 0.1
        else:
            result[name] = value
    return result


def _config(kind: ModelKind | FurtherKind) -> dict[str, Any]:
    """The vocabulary and the end-of-text ids must be those of the borrowed tokenizer."""
    builtin = json.loads((builtin_path() / "config.json").read_text(encoding="utf-8"))
    config = {**_COMMON, **_ARCHITECTURES[kind], "eos_token_id": builtin["eos_token_id"]}
    for part in (config, config.get("text_config")):
        if part is not None:
            part["vocab_size"] = builtin["vocab_size"]
    return config


def add_to_hub(hub: Path, name: str) -> Path:
    """A copy of the built-in model in the layout of the hub's cache; gives the blob of its weights."""
    repo = hub / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in builtin_path().iterdir():
        if file.is_file():
            (repo / "blobs" / file.name).write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    return repo / "blobs" / "model.safetensors"
