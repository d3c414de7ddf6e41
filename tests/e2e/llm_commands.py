"""`llm`'s own command line in one process for several commands: it takes two seconds of CPU to import.

One JSON list of arguments a line on stdin, one answer a line on stdout: `{"code": ..., "stdout": ...,
"stderr": ...}`, as a process of its own would have given them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial

from tests.e2e.localhost_only import FOREIGN, watch_connections


def main() -> None:
    foreign = watch_connections()
    from llm.cli import cli

    questions, answers = sys.stdin, sys.stdout
    for line in questions:
        output, errors = io.StringIO(), io.StringIO()
        with (
            open(os.devnull, encoding="utf-8") as sys.stdin,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            code = status_of(partial(cli.main, args=json.loads(line), prog_name="llm"))
        if foreign:
            code = FOREIGN
            errors.write(f"reached out to {foreign}\n")
        answer = {"code": code, "stdout": output.getvalue(), "stderr": errors.getvalue()}
        print(json.dumps(answer), file=answers, flush=True)


def status_of(command: Callable[[], object]) -> int:
    """The exit status that a process would have."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
