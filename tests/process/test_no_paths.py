"""A model is named, never pointed at: whatever a request calls it, nothing outside the store is read, and
nothing is fetched. An audit hook in the server's and the workers' processes says so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mlxk.store.builtin import builtin_path
from tests.api.client import CHAT, TEXT, Client, Reply, chat_body, text_body
from tests.server import Server, standing

HOOK = Path(__file__).parent / "audit"


class Watched:
    """A server, its audit log, and a whole model that is not in its store."""

    def __init__(self, server: Server, log: Path, outside: Path) -> None:
        self.client = Client(server.url)
        self._log = log
        self.outside = outside
        self._seen = 0

    def news(self) -> list[str]:
        lines = self._log.read_text("utf-8", "replace").splitlines()
        new, self._seen = lines[self._seen :], len(lines)
        return new


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Watched]:
    home, outside = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("outside") / "canary"
    shutil.copytree(builtin_path(), outside)
    log = home / "audit.log"
    env = {
        "MLXK_SPARE": "0",
        "PYTHONPATH": str(HOOK),
        "MLXK_TEST_AUDIT": str(log),
        # Were anything fetched, it would be asked for here.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    with standing(Server(home, env=env)) as server:
        found = Watched(server, log, outside)
        assert found.client.text("tiny", "Hi", max_tokens=1)["choices"]
        assert any(
            "tiny" in line and "open" in line for line in found.news()
        )  # the hook works, in the worker
        yield found


NAMES = [
    "/etc/passwd",
    "../outside/canary",
    "../../../../etc/passwd",
    "./canary",
    "tiny/../../outside/canary",
    "~/m",
    "~root/m",
    "file:///etc/passwd",
    "hf://mlx-community/Qwen3-0.6B-4bit",
    "https://huggingface.co/mlx-community/Qwen3-0.6B-4bit",
    "mlx-community/Qwen3-0.6B-4bit",
    "mlx-community/Qwen3-0.6B-4bit@main",
    "C:\\models\\m",
    "\\\\server\\share\\m",
    "//127.0.0.1:9/m",
    "%2e%2e%2fcanary",
    "models--x--y/snapshots/1",
    "canary\x00",
    "CANARY",
]


def ask_everywhere(client: Client, name: str) -> dict[str, Reply]:
    """In every place where a request can name a model."""
    whole, parts = quote(name, safe=""), quote(name, safe="/")
    return {
        "chat": client.post(CHAT, chat_body(name, "Hi", max_tokens=1)),
        "chat stream": client.post(CHAT, chat_body(name, "Hi", max_tokens=1, stream=True)),
        "text": client.post(TEXT, text_body(name, "Hi", max_tokens=1)),
        "tokenize": client.post("/tokenize", {"model": name, "prompt": "Hi"}),
        "detokenize": client.post("/detokenize", {"model": name, "tokens": [1]}),
        "model": client.get(f"/v1/models/{whole}"),
        "model path": client.get(f"/v1/models/{parts}"),
        "load": client.post(f"/pool/{whole}/load"),
        "load path": client.post(f"/pool/{parts}/load"),
        "stop": client.request("DELETE", f"/pool/{whole}"),
        "stop path": client.request("DELETE", f"/pool/{parts}"),
    }


@pytest.mark.parametrize("name", [*NAMES, "OUTSIDE"], ids=ascii)
def test_a_path_or_an_address_is_an_unknown_model(watched: Watched, name: str) -> None:
    watched.news()
    name = str(watched.outside) if name == "OUTSIDE" else name
    for place, reply in ask_everywhere(watched.client, name).items():
        assert (reply.status, reply.error["code"]) == (404, "model_not_found"), (place, reply.body)
    news = watched.news()
    assert not [line for line in news if line.startswith(("socket.", "urllib."))]
    for secret in ("canary", "passwd", "huggingface.co"):
        assert not [line for line in news if secret in line], secret
    assert set(watched.client.pool()) == {"tiny"}


@pytest.mark.parametrize(
    "name", ["", 7, None, ["tiny"], {"path": "/etc"}, "x" * 100_000], ids=lambda n: repr(n)[:9]
)
def test_what_is_no_name_is_a_4xx(watched: Watched, name: object) -> None:
    for path, body in (
        (CHAT, chat_body("", "Hi")),
        (TEXT, text_body("", "Hi")),
        ("/tokenize", {"prompt": "Hi"}),
    ):
        assert watched.client.post(path, {**body, "model": name}).status in (400, 404)


def test_no_field_of_a_request_is_a_path_either(watched: Watched) -> None:
    """Fields that mean files or remote code in other servers."""
    watched.news()
    extra = {
        "adapter": str(watched.outside),
        "adapters": str(watched.outside),
        "draft_model": str(watched.outside),
        "model_path": str(watched.outside),
        "trust_remote_code": True,
        "chat_template": "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "chat_template_kwargs": {"tokenizer_name_or_path": str(watched.outside)},
    }
    reply = watched.client.post(CHAT, chat_body("tiny", "Hi", max_tokens=1, **extra))
    assert reply.status in (200, 400)
    assert not [line for line in watched.news() if "canary" in line or line.startswith("socket.")]
