"""Every curl line of our pages does what the page says, with the real curl and a live server with `tiny`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.documented_curl import BASE, Example, differs, examples_of
from tests.server import Server, standing

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
EXAMPLES = [example for page in PAGES for example in examples_of(page)]

ServerFor = Callable[[str], Server]


@pytest.fixture(scope="module")
def server_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFor]:
    """The running server that a `script/serve` line would have started; one for each such line."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}

        def get(command: str) -> Server:
            if command not in servers:
                words = shlex.split(command)
                at = words.index("script/serve")
                env = dict(word.split("=", 1) for word in words[:at])
                home = tmp_path_factory.mktemp("documented")
                # As the script does; the port is any free one.
                server = Server(home, ["tiny", *words[at + 1 :]], env={"MLXK_SPARE": "0", **env})
                servers[command] = stack.enter_context(standing(server))
            return servers[command]

        yield get


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.place for example in EXAMPLES])
def test_a_documented_curl_line_answers_as_documented(
    example: Example, server_for: ServerFor, tmp_path: Path
) -> None:
    assert BASE in example.command, f"a documented curl line is for {BASE}"
    command = example.command.replace(BASE, server_for(example.server).url)
    shows_status = bool(example.answer and example.answer.startswith("HTTP/"))
    if not shows_status:
        command += " -w '\\n%{http_code}'"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "HOME": str(tmp_path), "CURL_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    body = done.stdout
    if not shows_status:
        body, _, status = body.rpartition("\n")
        assert status == "200", body
    if example.answer is not None:
        difference = differs(example.answer, body)
        assert difference is None, f"{difference}\n\n{body}"


def test_the_page_of_the_api_has_its_examples() -> None:
    """An extraction that finds nothing would pass all of the above."""
    ours = [example for example in EXAMPLES if example.place.startswith("api.md:")]
    assert len(ours) >= 25
    assert sum(example.answer is not None for example in ours) >= 25


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ('{"a": 1, …}', '{"b": 2}'),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": [1, …]}', '{"a": [2, 1]}'),
        ('{"a": "x…"}', '{"a": "yx"}'),
        ('data: {"choices":[]}\ndata: [DONE]', 'data: {"choices":[]}'),
        ("HTTP/1.1 404 Not Found", "HTTP/1.1 400 Bad Request\r\n\r\n{}"),
        ("one\n…\ntwo 3", "two 3\none"),
    ],
    ids=["missing", "extra", "item", "prefix", "stream", "status", "lines"],
)
def test_a_wrong_answer_is_noticed(shown: str, real: str) -> None:
    assert differs(shown, real) is not None
