"""What a newcomer types first: `script/serve`, and the curl line that it prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.process.watch import until

REPOSITORY = Path(__file__).parents[2]


def test_a_setup_that_is_interrupted_is_quiet_and_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    shutil.copy(REPOSITORY / "script/setup", tmp_path / "script/setup")
    (tmp_path / "pyproject.toml").touch()
    for _ in range(2):
        setup = subprocess.Popen(
            ["script/setup"],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        until(lambda: at_work(tmp_path / ".venv"))
        os.killpg(setup.pid, signal.SIGINT)  # as a terminal does it
        _, said = setup.communicate(timeout=60)
        assert (setup.returncode, said) == (130, f"making .venv with {sys.executable}\n")
        assert not at_work(tmp_path / ".venv")


def at_work(folder: Path) -> list[int]:
    """Processes of the virtual environment that is made there: they install pip into it, for seconds."""
    commands = {one.pid: one.info["cmdline"] or [""] for one in psutil.process_iter(["cmdline"])}
    return [pid for pid, command in commands.items() if command[0].startswith(str(folder))]


@pytest.mark.skipif(not (REPOSITORY / ".venv/bin/python").exists(), reason="not set up by script/setup")
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_curl_line_that_script_serve_prints_answers(tmp_path: Path) -> None:
    serve = subprocess.Popen(
        ["script/serve", "--port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "MLXK_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert serve.stdout is not None
    try:
        line = next(line for line in serve.stdout if line.startswith("try: "))
        command = line.removeprefix("try: ")
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        message = json.loads(done.stdout)["choices"][0]["message"]
        assert message["content"].startswith("I am tiny")
    finally:
        os.killpg(serve.pid, signal.SIGINT)
        code = serve.wait(30)
        serve.stdout.close()
    assert code == 130
