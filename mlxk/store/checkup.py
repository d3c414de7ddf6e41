"""`mlxk health`: the judgement that everybody uses, and what takes too long for everybody.

Beyond `health.find_faults`: large JSON files are parsed whole, what a download left behind is looked for, and
mlx_lm itself is asked whether it can build the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxk.store.architecture_probe import Probe
from mlxk.store.cache_locks import is_locked
from mlxk.store.catalog import Catalog, ModelRef
from mlxk.store.faults import Fault, Severity, damaged, unsupported, warning
from mlxk.store.file_faults import mend, mend_file
from mlxk.store.hub_cache import HubRepo, hub_cache_dir, read_repo, repo_folders
from mlxk.store.json_file import json_fault, read_object


@dataclass(frozen=True, slots=True)
class Checkup:
    """One model, or what there is of one."""

    name: str
    faults: tuple[Fault, ...]

    @property
    def healthy(self) -> bool:
        return not self._any(Severity.DAMAGED)

    @property
    def runnable(self) -> bool:
        """The installed MLX and mlx_lm have what it takes."""
        return self.healthy and not self._any(Severity.UNSUPPORTED)

    def _any(self, severity: Severity) -> bool:
        return any(fault.severity is severity for fault in self.faults)


def check_up(catalog: Catalog, refs: Sequence[ModelRef]) -> list[Checkup]:
    """Takes seconds: mlx_lm is imported (in a process of its own)."""
    found: list[Checkup] = []
    asked: list[int] = []
    configs: list[Mapping[str, Any]] = []
    with Probe() as probe:
        for ref in refs:
            facts = catalog.facts(ref)
            found.append(Checkup(ref.name, (*facts.faults, *_thorough_faults(ref))))
            config, _ = read_object(ref.path / "config.json")
            if facts.framework == "MLX" and config.get("model_type") and not config.get("model_file"):
                asked.append(len(found) - 1)
                configs.append(config)
        for place, refusal in zip(asked, probe.ask(configs) or [None] * len(asked), strict=True):
            found[place] = _with_refusal(found[place], refusal)
    return [replace(one, faults=_sorted(one.faults)) for one in found]


def fragments() -> list[Checkup]:
    """Repositories in the hub's cache that hold no model yet: downloads that broke off early."""
    found: list[Checkup] = []
    for folder in repo_folders(hub_cache_dir()):
        repo = read_repo(folder)
        if repo.current is None:
            found.append(Checkup(repo.name, (_fragment(repo),)))
    return found


def _fragment(repo: HubRepo) -> Fault:
    n_bytes, running = _incomplete(repo.path)
    advice = f"go on with: mlxk pull {repo.name}, or remove it: mlxk rm {repo.name}"
    if running:
        return damaged(
            "partial_download", f"its download is running ({_size(n_bytes)} so far)", "wait for it"
        )
    main = _main(repo.path)
    text = "its download broke off before its first file was whole"
    if main is not None:
        text = f"refs/main names the snapshot {main[:12]}, which is not there: its download did not finish"
    if n_bytes:
        text += f" ({_size(n_bytes)} came)"
    return damaged("partial_download" if main is None else "dangling_ref", text, advice)


def _thorough_faults(ref: ModelRef) -> Iterator[Fault]:
    tokenizer = ref.path / "tokenizer.json"
    if tokenizer.exists() and (wrong := json_fault(tokenizer)):
        kind, text = wrong
        yield damaged(kind, f"tokenizer.json {text}", mend_file(tokenizer, kind))
    if ref.revision is not None:
        yield from _download_faults(ref)


def _download_faults(ref: ModelRef) -> Iterator[Fault]:
    """What the hub's cache has of this repository beside the snapshot."""
    repo = ref.path.parent.parent
    n_bytes, running = _incomplete(repo)
    if running:
        yield warning("running_download", f"a download for it is running ({_size(n_bytes)} so far)")
    elif n_bytes is not None:
        text = f"an unfinished download for it is in the cache ({_size(n_bytes)})"
        yield warning("partial_download", text, mend(ref.path).replace("fetch it", "go on"))
    main = _main(repo)
    if main is not None and not (repo / "snapshots" / main).is_dir():
        text = f"refs/main names the snapshot {main[:12]}, which is not there; {ref.path.name[:12]} is used"
        yield warning("dangling_ref", text, f"fetch the newer one with: mlxk pull {read_repo(repo).name}")


def _incomplete(repo: Path) -> tuple[int | None, bool]:
    """Bytes of unfinished files (None: there are none), and whether somebody is at work on them."""
    sizes: list[int] = []
    with contextlib.suppress(OSError):
        sizes += [path.stat().st_size for path in (repo / "blobs").glob("*.incomplete")]
    return (sum(sizes), is_locked(repo.parent, repo.name)) if sizes else (None, False)


def _main(repo: Path) -> str | None:
    try:
        return (repo / "refs" / "main").read_text(encoding="utf-8", errors="replace")[:256].strip() or None
    except OSError:
        return None


def _with_refusal(one: Checkup, refusal: str | None) -> Checkup:
    """mlx_lm's own word, unless we have said as much already."""
    known = ("unsupported_architecture", "not_a_language_model", "missing_package")
    if refusal is None or any(fault.kind in known for fault in one.faults):
        return one
    said = unsupported(
        "mlx_lm_refuses",
        f"mlx_lm cannot build it from this config.json ({refusal})",
        "a newer mlx-lm may (pip install -U mlx-lm); or config.json was edited",
    )
    return replace(one, faults=(*one.faults, said))


def _sorted(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    order = list(Severity)
    kinds: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        # tokenizer.json is looked at twice, quickly and as a whole
        kinds.setdefault((fault.kind, fault.text), fault)
    return tuple(sorted(kinds.values(), key=lambda fault: order.index(fault.severity)))


def _size(n_bytes: int | None) -> str:
    from mlxk.config.units import format_size

    return format_size(n_bytes or 0)
