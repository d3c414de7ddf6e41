"""`mlxk config`: the effective settings and where each came from; and the file to write them in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.options import json_option
from mlxk.cli.output import NOTHING, format_table, note, print_data, terminal_width

if TYPE_CHECKING:
    from mlxk.config.provenance import Entry

HEAD = ("KEY", "VALUE", "FROM")
API_KEY_VARIABLES = ("MLXK_API_KEY", "MLXK_API_KEYS")
DIFFERENCE_HEAD = ("KEY", "SERVER", "HERE", "WHAT BRINGS IT INTO EFFECT")

EXAMPLES = """\b
Examples:
  mlxk config                   every setting, and where its value comes from
  mlxk config --json | jq -r '.data.settings[].key'
  mlxk config init              writes config.toml: every key, commented out
  mlxk config check             is the file right? Else: which line and key
  mlxk config path              where the file is looked for"""

config_option = click.option(
    "--config", "config_path", type=click.Path(), metavar="FILE", help="Settings file.  [default: `path`]"
)


class SettingsGroup(click.Group):
    """What is asked for and is not there: most likely a `set`, as other tools have it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            known = ", ".join(self.list_commands(ctx))
            hint = "to change a setting, edit the file that `mlxk config path` names"
            ctx.fail(f"there is no `mlxk config {args[0]}`; there are: {known}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    "config",
    cls=SettingsGroup,
    invoke_without_command=True,
    short_help="Show the settings, or write a settings file.",
    epilog=EXAMPLES,
    subcommand_metavar="[init|check|path]",
)
@config_option
@json_option
@click.pass_context
def command(context: click.Context, config_path: str | None, as_json: bool) -> None:
    """Show the effective settings, and where each came from: a flag, a variable, FILE:LINE, or the default.

    Where a server runs and goes by others, these are shown too, with what brings a change into effect.
    Secrets (API keys, the values of a worker's environment) are never shown.
    """
    if context.invoked_subcommand is not None:
        return
    data = describe(config_path)
    if as_json:
        print_data("config", data)
        return
    click.echo(format_settings(data))
    for warning in data["warnings"]:
        note(f"warning: {warning}")


@command.command(
    "init",
    short_help="Write a commented settings file.",
    epilog="""\b
Examples:
  mlxk config init
  mlxk config init --print | less""",
)
@config_option
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--print", "to_stdout", is_flag=True, help="Print it, and write nothing.")
@json_option
def init(config_path: str | None, force: bool, to_stdout: bool, as_json: bool) -> None:
    """Write config.toml with every key, its default and a sentence about it, all of it commented out."""
    from mlxk.config.template import commented_file

    text = commented_file()
    if to_stdout:
        if as_json:
            print_data("config init", {"path": None, "written": False, "text": text})
        else:
            click.echo(text, nl=False)
        return
    path = _path(config_path)
    _write(path, text, force=force)
    if as_json:
        print_data("config init", {"path": str(path), "written": True, "text": None})
    else:
        click.echo(f"wrote {path}; after an edit: mlxk config check, mlxk reload")


@command.command(
    "check",
    short_help="Check a settings file.",
    epilog="""\b
Examples:
  mlxk config check
  mlxk config check ./config.toml""",
)
@click.argument("file", required=False, type=click.Path())
@json_option
def check(file: str | None, as_json: bool) -> None:
    """Read a settings file (by default the one in use), together with flags and variables, as a server would.

    A mistake is an error with its file, line and key. What can be read and means nothing, as a model that is
    not installed, is a warning (exit 0).
    """
    if file is not None and not _path(file).exists():
        from mlxk.config.errors import ConfigError

        missing = ConfigError(f"there is no file {_path(file)}")
        raise CliError("config_error", str(missing), missing.as_data())
    data = describe(file, with_server=False)
    facts = {"path": data["file"]["path"], "exists": data["file"]["exists"], "warnings": data["warnings"]}
    if as_json:
        print_data("config check", facts)
        return
    for warning in data["warnings"]:
        note(f"warning: {warning}")
    click.echo(f"{facts['path']}: " + _verdict(facts))


def _verdict(facts: dict[str, Any]) -> str:
    if not facts["exists"]:
        return "there is no such file"
    return "it can be read; see the warnings" if facts["warnings"] else "no mistake found"


