"""`mlxk run`: one prompt, one answer, on the running server or on a private one that ends with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import click

from mlxk.cli.api_key import find_api_key
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data
from mlxk.cli.reply import ReplyWriter

EXAMPLES = """\b
Examples:
  mlxk run tiny "Say: hi there"
  echo "Count from 1 to 10, one number per line" | mlxk run tiny
  mlxk run tiny --json "Say: hi there" | jq -r .data.response
  mlxk run tiny --no-chat-template "Count from 1 to 10:" --max-tokens 20"""


@dataclass(slots=True)
class Reply:
    """A reply as far as it has come."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


@click.command("run", short_help="Ask a model.", epilog=EXAMPLES)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest reply.  [default: what fits]"
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), metavar="X", help="0 always picks the likeliest token."
)
@click.option(
    "--top-p", type=click.FloatRange(0, 1), metavar="X", help="Sample from this share of the probability."
)
@click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the reply before this text. Repeatable.")
@click.option("--hide-reasoning", is_flag=True, help="Show only the answer of a model that thinks aloud.")
@click.option("--no-chat-template", is_flag=True, help="Let the model continue PROMPT as it is.")
@click.option("--no-stream", is_flag=True, help="Print the reply when it is complete.")
@json_option
def command(
    model: str,
    prompt: str | None,
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
    """Ask MODEL and print its reply while it comes.

    PROMPT `-`, or a pipe and no PROMPT, reads the standard input. Without a running server a private one
    is started, and ended when the reply is there.
    """
    if no_chat_template and system is not None:
        usage_error("--system needs the chat template; leave out --no-chat-template")
    prompt = _read_prompt(prompt, keep_last_newline=no_chat_template)
    body: dict[str, Any] = {"model": model}
    if no_chat_template:
        body["prompt"] = prompt
    else:
        instructions = [] if system is None else [{"role": "system", "content": system}]
        body["messages"] = [*instructions, {"role": "user", "content": prompt}]
    # The server would keep half of the context for others; this user is here alone.
    body |= {"context_share": 1.0} if max_tokens is None else {"max_tokens": max_tokens}
    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed, "stop": list(stop) or None}
    body |= {name: value for name, value in sampling.items() if value is not None}

    endpoint = "/v1/completions" if no_chat_template else "/v1/chat/completions"
    writer = None if as_json or no_stream else ReplyWriter(sys.stdout, hide_reasoning=hide_reasoning)
    with _server_for(model) as base_url:
        reply = _receive(base_url, endpoint, body, writer)
    content, reasoning = "".join(reply.content), "".join(reply.reasoning)
    if as_json:
        data = {
            "model": model,
            "prompt": prompt,
            "response": content,
            "reasoning": None if hide_reasoning else reasoning or None,
            "finish_reason": reply.finish_reason,
            "usage": reply.usage,
        }
        print_data("run", data)
        return
    if no_stream:
        writer = ReplyWriter(sys.stdout, hide_reasoning=hide_reasoning)
        writer.write(content, reasoning)
        writer.end_line()
    if reply.finish_reason == "length" and max_tokens is None:
        note("note: the reply ends here because the model's context is full")


def _receive(base_url: str, endpoint: str, body: dict[str, Any], writer: ReplyWriter | None) -> Reply:
    """The whole reply, shown meanwhile if there is a writer. However this ends, the connection is closed
    (so the server aborts what still runs) and the terminal is on a fresh line."""
    from mlxk.cli.completions import stream_reply

    reply = Reply()
    with contextlib.ExitStack() as ends:
        if writer is not None:
            ends.callback(writer.end_line)
        parts = ends.enter_context(
            contextlib.closing(stream_reply(base_url, endpoint, body, api_key=find_api_key()))
        )
        for part in parts:
            reply.content.append(part.content)
            reply.reasoning.append(part.reasoning)
            reply.finish_reason = part.finish_reason or reply.finish_reason
            reply.usage = part.usage or reply.usage
            if writer is not None:
                writer.write(part.content, part.reasoning)
    return reply


@contextlib.contextmanager
def _server_for(model: str) -> Iterator[str]:
    """The URL of the running server, or of a private one for as long as the block lasts."""
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if instance is not None:
        yield instance.url
        return
    from mlxk.cli.names import resolve_model
    from mlxk.cli.server_process import private_server

    resolve_model(model)  # a typo is answered without starting anything
    with private_server() as ready:
        yield ready.url


def _read_prompt(prompt: str | None, *, keep_last_newline: bool) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin is None or (prompt is None and sys.stdin.isatty()):
        usage_error(
            'there is no prompt. Give one, mlxk run MODEL "PROMPT", or pipe it in: '
            "echo PROMPT | mlxk run MODEL. (A conversation at the terminal comes in a later version.)"
        )
    text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    if not text.strip():
        usage_error("the prompt on the standard input is empty")
    # `echo` ends its text with a line end that nobody meant for a chat; a raw prompt may need its own.
    return text if keep_last_newline else text.removesuffix("\n").removesuffix("\r")


def usage_error(message: str) -> NoReturn:
    raise click.UsageError(message, click.get_current_context())
