"""Stop strings against a brute-force reference: the result is a matter of the text alone."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from mlxk.workers.stops import StopMatch, StopMatcher
from tests.unit.workers.cuts import cut, cuts

letters = st.text(alphabet="ab<é日🙂", max_size=24)
stop_lists = st.lists(st.text(alphabet="ab<é日🙂", min_size=1, max_size=5), max_size=4)


def brute_force(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Reads character by character; the first end of a stop string ends it, the longest of several counts."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if stop and text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None, list[str]]:
    """(text shown, matched stop, what was shown after each piece)."""
    matcher = StopMatcher(stops)
    shown: list[str] = []
    for piece in pieces:
        found = matcher.push(piece)
        if isinstance(found, StopMatch):
            shown.append(found.text)
            return "".join(shown), found.stop, shown
        shown.append(found)
    shown.append(matcher.flush())
    return "".join(shown), None, shown


@given(letters, stop_lists, cuts)
def test_any_segmentation_gives_what_reading_character_by_character_gives(
    text: str, stops: list[str], at: list[int]
) -> None:
    shown, stop, _ = run(cut(text, at), stops)
    assert (shown, stop) == brute_force(text, stops)


@given(letters, stop_lists, cuts)
def test_what_was_shown_is_never_taken_back_and_holds_no_part_of_the_stop(
    text: str, stops: list[str], at: list[int]
) -> None:
    whole, stop, shown = run(cut(text, at), stops)
    assert text.startswith(whole)
    assert not any(s in whole for s in stops)
    if stop is not None:
        assert text.startswith(whole + stop)
    total = ""
    for piece in shown:
        total += piece
        assert whole.startswith(total)


@given(letters, stop_lists)
def test_no_more_is_held_back_than_may_become_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for i, character in enumerate(text):
        found = matcher.push(character)
        if isinstance(found, StopMatch):
            return
        shown += found
        held = text[len(shown) : i + 1]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@example("ababc", ["abc"], [1, 2, 3, 4])
@example("aab", ["aab", "ab"], [2])  # both are complete at once: the longest
@example("abcd", ["abcd", "bc"], [1])  # the inner one is complete first
@given(st.just("x"), st.just(["y"]), st.just([]))
def test_overlapping_stops_follow_the_rule(text: str, stops: list[str], at: list[int]) -> None:
    shown, stop, _ = run(cut(text, at), stops)
    assert (shown, stop) == brute_force(text, stops)


def test_a_stop_at_the_very_end_is_matched_and_not_shown() -> None:
    assert run(["one tw", "o EN", "D"], ["END"])[:2] == ("one two ", "END")


def test_half_a_stop_at_the_end_is_shown() -> None:
    assert run(["one EN"], ["END"])[:2] == ("one EN", None)


def test_empty_stops_never_match() -> None:
    assert run(["abc"], ["", ""])[:2] == ("abc", None)


def test_a_character_of_several_code_points_is_matched_across_pieces() -> None:
    family = "👩\u200d👩\u200d👧"
    assert run(["hi ", *family, "!"], [family])[:2] == ("hi ", family)