@command.command(
    "path",
    short_help="Print where the settings file is.",
    epilog="""\b
Examples:
  mlxk config path
  $EDITOR "$(mlxk config path)" """,
)
@json_option
def path_command(as_json: bool) -> None:
    """Print where the settings file is looked for: $MLXK_CONFIG, or config.toml in $MLXK_HOME."""
    path = _path(None)
    if as_json:
        print_data("config path", {"path": str(path), "exists": path.exists()})
    else:
        click.echo(path)


def _path(config_path: str | None) -> Path:
    from mlxk.config.paths import absolute, config_file

    return absolute(config_path) if config_path else config_file()


def _write(path: Path, text: str, *, force: bool) -> None:
    if not force and path.is_symlink() | path.exists():
        message = f"{path} is there already and was left as it is; to replace it: mlxk config init --force"
        raise CliError("file_exists", message, {"path": str(path)})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # "x": nobody's file is overwritten that came to be in this very moment. 0600: it may get to hold
        # secrets.
        with path.open("w" if force else "x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(text)
    except OSError as error:
        advice = "name another with --config, or set MLXK_HOME to a directory that can be written"
        raise CliError("os_error", f"{path} cannot be written ({error.strerror}); {advice}") from error


# ------------------------------------------------------------------------- facts


def describe(config_path: str | None = None, *, with_server: bool = True) -> dict[str, Any]:
    """The `data` of `mlxk config --json`. Raises CliError if the configuration is wrong."""
    import os

    from mlxk.cli.config_server import differences
    from mlxk.cli.config_warnings import configuration_warnings
    from mlxk.cli.names import read_settings
    from mlxk.config.provenance import model_entries, server_entries
    from mlxk.config.settings import read_config

    settings = read_settings(config=config_path)
    path = _path(config_path)
    file = read_config(path if config_path else None, os.environ)
    entries = server_entries(settings, file)
    models = model_entries(settings, file)
    return {
        "file": {"path": str(path), "exists": file is not None},
        "settings": [_entry(one) for one in entries],
        "models": [
            {"name": name, "settings": [_entry(one) for one in said]} for name, said in models.items()
        ],
        "api_keys_from": [name for name in API_KEY_VARIABLES if os.environ.get(name)],
        "warnings": configuration_warnings(settings, file),
        "server": differences(entries) if with_server else None,
    }


def _entry(one: Entry) -> dict[str, Any]:
    return {
        "key": one.key,
        "name": one.name,
        "value": one.value,
        "written": one.written,
        "origin": one.origin.value,
        "place": one.place,
    }


# -------------------------------------------------------------------------- text


def format_settings(data: dict[str, Any]) -> str:
    width = terminal_width()

    def table(entries: list[dict[str, Any]]) -> str:
        rows = [[one["key"], one["written"] or NOTHING, _origin(one)] for one in entries]
        return format_table(HEAD, rows, fit=width, flexible=("VALUE", "FROM"))

    file = data["file"]
    parts = [
        f"{file['path']}" + ("" if file["exists"] else " (there is none; `mlxk config init` writes one)")
    ]
    parts.append(table(data["settings"]))
    if data["api_keys_from"]:
        parts.append(f"API keys come from {' and '.join(data['api_keys_from'])} (not shown)")
    parts += [f"model {model['name']}\n{table(model['settings'])}" for model in data["models"]]
    server = data["server"]
    if server is not None and server["error"]:
        parts.append(f"the running server (pid {server['pid']}): {server['error']}")
    if server is not None and server["differs"]:
        rows = [
            [one["key"], one["server_written"] or NOTHING, one["written"] or NOTHING, _remedy(one)]
            for one in server["differs"]
        ]
        head = f"the running server (pid {server['pid']}, {server['url']}) goes by other settings:"
        parts.append(f"{head}\n{format_table(DIFFERENCE_HEAD, rows, fit=width, flexible=('SERVER', 'HERE'))}")
    if server is not None and server["models"]:
        parts.append(f"after `mlxk reload` the server has new settings for: {', '.join(server['models'])}")
    return "\n\n".join(parts)


def _origin(one: dict[str, Any]) -> str:
    place: str | None = one["place"]
    return place if place is not None else str(one["origin"])


def _remedy(one: dict[str, Any]) -> str:
    remedy: str | None = one["remedy"]
    return remedy or f"nothing: the server has its own ({one['server_source']})"
