"""`python -m tools.cli_schema` writes docs/cli-schema.json: what every verb prints with `--json`.

The tests check every envelope that they see against it (tests/envelopes.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from mlxk.cli.errors import EXIT_CODES, ExitCode
from mlxk.workers.protocol import FaultCode
from tools.cli_parts import (
    CHANGES,
    CHECKED,
    CRASH,
    HELD,
    METADATA,
    MODEL,
    POOL_MODEL,
    SERVER,
    SETTING,
    STOPPED,
    USAGE,
)
from tools.json_shapes import (
    ANY,
    BYTES,
    COUNT,
    FLAG,
    FREE,
    PID,
    SECONDS,
    TEXT,
    Schema,
    any_of,
    const,
    many,
    obj,
    or_null,
    with_optional,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli-schema.json"
OWN_TYPES = """
access_denied already_exists already_quantized already_running ambiguous_model builtin_model cannot_repair
checksum_mismatch config_error connection_lost conversion_failed declined download_failed error file_exists
file_not_found gated_model http_error hub_error hub_unreachable insufficient_memory internal_error interrupted
invalid_setting load_failed local_model model_busy model_not_found model_renamed model_unhealthy no_config
no_space no_template not_mlx not_quantized not_removable os_error problems_found protocol_error read_only
revision_not_found save_failed server_died server_not_running size_mismatch start_failed store_error timed_out
unauthorized unknown_command unknown_setting usage
"""
"""Of the command line and the store, beside those of the server (`FaultCode`)."""


def exit_codes() -> dict[str, int]:
    """Every error type that there is, with its exit code."""
    types = sorted({*OWN_TYPES.split(), *(code.value for code in FaultCode)})
    return {name: int(EXIT_CODES.get(name, ExitCode.ERROR)) for name in types}


VERBS: dict[str, Schema] = {
    "serve": obj(pid=PID, url=TEXT, not_preloaded=many(FREE)),
    "run": obj(
        model=TEXT,
        prompt=TEXT,
        response=TEXT,
        reasoning=or_null(TEXT),
        finish_reason=or_null(TEXT),
        usage=or_null(USAGE),
    ),
    "ps": obj(server=SERVER, models=many(POOL_MODEL)),
    "load": obj(
        models=many(
            any_of(
                obj(name=TEXT, load_s=SECONDS, memory_bytes=BYTES, already_loaded=FLAG, evicted=many(TEXT)),
                with_optional(
                    obj(
                        name=TEXT,
                        verdict=TEXT,
                        fits=FLAG,
                        need_bytes=BYTES,
                        need_source=const("measured", "estimated"),
                        free_bytes=BYTES,
                        memory_limit_bytes=BYTES,
                        trim=HELD,
                        evict=HELD,
                        wait_for=HELD,
                        load_s=SECONDS,
                        load_s_source=const("measured", "estimated"),
                        reason=or_null(TEXT),
                    ),
                    limited_by=or_null(TEXT),
                    max_models=COUNT,
                ),
            )
        )
    ),
    "stop": obj(models=many(STOPPED), server=FLAG),
    "restart": obj(
        models=many(obj(name=TEXT, load_s=SECONDS, took_s=SECONDS, freed_bytes=BYTES, seamless=FLAG)),
        server=or_null(obj(pid=PID, url=TEXT)),
    ),
    "reload": obj(**CHANGES),
    "logs": any_of(
        obj(model=or_null(TEXT), path=TEXT, lines=many(TEXT)),
        obj(model=or_null(TEXT), crash=or_null(CRASH)),
    ),
    "list": obj(models=many(MODEL), count=COUNT),
    "show": obj(model=MODEL, metadata=METADATA),
    "health": obj(
        healthy=many(CHECKED),
        unhealthy=many(CHECKED),
        summary=obj(total=COUNT, healthy_count=COUNT, unhealthy_count=COUNT, unsupported_count=COUNT),
    ),
    "pull": obj(
        models=many(
            obj(
                name=TEXT,
                hash=TEXT,
                path=TEXT,
                size_bytes=BYTES,
                downloaded_bytes=BYTES,
                files=COUNT,
                took_s=SECONDS,
                already_complete=FLAG,
                checked=FLAG,
                health=const("healthy", "unhealthy"),
                reason=or_null(TEXT),
            )
        )
    ),
    "rm": obj(
        models=many(
            obj(
                name=TEXT,
                kind=TEXT,
                hash=or_null(TEXT),
                removed=const(True),
                freed_bytes=BYTES,
                stopped=many(TEXT),
            )
        ),
        freed_bytes=BYTES,
    ),
    "convert": any_of(
        obj(
            name=TEXT,
            path=TEXT,
            source=TEXT,
            size_bytes=BYTES,
            source_bytes=BYTES,
            quantization=or_null(FREE),
            took_s=SECONDS,
        ),
        obj(name=TEXT, path=TEXT, repaired=FLAG, files=COUNT, tensors=COUNT),
    ),
    "push": obj(name=TEXT, url=TEXT, hash=or_null(TEXT), size_bytes=BYTES, files=COUNT, created=FLAG),
    "config": obj(
        file=obj(path=TEXT, exists=FLAG),
        settings=many(SETTING),
        models=many(obj(name=TEXT, settings=many(SETTING))),
        api_keys_from=many(TEXT),
        warnings=many(TEXT),
        server=or_null(
            obj(
                pid=PID,
                url=TEXT,
                differs=many(
                    obj(
                        key=TEXT,
                        name=TEXT,
                        value=ANY,
                        written=or_null(TEXT),
                        server_value=ANY,
                        server_written=or_null(TEXT),
                        server_source=TEXT,
                        remedy=const("mlxk reload", "mlxk restart", None),
                    )
                ),
                models=many(TEXT),
                error=or_null(TEXT),
            )
        ),
    ),
    "config init": obj(path=or_null(TEXT), written=FLAG, text=or_null(TEXT)),
    "config check": obj(path=TEXT, exists=FLAG, warnings=many(TEXT)),
    "config path": obj(path=TEXT, exists=FLAG),
    "doctor": obj(
        findings=many(
            obj(
                check=TEXT,
                status=const("ok", "note", "problem"),
                message=TEXT,
                advice=or_null(TEXT),
                details=FREE,
            )
        ),
        summary=obj(ok=COUNT, notes=COUNT, problems=COUNT),
        fixed=many(ANY),
    ),
    "completion": obj(shell=const("bash", "zsh", "fish"), script=TEXT),
    "help": obj(verb=or_null(TEXT), verbs=many(TEXT), text=TEXT),
    "version": with_optional(obj(version=TEXT), server=or_null(TEXT)),
}
"""The `data` of each verb's envelope. `events` and `logs -f` print an object a line, `top` nothing."""
WITH_DATA_AND_ERROR = ("health", "doctor", "ps")
"""What these found is itself a failure, or they look again and again."""


