"""`mlxk convert`: a quantized (or otherwise changed) copy of a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.names import read_settings, resolve_model
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data, printable
from mlxk.cli.store_errors import store_errors

if TYPE_CHECKING:
    from mlxk.config.settings import Settings
    from mlxk.store.quantization_options import Conversion

EXAMPLES = """\b
Examples:
  mlxk convert Qwen/Qwen3-0.6B              to 4 bits, as Qwen3-0.6B-4bit
  mlxk convert Qwen/Qwen3-0.6B --bits 8 --group-size 32
  mlxk convert Qwen/Qwen3-0.6B --mode mxfp4 --output my-model
  mlxk convert ./trained --dtype bfloat16 --output ./trained-mlx
  mlxk convert my-4bit-model --dequantize
  mlxk convert my-model --repair            a missing or wrong shard index

\b
The result is a model of its own (in MLXK_HOME/models, unless --output is a
path), and appears when it is whole. Ctrl-C leaves nothing behind."""


@click.command("convert", short_help="Quantize a model with mlx_lm.", epilog=EXAMPLES)
@click.argument("model", metavar="MODEL|FOLDER")
@click.option("--bits", type=int, metavar="N", help="Bits of a weight: 1, 2, 3, 4, 5, 6 or 8. Default 4.")
@click.option("--group-size", type=int, metavar="N", help="Weights with a common scale: 32, 64 or 128.")
@click.option(
    "--mode", type=click.Choice(["affine", "mxfp4", "mxfp8", "nvfp4"]), help="Kind of quantization."
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Type of what is not quantized; alone: of all weights.",
)
@click.option("--dequantize", is_flag=True, help="The reverse: plain weights of a quantized model.")
@click.option("--output", metavar="NAME|PATH", help="Name of the new model, or a path with a / in it.")
@click.option("--trust-remote-code", is_flag=True, help="Run program code that comes with the model.")
@click.option("--repair", is_flag=True, help="Only write the model's shard index anew.")
@json_option
def command(
    model: str,
    bits: int | None,
    group_size: int | None,
    mode: str | None,
    dtype: str | None,
    dequantize: bool,
    output: str | None,
    trust_remote_code: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Make a quantized model of MODEL, which is pulled first if it is an ORG/NAME that is not here.

    The work is mlx_lm's, in a process of its own.
    """
    from mlxk.store.quantization_options import choose_conversion

    settings = read_settings()
    changes = any(one is not None for one in (bits, group_size, mode, dtype, output)) or dequantize
    if repair and changes:
        raise click.UsageError("--repair changes nothing else", click.get_current_context())
    with store_errors():
        if repair:
            data = _repair(model, settings)
        else:
            conversion = choose_conversion(
                mode=mode, bits=bits, group_size=group_size, dtype=dtype, dequantize=dequantize
            )
            data = _convert(model, settings, conversion, output, trust_remote_code=trust_remote_code)
    if as_json:
        print_data("convert", data)
    else:
        click.echo(_sentence(data, repair=repair))


def _convert(
    model: str, settings: Settings, conversion: Conversion, output: str | None, *, trust_remote_code: bool
) -> dict[str, Any]:
    from mlxk.store.conversion import convert
    from mlxk.store.inspection import inspect_model

    if output is not None:
        _target(model, conversion, output, settings)  # a wrong one is told before anything is pulled
    name, source = _source(model, settings)
    _check_source(name, source, conversion)
    target_name, target = _target(name, conversion, output, settings)
    began = time.monotonic()
    note(f"converting {printable(name)} to {printable(target_name)} ({conversion.label})")
    done = convert(source, target, conversion, trust_remote_code=trust_remote_code)
    return {
        "name": target_name,
        "path": str(done.path),
        "source": name,
        "size_bytes": done.size_bytes,
        "source_bytes": done.source_bytes,
        "quantization": inspect_model(done.path).quantization,
        "took_s": round(time.monotonic() - began, 3),
    }


