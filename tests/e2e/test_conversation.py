"""`mlxk run tiny` at a real terminal: a conversation with a real model."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.e2e.command_line import CommandLine
from tests.e2e.conftest import SHORT_CONTEXT
from tests.server import Server, add_tiny_copy, standing
from tests.terminal import Terminal, ask

SAY = "Say: hi there and hello world!"
SAID = "hi there and hello world!\n"
COUNT = "Count from 1 to 5."
COUNTED = "1, 2, 3, 4, 5\n"
THINK = "Think: what is 2 + 3?"
STORY = "Tell me a long story."
MLXK = shlex.join([sys.executable, "-P", "-m", "mlxk"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With `tiny`, `short` of a small context, and `bare`, which has no chat template."""
    home = tmp_path_factory.mktemp("talk")
    add_tiny_copy(home, "short")
    (add_tiny_copy(home, "bare") / "chat_template.jinja").unlink()
    (home / "config.toml").write_text(
        f"[server]\nspare = false\n[models.short]\ncontext_length = {SHORT_CONTEXT}\n"
        f'[models.curt]\nid = "tiny"\nmax_tokens = 7\n'
    )
    with standing(Server(home)) as server:
        yield server


def talk(
    server: Server, *options: str, model: str = "tiny", columns: int = 80, rows: int = 50, **env: str
) -> Terminal:
    return Terminal(["run", model, *options], {**server.env, **env}, columns=columns, rows=rows)


def ready(terminal: Terminal) -> Terminal:
    terminal.wait_last_line(">>>")
    return terminal


def leave(terminal: Terminal) -> None:
    terminal.press("d")
    assert terminal.wait_end() == 0


class TestConversation:
    def test_the_answers_are_streamed_and_each_question_includes_the_conversation(
        self, server: Server
    ) -> None:
        with talk(server) as terminal:
            first = ready(terminal).text()
            assert "8192 tokens of context" in first
            assert ask(terminal, SAY) == SAID
            before = server.ps()["tiny"]["cache"]["reused_tokens"]
            assert ask(terminal, COUNT) == COUNTED
            # The first exchange was in the second prompt, word for word, as the chat template writes it.
            server.wait_for(lambda models: models["tiny"]["cache"]["reused_tokens"] >= before + 20)
            assert "questions    2" in ask(terminal, "/show")
            leave(terminal)

    def test_batch_answers(self, server: Server) -> None:
        with talk(server, "--no-stream") as terminal:
            ready(terminal)
            assert ask(terminal, SAY) == SAID
            leave(terminal)

    def test_tokens_appear_as_they_come(self, server: Server) -> None:
        with talk(server) as terminal:
            ready(terminal).enter(STORY)
            terminal.wait_for(lambda text: "Once there" in text and not text.endswith(">>>"))
            assert server.ps()["tiny"]["in_flight"] == 1  # it is still talking
            terminal.press("c")
            terminal.wait_last_line(">>>")
            assert ask(terminal, SAY) == SAID
            leave(terminal)

    @pytest.mark.parametrize("words", ["/bye", "exit"])
    def test_the_words_that_end_it(self, server: Server, words: str) -> None:
        with talk(server) as terminal:
            ready(terminal).enter(words)
            assert terminal.wait_end() == 0

    def test_thoughts_are_shown_or_hidden_and_never_sent_back(self, server: Server) -> None:
        with talk(server) as terminal:
            ready(terminal)
            thoughts = "I add 3 to 2. That makes 5."
            assert ask(terminal, THINK) == f"**[Reasoning]**\n{thoughts}\n\n**[Answer]**\n2 + 3 = 5\n"
            ask(terminal, "/save thoughts")
            leave(terminal)
        kept = json.loads((server.home / "conversations" / "thoughts.json").read_text())["messages"][1]
        assert (kept["content"], kept["reasoning_content"]) == ("2 + 3 = 5", thoughts)
        with talk(server, "--hide-reasoning") as terminal:
            ready(terminal)
            assert ask(terminal, THINK) == "2 + 3 = 5\n"
            leave(terminal)

    def test_without_a_template_it_is_human_and_assistant(self, server: Server) -> None:
        """A model that has none, and one that is to talk without its own."""
        for options, model in (([], "bare"), (["--no-chat-template"], "tiny")):
            with talk(server, "--max-tokens", "40", *options, model=model) as terminal:
                ready(terminal)
                for question in (SAY, COUNT):
                    answer = ask(terminal, question)
                    assert answer.strip()
                    assert "error" not in answer
                    assert "Human:" not in answer
                leave(terminal)
        # The second prompt begins with the first.
        server.wait_for(lambda models: models["bare"]["cache"]["reused_tokens"] > 20)


