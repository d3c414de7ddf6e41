"""Which versions are installed, read from the packages' metadata: importing mlx would take seconds."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from mlxk import __version__
from mlxk.cli.checks.finding import Finding, note, ok, problem

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SHOWN = ("mlx", "mlx-lm", "transformers", "pyzmq")
"""Those that explain a difference between two machines; all are in the details."""


def check_versions() -> Iterator[Finding]:
    """Every package that mlxk needs, against the range that it was tested with."""
    installed = {"mlxk": __version__, "python": platform.python_version()}
    wrong: list[Finding] = []
    for need in _requirements():
        version, wanted = _version_of(need.name), f"{need.name}{need.specifier}"
        installed[need.name] = version or "missing"
        if version is None:
            wrong.append(_wrong(f"{wanted} is needed and not installed", need.name, wanted))
        elif not need.specifier.contains(version, prereleases=True):  # a pre-release counts by its number
            wrong.append(
                _wrong(f"{need.name} {version} is installed, and mlxk needs {wanted}", need.name, wanted)
            )
    for name in SHOWN:
        if name not in installed and (version := _version_of(name)):
            installed[name] = version
    shown = [f"{name} {installed[name]}" for name in SHOWN if name in installed]
    text = ", ".join([f"mlxk {__version__}", f"Python {installed['python']}", *shown])
    yield from wrong
    yield ok("versions", text, **installed)
    known = _version_of("mlxk")
    if known is None:
        yield note("versions", "mlxk runs from a folder and is not installed: its needs are not known")


def _requirements() -> Iterator[Requirement]:
    """What mlxk's own metadata asks for on this system, without the extras."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = metadata.requires("mlxk") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wrong(message: str, name: str, wanted: str) -> Finding:
    return problem("versions", message, f'pip install "{wanted}"', package=name, wanted=wanted)