def _source(model: str, settings: Settings) -> tuple[str, Path]:
    """What to convert: a folder, an installed model, or one of the hub's that is pulled now."""
    if _is_path(model):
        folder = Path(model).expanduser().resolve()
        _check_folder(folder)
        return folder.name, folder
    try:
        ref = resolve_model(model, settings)
    except CliError as error:
        if error.type != "model_not_found" or "/" not in model:
            raise
        from mlxk.cli.pull import pull_model

        result = pull_model(model, settings)
        return result.name, result.path
    return ref.name, ref.path


def _check_folder(folder: Path) -> None:
    from mlxk.store.inspection import inspect_model

    if not folder.is_dir():
        raise CliError(
            "model_not_found", f"there is no folder {folder}", {"model": str(folder), "nearest": []}
        )
    if (reason := inspect_model(folder).reason) is not None:
        raise CliError("model_unhealthy", f"{folder} cannot be converted: {reason}")


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..")


def _check_source(name: str, source: Path, conversion: Conversion) -> None:
    from mlxk.store.inspection import inspect_model

    quantized = inspect_model(source).quantization
    if quantized and not conversion.dequantize:
        raise CliError(
            "already_quantized",
            f"{name} is already quantized ({quantized.get('bits')} bits): what that lost does not come back. "
            "Convert the original, or make plain weights of it first with --dequantize",
        )
    if not quantized and conversion.dequantize:
        raise CliError("not_quantized", f"{name} is not quantized: there is nothing to undo")


def _target(name: str, conversion: Conversion, output: str | None, settings: Settings) -> tuple[str, Path]:
    from mlxk.config.paths import models_dir
    from mlxk.store.names import is_plausible

    if output is not None and "/" in output:
        path = Path(output).expanduser().resolve()
        root = models_dir().resolve()
        if root in path.parents:
            _check_reachable(path.relative_to(root).as_posix(), path, settings)
        return path.name, path
    own = output or f"{name.partition('@')[0].rpartition('/')[2]}-{conversion.label}"
    if not is_plausible(own) or own.startswith(".") or "@" in own:
        raise CliError("usage", f"'{own}' is no name for a model; give another --output")
    _check_reachable(own, models_dir() / own, settings)
    return own, models_dir() / own


def _check_reachable(name: str, path: Path, settings: Settings) -> None:
    """The names of the built-in model and of the configuration come before those of the folder."""
    from mlxk.store.builtin import BUILTIN_NAME

    section = settings.models.get(name)
    if section is not None and (section.id not in (None, name) or section.path is not None):
        if section.path is not None and Path(section.path).resolve() == path.resolve():
            return
        owner = "a model of config.toml"
    elif name == BUILTIN_NAME:
        owner = "the built-in model"
    else:
        return
    raise CliError(
        "already_exists",
        f"'{name}' is the name of {owner} and would not lead to the new one; choose another --output",
        {"path": str(path)},
    )


def _repair(model: str, settings: Settings) -> dict[str, Any]:
    from mlxk.store.shard_index import repair_index

    name, folder = _anything(model, settings)
    done = repair_index(folder)
    return {
        "name": name,
        "path": str(done.path),
        "repaired": not done.was_right,
        "files": done.n_files,
        "tensors": done.n_tensors,
    }


def _anything(model: str, settings: Settings) -> tuple[str, Path]:
    """The folder of a model that need not be healthy."""
    from mlxk.store.catalog import Catalog

    if _is_path(model):
        return model, Path(model).expanduser().resolve()
    try:
        ref = resolve_model(model, settings)
    except CliError as error:
        if error.type != "model_unhealthy":
            raise
        name = error.details["model"]
        found = next((one for one in Catalog(settings).models() if one.name == name), None)
        if found is None:
            raise
        ref = found
    return ref.name, ref.path


def _sentence(data: dict[str, Any], *, repair: bool) -> str:
    from mlxk.config.units import format_size

    if repair and not data["repaired"]:
        return f"the index of {data['name']} is right: {data['tensors']} tensors in {data['files']} files"
    if repair:
        return f"wrote {data['path']}: {data['tensors']} tensors in {data['files']} files"
    sizes = f"{format_size(data['source_bytes'])} to {format_size(data['size_bytes'])}"
    return f"made {data['name']}: {sizes} in {data['took_s']:.1f} s, {data['path']}"