class TestInput:
    def test_several_lines(self, server: Server) -> None:
        with talk(server, "--max-tokens", "40") as terminal:
            ready(terminal).enter('"""Say: hi there')
            terminal.wait_last_line("...")
            terminal.enter('and hello"""')
            assert "hi there" in terminal.wait_last_line(">>>").rpartition('hello"""\n')[2]
            terminal.enter("Say: one\\")
            terminal.wait_last_line("...")
            terminal.type("two\x1b\r")  # Alt-Enter
            terminal.wait_for(lambda text: text.endswith("... two\n..."))
            terminal.enter("three")
            terminal.wait_text("... three\n")
            terminal.wait_last_line(">>>")
            ask(terminal, "/save lines")
            leave(terminal)
        messages = json.loads((server.home / "conversations" / "lines.json").read_text())["messages"]
        assert [one["content"] for one in messages[::2]] == [
            "Say: hi there\nand hello",
            "Say: one\ntwo\nthree",
        ]

    def test_a_paste_keeps_its_lines_and_waits_for_enter(self, server: Server) -> None:
        with talk(server, "--max-tokens", "40") as terminal:
            ready(terminal).paste("Say: hi\nthere\n日本 🙂 Grüße")
            terminal.wait_last_line("... 日本 🙂 Grüße")
            terminal.enter()
            terminal.wait_last_line(">>>")
            ask(terminal, "/save paste")
            leave(terminal)
        messages = json.loads((server.home / "conversations" / "paste.json").read_text())["messages"]
        assert messages[0]["content"] == "Say: hi\nthere\n日本 🙂 Grüße"

    def test_a_megabyte_is_refused_with_both_numbers_and_nothing_is_lost(self, server: Server) -> None:
        text = "A line of a book that somebody pastes.\n" * 26_000
        with talk(server) as terminal:
            ready(terminal)
            assert ask(terminal, SAY) == SAID
            terminal.child.send(f"\x1b[200~{text}THE END\x1b[201~")
            terminal.wait_last_line("... THE END")
            terminal.enter()
            told = terminal.wait_last_line(">>>").rpartition("THE END\n")[2].replace("\n", "")
            assert "8192 tokens; the prompt has " in told
            assert "/clear" in told
            assert ask(terminal, COUNT) == COUNTED
            leave(terminal)

    def test_the_history_survives_and_is_nobody_else_s(self, server: Server) -> None:
        with talk(server) as terminal:
            ready(terminal)
            ask(terminal, "Say: remember me")
            leave(terminal)
        history = server.home / "run_history"
        assert stat.S_IMODE(history.stat().st_mode) == 0o600
        with talk(server) as terminal:
            ready(terminal).type("\x1b[A")
            terminal.wait_last_line(">>> Say: remember me")
            terminal.press("c")
            ready(terminal).press("r")
            terminal.type("remem")
            terminal.wait_text("remember me")
            terminal.press("c")
            leave(ready(terminal))

    def test_a_history_that_cannot_be_written_is_no_reason_not_to_talk(
        self, server: Server, tmp_path: Path
    ) -> None:
        blocked = tmp_path / "home"
        blocked.mkdir()
        (blocked / "run_history").mkdir()
        (blocked / "instance.json").write_bytes((server.home / "instance.json").read_bytes())
        with talk(server, MLXK_HOME=str(blocked)) as terminal:
            ready(terminal)
            assert ask(terminal, SAY) == SAID
            leave(terminal)

    def test_line_editing_and_a_window_that_changes(self, server: Server) -> None:
        with talk(server) as terminal:
            ready(terminal).type("ay: hi there")
            terminal.wait_last_line(">>> ay: hi there")
            terminal.resize(40, 20)
            terminal.press("a")
            terminal.type("S")
            terminal.wait_last_line(">>> Say: hi there")
            terminal.enter()
            terminal.wait_text("there\nhi there\n>>>")
            terminal.resize(200, 60)
            assert ask(terminal, COUNT) == COUNTED
            leave(terminal)

    @pytest.mark.parametrize(
        ("columns", "env"),
        [
            (80, {}),
            (200, {"NO_COLOR": "1"}),
            (80, {"LC_ALL": "C"}),
            (80, {"LC_ALL": "POSIX"}),
            (200, {"PYTHONIOENCODING": "latin-1"}),
            (80, {"TERM": "dumb"}),
        ],
        ids=["80", "200-no-color", "C", "POSIX", "200-latin-1", "dumb"],
    )
    def test_on_all_terminals(self, server: Server, columns: int, env: dict[str, str]) -> None:
        with talk(server, columns=columns, **env) as terminal:
            ready(terminal)
            assert "/clear" in ask(terminal, "/help")
            assert all(len(line) <= 80 for line in terminal.lines())  # what we write never wraps
            assert ask(terminal, SAY) == SAID
            assert "error: " in ask(terminal, "/hepl").replace("\n", "")
            shown = ask(terminal, "Reply with an emoji.")
            assert shown.startswith("??" if "PYTHONIOENCODING" in env else "\N{PARTY POPPER}")
            leave(terminal)
            assert (b"\x1b[31m" in terminal.raw) == (not {"NO_COLOR", "TERM"} & set(env))
            assert (b"\x1b" in terminal.raw) == ("TERM" not in env)


