"""What a server says of itself when it starts: to people on stdout, and to who started it through a pipe.

Neither may end it: stdout may be a file on a full disk, and who reads may have left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys

from mlxk.config import paths
from mlxk.config.instance import Instance, write_instance
from mlxk.supervisor.run_dir import StartError


def say(line: str) -> None:
    """A line on stdout, if it takes one."""
    try:
        print(line, flush=True)
    except OSError:
        # What could not be written stays in the buffer, and would fail once more at the interpreter's exit.
        _point_at_nothing(sys.stdout.fileno())


def example(url: str, model: str, key_file: str | None) -> str:
    """A line to paste into another terminal."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Who are you?"}]})
    for wildcard in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(wildcard, "//127.0.0.1:")
    key = _key_for_the_shell(key_file)
    header = f' -H "Authorization: Bearer {key}"' if key else ""
    return f"try: curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} -d '{body}'"


def _key_for_the_shell(key_file: str | None) -> str | None:
    """Where the shell finds a key, which itself is never printed."""
    for name in ("MLXK_API_KEY", "MLXK_API_KEYS"):
        if keys := os.environ.get(name):
            return f"${{{name}%%,*}}" if "," in keys else f"${name}"
    # The first line of the file that is neither empty nor a comment. Within double quotes of the header.
    return None if key_file is None else f"$(grep -m1 '^ *[^ #]' {shlex.quote(key_file)})"


def publish(instance: Instance) -> None:
    """Let every verb find this server. Raises StartError: a server that `mlxk stop` cannot find would have to
    be hunted down with ps and kill."""
    try:
        write_instance(instance)
    except OSError as error:
        raise StartError(
            f"{paths.instance_file()} cannot be written ({error.strerror or error}). Free some space on its "
            "disk, or set MLXK_HOME to a directory that can be written."
        ) from error


def report_ready(ready_fd: int, *, pid: int, url: str, control: str) -> None:
    """To the process at the other end of the pipe, which is then closed."""
    _report(ready_fd, {"pid": pid, "url": url, "control": control})


def report_failure(ready_fd: int, message: str) -> None:
    """The same for a server that cannot start: its log, where that reason belongs, may be on a full disk."""
    _report(ready_fd, {"error": message})


def _report(ready_fd: int, facts: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(ready_fd, json.dumps(facts).encode() + b"\n")
    with contextlib.suppress(OSError):
        os.close(ready_fd)


def _point_at_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
