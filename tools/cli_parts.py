"""Parts of what `mlxk --json` prints: a model, the server, a setting, …"""

from __future__ import annotations

from tools.json_shapes import (
    ANY,
    BYTES,
    COUNT,
    FLAG,
    FREE,
    PID,
    SECONDS,
    TEXT,
    TIME,
    const,
    many,
    obj,
    or_null,
    with_optional,
)

CACHE = obj(entries=COUNT, bytes=BYTES, hits=COUNT, misses=COUNT, reused_tokens=COUNT)
POOL_MODEL = obj(
    name=TEXT,
    id=or_null(TEXT),
    state=const("absent", "loading", "ready", "stopping", "backoff", "failed"),
    pid=or_null(PID),
    worker=or_null(TEXT),
    size_bytes=BYTES,
    memory_bytes=BYTES,
    cache=CACHE,
    in_flight=COUNT,
    queued=COUNT,
    tokens_per_s={"type": "number"},
    until=or_null({"type": "number", "description": "Seconds until it is let go; -1: never; null: busy."}),
    uptime_s=SECONDS,
    load_progress=or_null({"type": "number", "minimum": 0}),
    restarts=COUNT,
    crashes=COUNT,
    pinned=FLAG,
    last_error=or_null(TEXT),
)
SERVER = obj(
    pid=PID,
    url=TEXT,
    version=TEXT,
    uptime_s=SECONDS,
    memory_limit_bytes=BYTES,
    memory_bytes=BYTES,
    spare=or_null(obj(id=TEXT, pid=PID, warm=FLAG)),
)
PROBLEM = obj(type=TEXT, severity=const("damaged", "unsupported", "warning"), message=TEXT, advice=TEXT)
MODEL = obj(
    name=TEXT,
    hash=or_null(TEXT),
    size_bytes=BYTES,
    last_modified=or_null(TIME),
    framework=TEXT,
    model_type=or_null(TEXT),
    capabilities=many(TEXT),
    context_length=or_null(COUNT),
    health=const("healthy", "unhealthy"),
    runtime_compatible=FLAG,
    reason=or_null(TEXT),
    quantization=or_null(FREE),
)
LAYERS = obj(
    label=TEXT,
    mode=or_null(TEXT),
    bits=or_null(COUNT),
    group_size=or_null(COUNT),
    tensors=COUNT,
    parameters=COUNT,
    size_bytes=BYTES,
)
QUANTIZATION = obj(
    label=or_null(TEXT),
    quantized=FLAG,
    method=or_null(TEXT),
    mode=or_null(TEXT),
    bits=or_null(COUNT),
    group_size=or_null(COUNT),
    bits_per_weight=or_null({"type": "number"}),
    mixed=FLAG,
    layers=many(LAYERS),
    requires=or_null(
        obj(package=TEXT, version=TEXT, mode=TEXT, installed=or_null(TEXT), satisfied=or_null(FLAG))
    ),
)
METADATA = with_optional(
    obj(
        architecture=or_null(TEXT),
        model_type=or_null(TEXT),
        parameters=or_null(COUNT),
        context_length=or_null(COUNT),
        quantization=QUANTIZATION,
        gguf=many(obj(variant=TEXT, size_bytes=BYTES, files=many(TEXT))),
        chat_template=FLAG,
        tools=FLAG,
        reasoning=FLAG,
        license=or_null(TEXT),
        generation_defaults=FREE,
        source=const("builtin", "local", "hub", "config"),
        path=TEXT,
        revision=or_null(TEXT),
        revisions=many(obj(hash=TEXT, last_modified=TIME, current=FLAG)),
        configured=obj(aliases=many(TEXT), settings=FREE),
        memory=obj(
            weights_bytes=BYTES,
            cache_bytes=BYTES,
            need_bytes=BYTES,
            need_source=const("measured", "estimated"),
            limit_bytes=BYTES,
            fits=FLAG,
            server=or_null(obj(verdict=TEXT, free_bytes=BYTES)),
        ),
        files=many(obj(name=TEXT, size_bytes=BYTES, missing=FLAG)),
        problems=many(PROBLEM),
    ),
    config=FREE,
    template=or_null(TEXT),
)
CHECKED = obj(
    name=TEXT,
    status=const("healthy", "unhealthy"),
    reason=or_null(TEXT),
    runtime_compatible=FLAG,
    problems=many(PROBLEM),
)
STOPPED = obj(name=TEXT, stopped=FLAG, freed_bytes=BYTES)
HELD = many(obj(name=TEXT, bytes=BYTES))
SETTING = obj(
    key=TEXT,
    name=TEXT,
    value=ANY,
    written=or_null(TEXT),
    origin=const("default", "file", "variable", "flag"),
    place=or_null({"type": "string", "description": "The variable, or FILE:LINE."}),
)
USAGE = with_optional(
    obj(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    prompt_tokens_details=FREE,
    completion_tokens_details=FREE,
)
CRASH = {**FREE, "required": ["model", "pid", "started_at", "ended_at", "reason", "lines"]}
CHANGES = {
    name: many(TEXT)
    for name in ("applied", "next_load", "needs_restart", "models", "models_to_restart", "models_to_load")
}
