from hypothesis import example, given, settings
from hypothesis import strategies as st

from fungible.engine.stopping import StopMatcher

words = st.text("ab,", max_size=12)
stop_strings = st.lists(st.text("ab,", min_size=1, max_size=4), max_size=3)


def expected(text: str, stops: list[str], passed: int = 0) -> tuple[str, bool]:
    """What must be shown: the answer ends where the first stop string is complete."""
    for end in range(passed + 1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@settings(deadline=None)
@given(st.lists(words, max_size=8), stop_strings)
@example(["aab", "aa", "b"], ["aabaab"])
@example(["a", "ab"], ["ab", "b"])
def test_stops_do_not_depend_on_how_the_text_was_cut(pieces: list[str], stops: list[str]) -> None:
    matcher, shown, stopped = StopMatcher(stops), "", False
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        final, _ = expected("".join(pieces), stops)
        assert final.startswith(shown), "a part of a stop string leaked"
        if stopped:
            break
    if not stopped:
        shown += matcher.flush()
    assert (shown, stopped) == expected("".join(pieces), stops)


@settings(deadline=None)
@given(st.lists(words, max_size=8), stop_strings)
def test_text_is_held_back_only_while_it_may_be_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    matcher, seen, shown = StopMatcher(stops), "", ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        if stopped:
            return
        seen, shown = seen + piece, shown + text
        held = seen[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_without_stop_strings_nothing_waits() -> None:
    matcher = StopMatcher()
    assert matcher.push("abc") == ("abc", False)
    assert matcher.flush() == ""


@settings(deadline=None)
@given(st.lists(words, max_size=8), stop_strings, st.integers(0, 8))
@example(["xab"], ["xaby", "ab"], 1)
@example(["aab", "b"], ["abb"], 1)
def test_a_stop_string_ends_the_answer_where_it_is_complete(
    pieces: list[str], stops: list[str], free: int
) -> None:
    """The first `free` pieces cannot stop the answer, but a stop string may begin in them."""
    matcher, shown, stopped = StopMatcher(stops), "", False
    for at, piece in enumerate(pieces):
        text, stopped = matcher.push(piece, may_stop=at >= free)
        shown += text
        if stopped:
            break
    if not stopped:
        shown += matcher.flush()
    passed = len("".join(pieces[:free]))
    assert (shown, stopped) == expected("".join(pieces), stops, passed)
