"""The configuration, the models that it names, and the models on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlxk.cli.checks.finding import Finding, note, ok, problem
from mlxk.cli.errors import CliError
from mlxk.config.units import format_size

if TYPE_CHECKING:
    from mlxk.config.settings import Settings

SURVEY_LIMIT_S = 0.5
NAMED = 5
"""So many of a kind are named in one line; the details have all."""


def check_configuration() -> tuple[Settings | None, list[Finding]]:
    """The settings (None if they cannot be read), and what is wrong with them."""
    from mlxk.cli.names import read_settings
    from mlxk.config.paths import config_file

    try:
        path = config_file()
        settings = read_settings()
    except (CliError, OSError) as error:
        return None, [problem("configuration", str(error), "mlxk serve needs this mended first")]
    where = str(path) if path.exists() else "defaults"
    changed = sorted(
        f"{name} from {source}" for name, source in settings.sources.items() if source.startswith("MLXK_")
    )
    text = ", ".join([where, *changed])
    findings = list(_unknown_variables())
    findings += _key_file(settings.api_key_file)
    return settings, [ok("configuration", text, sources=dict(settings.sources)), *findings]


def check_models(settings: Settings) -> Iterator[Finding]:
    """Models on disk, and those that the configuration needs."""
    from mlxk.store.catalog import Catalog

    survey = Catalog(settings).survey(keep=False)  # a doctor leaves nothing behind
    unusable = {ref.name: facts.reason for ref, facts in survey if facts.reason}
    n_usable = len(survey) - len(unusable)
    yield ok("models", f"{n_usable} can be served", count=n_usable)
    needed = list(_needed(settings))
    yield from needed
    told = {finding.details["model"] for finding in needed}
    rest = {name: reason for name, reason in unusable.items() if name not in told}
    for name, reason in list(rest.items())[:NAMED]:
        yield note("models", f"{name} cannot be used: {reason}", model=name, reason=reason)
    if len(rest) > NAMED:
        hint = "mlxk list names them, with the reasons"
        yield note("models", f"{len(rest) - NAMED} more cannot be used", hint, models=rest)


def check_cache() -> Iterator[Finding]:
    """The hub's cache as a place on a disk."""
    from mlxk.store.cache_survey import survey_cache

    survey = survey_cache(SURVEY_LIMIT_S)
    if not survey.exists:
        yield ok("cache", f"{survey.root} is not there yet", path=str(survey.root))
        return
    size = ("" if survey.is_whole else "over ") + format_size(survey.size_bytes)
    running = f", {survey.running} downloads are running" if survey.running else ""
    yield ok(
        "cache",
        f"{survey.root}: {survey.n_repos} models, {size}{running}",
        path=str(survey.root),
        models=survey.n_repos,
        size_bytes=survey.size_bytes,
        complete=survey.is_whole,
    )
    if survey.unreadable:
        yield problem(
            "cache",
            f"cannot be read: {_some(survey.unreadable)}",
            "models there are not seen; give yourself the right to read them (chmod, chown), or set HF_HOME",
            paths=survey.unreadable,
        )
    if survey.unfinished:
        paths = [str(path) for path in survey.unfinished]
        yield note(
            "cache",
            f"{len(paths)} unfinished downloads hold {format_size(survey.unfinished_bytes)}",
            f'pull these models again, or remove the rest: find "{survey.root}" -name "*.incomplete" -delete',
            paths=paths,
            size_bytes=survey.unfinished_bytes,
        )


def _needed(settings: Settings) -> Iterator[Finding]:
    """Models that the configuration names and that cannot be used."""
    from mlxk.cli.names import unusable_names

    for name, error in unusable_names(dict.fromkeys([*settings.preloaded(), *settings.models]), settings):
        advice = "correct the name in the configuration, or pull the model"
        yield problem("models", f"named in the configuration: {error.message}", advice, model=name)


def _unknown_variables() -> Iterator[Finding]:
    """The file's unknown keys are errors; a variable's typo would go unseen."""
    from mlxk.config.variables import unknown_variables

    for name, nearest in unknown_variables():
        advice = f"did you mean {nearest}?" if nearest else f"unset {name}"
        yield note("configuration", f"the variable {name} sets nothing", advice, variable=name)


def _key_file(path: str | None) -> Iterator[Finding]:
    if path is not None and not os.access(path, os.R_OK):
        yield problem("configuration", f"the key file {path} cannot be read", f"check it: ls -l {path}")


def _some(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
