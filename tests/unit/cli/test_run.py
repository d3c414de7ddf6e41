"""`mlxk run` against a server that plays its part."""

from __future__ import annotations

import json
import signal

import pytest

from tests.unit.cli.http_stub import HEAD, LAST, answer, chunk, delta, event, http_stub

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
GOOD = [
    delta(role="assistant"),
    delta(content="Hi"),
    delta(content=" there"),
    delta("stop", USAGE),
    event("[DONE]"),
]
THINKING = [delta(reasoning_content="Hm."), delta(content="Hi"), delta("stop", USAGE), event("[DONE]")]


def stream(events: list[bytes]) -> list[bytes]:
    return [HEAD, *map(chunk, events), LAST]


@pytest.fixture
def run(mlxk_here, running_instance):
    """Runs `mlxk run ARGUMENTS` against a stub that answers with `pieces`; gives the result and the stub."""

    def run(*arguments: str, pieces: list[bytes] | None = None, stdin: bytes | None = None):
        with http_stub(stream(GOOD) if pieces is None else pieces) as stub:
            running_instance(url=stub.url)
            return mlxk_here("run", *arguments, stdin=stdin), stub

    return run


def test_a_prompt_gets_a_reply(run):
    result, stub = run("tiny", "Say hi")
    assert (result.code, result.out, result.err) == (0, "Hi there\n", "")
    assert stub.path == "/v1/chat/completions"
    assert stub.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hi"}],
        "context_share": 1.0,
        "stream": True,
    }


def test_the_options_become_fields(run):
    options = ["--max-tokens=7", "--temperature=0", "--top-p=0.5", "--seed=3", "--stop=A", "--stop=B"]
    _, stub = run("tiny", "Say hi", "--system", "Be brief.", *options)
    assert stub.body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi"}],
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["A", "B"],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        ("--temperature=nan", "a number from 0 to 2"),  # it broke the request: no JSON can carry it
        ("--temperature=3", "a number from 0 to 2"),
        ("--top-p=inf", "a number from 0 to 1"),
        ("--max-tokens=0", "a whole number of at least 1"),
        ("--seed=1.5", "a whole number"),
    ],
)
def test_a_number_that_cannot_be_is_a_usage_error(run, option, accepted):
    result, stub = run("tiny", "Say hi", option)
    assert (result.code, result.out) == (2, "")
    assert f"is {accepted}, not " in result.err
    assert stub.path == ""


def test_without_a_template_the_prompt_goes_as_it_is(run):
    result, stub = run("tiny", "--no-chat-template", stdin=b"1\n2\n")
    assert result.code == 0
    assert (stub.path, stub.body["prompt"]) == ("/v1/completions", "1\n2\n")
    assert "messages" not in stub.body


@pytest.mark.parametrize("arguments", [("tiny",), ("tiny", "-")])
def test_a_pipe_is_the_prompt(run, arguments):
    _, stub = run(*arguments, stdin="Grüße 🙂\n".encode())
    assert stub.body["messages"] == [{"role": "user", "content": "Grüße 🙂"}]


def test_words_need_no_quotes(run):
    _, stub = run("tiny", "Say", "hi")
    assert stub.body["messages"] == [{"role": "user", "content": "Say hi"}]


def test_no_prompt_and_nowhere_to_talk_shows_how_to_give_one(mlxk_here):
    result = mlxk_here("run", "tiny")
    assert (result.code, result.out) == (2, "")
    assert 'mlxk run MODEL "PROMPT"' in result.err


def test_a_conversation_has_no_json(mlxk_here):
    result = mlxk_here("run", "tiny", "--json")
    assert (result.code, result.error["type"]) == (2, "usage")


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_a_usage_error(mlxk_here, prompt):
    result = mlxk_here("run", "tiny", prompt)
    assert (result.code, "the prompt is empty" in result.err) == (2, True)


def test_a_pipe_follows_the_prompt(mlxk_process, running_instance):
    with http_stub(stream(GOOD)) as stub:
        running_instance(url=stub.url)
        process = mlxk_process("run", "tiny", "Summarize:")
        assert process.communicate(b"A book.\xff\0\n", timeout=20)[0] == b"Hi there\n"
    expected = "Summarize:\n\nA book.\N{REPLACEMENT CHARACTER}\0"
    assert stub.body["messages"] == [{"role": "user", "content": expected}]


def test_a_dash_says_where_the_pipe_goes(mlxk_process, running_instance):
    with http_stub(stream(GOOD)) as stub:
        running_instance(url=stub.url)
        process = mlxk_process("run", "tiny", "Say", "in", "German:", "-", "Only", "that.")
        process.communicate(b"A book.\n", timeout=20)
    assert stub.body["messages"][0]["content"] == "Say in German:\n\nA book.\n\nOnly that."


def test_what_is_not_installed_can_be_pulled(run):
    body = b'{"error": {"message": "There is no model \'nope\' here.", "code": "model_not_found"}}'
    result, _ = run("nope", "x", pieces=answer("404 Not Found", body))
    assert (result.code, "To install it: mlxk pull nope" in result.err) == (4, True)


@pytest.mark.parametrize("stdin", [b"", b" \n\n"])
def test_an_empty_pipe_is_a_usage_error(mlxk_here, stdin):
    assert mlxk_here("run", "tiny", stdin=stdin).code == 2


def test_system_without_a_template_is_a_usage_error(mlxk_here):
    assert mlxk_here("run", "tiny", "x", "--system", "y", "--no-chat-template").code == 2


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_reasoning_has_headings_streamed_or_not(run, how):
    result, _ = run("tiny", "Say hi", *how, pieces=stream(THINKING))
    assert result.out == "**[Reasoning]**\nHm.\n\n**[Answer]**\nHi\n"


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_hidden_reasoning_is_hidden(run, how):
    assert run("tiny", "Say hi", "--hide-reasoning", *how, pieces=stream(THINKING))[0].out == "Hi\n"


