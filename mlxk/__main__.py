"""`python -m mlxk` is `mlxk`: the console script comes in here too.

Imports next to nothing before a Ctrl-C is taken care of: until then Python answers it with a traceback.
"""

from __future__ import annotations

import os

EXIT_INTERRUPTED = 130


def main() -> None:
    """Runs the command line and ends the process. While it is imported, a Ctrl-C ends it without a word."""
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)
        from mlxk.cli.main import main as run_command_line
    except KeyboardInterrupt:  # it came before our handler was there
        _leave()
    run_command_line()


def _leave(*signal_and_frame: object) -> None:
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
