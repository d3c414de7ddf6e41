"""The server that `mlxk run` asks: the one that runs, or a private one that lives as long as the command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from mlxk.cli.api_key import find_api_key
from mlxk.cli.completions import get_json, post_json, stream_reply
from mlxk.cli.errors import CliError
from mlxk.cli.interrupts import interrupt_later
from mlxk.cli.reply import Reply, ReplyWriter
from mlxk.cli.status_line import StatusLine

GONE = frozenset({"connection_lost", "server_not_running"})


class ModelServer:
    """Where one model is asked. `with ModelServer("tiny") as server:`; a private server ends with the block.

    A server that went away is looked for anew at the next question: a running one may have come back at
    another port, a private one is started again.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._private: contextlib.ExitStack | None = None
        self._is_private = False
        self._url = ""

    def __enter__(self) -> ModelServer:
        _import_all()
        with self._explained():
            self._find()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        private, self._private = self._private, None
        return private.__exit__(kind, error, traceback) if private is not None else None

    def model_facts(self) -> dict[str, Any]:
        """The model as /v1/models describes it: `id`, `context_length`, `loaded`, ... Raises CliError."""
        return get_json(self._url, f"/v1/models/{_quoted(self._model)}", api_key=find_api_key())

    def context_length(self) -> int | None:
        """In tokens; None: it is not known. Raises CliError."""
        length = self.model_facts().get("context_length")
        return length if isinstance(length, int) and length > 0 else None

    def load(self) -> None:
        """Returns when the model is loaded. Whoever interrupts this no longer wants it: the server ends the
        load if nobody else waits for it."""
        with StatusLine(f"loading {self._model}"), self._explained():
            self._find()
            post_json(self._url, f"/pool/{_quoted(self._model)}/load", api_key=find_api_key())

    def ask(self, endpoint: str, body: dict[str, Any], reply: Reply, writer: ReplyWriter | None) -> None:
        """Fills `reply` part by part, shown meanwhile if there is a writer. However this ends, the connection
        is closed (so the server aborts what still runs) and the terminal is on a fresh line."""
        with contextlib.ExitStack() as ends:
            ends.enter_context(self._explained())
            if writer is not None:
                ends.callback(writer.end_line)
            status = ends.enter_context(StatusLine(f"waiting for {self._model}"))
            self._find()
            if status.is_shown and not self._is_loaded():
                status.change(f"loading {self._model}")
            parts = stream_reply(self._url, endpoint, body, api_key=find_api_key())
            for part in ends.enter_context(contextlib.closing(parts)):
                reply.add(part)
                if writer is not None and (part.content or part.reasoning):
                    status.end()
                    writer.write(part.content, part.reasoning)

    def _is_loaded(self) -> bool:
        try:
            return bool(self.model_facts().get("loaded"))
        except CliError:
            return True  # the question itself will tell what is wrong

    def _find(self) -> None:
        """Sets the URL, and starts a private server where there was none from the beginning."""
        if self._private is not None:
            return
        from mlxk.config.instance import read_instance

        instance = None if self._is_private else read_instance()
        if instance is not None:
            self._url = instance.url
            return
        if self._url and not self._is_private:
            raise CliError(
                "server_not_running",
                "the server has ended. Start one with: mlxk serve --detach, and ask again",
            )
        from mlxk.cli.names import resolve_model
        from mlxk.cli.server_process import private_server

        resolve_model(self._model)  # a typo is answered without starting anything
        with contextlib.ExitStack() as stack, StatusLine("starting a private server"):
            self._url = stack.enter_context(private_server()).url
            self._private = stack.pop_all()
            self._is_private = True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A lost private server leaves its last words, and the next question gets a new one."""
        try:
            yield
        except CliError as error:
            if error.type == "model_not_found":
                message = f"{error.message}{pull_hint(self._model, error)}"
                raise CliError(error.type, message, error.details) from error
            if error.type in GONE and self._private is not None:
                private, self._private = self._private, None
                with private:  # raises with what the dead one said
                    raise
            raise


def pull_hint(model: str, error: CliError) -> str:
    """Nothing for what is probably a typo of an installed model's name, or no name on the hub at all."""
    from mlxk.store.hub_errors import OperationError
    from mlxk.store.hub_reference import parse_reference

    try:
        parse_reference(model)
    except OperationError:
        return ""
    # Over HTTP the nearest names come in the message only.
    is_typo = error.details.get("nearest") or "did you mean" in error.message.casefold()
    return "" if is_typo and "/" not in model else f" To install it: mlxk pull {model}"


def _import_all() -> None:
    """What takes long to read in, now: later a Ctrl-C would be lost in it."""
    with interrupt_later():
        import psutil  # noqa: F401
        import requests  # noqa: F401

        import mlxk.cli.names
        import mlxk.cli.server_process
        import mlxk.config.instance
        import mlxk.store.catalog  # noqa: F401


def _quoted(model: str) -> str:
    from urllib.parse import quote

    return quote(model, safe="/")