def document() -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What `mlxk VERB --json` prints",
        "description": "One object on stdout. Sizes are bytes, times UTC, durations seconds. Keys stay; new "
        "ones may come.",
        "type": "object",
        "properties": {
            "status": const("success", "error"),
            "command": {
                "anyOf": [{"enum": [*VERBS, "events", "top"]}, {"type": "null"}],
                "description": "The verb; null where none was named.",
            },
            "data": or_null(FREE),
            "error": or_null({"$ref": "#/$defs/error"}),
        },
        "required": ["status", "command", "data", "error"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"status": {"const": "success"}}},
                "then": {"properties": {"error": {"type": "null"}, "data": FREE}},
                "else": {"properties": {"error": FREE}},
            },
            {
                "if": {"not": {"properties": {"command": {"enum": list(WITH_DATA_AND_ERROR)}}}},
                "then": {"anyOf": [{"properties": {one: {"type": "null"}}} for one in ("data", "error")]},
            },
            *(
                {
                    "if": {"properties": {"command": {"const": verb}, "data": FREE}},
                    "then": {"properties": {"data": {"$ref": f"#/$defs/{_key(verb)}"}}},
                }
                for verb in VERBS
            ),
        ],
        "$defs": {
            "error": {
                "type": "object",
                "description": "`message` is for people; more keys say what it is about.",
                "properties": {"type": {"enum": list(exit_codes())}, "message": TEXT},
                "required": ["type", "message"],
                "x-exit-codes": exit_codes(),
            },
            **{_key(verb): schema for verb, schema in VERBS.items()},
        },
    }


def _key(verb: str) -> str:
    return verb.replace(" ", "-")


def text() -> str:
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text(), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
