"""`mlxk run MODEL` at a real terminal when something goes wrong: interrupts, deaths, servers that leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.process.watch import pid_of
from tests.server import Server, add_fake_model, standing
from tests.terminal import Terminal, ask, environment

FAKE = {"MLXK_ENGINE": "fake"}
WORDS = "w0 w1 w2 w3"
"""What the fake engine says."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("talk")
    add_models(home)
    add_fake_model(home, "fragile", step_s=0.02, crash_at_step=5)
    add_fake_model(home, "broken", load_fails=True)
    add_fake_model(home, "picky", fail_request="forbidden")
    with standing(Server(home, env=FAKE)) as server:
        yield server


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a home without a server."""
    add_models(tmp_path)
    return environment(MLXK_HOME=str(tmp_path), HF_HOME=str(tmp_path / "hf"), **FAKE)


def add_models(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text("[server]\nspare = false\n")
    add_fake_model(home, "quick")
    add_fake_model(home, "talker", step_s=0.05)
    add_fake_model(home, "slow", load_s=30)


def talk(env: Mapping[str, str], model: str, *options: str) -> Terminal:
    return Terminal(["run", model, *options], env)


def server_of(terminal: Terminal) -> psutil.Process:
    """The private server of a `run`."""
    (child,) = psutil.Process(terminal.pid).children()
    return child


class TestInterrupts:
    """On a running server, so that each test is short."""

    def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(self, served: Server) -> None:
        with talk(served.env, "talker", "--max-tokens", "2000") as terminal:
            terminal.wait_last_line(">>>")
            terminal.enter("Go on.")
            terminal.wait_text(WORDS)
            terminal.press("c")
            text = terminal.wait_last_line(">>>")
            assert "error" not in text
            served.wait_for(lambda models: models["talker"]["in_flight"] == 0)
            shown = ask(terminal, "/show")
            assert "questions    1" in shown
            assert "forgotten" not in shown
            terminal.press("d")
            assert terminal.wait_end() == 0

    def test_ctrl_c_at_the_prompt_leaves_and_a_typed_line_is_only_dropped(self, served: Server) -> None:
        with talk(served.env, "quick") as terminal:
            terminal.wait_last_line(">>>")
            terminal.type("not this")
            terminal.wait_text("not this")
            terminal.press("c")
            terminal.wait_last_line(">>>")
            terminal.press("c")
            assert terminal.wait_end() == 130
            assert "Traceback" not in terminal.text()

    def test_ctrl_c_while_the_model_loads_gives_up_the_load(self, served: Server) -> None:
        with talk(served.env, "slow") as terminal:
            terminal.wait_text(r"loading slow")
            terminal.press("c")
            assert terminal.wait_end() == 130
            assert terminal.text() == ""  # the line about the load is gone
        served.wait_for(lambda models: "slow" not in models or models["slow"]["state"] != "loading")

    def test_a_turn_before_any_answer_is_taken_back(self, served: Server) -> None:
        with talk(served.env, "talker") as terminal:
            terminal.wait_last_line(">>>")
            worker = pid_of(served, "talker")
            os.kill(worker, signal.SIGSTOP)
            try:
                terminal.enter("Hello?")
                terminal.wait_text(r"waiting for talker")
                terminal.press("c")
                terminal.wait_text("taken back")
            finally:
                os.kill(worker, signal.SIGCONT)
            terminal.wait_last_line(">>>")
            assert "questions    0" in ask(terminal, "/show")


class TestDeaths:
    def test_a_worker_that_dies_in_an_answer_leaves_the_conversation_alive(self, served: Server) -> None:
        with talk(served.env, "fragile") as terminal:
            terminal.wait_last_line(">>>")
            text = ask(terminal, "First?")
            assert "error: " in text
            assert "this question is taken back" in text
            assert "questions    0" in ask(terminal, "/show")
            ask(terminal, "/set max_tokens 3")
            assert "w0 w1 w2" in ask(terminal, "Second?")
            assert "questions    1" in ask(terminal, "/show")

    def test_a_question_that_fails_is_taken_back(self, served: Server) -> None:
        with talk(served.env, "picky") as terminal:
            terminal.wait_last_line(">>>")
            ask(terminal, "Fine.")
            assert "error: " in ask(terminal, "forbidden")
            assert "error: " not in ask(terminal, "And now?")
            terminal.type("\x1b[A\x1b[A")  # it is only two arrows away
            terminal.wait_last_line(">>> forbidden")

    def test_a_model_that_cannot_be_loaded_ends_it_at_once(self, served: Server) -> None:
        with talk(served.env, "broken") as terminal:
            assert terminal.wait_end() == 1
            assert "error: " in terminal.text()

    def test_an_unknown_model_is_exit_4_with_what_to_do(self, served: Server) -> None:
        with talk(served.env, "quikc") as terminal:
            assert terminal.wait_end() == 4
            text = terminal.text().replace("\n", "")
            assert "Did you mean quick?" in text
            assert "mlxk pull" not in text  # of a typo


def test_a_server_that_leaves_is_told_and_one_that_comes_back_goes_on(alone: dict[str, str]) -> None:
    home = Path(alone["MLXK_HOME"])
    first = Server(home, env=FAKE)
    try:
        with talk(alone, "quick") as terminal:
            terminal.wait_last_line(">>>")
            ask(terminal, "One?")
            first.close()
            assert "mlxk serve --detach" in ask(terminal, "Two?")
            second = Server(home, env=FAKE)
            try:
                assert WORDS in ask(terminal, "Three?")
                assert "questions    2" in ask(terminal, "/show")
            finally:
                second.close()
            terminal.press("d")
            assert terminal.wait_end() == 0
    finally:
        first.close()


class TestPrivatePool:
    """Without a server. The leak check looks for what stays behind: processes, socket directories."""

    def test_one_that_dies_is_explained_and_the_next_question_gets_a_new_one(
        self, alone: dict[str, str]
    ) -> None:
        with talk(alone, "quick") as terminal:
            terminal.wait_last_line(">>>")
            ask(terminal, "One?")
            server_of(terminal).kill()
            text = ask(terminal, "Two?")
            assert "private server died: it was ended by SIGKILL" in text
            assert WORDS in ask(terminal, "Three?")
            terminal.press("d")
            assert terminal.wait_end() == 0

    def test_it_ends_with_a_command_that_is_killed_in_an_answer(self, alone: dict[str, str]) -> None:
        with talk(alone, "talker", "--max-tokens", "2000") as terminal:
            terminal.wait_last_line(">>>")
            server = server_of(terminal)
            terminal.enter("Go on.")
            terminal.wait_text(WORDS)
            os.kill(terminal.pid, signal.SIGKILL)
            assert terminal.wait_end() == -signal.SIGKILL
        server.wait(30)

    def test_it_ends_when_the_terminal_is_closed(self, alone: dict[str, str]) -> None:
        with talk(alone, "talker") as terminal:
            terminal.wait_last_line(">>>")
            server = server_of(terminal)
            terminal.hang_up()
            server.wait(30)

    def test_sigterm_at_the_prompt_leaves_the_terminal_as_it_was(self, alone: dict[str, str]) -> None:
        with talk(alone, "talker") as terminal:
            terminal.wait_last_line(">>>")
            os.kill(terminal.pid, signal.SIGTERM)
            assert terminal.wait_end() == 128 + signal.SIGTERM
            assert terminal.raw.endswith(b"\x1b[?2004l")

    def test_ctrl_c_while_it_starts(self, alone: dict[str, str]) -> None:
        with talk(alone, "slow") as terminal:
            terminal.wait_text("starting a private server|loading slow")
            terminal.press("c")
            assert terminal.wait_end() == 130
