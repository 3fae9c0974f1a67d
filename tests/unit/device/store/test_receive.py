"""Frames over a line that is cut wherever it likes."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.device.store.limiter import Limiter
from hedgerow.device.store.planner import Frame
from hedgerow.device.store.receive import GAP, SPAN, Receiver, spans
from hedgerow.errors import NetworkError, PartialError, PublisherError

PACKS = {name * 64: hashlib.shake_256(name.encode()).digest(300_000) for name in "ab"}
A, B = sorted(PACKS)


class Line:
    """A source whose line is cut after so many bytes, and again, and again; then it holds."""

    url = "https://registry"

    def __init__(self, *cuts: int, block: int = 1 << 12) -> None:
        self.cuts = list(cuts)
        self.block = block
        self.asked: list[tuple[int, int]] = []
        self.sent = 0

    @contextlib.contextmanager
    def open_range(self, path: str, start: int, length: int):
        self.asked.append((start, length))
        yield self._blocks(
            PACKS[path.rpartition("/")[2]], start, start + length, self.cuts.pop(0) if self.cuts else None
        )

    def _blocks(self, data: bytes, start: int, end: int, left: int | None):
        while start < end:
            size = min(self.block, end - start, *(() if left is None else (left,)))
            if size:
                yield data[start : start + size]
            self.sent += size
            start += size
            if left is not None:
                left -= size
                if left == 0:
                    raise NetworkError("the line was cut", where=self.url)


def content(frame: Frame) -> bytes:
    return PACKS[frame.pack][frame.offset : frame.offset + frame.length]


def bring(line, folder, frames, **options):
    got = {}

    def deliver(frame, data):
        if data != content(frame):
            raise PublisherError("altered")
        got[frame] = data

    receiver = Receiver(line, folder, sleep=lambda _: None, **options)
    receiver.receive(frames, deliver)
    return got


# -- requests -----------------------------------------------------------------------


def test_frames_that_lie_close_come_with_one_request():
    near, far = Frame(A, 1000 + GAP - 1, 10), Frame(A, 2 * GAP + 2000, 10)
    first = Frame(A, 0, 1000)
    assert [span.frames for span in spans([far, near, first], gap=GAP, most=SPAN)] == [(first, near), (far,)]


def test_a_request_ends_with_its_pack_and_with_its_bound():
    frames = [Frame(A, 0, 100), Frame(A, 100, 100), Frame(B, 200, 100)]
    assert [(span.pack, span.start, span.end) for span in spans(frames, gap=GAP, most=150)] == [
        (A, 0, 100), (A, 100, 200), (B, 200, 300),
    ]  # fmt: skip


def test_a_frame_that_is_wanted_twice_comes_once():
    assert [span.frames for span in spans([Frame(A, 0, 10)] * 2, gap=GAP, most=SPAN)] == [(Frame(A, 0, 10),)]


places = st.builds(
    Frame,
    st.sampled_from(sorted(PACKS)),
    st.integers(0, 250_000),
    st.integers(1, 50_000),
)


@given(frames=st.lists(places, max_size=12), gap=st.integers(0, 1 << 17), most=st.integers(1, 1 << 18))
def test_every_frame_is_in_just_one_request_and_inside_of_it(frames, gap, most):
    made = spans(frames, gap=gap, most=most)
    seen = [frame for span in made for frame in span.frames]
    assert len(seen) == len(set(seen))
    assert set(seen) == set(frames)
    for span in made:
        end = span.start
        for frame in span.frames:
            assert frame.pack == span.pack
            assert end <= frame.offset < end + gap or frame is span.frames[0]
            end = frame.offset + frame.length
        assert (span.start, span.end) == (span.frames[0].offset, end)
        assert end - span.start <= most or len(span.frames) == 1


# -- cuts ---------------------------------------------------------------------------------

WANTED = [Frame(A, 10, 40_000), Frame(A, 40_010, 1), Frame(A, 60_000, 100_000), Frame(B, 5, 20_000)]


@given(cuts=st.lists(st.integers(0, 150_000), max_size=6), block=st.integers(1000, 70_000))
def test_everything_arrives_however_often_the_line_is_cut(cuts, block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    line = Line(*cuts, block=block)
    got: dict[Frame, bytes] = {}
    for _ in range(len(cuts) + 1):  # whoever runs the command again
        with contextlib.suppress(NetworkError):
            got |= bring(line, folder, [frame for frame in WANTED if frame not in got])
            break
    else:
        pytest.fail("it never ended")


def test_a_cut_is_gone_on_with_at_the_same_byte(tmp_path):
    line = Line(70_000, 30_000)
    got = bring(line, tmp_path, WANTED[:3])
    assert got.keys() == set(WANTED[:3])
    assert [start for start, _ in line.asked] == [10, 70_010, 100_010]


def test_a_line_that_gets_nowhere_is_given_up(tmp_path):
    line = Line(*[10] * 50)
    with pytest.raises(NetworkError):
        bring(line, tmp_path, WANTED)
    assert len(line.asked) == 3


def test_a_tail_survives_the_process(tmp_path):
    with pytest.raises(NetworkError):
        bring(Line(100_000, 0, 0, 0), tmp_path, WANTED[:3])
    line = Line()
    got = bring(line, tmp_path, WANTED[2:3])
    assert got == {WANTED[2]: content(WANTED[2])}
    assert line.asked == [(100_010, 60_000 - 10)]
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_takes_long_is_kept_while_it_comes(tmp_path):
    """What a kill -9 leaves: no exception handler runs, and yet the bytes are there."""
    now = iter(range(1000))
    seen = []

    class Watched(Line):
        def _blocks(self, *arguments):
            for block in super()._blocks(*arguments):
                yield block
                seen.append(sum(path.stat().st_size for path in tmp_path.glob("tail-*")))

    bring(Watched(), tmp_path, WANTED[2:3], clock=lambda: float(next(now)))
    assert max(seen) > 90_000
    assert list(tmp_path.iterdir()) == []


def test_on_a_quick_line_nothing_is_written_for_it(tmp_path):
    spooled = []
    bring(Line(), tmp_path, WANTED, clock=lambda: 0.0, on_spooled=spooled.append)
    assert spooled == []


def test_a_tail_that_is_wrong_is_thrown_away_and_the_frame_fetched_whole(tmp_path):
    frame = WANTED[2]
    (tmp_path / f"tail-{frame.pack}-{frame.offset}-{frame.length}").write_bytes(bytes(70_000))
    line = Line()
    assert bring(line, tmp_path, [frame]) == {frame: content(frame)}
    assert [start for start, _ in line.asked] == [130_000, 60_000]
    assert list(tmp_path.iterdir()) == []


def test_two_tails_are_none(tmp_path):
    for frame in WANTED[:2]:
        (tmp_path / f"tail-{frame.pack}-{frame.offset}-{frame.length}").write_bytes(b"x")
    bring(Line(), tmp_path, WANTED[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_came_in_one_piece_and_is_wrong_is_the_publishers(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKS, A, bytes(300_000))
    line = Line()
    receiver = Receiver(line, tmp_path)

    def deliver(frame, data):
        raise PublisherError("altered")

    with pytest.raises(PublisherError):
        receiver.receive([WANTED[0]], deliver)
    assert len(line.asked) == 1


def test_bytes_of_two_connections_that_do_not_fit_are_fetched_once_more(tmp_path):
    """Two mirrors, one of which lies: the frame is asked for in one piece before the publisher is blamed."""

    class Torn(Line):
        def _blocks(self, data, start, end, left):
            return super()._blocks(
                bytes(len(data)) if start > 60_000 and len(self.asked) == 2 else data, start, end, left
            )

    line = Torn(70_000)
    assert bring(line, tmp_path, [WANTED[2]]) == {WANTED[2]: content(WANTED[2])}
    assert [start for start, _ in line.asked] == [60_000, 130_000, 60_000]


def test_before_each_request_it_is_asked_whether_it_may(tmp_path):
    asked = []

    def may():
        asked.append(1)
        if len(asked) == 2:
            raise PartialError("no longer")

    with pytest.raises(PartialError, match="no longer"):
        bring(Line(), tmp_path, WANTED, may_go_on=may)


# -- rate -----------------------------------------------------------------------------------


def test_a_limited_line_takes_as_long_as_the_rate_says():
    clock = [0.0]
    limiter = Limiter(1000.0, clock=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
    for _ in range(100):
        limiter.take(500)
    assert clock[0] == pytest.approx(49.0), "50 000 bytes at 1000 a second, one second's worth at once"


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 5)), max_size=30))
def test_never_more_than_the_rate_and_the_burst(takes):
    clock, total = [0.0], 0
    limiter = Limiter(1000.0, clock=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
    for size, pause in takes:
        limiter.take(size)
        total += size
        assert total <= 1000.0 * (clock[0] + 1.0) + 1e-6
        clock[0] += pause


def test_no_limit_waits_for_nothing():
    Limiter(None, sleep=lambda _: pytest.fail("waited")).take(1 << 40)
