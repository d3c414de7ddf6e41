"""What can be wrong with the files beside the weights."""

from __future__ import annotations

import os

from tests.unit.store.damage import LFS_POINTER, PULL, D, Sickness, U, W, config, dangle, replace_bytes

SICK_FILES: dict[str, Sickness] = {
    # ---- config.json
    "no config": Sickness(
        "missing_file", D, lambda m: (m / "config.json").unlink(), "config.json is missing", PULL
    ),
    "empty config": Sickness(
        "empty_file", D, lambda m: replace_bytes(m / "config.json", ""), "config.json is empty", PULL
    ),
    "cut config": Sickness(
        "bad_json",
        D,
        lambda m: replace_bytes(m / "config.json", (m / "config.json").read_bytes()[:40]),
        "config.json is not valid JSON",
        PULL,
    ),
    "list as config": Sickness(
        "bad_json", D, lambda m: replace_bytes(m / "config.json", "[]"), "holds no JSON object", PULL
    ),
    "deep config": Sickness(
        "bad_json", D, lambda m: replace_bytes(m / "config.json", "[" * 100_000), "not valid JSON", PULL
    ),
    "binary config": Sickness(
        "bad_json", D, lambda m: replace_bytes(m / "config.json", b"\xff\x00\xfe"), "not valid JSON", PULL
    ),
    "pointer as config": Sickness(
        "lfs_pointer",
        D,
        lambda m: replace_bytes(m / "config.json", LFS_POINTER),
        "config.json is a Git LFS pointer",
        PULL,
    ),
    "words for a size": Sickness(
        "invalid_value", D, config(hidden_size="lots"), 'config.json says hidden_size is "lots"', PULL
    ),
    "no layers": Sickness(
        "invalid_value", D, config(num_hidden_layers=0), "config.json says num_hidden_layers is 0", PULL
    ),
    "words for a number": Sickness(
        "doubtful_value", W, config(rms_norm_eps="tiny"), 'rms_norm_eps is "tiny", where mlx_lm\'s qwen3', ""
    ),
    "words for a table": Sickness(
        "doubtful_value", W, config(rope_scaling="twice"), "qwen3 takes a table: it may not load", ""
    ),
    "dangling config": Sickness(
        "partial_download", D, lambda m: dangle(m / "config.json"), "config.json is not in the cache", PULL
    ),
    "pipe as config": Sickness(
        "read_error",
        D,
        lambda m: ((m / "config.json").unlink(), os.mkfifo(m / "config.json")),
        "config.json cannot be read (it is no regular file)",
        PULL,
    ),
    "no model type": Sickness(
        "no_model_type", U, config(model_type=None), "names no model_type", "library that it was made for"
    ),
    # ---- tokenizer and template
    "no tokenizer": Sickness(
        "no_tokenizer", D, lambda m: (m / "tokenizer.json").unlink(), "it has no tokenizer", PULL
    ),
    "cut tokenizer": Sickness(
        "bad_json",
        D,
        lambda m: replace_bytes(m / "tokenizer.json", (m / "tokenizer.json").read_bytes()[:999]),
        "tokenizer.json is not a whole JSON object",
        PULL,
    ),
    "empty tokenizer": Sickness(
        "empty_file", D, lambda m: replace_bytes(m / "tokenizer.json", ""), "tokenizer.json is empty", PULL
    ),
    "pointer as tokenizer": Sickness(
        "lfs_pointer",
        D,
        lambda m: replace_bytes(m / "tokenizer.json", LFS_POINTER),
        "tokenizer.json is a Git LFS pointer",
        PULL,
    ),
    "dangling tokenizer": Sickness(
        "partial_download", D, lambda m: dangle(m / "tokenizer.json"), "tokenizer.json is not in the", PULL
    ),
    "pointer as tokenizer_config": Sickness(
        "lfs_pointer",
        D,
        lambda m: replace_bytes(m / "tokenizer_config.json", LFS_POINTER),
        "tokenizer_config.json is a Git LFS pointer",
        PULL,
    ),
    "cut tokenizer_config": Sickness(
        "bad_json",
        D,
        lambda m: replace_bytes(m / "tokenizer_config.json", "{"),
        "tokenizer_config.json is not valid JSON",
        PULL,
    ),
    "empty template": Sickness(
        "empty_file",
        D,
        lambda m: replace_bytes(m / "chat_template.jinja", ""),
        "chat_template.jinja is empty",
        PULL,
    ),
    "no template": Sickness(
        "no_chat_template",
        W,
        lambda m: (m / "chat_template.jinja").unlink(),
        "it has no chat template, as base models have none",
        "",
    ),
    "cut generation_config": Sickness(
        "bad_json",
        W,
        lambda m: replace_bytes(m / "generation_config.json", "{"),
        "generation_config.json is not valid JSON: the download was cut off, or the file was edited, so its "
        "defaults are not used",
        PULL,
    ),
}
