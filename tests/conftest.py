"""Every test: a home of its own, no variable of the user's, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import certifi
import pytest

from tests.leaks import describe_leaks, take_traces

ROOMS_BESIDE_ONE_ANOTHER = ("e2e", "fuzz", "process", "hub", "api", "soak", "unit/workers", "unit")
"""The longest first, so that no process works alone at the end; and what shares a server stays together: a
package's server ends when its process goes on with a file of another package."""
COMPILER = Path(__file__).parent / "compiler"
EXCUSED_IN_CI = (
    "root ",
    "only root ",
    "no /dev/full",
    "no pidfd",
    "only a CPU",
    "lets no user mount",
    "allowed",
    "Linux",
    "no way to limit",
    "curl",
    "no zsh",
    "no fish",
)
"""Reasons to skip a test, by a part of their words, that are a machine's nature; nothing may need to be
installed by hand. What CI could have but has not (a set-up checkout) is a failure there: a test that is never
run proves nothing."""


def pytest_configure() -> None:
    """A shell starts what it runs in the background with Ctrl-C ignored, which every process of ours would
    inherit and honour: `script/test &` must not fail every test of a Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process of `pytest -n`; the order of files within a room stays
        items.sort(key=lambda item: _place(item.path))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """To find the few tests that are `alone`, 200 files and all that they use need not be imported, nor the
    conftest.py of a folder that has none (one imports MLX, one openai)."""
    if config.option.markexpr != "alone":
        return None
    files = collection_path.rglob("*.py") if collection_path.is_dir() else (collection_path,)
    found = any(file.suffix == ".py" and "mark.alone" in file.read_text(encoding="utf-8") for file in files)
    return None if found else True


def _place(path: Path) -> int:
    room = path.relative_to(Path(__file__).parent).parent
    for place, name in enumerate(ROOMS_BESIDE_ONE_ANOTHER):
        if room.is_relative_to(name):
            return place
    return len(ROOMS_BESIDE_ONE_ANOTHER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(words in reason for words in EXCUSED_IN_CI):
            report.outcome = "failed"
            report.longrepr = (
                f"{reason}. In CI (CI=true) this must run: see EXCUSED_IN_CI in tests/conftest.py"
            )
    return report


@pytest.fixture(scope="session")
def socket_root() -> Iterator[Path]:
    """Where all servers of this session make their socket directories: short, and nobody else's."""
    root = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def clean_environment(socket_root: Path) -> Iterator[None]:
    """No setting and no model of the user's is seen, and nothing of the user's is written."""
    saved = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("MLXK_", "HF_", "OPENAI_", "XDG_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["MLXK_HOME"] = str(socket_root / "no-home")
    os.environ["HF_HOME"] = str(socket_root / "no-hub")
    os.environ["TMPDIR"] = str(socket_root)
    # See the script there: MLX compiles its kernels in each TMPDIR anew.
    os.environ["PATH"] = f"{COMPILER}{os.pathsep}{os.environ['PATH']}"
    os.environ["TEST_KERNELS"] = str(COMPILER / "kernels")
    os.environ["SSL_CERT_FILE"] = str(_one_authority(socket_root / "authority.pem"))
    tempfile.tempdir = None
    yield
    os.environ.clear()
    os.environ.update(saved)
    tempfile.tempdir = None


def _one_authority(path: Path) -> Path:
    """No test speaks TLS, but each client that is made (openai's, llm's, a hub's) reads all authorities that
    the machine trusts: 40 ms of CPU. So there is one only."""
    end = "-----END CERTIFICATE-----\n"
    path.write_text(certifi.contents().partition(end)[0] + end, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_environment: None, socket_root: Path) -> Iterator[None]:
    """Fails a test that leaves a process, a thread or a socket directory."""
    before = take_traces(socket_root)
    yield
    leaks = describe_leaks(before, socket_root)
    if leaks:
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks))