def test_json_has_it_all(run):
    result, _ = run("tiny", "Say hi", "--json", pieces=stream(THINKING))
    assert result.envelope["command"] == "run"
    assert result.data == {
        "model": "tiny",
        "prompt": "Say hi",
        "response": "Hi",
        "reasoning": "Hm.",
        "finish_reason": "stop",
        "usage": USAGE,
    }


def test_json_hides_reasoning_too(run):
    assert (
        run("tiny", "x", "--json", "--hide-reasoning", pieces=stream(THINKING))[0].data["reasoning"] is None
    )


def test_an_error_before_the_first_token(run):
    body = b'{"error": {"message": "no such model; did you mean tiny?", "code": "model_not_found"}}'
    result, _ = run("tny", "x", pieces=answer("404 Not Found", body))
    assert (result.code, result.out) == (4, "")
    assert result.err == "error: no such model; did you mean tiny?\n"  # and no word of pulling the typo
    result, _ = run("org/tny", "x", pieces=answer("404 Not Found", body))
    assert result.err == "error: no such model; did you mean tiny? To install it: mlxk pull org/tny\n"


def test_without_a_server_a_typo_is_not_offered_to_be_pulled(mlxk_here):
    assert mlxk_here("run", "tinyy", "x").err == "error: There is no model 'tinyy' here. Did you mean tiny?\n"
    assert mlxk_here("run", "zzz", "x").err.endswith(" To install it: mlxk pull zzz\n")
    assert "To install it" not in mlxk_here("run", "/etc/zzz", "x").err  # nothing that `pull` would take


def test_an_error_in_the_middle_leaves_what_came_and_a_fresh_line(run):
    error = event({"error": {"message": "the worker died", "code": "worker_died"}})
    result, _ = run("tiny", "x", pieces=stream([delta(content="Hi"), error]))
    assert (result.code, result.out, result.err) == (1, "Hi\n", "error: the worker died\n")


def test_a_connection_that_drops_is_an_error_with_an_envelope(run):
    result, _ = run("tiny", "x", "--json", pieces=[HEAD, chunk(delta(content="Hi"))])
    assert result.code == 1
    assert result.error["type"] == "connection_lost"


CUT = stream([delta(content="Hi"), delta("length", USAGE), event("[DONE]")])


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"context_length": 5}, "because the model's context is full"),
        ({"context_length": 6}, "at its longest; --max-tokens N changes that"),
        ({"context_length": None}, "at its longest; --max-tokens N changes that"),
        (None, "at its longest; --max-tokens N changes that"),  # the server has gone since
    ],
    ids=["full", "not full", "unknown", "gone"],
)
def test_why_a_reply_is_cut(mlxk_here, running_instance, how, facts, reason):
    then = None if facts is None else answer("200 OK", json.dumps(facts).encode())
    with http_stub(CUT, then=then) as stub:
        running_instance(url=stub.url)
        result = mlxk_here("run", "tiny", "x", *how)
    assert (result.code, result.out) == (0, "Hi\n")
    assert result.err == f"note: the reply ends here {reason}\n"


def test_a_limit_that_was_chosen_is_not_mentioned(run):
    assert run("tiny", "x", "--max-tokens", "1", pieces=CUT)[0].err == ""


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        ({}, None, None),
        ({"MLXK_API_KEY": "first,second"}, "other", "Bearer first"),
        ({"MLXK_API_KEYS": " , third"}, None, "Bearer third"),
        ({}, "# keys\n\n fourth \nfifth\n", "Bearer fourth"),
    ],
)
def test_the_key_is_found_where_the_server_finds_it(environment, file, expected, run, monkeypatch, tmp_path):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file is not None:
        (tmp_path / "keys").write_text(file)
        monkeypatch.setenv("MLXK_API_KEY_FILE", str(tmp_path / "keys"))
    _, stub = run("tiny", "x")
    assert stub.headers.get("authorization") == expected


def test_without_a_server_an_unknown_model_starts_nothing(mlxk_here, monkeypatch):
    monkeypatch.setattr("mlxk.cli.server_process.private_server", lambda: pytest.fail("started a server"))
    assert mlxk_here("run", "no-such-model", "x").code == 4


def test_ctrl_c_closes_the_connection_and_leaves_a_fresh_line(mlxk_process, running_instance):
    with http_stub([HEAD, chunk(delta(content="One, two"))], stay=True) as stub:
        running_instance(url=stub.url)
        process = mlxk_process("run", "tiny", "Count")
        process.stdin.close()
        assert process.stdout.read(8) == b"One, two"
        process.send_signal(signal.SIGINT)
        assert stub.client_left.wait(10)
        out, err = process.stdout.read(), process.stderr.read()
    assert (process.wait(20), out, err) == (130, b"\n", b"")


def test_tokens_are_shown_as_they_come(mlxk_process, running_instance):
    with http_stub([HEAD, chunk(delta(content="One"))], stay=True) as stub:
        running_instance(url=stub.url)
        process = mlxk_process("run", "tiny", "Count")
        process.stdin.close()
        assert process.stdout.read(3) == b"One"  # although the reply is not complete
        process.kill()


def test_a_reader_that_leaves_ends_the_request_quietly(mlxk_process, running_instance):
    def endless():
        yield HEAD
        while True:
            yield chunk(delta(content="line\n"))

    with http_stub(endless()) as stub:
        running_instance(url=stub.url)
        process = mlxk_process("run", "tiny", "Count")
        process.stdin.close()
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1
        assert stub.client_left.wait(10)
