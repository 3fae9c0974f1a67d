from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.server.stop import StopFilter


def through(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    stop = StopFilter(stops)
    said = ""
    for piece in pieces:
        said += stop.feed(piece)
        if stop.met:
            return said, True
    return said + stop.rest(), False


@pytest.mark.parametrize(
    "pieces, stops, said, met",
    [
        (["Hello ", "wor", "ld"], ["world"], "Hello ", True),
        (["a", "b", "c"], ["bc"], "a", True),
        (["ab", "ab", "c"], ["abc"], "ab", True),
        (["x\n", "\ny"], ["\n\n"], "x", True),
        (["x\n", "y\n"], ["\n\n"], "x\ny\n", False),
        (["one two three"], ["three", "two"], "one ", True),
        (["stop"], ["stop"], "", True),
        (["", "abc", ""], [], "abc", False),
        (["aaab"], ["aab"], "a", True),
    ],
)
def test_stop_texts_over_the_borders_of_pieces(pieces: list[str], stops: list[str], said: str, met) -> None:
    assert through(pieces, stops) == (said, met)


@given(
    text=st.text(alphabet="ab\n", max_size=30),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=10),
)
def test_how_the_text_is_cut_changes_nothing(text: str, stops: list[str], cuts: list[int]) -> None:
    """Cut anywhere, an answer ends before the stop text that is complete first."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    said, met = through([text[a:b] for a, b in itertools.pairwise(places)], stops)
    ends = {stop: text.find(stop) for stop in stops if stop in text}
    assert met is bool(ends)
    if not met:
        assert said == text
    else:
        assert text.startswith(said)
        assert any(text.startswith(stop, len(said)) for stop in stops)


def test_what_cannot_become_a_stop_text_is_not_held_back() -> None:
    stop = StopFilter(["END"])
    assert (stop.feed("the E"), stop.feed("ast, EN"), stop.feed("D")) == ("the ", "East, ", "")
    assert stop.met
