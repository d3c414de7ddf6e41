"""What people write for a model of the hub, and which repository it means. Pure functions.

A name is never guessed here: it is an id, or it is `mlx-community/NAME`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlxk.store.hub_errors import OperationError
from mlxk.store.names import DEFAULT_ORG, split_revision

_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(.+)", re.IGNORECASE)
_PART = re.compile(r"[A-Za-z0-9_.-]{1,96}")
_REVISION = re.compile(r"[A-Za-z0-9_./+-]{1,200}")
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}")


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of the hub, at a revision."""

    repo_id: str
    """ORG/NAME."""
    revision: str | None
    """Branch, tag or commit as it was written; None: `main`."""

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def parse_reference(text: str) -> HubReference:
    """ "NAME", "ORG/NAME", "ORG/NAME@REVISION", or the address of a model's page.

    Raises OperationError `usage` for what can be no model of the hub.
    """
    name, revision = text.strip(), None
    if match := _URL.fullmatch(name):
        name, revision = _from_page(match[1])
    if revision is None and (parts := _split(name)) is not None:
        name, revision = parts
    words = name.split("/")
    if len(words) == 1:
        words = [DEFAULT_ORG, *words]
    if len(words) != 2 or not all(_is_part(word) for word in words):
        raise OperationError(
            "usage", f"'{text[:200]}' is no model of the hub; write NAME (of {DEFAULT_ORG}) or ORG/NAME"
        )
    if revision is not None and not _is_revision(revision):
        raise OperationError(
            "usage", f"'{revision[:200]}' is no revision; write a branch, a tag or a commit after the @"
        )
    return HubReference("/".join(words), revision)


def _split(name: str) -> tuple[str, str] | None:
    if split_revision(name) is None:
        return (name[:-1], "") if name.endswith("@") else None
    base, _, revision = name.partition("@")  # not lower-cased: a branch's name is its own
    return base, revision


def _from_page(path: str) -> tuple[str, str | None]:
    """ "ORG/NAME/tree/REVISION" of a page's address, with whatever follows a ? or #."""
    words = re.split(r"[?#]", path)[0].strip("/").split("/")
    if len(words) > 3 and words[2] in ("tree", "commit"):
        return "/".join(words[:2]), "/".join(words[3:])
    return "/".join(words), None


def _is_part(word: str) -> bool:
    return bool(_PART.fullmatch(word)) and word[0] not in ".-" and ".." not in word and "--" not in word


def _is_revision(revision: str) -> bool:
    return bool(_REVISION.fullmatch(revision)) and ".." not in revision and revision[0] not in "/-."
