"""`mlxk pull`: a model from the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.names import read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data, printable
from mlxk.cli.store_errors import store_errors

if TYPE_CHECKING:
    from mlxk.cli.pull_progress import Progress
    from mlxk.config.settings import Settings
    from mlxk.store.pull import PullResult

EXAMPLES = """\b
Examples:
  mlxk pull Qwen3-0.6B-4bit                  of mlx-community
  mlxk pull mlx-community/Qwen3-0.6B-4bit    the same, in full
  mlxk pull Qwen/Qwen3-0.6B@v1.0             a branch, a tag or a commit
  mlxk pull --json Qwen3-0.6B-4bit | jq .data.models[0].path

\b
Ctrl-C, a broken line or a crash loses nothing: the same command goes on where
it ended. Nothing is written before it is known that the model exists, that
you may have it, that MLX can load it and that it fits on the disk.
HF_TOKEN (or `hf auth login`), HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are
obeyed as by every program of Hugging Face."""


@click.command("pull", short_help="Download models from the hub.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@REVISION]...")
@click.option("--force", is_flag=True, help="Also what MLX cannot load: every file of the repository.")
@click.option("--yes", "-y", is_flag=True, help="Take a repository under its new name without asking.")
@json_option
def command(models: tuple[str, ...], force: bool, yes: bool, as_json: bool) -> None:
    """Download MODELs, or what is missing of them: ORG/NAME, or NAME for mlx-community/NAME.

    A name is never guessed. What looks like it is suggested, not taken.
    """
    settings = read_settings()
    done: list[dict[str, Any]] = []
    for model in models:
        try:
            result = pull_model(model, settings, force=force, yes=yes)
        except CliError as error:
            if done:
                error.details = {**error.details, "pulled": done}
            raise
        done.append(_entry(result))
        if not as_json:
            click.echo(_sentence(result))
            if result.problem is not None:
                note(f"it cannot be used: {result.problem}")
    if as_json:
        print_data("pull", {"models": done})


def pull_model(model: str, settings: Settings, *, force: bool = False, yes: bool = False) -> PullResult:
    from mlxk.cli.pull_progress import make_progress
    from mlxk.store.hub_client import HubClient
    from mlxk.store.preflight import reference_for
    from mlxk.store.pull import pull

    progress = make_progress()
    with store_errors(), progress:
        try:
            reference = reference_for(model, settings)
            client = HubClient(note=progress.note)
            return pull(reference, client, progress, force=force, follow=_follow(progress, yes=yes))
        except KeyboardInterrupt:
            progress.interrupted()
            raise


def _follow(progress: Progress, *, yes: bool) -> Callable[[str, str], bool]:
    """Asks a person whether to take a repository that the hub has renamed."""

    def follow(old: str, new: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            return False
        from mlxk.cli.question import agreed

        return agreed(f"The hub has renamed {old} to {printable(new)}. Pull that?")

    return follow


def _entry(result: PullResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "hash": result.commit,
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "downloaded_bytes": result.downloaded_bytes,
        "files": result.n_files,
        "took_s": round(result.took_s, 3),
        "already_complete": result.was_complete,
        "checked": result.is_checked,
        "health": "healthy" if result.problem is None else "unhealthy",
        "reason": result.problem,
    }


def _sentence(result: PullResult) -> str:
    from mlxk.config.units import format_size

    size = format_size(result.size_bytes)
    if result.was_complete:
        checked = "is up to date" if result.is_checked else "is here (the hub could not be asked for changes)"
        return f"{result.name} {checked}: {size}, {result.commit[:12]}"
    rate = format_size(round(result.downloaded_bytes / max(result.took_s, 0.001)))
    came = format_size(result.downloaded_bytes)
    rest = f" of {size}" if result.downloaded_bytes != result.size_bytes else ""
    return f"pulled {result.name}: {came}{rest} in {_took(result.took_s)} ({rate}/s), {result.commit[:12]}"


def _took(seconds: float) -> str:
    from mlxk.config.units import format_duration

    return f"{seconds:.1f} s" if seconds < 100 else format_duration(seconds)
