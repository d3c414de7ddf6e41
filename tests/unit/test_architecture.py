"""Who may import whom: the rules of `docs/architecture.md`. Reads the imports and fails on anything else."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import mlxk

PACKAGE = Path(mlxk.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ALLOWED: dict[str, tuple[str, ...]] = {
    "config": (),
    "store": ("mlxk.config",),
    "workers": ("mlxk.config", "mlxk.store"),
    "supervisor": ("mlxk.config", "mlxk.store", "mlxk.workers.protocol"),
    "api": ("mlxk.config", "mlxk.supervisor", "mlxk.workers.protocol"),
    "cli": (
        "mlxk.config",
        "mlxk.store",
        "mlxk.supervisor.control_client",
        "mlxk.supervisor.control_protocol",
        # `mlxk doctor` looks with the eyes of the server (docs/decisions/0012-doctor-and-leftovers.md).
        "mlxk.supervisor.leftovers",
        "mlxk.supervisor.memory",
        # `mlxk show` says what the server would expect of a load (docs/decisions/0022-model-health.md).
        "mlxk.supervisor.forecast",
        "mlxk.supervisor.measured",
        "mlxk.supervisor.run_dir",
    ),
}
LAZY_IN_SERVE = ("mlxk.api", "mlxk.supervisor.lifecycle", "mlxk.supervisor.signals")
"""`mlxk serve` alone starts a server, and imports it only then."""

MLX_MODULES = {
    "workers/mlx_engine.py",
    "workers/mlx_adapter.py",
    "workers/kv_caches.py",
    "workers/batch_steps.py",
    "workers/sampling.py",
    "workers/detokenizer.py",
    "workers/encoder.py",
    "workers/serial_batch.py",
    "workers/logprobs.py",
    "workers/grammar_processor.py",
}
MLX_LM_MODULES = {
    "workers/mlx_adapter.py",
    "workers/kv_caches.py",
    "workers/batch_steps.py",
    "workers/sampling.py",
    "store/mlx_conversion.py",
}
"""What moves between its releases is used in few places (docs/decisions/0003-mlx-lm-adapter.md)."""
MLX_IN_STORE = {"store/architecture_probe.py", "store/mlx_conversion.py"}
"""Programs of their own: `python -m` of these modules; whoever imports them loads no MLX."""
SOCKET_OWNERS = {
    "workers/channel.py",
    "supervisor/switchboard.py",
    "supervisor/control.py",
    "supervisor/control_client.py",
    "supervisor/lifecycle.py",
}
HUB_MODULES = {"store/hub_client.py", "store/hub_faults.py", "store/blob_download.py"}
LIBRARIES: dict[str, set[str]] = {
    "mlx": MLX_MODULES | MLX_IN_STORE,
    "mlx_lm": MLX_LM_MODULES | MLX_IN_STORE,
    "transformers": MLX_MODULES,
    "tokenizers": MLX_MODULES,
    "llguidance": {"workers/constraints.py", "workers/grammar_processor.py"},
    "zmq": SOCKET_OWNERS,
    "fastapi": {"api/"},
    "starlette": {"api/"},
    "uvicorn": {"api/"},
    "pydantic": {"api/"},
    "prometheus_client": {"api/"},
    "click": {"cli/"},
    "rich": {"cli/"},
    "prompt_toolkit": {"cli/conversation/editor.py"},
    "requests": {"cli/"},
    "huggingface_hub": HUB_MODULES,
    "httpx": HUB_MODULES,
}
HEAVY = {*LIBRARIES, "msgspec", "psutil", "uvloop", "asyncio"} - {"click"}


@cache
def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, is it imported at the top level?) for every import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in _top_level(tree.body)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found += [
                (f"{module}.{alias.name}" if module in _PACKAGES else module, id(node) in top)
                for alias in node.names
            ]
    return found


_PACKAGES = {"mlxk", *(f"mlxk.{room}" for room in ALLOWED)}


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements that run at import, also inside `if` (TYPE_CHECKING blocks do not run)."""
    found: list[ast.stmt] = []
    for statement in body:
        found.append(statement)
        if isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            found += _top_level(statement.body) + _top_level(statement.orelse)
        elif isinstance(statement, ast.Try):
            found += _top_level(statement.body)
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = room_of(path)
    if room not in ALLOWED:
        return
    for module, top_level in imports_of(path):
        if not module.startswith("mlxk.") or module.startswith("mlxk.__version__"):
            continue
        if module == f"mlxk.{room}" or module.startswith(f"mlxk.{room}."):
            continue
        if any(module == allowed or module.startswith(f"{allowed}.") for allowed in ALLOWED[room]):
            continue
        lazily_served = (
            (room, path.name) == ("cli", "serve.py") and not top_level and module.startswith(LAZY_IN_SERVE)
        )
        assert lazily_served, f"{room} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    for module, _ in imports_of(path):
        homes = LIBRARIES.get(module.split(".")[0])
        if homes is not None:
            allowed = name in homes or any(name.startswith(home) for home in homes if home.endswith("/"))
            assert allowed, f"{module} must not be imported here"


def loaded_by(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys; {statement}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    assert not loaded_by("import mlxk.cli.main") & HEAVY


def test_the_front_never_loads_mlx_or_transformers() -> None:
    loaded = loaded_by("import mlxk.supervisor.lifecycle, mlxk.api.app")
    assert not loaded & {"mlx", "mlx_lm", "transformers", "tokenizers", "torch", "huggingface_hub", "numpy"}


def test_the_protocol_loads_neither_mlx_nor_zmq() -> None:
    assert not loaded_by("import mlxk.workers.protocol") & {"mlx", "zmq", "transformers"}


def test_what_the_doctor_borrows_from_the_supervisor_is_light() -> None:
    modules = "mlxk.supervisor.leftovers, mlxk.supervisor.run_dir, mlxk.supervisor.memory"
    assert not loaded_by(f"import {modules}") & (HEAVY - {"psutil"})
