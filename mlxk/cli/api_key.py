"""Which API key to show to the server: one of those that it was given itself."""

from __future__ import annotations

import os
from pathlib import Path

from mlxk.cli.errors import CliError


def find_api_key() -> str | None:
    """The first key of $MLXK_API_KEY, of $MLXK_API_KEYS (both separated by commas), else of the file that
    the settings name (MLXK_API_KEY_FILE): one a line, lines with # are comments. None: there is none.

    Raises CliError if the file cannot be read.
    """
    for name in ("MLXK_API_KEY", "MLXK_API_KEYS"):
        for key in os.environ.get(name, "").split(","):
            if key.strip():
                return key.strip()

    from mlxk.cli.names import read_settings

    file = read_settings().api_key_file
    if file is None:
        return None
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError("config_error", f"api_key_file {file} cannot be read: {error}") from error
    return next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), None)
