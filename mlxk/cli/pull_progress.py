"""How a download shows itself: bars in a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from mlxk.cli.output import note, printable

if TYPE_CHECKING:
    from mlxk.store.hub_client import RemoteFile
    from mlxk.store.preflight import PullPlan

LINE_EVERY_S = 10.0
"""How often a log gets a line about a download that goes on."""


class Progress:
    """Plain lines: the plan, each large file that has come, and a sign of life now and then."""

    LARGE_BYTES = 10_000_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: PullPlan | None = None
        self._have_bytes = 0
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def planned(self, plan: PullPlan) -> None:
        with self._lock:
            self._plan, self._have_bytes, self._said_at = plan, plan.present_bytes, time.monotonic()
        self.note(describe_plan(plan))

    def started(self, file: RemoteFile, present_bytes: int) -> None:
        pass

    def moved(self, file: RemoteFile, n_bytes: int) -> None:
        with self._lock:
            self._have_bytes += n_bytes
            if time.monotonic() - self._said_at < LINE_EVERY_S:
                return
            self._said_at = time.monotonic()
            text = self._so_far()
        self.note(text)

    def finished(self, file: RemoteFile) -> None:
        if file.size_bytes >= self.LARGE_BYTES:
            from mlxk.config.units import format_size

            self.note(f"{file.name}: {format_size(file.size_bytes)}, complete")

    def note(self, text: str) -> None:
        note(printable(text))

    def interrupted(self) -> None:
        """Somebody has pressed Ctrl-C."""
        with self._lock:
            begun, text = self._plan is not None, self._so_far()
        self.note(
            f"interrupted: {text} here; the same command goes on from there" if begun else "interrupted"
        )

    def _so_far(self) -> str:
        from mlxk.config.units import format_size

        total = self._plan.total_bytes if self._plan else 0
        share = 100 * self._have_bytes // total if total else 0
        return f"{format_size(self._have_bytes)} of {format_size(total)} ({share}%)"


class Bars(Progress):
    """One bar for all, and one for each file that is coming."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        name = Column(ratio=2, no_wrap=True, overflow="ellipsis")
        self._bars = RichProgress(
            TextColumn("{task.description}", table_column=name, markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=2)),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._whole: Any = None
        self._tasks: dict[str, Any] = {}

    def __exit__(self, *_error: object) -> None:
        self._bars.stop()

    def planned(self, plan: PullPlan) -> None:
        super().planned(plan)
        self._whole = self._bars.add_task(plan.repo.repo_id, total=plan.total_bytes)
        self._bars.update(self._whole, completed=plan.present_bytes)
        self._bars.start()

    def started(self, file: RemoteFile, present_bytes: int) -> None:
        self._tasks[file.name] = self._bars.add_task(
            file.name, total=file.size_bytes, completed=present_bytes
        )

    def moved(self, file: RemoteFile, n_bytes: int) -> None:
        with self._lock:
            self._have_bytes += n_bytes
        self._bars.advance(self._whole, n_bytes)
        if (task := self._tasks.get(file.name)) is not None:
            self._bars.advance(task, n_bytes)

    def finished(self, file: RemoteFile) -> None:
        if (task := self._tasks.pop(file.name, None)) is not None:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        if self._bars.live.is_started:
            self._bars.console.print(printable(text), markup=False, highlight=False)
        else:
            super().note(text)

    def interrupted(self) -> None:
        self._bars.stop()
        super().interrupted()


def describe_plan(plan: PullPlan) -> str:
    from mlxk.config.units import format_size

    size = f"{len(plan.files)} files, {format_size(plan.total_bytes)}"
    if plan.present_bytes:
        size += f", of which {format_size(plan.missing_bytes)} are still to come"
    return f"pulling {plan.repo.repo_id} at {plan.commit[:12]}: {size}"


def make_progress() -> Progress:
    return Bars() if sys.stderr.isatty() else Progress()
