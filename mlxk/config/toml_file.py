"""Reads the configuration file, and knows in which line a key stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk.config.errors import ConfigError, Mistake

_HEADER = re.compile(r"\s*(\[[^\[].*\])\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """The configuration file as text (to find lines in) and as data."""

    path: Path
    text: str
    data: dict[str, Any]

    def mistake(self, table: tuple[str, ...], key: str | None, problem: str) -> Mistake:
        """About `key` in `table` (None: the table itself), with the line where that is known."""
        line = self.line(table, key)
        where = f"{self.path}, line {line}" if line else str(self.path)
        written = ".".join(_written(part) for part in table)
        message = f"{where}: {f'[{written}] ' if table else ''}{f'{key}: ' if key else ''}{problem}"
        place = f"{self.path}:{line}" if line else str(self.path)
        return Mistake(message, place, str(self.path), line, written or None, key)

    def line(self, table: tuple[str, ...], key: str | None) -> int | None:
        """Where the key, or the table's header, stands; from 1. None if that is not known."""
        return _line_of(self.text, table, key)


def read_toml(path: Path) -> TomlFile:
    """Raises ConfigError if it cannot be read or is not TOML."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(
                f"{path}: cannot be read: it is not a file; remove it, or name another with --config"
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    try:
        return TomlFile(path, text, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = (
            f"{path}: is not valid TOML: {error}. Texts need quotes, and so do names with slashes or dots, "
            'as in [models."org/name"]'
        )
        found = re.search(r"\(at line (\d+),", str(error))  # of what follows nothing can be said
        line = int(found[1]) if found else None
        place = f"{path}:{line}" if line else str(path)
        raise ConfigError(Mistake(message, place, str(path), line)) from error


def _line_of(text: str, table: tuple[str, ...], key: str | None) -> int | None:
    """The line (from 1) of a key or a table's header. None if it is written in a way we do not look for."""
    current: tuple[str, ...] = ()
    pattern = re.compile(rf"""\s*(["']?){re.escape(key or "")}\1\s*[=.]""")
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.fullmatch(line):
            current = _header_path(header[1])
            if key is None and current == table:
                return number
            if key is not None and current[: len(table) + 1] == (*table, key):
                return number
        elif key is not None and current == table and pattern.match(line):
            return number
    return None


def _header_path(header: str) -> tuple[str, ...]:
    try:
        node: Any = tomllib.loads(header)
    except tomllib.TOMLDecodeError:  # a line of an array that looks like a header
        return ()
    path: list[str] = []
    while isinstance(node, dict) and len(node) == 1:
        name, node = next(iter(node.items()))
        path.append(name)
    return tuple(path)


def _written(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
