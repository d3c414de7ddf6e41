"""What a name means among the names that there are. Pure functions, no disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence

DEFAULT_ORG = "mlx-community"
_LONGEST = 200


def is_plausible(name: str) -> bool:
    """False for what can be no model's name: paths, control characters, absurd lengths.

    Names are only ever looked up, never joined to a path; this is the second lock on that door.
    """
    return (
        0 < len(name) <= _LONGEST
        and name[0] not in "/~\\"
        and ".." not in name
        and name.strip().isprintable()
    )


def exact_name(name: str, *places: Collection[str]) -> str | None:
    """`name` itself or mlx-community/`name`, whichever comes first in any of these places."""
    candidates = (name, f"{DEFAULT_ORG}/{name}")
    return next((one for one in candidates if any(one in place for place in places)), None)


def names_holding(name: str, names: Collection[str]) -> list[str]:
    """The names that hold `name` as a part, in any case; sorted."""
    wanted = name.casefold()
    return sorted(one for one in names if wanted in one.casefold())


def split_revision(name: str) -> tuple[str, str] | None:
    """ "org/name@1a2b" -> ("org/name", "1a2b"); None if there is no such ending."""
    base, at, revision = name.rpartition("@")
    return (base, revision.lower()) if at and base and revision else None


def nearest_names(name: str, names: Sequence[str], limit: int = 3) -> tuple[str, ...]:
    """Names that look like a typo of `name`, best first; compared with and without the organisation."""
    import difflib  # only on the way to an error

    def likeness(a: str, b: str) -> float:
        matcher = difflib.SequenceMatcher(None, a, b)
        # The quick upper bounds first: the true ratio of 200 names would take tens of milliseconds.
        if matcher.real_quick_ratio() < 0.6 or matcher.quick_ratio() < 0.6:
            return 0.0
        return matcher.ratio()

    wanted = name.casefold().rpartition("/")[2]
    scored: list[tuple[float, str]] = []
    for one in names:
        full = one.casefold()
        score = max(likeness(wanted, full.rpartition("/")[2]), likeness(name.casefold(), full))
        if score >= 0.6:
            scored.append((-score, one))
    return tuple(one for _, one in sorted(scored)[:limit])
