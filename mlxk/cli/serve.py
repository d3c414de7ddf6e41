"""`mlxk serve`: the server, in the foreground or detached. The one verb that imports api and supervisor."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlxk.cli.errors import CliError
from mlxk.cli.options import assignments_option, json_option, setting_option
from mlxk.cli.output import print_data

if TYPE_CHECKING:
    from mlxk.config.settings import Settings
    from mlxk.supervisor.lifecycle import MakeApp

LOG_FLUSH_S = 0.5
"""What the log's last lines may delay the end: a terminal may be stopped, a disk hang."""

EXAMPLES = """\b
Examples:
  mlxk serve
  mlxk serve --port 8080 --max-memory 24GB --keep-alive 30m
  mlxk serve --set max_batch=16 --set request_timeout=10m
  mlxk serve --detach tiny         in the background; `mlxk stop` ends it"""


@click.command("serve", short_help="Start the server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@setting_option("host", "ADDRESS", "Address to listen on.  [default: 127.0.0.1]")
@setting_option("port", "PORT", "Port; 0 takes any free one.  [default: 8000]")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="Settings file."
)
@click.option("--detach", is_flag=True, help="Go to the background; return when ready.")
@setting_option("max_memory", "SIZE", "Memory for all models together: 24GB.")
@setting_option("max_models", "N", "Models loaded at once; 0 is no limit.")
@setting_option("keep_alive", "TIME", "Unload a model idle for so long: 30m; -1 never.  [default: 10m]")
@setting_option("log_level", "LEVEL", "debug, info, warning or error.  [default: info]")
@click.option("--log-json", is_flag=True, default=None, help="Log JSON lines.")
@click.option("--no-auth", is_flag=True, default=None, help="Serve a public address without an API key.")
@click.option("--api-key-file", type=click.Path(resolve_path=True), help="File with one API key a line.")
@setting_option("drain_timeout", "TIME", "Time for running requests when asked to stop.  [default: 30s]")
@assignments_option
@click.option("--background", is_flag=True, hidden=True, help="What --detach starts: logs to its file only.")
@click.option("--private", is_flag=True, hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    models: tuple[str, ...],
    config: str | None,
    detach: bool,
    background: bool,
    private: bool,
    ready_fd: int | None,
    assignments: dict[str, str],
    as_json: bool,
    **flags: Any,
) -> None:
    """Start the server; MODELs are loaded at once, others when they are asked for.

    In the foreground it runs until Ctrl-C or `mlxk stop`. With --detach it prints its pid and URL, or
    the reason why it did not start. Its log is server.log in $MLXK_HOME/logs: `mlxk logs`.
    """
    from mlxk.cli.names import read_settings, resolve_model

    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)  # held open by a worker, it would never report our death
    if not private:
        _refuse_a_second_server()
    given = {name: value for name, value in flags.items() if value is not None}
    asked = {**assignments, **given, **({"preload": models} if models else {})}
    settings = read_settings(asked, config=config)
    for name in models:
        resolve_model(name, settings)  # a typo ends here, not as a server without the model

    if private:
        settings = _for_one_prompt(settings)
    if detach:
        from mlxk.cli.server_process import start_detached

        for warning in _warnings():
            click.echo(f"warning: {warning}", err=True)  # the server's own goes to its log
        ready = start_detached(_arguments(models, {"config": config, **flags}, assignments))
        troubles = _hopeless(settings.preloaded())
        if as_json:
            print_data("serve", {"pid": ready.pid, "url": ready.url, "not_preloaded": troubles})
        else:
            for trouble in troubles:
                click.echo(f"warning: {trouble['message']}", err=True)
            click.echo(f"server running: pid {ready.pid}, {ready.url}")
        return

    from mlxk.supervisor.signals import signal_desk

    with signal_desk() as signals:  # before the imports that take most of the start
        from mlxk.config.imports import nothing_to_collect

        with nothing_to_collect():
            from mlxk.api.descriptors import prepare_descriptors
            from mlxk.config.log_files import server_log
            from mlxk.config.logs import configure_logging, log_patiently
            from mlxk.config.paths import log_dir
            from mlxk.config.settings import ConfigError, load_settings
            from mlxk.supervisor.lifecycle import run_server
            from mlxk.supervisor.run_dir import StartError

        log_patiently(stderr=not background, file=None if private else server_log(log_dir()))
        configure_logging(settings.log_level, settings.log_json)
        if not private:
            for warning in _warnings():
                logging.getLogger("mlxk.serve").warning("%s", warning)
        try:
            prepare_descriptors()
            code = run_server(
                settings,
                private=private,
                ready_fd=ready_fd,
                import_api=_import_api,
                signals=signals,
                read_again=partial(load_settings, asked, config_path=Path(config) if config else None),
            )
        except ConfigError as error:  # found only when it is put to use: a key file, a public address
            raise CliError("config_error", str(error), error.as_data()) from error
        except StartError as error:
            raise CliError("start_failed", str(error)) from error
        if code is None:
            _begin_anew()
        _leave(code)


