"""Models that are whole, and nothing for this MLX and mlx_lm."""

from __future__ import annotations

from tests.unit.store.damage import CONVERT, PULL, D, Sickness, U, W, change_json, config, only

UNSUPPORTED: dict[str, Sickness] = {
    # ---- what MLX and mlx_lm cannot run
    "unknown architecture": Sickness(
        "unsupported_architecture",
        U,
        config(model_type="nobody_knows"),
        "has no model type 'nobody_knows'",
        "pip install -U mlx-lm",
    ),
    "vision model": Sickness(
        "unsupported_architecture",
        U,
        config(model_type="idefics3", vision_config={"x": 1}),
        "this is a model for images or sound",
        "mlx-vlm",
    ),
    "embedding model": Sickness(
        "not_a_language_model",
        U,
        lambda m: (
            change_json(m / "config.json", model_type="bert", architectures=["BertModel"]),
            (m / "modules.json").write_text("[]"),
        ),
        "it is an embedding model ('bert')",
        "mlx-embeddings",
    ),
    "classifier of an unknown kind": Sickness(
        "not_a_language_model",
        U,
        config(model_type="bert", architectures=["BertForMaskedLM"]),
        "made to fill in masked words",
        "library that it was made for",
    ),
    "classifier of a known kind": Sickness(
        "not_a_language_model",
        U,
        config(architectures=["Qwen3ForSequenceClassification"]),
        "it was trained to classify texts",
        "library that it was made for",
    ),
    "sentence embeddings": Sickness(
        "embedding_model",
        W,
        lambda m: [
            (m / name).write_text("[]") for name in ("modules.json", "config_sentence_transformers.json")
        ],
        "it is an embedding model: what it writes will make no sense",
        "",
    ),
    "code of its own": Sickness(
        "custom_code",
        U,
        lambda m: (change_json(m / "config.json", model_file="own.py"), (m / "own.py").write_text("")),
        "its architecture is code of its own (own.py)",
        "trust_remote_code = true",
    ),
    "needs a package": Sickness(
        "missing_package", U, config(model_type="olmo"), "needs hf_olmo", "pip install ai2-olmo"
    ),
    "GGUF": Sickness("gguf", U, lambda m: only(m, "model-Q4_K_M.gguf"), "GGUF weights only", CONVERT),
    "pickled": Sickness(
        "pickled_weights", U, lambda m: only(m, "pytorch_model.bin"), "PyTorch weights only", CONVERT
    ),
    "npz": Sickness("npz_weights", U, lambda m: only(m, "weights.npz"), "format of early MLX", CONVERT),
    "empty GGUF": Sickness("empty_file", D, lambda m: only(m, "a.gguf", b""), "a.gguf is empty", PULL),
    "unknown mode": Sickness(
        "unsupported_quantization",
        U,
        config(quantization={"bits": 4, "group_size": 64, "mode": "fp3"}),
        "has no quantization mode 'fp3'",
        "pip install -U mlx",
    ),
    "seven bits": Sickness(
        "unsupported_quantization",
        U,
        config(quantization={"bits": 7, "group_size": 64}),
        "cannot compute with 7 bits in groups of 64",
        CONVERT,
    ),
    "wrong group of a mode": Sickness(
        "unsupported_quantization",
        U,
        config(quantization={"bits": 4, "group_size": 64, "mode": "mxfp4"}),
        "mxfp4 is 4 bits in groups of 32",
        CONVERT,
    ),
    "foreign quantization": Sickness(
        "unsupported_quantization",
        U,
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "it is quantized by bitsandbytes, which mlx_lm cannot read",
        CONVERT,
    ),
    "eight bits of GPTQ": Sickness(
        "unsupported_quantization",
        U,
        config(quantization_config={"quant_method": "gptq", "bits": 8}),
        "quantized by gptq with 8 bits",
        CONVERT,
    ),
    "compressed tensors": Sickness(
        "unsupported_quantization",
        U,
        config(quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized"}),
        "compressed-tensors of the kind 'float-quantized'",
        CONVERT,
    ),
}