class TestCommands:
    def test_clear_system_set_show(self, server: Server) -> None:
        with talk(server, "--system", "You are short.") as terminal:
            ready(terminal)
            assert ask(terminal, "/system") == "System prompt: You are short.\n"
            ask(terminal, "/system none")
            assert ask(terminal, "/system") == "There is no system prompt.\n"
            assert ask(terminal, "/set parameter max_tokens 2") == "max_tokens: 2\n"
            assert ask(terminal, COUNT) == "1,\n"
            ask(terminal, "/set max_tokens default")
            assert ask(terminal, COUNT).startswith("1, 2")
            shown = ask(terminal, "/show")
            assert "questions    2" in shown
            assert "left" in shown
            ask(terminal, "/clear")
            assert "questions    0" in ask(terminal, "/show")
            assert "did you mean /clear?" in ask(terminal, "/claer")
            assert "error: temperature is a number" in ask(terminal, "/set temperature hot")
            leave(terminal)

    def test_save_and_load(self, server: Server, tmp_path: Path) -> None:
        file = tmp_path / "talk.json"
        with talk(server) as terminal:
            ready(terminal)
            ask(terminal, SAY)
            ask(terminal, "/set temperature 0.5")
            ask(terminal, f"/save {file}")
            ask(terminal, "/clear")
            assert "nothing is loaded" in ask(terminal, "/load nowhere.json").replace("\n", "")
            assert "no conversation nowhere" in ask(terminal, "/load nowhere").replace("\n", "")
            terminal.enter(f"/load {'x' * 300}")
            terminal.wait_text("error: .*File name too long")
            terminal.wait_last_line(">>>")
            leave(terminal)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        kept = json.loads(file.read_text())
        assert kept["messages"] == [
            {"role": "user", "content": SAY},
            {"role": "assistant", "content": SAID.strip()},
        ]
        with talk(server) as terminal:
            ready(terminal)
            ask(terminal, COUNT)
            assert "would be lost" in ask(terminal, f"/save {file}").replace("\n", "")
            assert json.loads(file.read_text()) == kept
            assert "Loaded 1 question" in ask(terminal, f"/load {file}")
            shown = ask(terminal, "/show")
            assert "questions    1" in shown
            assert "temperature  0.5" in shown
            ask(terminal, "/set temperature 0")
            assert ask(terminal, COUNT) == COUNTED
            leave(terminal)


