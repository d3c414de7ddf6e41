"""schemathesis, which reads the OpenAPI document and asks what the document allows, and what it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import LONG_EXAMPLES
from tests.fuzz.target import TIMEOUT_S, Target

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
PROGRAM = "from schemathesis.cli import schemathesis; schemathesis()"
SHORT = ("--phases", "examples,fuzzing", "--max-examples", "4", "--generation-deterministic")
LONG = (
    "--phases",
    "examples,coverage,fuzzing",
    "--max-examples",
    str(LONG_EXAMPLES),
    "--generation-database",
    "none",
)


def attack(target: Target, folder: Path, *arguments: str) -> None:
    """Raises with its report if it found anything. The stream of events has no end and is left out, and so
    is DELETE /pool/{model}: it would end the worker that we watch."""
    command = [sys.executable, "-c", PROGRAM, "run", f"{target.server.url}/openapi.json"]
    command += ["--exclude-path", "/pool/events", "--exclude-method", "DELETE", "--no-color"]
    command += ["--request-timeout", str(TIMEOUT_S), "--checks", ",".join(CHECKS)]
    result = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    (tried,) = re.findall(r"(\d+) generated", result.stdout)
    print(f"\nschemathesis: {tried} requests")
    assert int(tried) > 30
    target.check_unharmed()


def test_what_the_document_allows(target: Target, tmp_path: Path) -> None:
    attack(target, tmp_path, *SHORT)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_the_document_allows_at_length(target: Target, tmp_path: Path) -> None:
    attack(target, tmp_path, *LONG)
