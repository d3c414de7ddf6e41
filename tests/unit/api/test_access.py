from __future__ import annotations

import asyncio
import logging

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk.api.access import AccessDoor
from mlxk.api.records import record_of
from tests.unit.api.asgi import ask, welcome


def test_a_sane_request_id_is_kept() -> None:
    answer = ask(AccessDoor(welcome), headers=[("X-Request-ID", "abc-1._Z")])
    assert answer.headers["x-request-id"] == "abc-1._Z"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "é", "a\nb", "a,b"])
def test_any_other_is_replaced(sent: str) -> None:
    given = ask(AccessDoor(welcome), headers=[("X-Request-ID", sent)]).headers["x-request-id"]
    assert given != sent
    assert len(given) == 16


def test_each_request_has_its_own() -> None:
    app = AccessDoor(welcome)
    assert ask(app).headers["x-request-id"] != ask(app).headers["x-request-id"]
    twice = [("X-Request-ID", "a"), ("X-Request-ID", "a")]
    assert ask(app, headers=twice).headers["x-request-id"] != "a"


def test_one_line_with_what_is_known_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.model, record.prompt_tokens, record.finish = "tiny", 7, "stop"
        await Response("hello")(scope, receive, send)

    with caplog.at_level(logging.INFO, "mlxk.access"):
        ask(
            AccessDoor(app),
            method="POST",
            path="/v1/%0Aforged",
            headers=[("Authorization", "Bearer sesame"), ("X-Request-ID", "abc")],
            body=[b"secret"],
        )
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("POST /v1/%0Aforged 200 ")
    assert line.endswith("ms id=abc model=tiny prompt=7 finish=stop")
    assert "sesame" not in line
    assert "secret" not in line


def test_an_exception_is_a_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the secret path /home/me")

    with caplog.at_level(logging.INFO):
        answer = ask(AccessDoor(app), headers=[("X-Request-ID", "abc")])
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "abc"
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    failure, line = caplog.records
    assert failure.exc_info is not None
    assert "abc" in failure.getMessage()
    assert " 500 " in line.getMessage()


def test_an_exception_in_the_middle_of_an_answer_only_ends_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("late")

    assert len(ask(AccessDoor(app)).messages) == 1


def test_a_request_that_the_closing_server_cancels_is_a_503() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    answer = ask(AccessDoor(app))
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")


def test_a_client_that_left_is_logged_as_499(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    with caplog.at_level(logging.INFO, "mlxk.access"):
        ask(AccessDoor(app))
    assert " 499 " in caplog.records[0].getMessage()


def test_a_value_with_a_space_cannot_pass_for_another_field(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).model = 'my model finish=stop "x"'
        await Response()(scope, receive, send)

    with caplog.at_level(logging.INFO, "mlxk.access"):
        ask(AccessDoor(app))
    line = caplog.records[0].getMessage()
    assert line.endswith(r'model="my model finish=stop \"x\""')


@pytest.mark.parametrize(("status", "level"), [(200, logging.DEBUG), (503, logging.INFO)])
@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_a_probe_is_a_line_for_debugging_while_all_is_well(
    caplog: pytest.LogCaptureFixture, path: str, status: int, level: int
) -> None:
    with caplog.at_level(logging.DEBUG, "mlxk.access"):
        ask(AccessDoor(Response(status_code=status)), path=path)
    assert caplog.records[0].levelno == level