class TestContext:
    def test_what_is_left_is_told_and_a_full_context_says_what_to_do(self, server: Server) -> None:
        with talk(server, model="short") as terminal:
            ready(terminal)
            assert ask(terminal, SAY).startswith(SAID)
            answer = ask(terminal, STORY)
            assert "note: the answer ends here because the model's context is full; /clear" in answer
            refused = ask(terminal, COUNT).replace("\n", "")
            assert "error: This model's maximum context length is 96 tokens" in refused
            assert "/clear" in refused
            assert "questions    2" in ask(terminal, "/show")  # nothing was dropped silently
            ask(terminal, "/clear")
            assert ask(terminal, COUNT).startswith(COUNTED)
            leave(terminal)

    def test_a_reply_that_the_settings_cut_says_nothing_of_the_context(self, server: Server) -> None:
        done = server.cli("run", "curt", STORY)
        assert done.stderr == "note: the reply ends here at its longest; --max-tokens N changes that\n"
        full = server.cli("run", "short", STORY)
        assert full.stderr == "note: the reply ends here because the model's context is full\n"
        with talk(server, model="curt") as terminal:
            ready(terminal)
            assert "note: the answer ends here at its longest; /set max_tokens N" in ask(terminal, STORY)
            ask(terminal, "/set max_tokens 40")
            assert "note:" not in ask(terminal, STORY)
            leave(terminal)

    def test_little_context_is_mentioned(self, server: Server) -> None:
        prompt_tokens = CommandLine(server.home).data("run", "short", STORY)["usage"]["prompt_tokens"]
        with talk(server, "--max-tokens", str(SHORT_CONTEXT - prompt_tokens - 5), model="short") as terminal:
            ready(terminal)
            assert "note: 5 of 96 tokens of context are left; /clear begins anew" in ask(terminal, STORY)
            leave(terminal)

    def test_run_takes_the_whole_context_and_the_server_half(self, server: Server) -> None:
        mlxk = CommandLine(server.home)
        data = mlxk.data("run", "short", STORY)
        assert (data["finish_reason"], data["usage"]["total_tokens"]) == ("length", SHORT_CONTEXT)
        body = {"model": "short", "messages": [{"role": "user", "content": STORY}]}
        reply = Client(server.url).post("/v1/chat/completions", body)
        assert reply.json()["usage"]["completion_tokens"] == SHORT_CONTEXT // 2


class TestPipes:
    def test_answers_into_a_pipe_are_only_the_answers(self, server: Server, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        command = f"{MLXK} run tiny | tee {copy}"
        with Terminal(["-c", command], server.env, program=["/bin/sh"]) as terminal:
            ready(terminal).enter(SAY)
            # The answer reaches the screen through `tee`, the prompt directly: they may mix, so that only the
            # second prompt (it is asked for after the whole answer was written) and the copy say something.
            terminal.wait_for(lambda text: text.count(">>>") == 2)
            leave(terminal)
        assert copy.read_text() == SAID

    def test_a_reader_that_leaves_ends_it_quietly(self, server: Server) -> None:
        command = f"{MLXK} run tiny | head -n 1; echo over"
        with Terminal(["-c", command], server.env, program=["/bin/sh"]) as terminal:
            ready(terminal).enter(STORY)
            terminal.wait_end()
            assert terminal.text().endswith("over")
            assert "Traceback" not in terminal.text()
            assert "error" not in terminal.text()
