from __future__ import annotations

import json

import pytest

from mlxk.api.errors import ANSWERS, envelope, error_response, fault_response
from mlxk.workers.protocol import Fault, FaultCode


def test_every_fault_code_has_a_status() -> None:
    assert set(ANSWERS) == set(FaultCode)
    for answer in ANSWERS.values():
        assert 400 <= answer.status < 600
        assert (answer.retry_after_s is not None) == (answer.status in (429, 503))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (FaultCode.CONTEXT_LENGTH_EXCEEDED, 400),
        (FaultCode.UNSUPPORTED_STOP_STRING, 400),
        (FaultCode.AMBIGUOUS_MODEL, 400),
        (FaultCode.MODEL_NOT_FOUND, 404),
        (FaultCode.QUEUE_FULL, 429),
        (FaultCode.INSUFFICIENT_MEMORY, 503),
        (FaultCode.MODEL_FAILED, 503),
        (FaultCode.SHUTTING_DOWN, 503),
        (FaultCode.INTERNAL, 500),
    ],
)
def test_the_statuses_of_the_contract(code: FaultCode, status: int) -> None:
    response = fault_response(Fault(code, "What to do.", param="model"))
    assert response.status_code == status
    error = json.loads(bytes(response.body))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["message"], error["param"], error["code"]) == ("What to do.", "model", code.value)
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize(("retry_after_s", "header"), [(None, "1"), (0.0, "1"), (2.1, "3"), (60, "60")])
def test_retry_after_is_whole_seconds_and_never_zero(retry_after_s: float | None, header: str) -> None:
    response = fault_response(Fault(FaultCode.QUEUE_FULL, "Full.", retry_after_s=retry_after_s))
    assert response.headers["retry-after"] == header


def test_an_envelope_survives_whatever_it_quotes() -> None:
    error = json.loads(envelope("t", None, "no model '\ud800'\n" + "x" * 100_000, "\udfff"))["error"]
    assert error["message"].startswith("no model '?'\n")
    assert len(error["message"]) < 5000
    assert error["param"] == "?"


def test_an_error_type_follows_the_status() -> None:
    types = {
        401: "authentication_error",
        403: "permission_error",
        413: "invalid_request_error",
        503: "server_error",
    }
    for status, error_type in types.items():
        assert json.loads(bytes(error_response(status, "c", "m").body))["error"]["type"] == error_type