def _import_api() -> MakeApp:
    """Half of the server's start. Called in a thread, when the first worker makes its own imports already."""
    from mlxk.config.imports import nothing_to_collect

    with nothing_to_collect():
        from mlxk.api.app import create_server

    return create_server


def _hopeless(names: Sequence[str]) -> list[dict[str, str]]:
    """The models that the server in the background can never load, each with its reason. It has said so to
    its log only, and a long load is not waited for."""
    if not names:
        return []
    from mlxk.cli.control import ANSWER_LIMIT_S, server
    from mlxk.cli.load import describe_plan

    troubles = []
    for name in names:
        try:
            with server() as client:
                arguments = {"models": [name], "dry_run": True}
                plan = client.call("load", arguments, timeout_s=ANSWER_LIMIT_S)["models"][0]
        except CliError as error:
            troubles.append({"model": name, "type": error.type, "message": error.message})
        else:
            if not plan["fits"]:
                words = describe_plan(plan)
                troubles.append({"model": plan["name"], "type": "insufficient_memory", "message": words})
    return troubles


def _warnings() -> list[str]:
    """Of what is set and means nothing."""
    from mlxk.config.variables import unknown_variables

    return [str(one) for one in unknown_variables()]


def _begin_anew() -> NoReturn:
    """Become a new server, with the same environment, arguments, terminal and pid: also a service manager
    sees one process that goes on. Signals stay blocked meanwhile; the new one takes them."""
    _flush()
    command = [sys.executable, *words_to_begin_anew(sys.orig_argv[1:])]
    try:
        os.execv(sys.executable, command)
    except OSError as error:  # an upgrade has removed this interpreter, say
        message = f"the server has ended and could not begin anew with {sys.executable}: {error.strerror}"
        raise CliError("start_failed", message) from error


def words_to_begin_anew(words: list[str]) -> list[str]:
    """The command line without what belonged to that one start."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*kept, word, *rest]
        if word == "--ready-fd":
            next(rest, None)
        elif not word.startswith("--ready-fd="):
            kept.append(word)
    return kept


def _flush() -> None:
    from mlxk.config.logs import flush_logs

    flush_logs(LOG_FLUSH_S)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _leave(code: int) -> NoReturn:
    """The end of the process, while signals are still kept away. Everything has been ended and said by now;
    the interpreter would take another 0.2 s to take itself apart."""
    _flush()
    os._exit(code)


def _for_one_prompt(settings: Settings) -> Settings:
    """A private server loads the one model that is asked for: what the configuration preloads for everybody
    would only stand in its way."""
    models = {name: replace(model, preload=False) for name, model in settings.models.items()}
    return replace(settings, preload=(), models=models, spare=False)


def _refuse_a_second_server() -> None:
    """The lock decides in the end; this says it sooner, and where the other one listens."""
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if instance is not None:
        raise CliError(
            "already_running",
            f"a server is running already: pid {instance.pid}, {instance.url}; end it with: mlxk stop",
            {"pid": instance.pid, "url": instance.url},
        )


def _arguments(models: tuple[str, ...], options: dict[str, Any], assignments: dict[str, str]) -> list[str]:
    """The options as words for the process in the background. `=`, because a value may begin with a dash."""
    words = [f"--set={key}={value}" for key, value in assignments.items()]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}={value}")
    return [*words, "--", *models] if models else words
