"""`mlxk run`: one prompt, one answer, on the running server or on a private one that ends with it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, NoReturn

import click

from mlxk.cli.asked import DEFAULT_LENGTH, Manner, Wishes, checked_number
from mlxk.cli.errors import CliError
from mlxk.cli.model_server import ModelServer
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data
from mlxk.cli.prompt_input import read_prompt, readable
from mlxk.cli.reply import Reply, ReplyWriter

EXAMPLES = """\b
Examples:
  mlxk run tiny                              a conversation; /help says more
  mlxk run tiny "Say: hi there"
  cat notes.txt | mlxk run tiny "Summarize:"
  mlxk run tiny --json "Say: hi there" | jq -r .data.response
  mlxk run tiny --no-chat-template "Count from 1 to 10:" --max-tokens 20"""


def _checked(context: click.Context, parameter: click.Parameter, value: str | None) -> int | float | None:
    """As `/set` in a conversation: click's own ranges let NaN through, which no JSON can carry."""
    try:
        return None if value is None else checked_number(str(parameter.name), value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command("run", short_help="Ask a model.", epilog=EXAMPLES)
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "--max-tokens",
    callback=_checked,
    metavar="N",
    help=f"Longest reply.  [default: {DEFAULT_LENGTH}]",
)
@click.option(
    "--temperature", callback=_checked, metavar="X", help="0 always picks the likeliest token; at most 2."
)
@click.option(
    "--top-p", callback=_checked, metavar="X", help="Sample from this share of the probability: 0 to 1."
)
@click.option("--seed", callback=_checked, metavar="N", help="Makes sampling repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the reply before this text. Repeatable.")
@click.option("--hide-reasoning", is_flag=True, help="Show only the answer of a model that thinks aloud.")
@click.option("--no-chat-template", is_flag=True, help="Let the model continue PROMPT as it is.")
@click.option("--no-stream", is_flag=True, help="Print the reply when it is complete.")
@json_option
def command(
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    hide_reasoning: bool,
    no_chat_template: bool,
    no_stream: bool,
    as_json: bool,
) -> None:
    """Ask MODEL and print its reply while it comes; without a PROMPT, at a terminal, hold a conversation.

    PROMPT `-` is the standard input. What is piped in follows the PROMPT, or is the PROMPT if there is none.
    Without a running server a private one is started, and ended with this command.
    """
    instructions = None if system is None else readable(system)
    wishes = Wishes(instructions, max_tokens, temperature, top_p, seed, tuple(map(readable, stop)))
    if not prompt and sys.stdin is not None and sys.stdin.isatty():
        _converse(
            model,
            wishes,
            Manner(hide_reasoning=hide_reasoning, stream=not no_stream, plain=no_chat_template),
            as_json=as_json,
        )
        return
    if no_chat_template and system is not None:
        usage_error("--system needs the chat template; leave out --no-chat-template")
    text = read_prompt(prompt, keep_last_newline=no_chat_template)
    body: dict[str, Any] = {"model": model, **wishes.fields()}
    if no_chat_template:
        body["prompt"] = text
    else:
        body["messages"] = [*wishes.instructions(), {"role": "user", "content": text}]
    endpoint = "/v1/completions" if no_chat_template else "/v1/chat/completions"
    writer = None if as_json or no_stream else ReplyWriter(sys.stdout, hide_reasoning=hide_reasoning)
    reply = Reply()
    cut_because = None
    with ModelServer(model) as server:
        server.ask(endpoint, body, reply, writer)
        if reply.finish_reason == "length" and max_tokens is None and not as_json:
            cut_because = _why_cut(reply, server)
    if as_json:
        data = {
            "model": model,
            "prompt": text,
            "response": reply.content,
            "reasoning": None if hide_reasoning else reply.reasoning or None,
            "finish_reason": reply.finish_reason,
            "usage": reply.usage,
        }
        print_data("run", data)
        return
    if no_stream:
        writer = ReplyWriter(sys.stdout, hide_reasoning=hide_reasoning)
        writer.write(reply.content, reply.reasoning)
        writer.end_line()
    if cut_because is not None:
        note(f"note: the reply ends here {cut_because}")


def _why_cut(reply: Reply, server: ModelServer) -> str:
    with contextlib.suppress(CliError):  # the reply is there: no failure now may spoil it
        if reply.fills(server.context_length()):
            return "because the model's context is full"
    return "at its longest; --max-tokens N changes that"


def _converse(model: str, wishes: Wishes, manner: Manner, *, as_json: bool) -> None:
    if as_json:
        usage_error("--json answers one PROMPT: give one, or pipe it in")
    if not any(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)):
        usage_error(
            'there is no prompt, and no terminal to talk at. Give one: mlxk run MODEL "PROMPT", or '
            "echo PROMPT | mlxk run MODEL"
        )
    from mlxk.cli.conversation.loop import hold_conversation

    hold_conversation(model, wishes, manner)


def usage_error(message: str) -> NoReturn:
    raise click.UsageError(message, click.get_current_context())
