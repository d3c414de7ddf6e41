"""The page of `mlxk show`, from the same data that its JSON has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlxk.cli.output import LEAST_TEXT_CELLS, NOTHING, format_table, printable, terminal_width
from mlxk.config.units import format_size

INDENT = "  "
LABEL_CELLS = 16
_SHOWN_LAYERS = 6


def page(data: dict[str, Any]) -> str:
    model, facts = data["model"], data["metadata"]
    lines: list[str] = []
    for title, rows in (
        ("Model", _model(model, facts)),
        ("Quantization", _quantization(facts)),
        ("Memory", _memory(facts["memory"])),
        ("Defaults", ((key, _plain(value)) for key, value in facts["generation_defaults"].items())),
        ("Configuration", _configuration(facts["configured"])),
        ("Health", _health(model, facts)),
    ):
        found = list(rows)
        if found:
            lines += [title, *(line for label, text in found for line in _row(label, text)), ""]
    return "\n".join(lines[:-1])


def file_table(files: list[dict[str, Any]]) -> str:
    rows = [[one["name"], "missing" if one["missing"] else format_size(one["size_bytes"])] for one in files]
    return format_table(("FILE", "SIZE"), rows, right=("SIZE",), fit=terminal_width(), flexible=("FILE",))


def _row(label: str, text: str) -> list[str]:
    """A line; what does not fit into the terminal goes on below, under the text."""
    start = INDENT + label.ljust(LABEL_CELLS) + "  "
    columns = terminal_width()
    if columns is None:
        return [start + printable(text)]
    import textwrap

    return textwrap.wrap(
        printable(text) or "-",
        max(columns, len(start) + LEAST_TEXT_CELLS),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _model(model: dict[str, Any], facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "name", model["name"]
    if facts["architecture"] or facts["model_type"]:
        kind = f" ({facts['model_type']})" if facts["model_type"] and facts["architecture"] else ""
        yield "architecture", f"{facts['architecture'] or facts['model_type']}{kind}"
    if facts["parameters"]:
        yield "parameters", format_count(facts["parameters"])
    if facts["context_length"]:
        yield "context", f"{facts['context_length']} tokens"
    can = [
        word
        for key, word in (("chat_template", "chat template"), ("tools", "tools"), ("reasoning", "reasoning"))
        if facts[key]
    ]
    yield "capabilities", ", ".join(can) or "none: it has no chat template"
    yield "size", f"{format_size(model['size_bytes'])} in {len(facts['files'])} files"
    if facts["license"]:
        yield "license", facts["license"]
    yield "modified", model["last_modified"] or NOTHING
    if facts["revision"]:
        yield "revision", facts["revision"]
        for other in facts["revisions"]:
            if other["hash"] != facts["revision"]:
                name = f"{model['name'].partition('@')[0]}@{other['hash'][:12]}"
                yield "", f"also here: {name} ({other['last_modified'][:10]})"
    yield "path", facts["path"]


def _quantization(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    found = facts["quantization"]
    if found["quantized"] and found["bits"]:
        groups = f", groups of {found['group_size']}" if found["group_size"] else ""
        yield "mode", f"{found['mode']}, {found['bits']} bits{groups}"
    elif found["label"] and not facts["gguf"]:
        yield "precision", f"{found['label']}, not quantized"
    if need := found["requires"]:
        enough = {True: "", False: ": too old", None: ""}[need["satisfied"]]
        here = (
            f"{need['installed']} is installed{enough}" if need["installed"] else "MLX is not installed here"
        )
        yield "needs", f"{need['mode']} requires MLX >= {need['version']}; {here}"
    if found["bits_per_weight"]:
        yield "bits per weight", f"{found['bits_per_weight']:.2f}, all in all"
    if len(found["layers"]) > 1:
        for layer in found["layers"][:_SHOWN_LAYERS]:
            tensors = f"{layer['tensors']} tensor{'' if layer['tensors'] == 1 else 's'}"
            groups = f", groups of {layer['group_size']}" if layer["group_size"] else ""
            size = f"{format_count(layer['parameters'])} parameters, {format_size(layer['size_bytes'])}"
            yield layer["label"], f"{tensors}{groups}: {size}"
        if len(found["layers"]) > _SHOWN_LAYERS:
            yield "", f"and {len(found['layers']) - _SHOWN_LAYERS} more kinds"
    for variant in facts["gguf"]:
        parts = f" in {len(variant['files'])} parts" if len(variant["files"]) > 1 else ""
        yield f"GGUF {variant['variant']}", f"{format_size(variant['size_bytes'])}{parts}"


def _memory(memory: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cache = f"{format_size(memory['cache_bytes'])} of it for the prefix cache"
    yield "needs", f"{format_size(memory['need_bytes'])} ({memory['need_source']}), {cache}"
    verdict = "fits" if memory["fits"] else "does not fit"
    yield "here", f"{verdict}: all models together may take {format_size(memory['limit_bytes'])}"
    if server := memory["server"]:
        yield "server", _verdict(server)


def _verdict(server: dict[str, Any]) -> str:
    free = f"{format_size(server['free_bytes'])} are free"
    words = {
        "loaded": "it is loaded now",
        "loading": "it is being loaded now",
        "fits": f"not loaded; {free} now, which is enough",
        "makes_room": f"not loaded; {free} now, and idle models would make room",
        "waits": f"not loaded; {free} now: it would wait for others",
        "never_fits": "not loaded, and cannot be: it does not fit",
    }
    return words.get(server["verdict"], str(server["verdict"]))


def _configuration(configured: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if configured["aliases"]:
        yield "aliases", ", ".join(configured["aliases"])
    for key, value in configured["settings"].items():
        yield key, _plain(value)


def _health(model: dict[str, Any], facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not facts["problems"]:
        yield "status", "healthy"
    for problem in facts["problems"]:
        kind = {"damaged": "unhealthy", "unsupported": "unsupported"}.get(problem["severity"], "note")
        yield kind, "; ".join(text for text in (problem["message"], problem["advice"]) if text)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(one)}" for key, one in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def format_count(count: int) -> str:
    """ "870K", "7.2B": as models are named."""
    amount, unit = float(count), ""
    for next_unit in ("K", "M", "B", "T"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, next_unit
    return f"{amount:.1f}{unit}" if unit and amount < 99.95 else f"{amount:.0f}{unit}"
