"""What a newcomer types first: `script/serve`, and the curl line that it prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


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
