"""The server under fire: every answer is held against what any answer must be, and the OpenAPI document."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import jsonschema

from tests.server import Server

TIMEOUT_S = 60.0
"""An answer that takes longer hangs."""
GOOD = {"model": "tiny", "prompt": "Hi", "max_tokens": 2, "temperature": 0}


class Target:
    """One server, and a count of what was sent to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        parts = urlsplit(server.url)
        assert parts.hostname is not None
        self._address = (parts.hostname, parts.port)
        self._statuses: Counter[int] = Counter()
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}
        self.good_text = self.ask_good()

    @property
    def n_sent(self) -> int:
        return self._statuses.total()

    def summary(self) -> str:
        return ", ".join(f"{n} x {status}" for status, n in sorted(self._statuses.items()))

    @cached_property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self._send("GET", "/openapi.json", None, {})[2]))

    # ------------------------------------------------------------------ requests

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return response.status, names, response.read()
        finally:
            connection.close()

    def ask_good(self) -> str:
        """The next good request works, and says what it always says."""
        status, _, body = self._send("POST", "/v1/completions", json.dumps(GOOD).encode(), {})
        assert status == 200, body
        return str(json.loads(body)["choices"][0]["text"])

    def check_unharmed(self) -> None:
        """No worker has died, and the next good request works. (The worker may be another one by then:
        `keep_alive: 0` is a good request, and lets the model go.)"""
        assert self.ask_good() == self.good_text
        models = self.server.ps()
        assert models["tiny"]["state"] == "ready"
        assert {name: model["crashes"] for name, model in models.items()} == dict.fromkeys(models, 0)
        assert " died" not in self.server.log(), self.server.log()[-4000:]

    def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        operation: str | None = None,
    ) -> int:
        """Send it and check the answer; its status. `operation`: the path's name in the document."""
        status, names, answer = self._send("POST", path, body, headers or {})
        self.check(status, names, answer, operation or path)
        return status

    # ------------------------------------------------------------------- answers

    def check(self, status: int, headers: Mapping[str, str], answer: bytes, path: str) -> None:
        self._statuses[status] += 1
        assert status < 500, answer
        assert headers.get("x-request-id"), headers
        assert b"Traceback" not in answer
        responses = self.document["paths"][path]["post"]["responses"]
        assert str(status) in responses, (status, answer)
        media_type = headers["content-type"].partition(";")[0]
        content = responses[str(status)]["content"]
        assert media_type in content, (status, media_type)
        if media_type == "application/json":
            self.validate(content[media_type]["schema"], json.loads(answer))
        else:
            self._check_stream(answer.decode("utf-8"), path)

    def _check_stream(self, text: str, path: str) -> None:
        name = "ChatCompletionChunk" if "chat" in path else "TextCompletionChunk"
        frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
        assert frames[-1] == "data: [DONE]", frames[-1]
        for frame in frames[:-1]:
            self.validate({"$ref": f"#/components/schemas/{name}"}, json.loads(frame.removeprefix("data: ")))

    def validate(self, schema: dict[str, Any], value: Any) -> None:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:  # to make one reads the whole document: some milliseconds
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema.Draft202012Validator(whole)
        self._validators[key].validate(value)
