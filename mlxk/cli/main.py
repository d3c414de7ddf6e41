"""The `mlxk` command: finds the verb, runs it, turns every end into a message and an exit code.

Nothing heavy is imported here (a test holds us to it): each verb's file is loaded when the verb is
called, and the verb loads zmq, requests, the store or the server when it gets to work.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mlxk import __version__
from mlxk.cli.errors import CliError, ExitCode
from mlxk.cli.interrupts import interrupt_later
from mlxk.cli.options import HELP_AS_JSON, add_help_option
from mlxk.cli.output import print_data, print_error, print_usage_error, silence

VERBS = (
    "serve",
    "run",
    "ps",
    "top",
    "load",
    "stop",
    "restart",
    "reload",
    "logs",
    "events",
    "list",
    "show",
    "health",
    "pull",
    "rm",
    "convert",
    "config",
    "doctor",
    "completion",
    "help",
    "version",
)
"""Each is `mlxk.cli.<verb>.command`. In the order of the help page."""
SUBVERBS = {"config": ("init", "check", "path")}
ONLY_SHOW = {"ps", "top", "logs", "events", "list", "show", "health", "config", "config check", "config path"}
ONLY_SHOW |= {"doctor", "completion", "help", "version"}
"""Whose reader may leave early and has what it wanted. The others may not be done by then."""
EXPERIMENTS = {"push": "MLXK_EXPERIMENTAL_PUSH"}
"""Verbs that there are only while the variable is 1; else they are as unknown as any other word."""


def verbs() -> tuple[str, ...]:
    """All that this call knows."""
    return (*VERBS, *(verb for verb, variable in EXPERIMENTS.items() if os.environ.get(variable) == "1"))


EXAMPLES = """\b
Examples:
  mlxk serve                       a server on http://127.0.0.1:8000
  mlxk serve --detach tiny         in the background, with a model loaded
  mlxk run tiny "Say: hi there"    one answer, streamed
  mlxk ps                          what is loaded, and what it costs
  mlxk stop tiny                   end one model, and free its memory
  mlxk stop                        end the server

\b
Exit codes: 0 ok, 1 error, 2 usage, 3 server not running, 4 model unknown or
ambiguous, 5 timed out, 6 not enough memory, 130 interrupted."""


class VerbGroup(click.Group):
    """Loads a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in verbs():
            return None
        with interrupt_later():
            command: click.Command = importlib.import_module(f"mlxk.cli.{cmd_name}").command
        return add_help_option(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in verbs():
            import difflib  # a tenth of the start of `mlxk --version`, for this one message

            near = difflib.get_close_matches(args[0], verbs(), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(verbs())}"
            ctx.fail(f"there is no verb '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click would write a line end to stderr, also into a file
            raise CliError("interrupted", "interrupted") from error


@click.group(
    cls=VerbGroup,
    invoke_without_command=True,
    subcommand_metavar="VERB [ARGS]...",
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", "show_version", is_flag=True, help="Print the version.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON envelope on stdout (with any verb).")
@click.pass_context
def cli(context: click.Context, show_version: bool, as_json: bool) -> None:
    """Serve several MLX language models on this machine, each in a process of its own."""
    if show_version:
        if as_json:
            print_data("version", {"version": __version__})
        else:
            click.echo(f"mlxk {__version__}")
        context.exit(ExitCode.OK)
    if context.invoked_subcommand is None:
        if as_json:
            context.fail(f"which verb? There are: {', '.join(verbs())}")
        click.echo(context.get_help())


add_help_option(cli)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Whatever happens has been reported by then."""
    own = list(arguments)
    before_dashes = own[: own.index("--")] if "--" in own else own
    as_json = "--json" in before_dashes
    command, stdout = _command_of(own), sys.stdout
    try:
        return _call(own, command, as_json=as_json)
    except (BrokenPipeError, SystemExit) as error:  # `mlxk list | head -1`
        # click makes an exit with 1 of it, and puts a wrapper of its own in the stream's place.
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise
        silence(sys.stdout)
        return ExitCode.OK if command is None or command in ONLY_SHOW else ExitCode.ERROR


def _command_of(words: list[str]) -> str | None:
    """For the envelope: "ps", "config init"; None where no verb is named."""
    verb = next((word for word in words if word in verbs()), None)
    if verb not in SUBVERBS:
        return verb
    behind = words[words.index(verb) + 1 :]
    sub = next((word for word in behind if not word.startswith("-")), None)
    return f"{verb} {sub}" if sub in SUBVERBS[verb] else verb


def _call(arguments: list[str], command: str | None, *, as_json: bool) -> int:
    try:
        told = HELP_AS_JSON if as_json else None
        result = cli.main(args=arguments, prog_name="mlxk", standalone_mode=False, obj=told)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except click.UsageError as error:
        print_usage_error(error, command, as_json=as_json)
        return ExitCode.USAGE
    except click.ClickException as error:
        failure = CliError("error", error.format_message())
    except (KeyboardInterrupt, click.Abort):
        failure = CliError("interrupted", "interrupted")
    except CliError as error:
        failure = error
    except BrokenPipeError:
        raise
    except OSError as error:
        failure = CliError("os_error", _words_of(error))
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            # Pressed while a class was made: Python 3.11 makes a RuntimeError of what `__set_name__` raises.
            failure = CliError("interrupted", "interrupted")
        else:
            # A mistake of ours: show where, on stderr, so that it can be reported.
            sys.excepthook(type(error), error, error.__traceback__)
            failure = CliError("internal_error", f"{type(error).__name__}: {error}")
    try:
        if failure.exit_code == ExitCode.INTERRUPTED and not as_json:
            if sys.stderr.isatty():
                click.echo(err=True)  # the line that now says ^C; whoever pressed it needs no other words
        else:
            print_error(failure, command, as_json=as_json)
    except BrokenPipeError:
        raise
    except OSError:  # a full disk: the exit code is all that can still be said
        silence(sys.stdout, sys.stderr)
    return failure.exit_code


def _words_of(error: OSError) -> str:
    """Not "[Errno 2] …": the number is for programmers."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> NoReturn:
    """The console script."""
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # half an emoji from a model must not end the program
    code: int = ExitCode.INTERRUPTED
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # started in the background of a script
    with contextlib.suppress(KeyboardInterrupt):
        if not ignored:  # `mlxk.__main__` has made a Ctrl-C the end of the process during the imports
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = invoke(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: no traceback from the interpreter's end
    if code == ExitCode.INTERRUPTED:
        # A KeyboardInterrupt that passed through an `exec` (dataclasses has one) makes Python end itself by
        # SIGINT instead, although it was caught.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
