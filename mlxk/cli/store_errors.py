"""What the store refuses, as the command line's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlxk.cli.errors import CliError


@contextmanager
def store_errors() -> Iterator[None]:
    """The errors of the store's longer works (download, removal, conversion) leave the block as CliError."""
    from mlxk.store.errors import StoreError
    from mlxk.store.hub_errors import OperationError

    try:
        yield
    except OperationError as error:
        details: dict[str, Any] = {key: value for key, value in error.details.items() if key != "offline"}
        raise CliError(error.type, f"{error}", details) from error
    except StoreError as error:
        raise CliError("store_error", str(error)) from error
