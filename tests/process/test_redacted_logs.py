"""No key, prompt, body or header of a client's in any file, at the most talkative log level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body, text_body
from tests.server import Server, standing

SECRETS = (
    KEY := "sk-SECRETkey1",
    WRONG_KEY := "sk-SECRETwrong",
    QUERY_KEY := "sk-SECRETquery",
    PROMPT := "SECRETprompt",
    SYSTEM := "SECRETsystem",
    TOOL := "SECRETtool",
    STOP := "SECRETstop",
    USER := "SECRETuser",
    BROKEN := "SECRETbroken",
    HEADER := "SECRETcookie",
)


@pytest.fixture(scope="module", params=["mlx", "fake"])
def talkative(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clean_environment: None
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / "keys").write_text(KEY, encoding="utf-8")
    env = {
        "MLXK_ENGINE": request.param,
        "MLXK_SPARE": "0",
        "MLXK_LOG_LEVEL": "debug",
        "MLXK_LOG_JSON": "1" if request.param == "fake" else "0",
        "MLXK_API_KEY_FILE": str(home / "keys"),
    }
    with standing(Server(home, env=env)) as server:
        yield server


def test_nothing_of_a_client_is_in_any_file(talkative: Server) -> None:
    client = Client(talkative.url, {"Authorization": f"Bearer {KEY}", "Cookie": HEADER})
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
    tools = [{"type": "function", "function": {"name": TOOL, "parameters": {"type": "object"}}}]
    asked = {"max_tokens": 4, "stop": STOP, "user": USER, "tools": tools}
    client.chat("tiny", messages, **asked)
    client.stream_chat("tiny", messages, **asked)
    client.text("tiny", PROMPT, max_tokens=2, stop=[STOP])
    client.post("/tokenize", {"model": "tiny", "prompt": PROMPT})
    statuses = [
        client.post(CHAT, f'{{"model": "tiny", "messages": {BROKEN}'.encode()).status,
        client.post(CHAT, chat_body("tiny", PROMPT, temperature=BROKEN)).status,
        client.post(CHAT, chat_body("tiny", [{"role": BROKEN, "content": PROMPT}])).status,
        client.post(TEXT, text_body("tiny", PROMPT * 2000)).status,
        client.get(f"/v1/models?api_key={QUERY_KEY}&prompt={PROMPT}").status,
        client.get(f"/nowhere?key={QUERY_KEY}").status,
        Client(talkative.url, {"Authorization": f"Bearer {WRONG_KEY}"}).get("/pool").status,
        Client(talkative.url, {"X-API-Key": WRONG_KEY}).post(CHAT, chat_body("tiny", PROMPT)).status,
        client.get("/health", headers={"X-Request-ID": f"{KEY} {PROMPT}"}).status,
    ]
    assert set(statuses) <= {200, 400, 401, 404}
    with client.stream(CHAT, chat_body("tiny", messages, max_tokens=500)):
        pass  # hung up in the middle
    talkative.wait_for(lambda models: models["tiny"]["in_flight"] == 0)
    written = files_of(talkative.home)
    assert {"server.log", "tiny.log", "serve.out"} <= {path.name for path in written}
    assert any(b"/v1/chat/completions" in text for text in written.values())  # something is logged
    for path, text in written.items():
        assert not [secret for secret in SECRETS if secret.encode() in text], path
        assert b"Bearer sk-" not in text, path


def files_of(home: Path) -> dict[Path, bytes]:
    """All but the file with the keys, and the model cache."""
    files = (path for path in home.rglob("*") if path.is_file() and path.name not in ("keys", "fake.json"))
    return {path: path.read_bytes() for path in files if "hf" not in path.relative_to(home).parts[:1]}
