"""What a conversation sends, keeps and counts."""

from __future__ import annotations

from mlxk.cli.asked import Wishes
from mlxk.cli.completions import ReplyPart
from mlxk.cli.conversation.state import Conversation
from mlxk.cli.reply import Reply


def reply(content: str, reasoning: str = "", used: int | None = None) -> Reply:
    made = Reply()
    usage = None if used is None else {"prompt_tokens": used - 1, "completion_tokens": 1}
    made.add(ReplyPart(content, reasoning, "stop", usage))
    return made


def test_each_question_goes_with_all_that_was_said_and_no_thoughts() -> None:
    talk = Conversation("tiny", Wishes("Be brief.", temperature=0.5))
    talk.add("One?", reply("1", "Hm."))
    assert talk.request("Two?") == (
        "/v1/chat/completions",
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "1"},
                {"role": "user", "content": "Two?"},
            ],
            "context_share": 1.0,
            "temperature": 0.5,
        },
    )


def test_without_a_template_it_writes_the_turns_itself() -> None:
    talk = Conversation("tiny", Wishes("Be brief.", max_tokens=9, stop=("A",)), ("\nHuman:", "\nYou:"))
    talk.add("One?", reply(" 1\n"))
    endpoint, body = talk.request("Two?")
    assert endpoint == "/v1/completions"
    assert body["prompt"] == "System: Be brief.\n\nHuman: One?\n\nAssistant: 1\n\nHuman: Two?\n\nAssistant:"
    assert (body["max_tokens"], body["stop"]) == (9, ["A", "\nHuman:", "\nYou:"])


def test_the_context_that_is_left_is_what_the_server_counted() -> None:
    talk = Conversation("tiny", Wishes(), context_length=100)
    assert (talk.left_tokens, talk.is_scarce) == (None, False)
    talk.add("One?", reply("1", used=89))
    assert (talk.left_tokens, talk.is_scarce) == (11, False)
    talk.add("Two?", reply("2", used=91))
    assert (talk.left_tokens, talk.is_scarce) == (9, True)
    talk.clear()
    assert (talk.messages, talk.left_tokens) == ([], None)


def test_an_answer_that_was_stopped_stays_as_far_as_it_came() -> None:
    talk = Conversation("tiny", Wishes())
    talk.add("One?", reply("Once upon"), interrupted=True)
    assert talk.messages[1].interrupted
    assert talk.request("Go on.")[1]["messages"][1] == {"role": "assistant", "content": "Once upon"}
