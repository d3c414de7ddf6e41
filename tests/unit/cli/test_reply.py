"""How a reply looks on the terminal."""

from __future__ import annotations

import io

import pytest

from mlxk.cli.reply import ReplyWriter


def shown(*parts: tuple[str, str], hide_reasoning: bool = False) -> str:
    stream = io.StringIO()
    writer = ReplyWriter(stream, hide_reasoning=hide_reasoning)
    for content, reasoning in parts:
        writer.write(content, reasoning)
    writer.end_line()
    return stream.getvalue()


def test_a_plain_reply_is_nothing_but_the_reply():
    assert shown(("Hi", ""), (" there", ""), ("", "")) == "Hi there\n"


def test_a_reply_that_ends_its_line_gets_no_second_line_end():
    assert shown(("Hi\n", "")) == "Hi\n"


def test_no_reply_prints_nothing():
    assert shown() == ""
    assert shown(("", "")) == ""


THOUGHT = (("", "Two and"), ("", " two."), ("Four", ""), (".", ""))


def test_reasoning_and_answer_have_headings():
    assert shown(*THOUGHT) == "**[Reasoning]**\nTwo and two.\n\n**[Answer]**\nFour.\n"


def test_the_same_in_one_piece_looks_the_same():
    assert shown(("Four.", "Two and two.")) == shown(*THOUGHT)


def test_hidden_reasoning_leaves_the_answer_alone():
    assert shown(*THOUGHT, hide_reasoning=True) == "Four.\n"


def test_reasoning_without_an_answer_ends_its_line():
    assert shown(("", "Hmm")) == "**[Reasoning]**\nHmm\n"


def test_thinking_again_after_an_answer_gets_its_own_heading():
    text = shown(("", "a"), ("b", ""), ("", "c"), ("d", ""))
    assert text.split() == [
        "**[Reasoning]**",
        "a",
        "**[Answer]**",
        "b",
        "**[Reasoning]**",
        "c",
        "**[Answer]**",
        "d",
    ]


def test_a_broken_stream_is_not_swallowed():
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        ReplyWriter(Closed(), hide_reasoning=False).write("x", "")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("part", [1, 100])
def test_a_terminal_gets_no_control_characters_and_a_pipe_every_byte(part):
    nasty = "a\x1b]0;pwned\x07b\x9b31mc\x00\x7f\r\n\td 🙂"
    shown = {}
    for stream in (FakeTerminal(), io.StringIO()):
        writer = ReplyWriter(stream, hide_reasoning=False)
        for begin in range(0, len(nasty), part):
            writer.write(nasty[begin : begin + part], "")
        shown[stream.isatty()] = stream.getvalue()
    assert shown[True] == "a^[]0;pwned^Gb\\x9b31mc^@^?\n\td 🙂"
    assert shown[False] == nasty
