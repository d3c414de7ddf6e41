"""Makes a new model of another's weights: in a child process, in a hidden folder that gets its name last."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk.store.hub_errors import OperationError
from mlxk.store.inspection import inspect_model
from mlxk.store.quantization_options import Conversion, estimated_bytes
from mlxk.store.safetensors_header import read_header
from mlxk.store.space import check_space, check_writable, existing
from mlxk.store.support import missing_mlx

_DRAFT = ".mlxk-converting-"
_GRACE_S = 5.0
_LOG_LINES = 6


@dataclass(frozen=True, slots=True)
class Converted:
    path: Path
    size_bytes: int
    """Of the weights, as `source_bytes`."""
    source_bytes: int


def convert(
    source: Path,
    target: Path,
    conversion: Conversion,
    *,
    trust_remote_code: bool = False,
    note: Callable[[str], None] = lambda _text: None,
) -> Converted:
    """Writes `target`, which must not be there. Raises OperationError; whatever happens, `target` is either a
    whole model or not there, and nothing else is left."""
    if os.path.lexists(target):
        raise OperationError(
            "already_exists",
            f"{target} is already there; remove it, or choose another --output",
            path=str(target),
        )
    if conversion.mode is not None and (missing := missing_mlx(conversion.mode)) is not None:
        raise OperationError("usage", missing.sentence)
    source_bytes = _weight_bytes(source)
    check_writable(target.parent)
    needed = estimated_bytes(conversion, source_bytes, _bits_of(source))
    check_space(target.parent, needed, "the converted model")
    with _draft_folder(target) as draft:
        result = draft / "model"
        _run(source, result, conversion, trust_remote_code=trust_remote_code, note=note)
        facts = inspect_model(result)
        if not facts.usable:
            raise OperationError("conversion_failed", f"the result would not load: {facts.reason}")
        try:
            os.rename(result, target)
        except OSError as error:
            raise OperationError(
                "already_exists", f"{target} has come meanwhile: {error.strerror}"
            ) from error
    return Converted(target, _weight_bytes(target), source_bytes)


def _run(
    source: Path,
    result: Path,
    conversion: Conversion,
    *,
    trust_remote_code: bool,
    note: Callable[[str], None],
) -> None:
    task = {
        "source": str(source),
        "target": str(result),
        "conversion": conversion.as_data(),
        "trust_remote_code": trust_remote_code,
    }
    with tempfile.TemporaryFile() as log:
        # A session of its own: a Ctrl-C ends it through us, and never in the middle of a sentence.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxk.store.mlx_conversion"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            note("converting")
            answer = _ask(child, task)
        finally:
            _end(child)
        if not answer.get("ok"):
            raise _failure(child.returncode, answer, _tail(log))


def _ask(child: subprocess.Popen[bytes], task: dict[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        return {}
    lines = child.stdout.read().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _end(child: subprocess.Popen[bytes]) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    if child.poll() is None:
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _failure(code: int, answer: dict[str, Any], log: str) -> OperationError:
    if answer:
        return OperationError(str(answer["type"]), f"mlx_lm could not convert it: {answer['message']}")
    if code == -signal.SIGKILL:
        return OperationError(
            "insufficient_memory",
            "the conversion was killed, probably because memory ran out; stop models first",
        )
    return OperationError("conversion_failed", f"the conversion died (exit {code}). It said last:\n{log}")


def _tail(log: Any) -> str:
    log.seek(0)
    text: str = log.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-_LOG_LINES:])


@contextmanager
def _draft_folder(target: Path) -> Iterator[Path]:
    """On the file system of `target`, out of sight, and gone when the block ends."""
    first_new = existing(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{_DRAFT}*"):
        _remove_if_dead(old)
    draft = target.parent / f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
    try:  # before it is made: a Ctrl-C may come at any moment
        draft.mkdir(mode=0o700)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        _remove_empty_up_to(target.parent, first_new)


def _remove_if_dead(draft: Path) -> None:
    """What a killed conversion left. Its name says whose it was."""
    pid = draft.name.removeprefix(_DRAFT).partition("-")[0]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        shutil.rmtree(draft, ignore_errors=True)
    except (ValueError, OSError):
        return


def _remove_empty_up_to(folder: Path, keep: Path) -> None:
    while folder != keep and keep in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _weight_bytes(source: Path) -> int:
    return sum(file.stat().st_size for file in source.glob("model*.safetensors"))


def _bits_of(source: Path) -> float:
    """Bits of one number in the weights, by their type that is seen most. Packed ones are taken for what they
    stand for after unpacking: too much space asked for is better than too little."""
    sizes: dict[str, int] = {}
    for file in source.glob("model*.safetensors"):
        for tensor in read_header(file, file.stat().st_size).tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.n_bytes
    most = max(sizes, key=lambda dtype: sizes[dtype], default="F16")
    return {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "U32": 4.5, "U8": 8.0, "F8_E4M3": 8.0}.get(most, 16.0)
