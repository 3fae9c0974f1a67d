"""Frames of packs over the line: few requests, whole frames, and no byte twice after a cut.

- Frames that lie close together in a pack come with one request; a gap smaller than ``GAP`` is fetched along, because a
  request costs more than it.
- A frame is handed over when its last byte has come; who takes it verifies it. Nothing is kept in memory but the frame
  on its way.
- A line that is cut is asked again for the rest of it, as long as it gets anywhere. What has come of the frame on its
  way is kept in a file (``tail-…``), also by a process that is killed: from the moment on at which it has cost a
  second, so that on a quick line nothing is written for it. A tail is trusted no more than the line is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hedgerow.device.store.limiter import Limiter
from hedgerow.device.store.planner import Frame
from hedgerow.errors import NetworkError, PublisherError
from hedgerow.registry.transfer.recipe import pack_path

GAP = 64 << 10
# One request's length at the most: between requests the window is looked at.
SPAN = 8 << 20
SPOOL_AFTER_S = 1.0
# A line that brings less than this between two cuts is as good as none; it is asked so often, then the command ends.
_PROGRESS = 64 << 10
_PATIENCE = 3
_PAUSE_S = 0.5
_TAIL = re.compile(r"tail-([0-9a-f]{64})-(\d+)-(\d+)")


class Ranges(Protocol):
    """Part of a registry's source: ``hedgerow.registry.source`` has it."""

    @property
    def url(self) -> str: ...

    def open_range(self, path: str, start: int, length: int) -> AbstractContextManager[Iterable[bytes]]:
        """At most ``length`` bytes of a file from ``start`` on, in blocks.

        Raises:
            FileNotFoundError: the registry has no such file.
            NetworkError: it cannot be reached, or the line was cut; worth another try.
        """


@dataclass(frozen=True)
class Span:
    """One request: bytes ``start`` to ``end`` of a pack, and the frames in it, in order. ``tail``: had already."""

    pack: str
    start: int
    end: int
    frames: tuple[Frame, ...]
    tail: bytes = b""


def spans(frames: Iterable[Frame], *, gap: int, most: int) -> list[Span]:
    """The requests for ``frames``; one that is named twice comes once.

    Gaps below ``gap`` bytes come along. No request is longer than ``most``, unless its one frame is.
    """
    found: list[Span] = []
    for frame in sorted(set(frames), key=lambda each: (each.pack, each.offset, each.length)):
        end = frame.offset + frame.length
        last = found[-1] if found else None
        if (
            last is not None
            and last.pack == frame.pack
            and last.end <= frame.offset < last.end + gap
            and end - last.start <= most
        ):
            found[-1] = Span(frame.pack, last.start, end, (*last.frames, frame))
        else:
            found.append(Span(frame.pack, frame.offset, end, (frame,)))
    return found


class Receiver:
    """Brings frames. ``may_go_on`` is asked before each request and raises where it may not."""

    def __init__(
        self,
        source: Ranges,
        folder: Path,
        *,
        limiter: Limiter | None = None,
        may_go_on: Callable[[], None] = lambda: None,
        on_bytes: Callable[[int], None] = lambda _: None,
        on_spooled: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._source, self._folder = source, folder
        self._limiter = limiter or Limiter(None)
        self._may_go_on, self._on_bytes, self._on_spooled = may_go_on, on_bytes, on_spooled
        self._clock, self._sleep = clock, sleep
        self.requests = 0

    def receive(self, frames: Iterable[Frame], deliver: Callable[[Frame, bytes], None]) -> None:
        """Hand every frame to ``deliver``, which raises PublisherError for one that is not what it should be.

        Raises:
            PublisherError: ``deliver``'s, for a frame that came in one piece; a pack that is missing or too short.
            NetworkError: the registry is gone, or the line is too bad; what came stays.
        """
        for span in self._resumed(spans(frames, gap=GAP, most=SPAN)):
            before = self.requests
            try:
                self._bring(span, deliver)
            except PublisherError:
                # Bytes of two connections, perhaps of two machines, or a tail that a power cut has damaged. Only a
                # frame that comes in one piece says something about the publisher.
                if not span.tail and self.requests - before <= 1:
                    raise
                self._forget()
                self._bring(replace(span, start=span.frames[0].offset, tail=b""), deliver)

    def _resumed(self, found: Sequence[Span]) -> Iterator[Span]:
        """The same requests, where a tail shortens one of them."""
        tail = self._tail()
        for span in found:
            at = next((n for n, frame in enumerate(span.frames) if tail is not None and frame == tail[0]), None)
            if tail is None or at is None:
                yield span
                continue
            before, rest = span.frames[:at], span.frames[at:]
            if before:
                yield Span(span.pack, span.start, before[-1].offset + before[-1].length, before)
            yield Span(span.pack, rest[0].offset + len(tail[1]), span.end, rest, tail[1])

    def _bring(self, span: Span, deliver: Callable[[Frame, bytes], None]) -> None:
        """Bring one span, with as many requests as the line makes of it."""
        inflow = _Inflow(span, deliver)
        cuts, since, spooled = 0, self._clock(), len(span.tail)
        try:
            while not inflow.done:
                self._may_go_on()
                before = inflow.position
                self.requests += 1
                try:
                    for block in self._blocks(span.pack, inflow.position, span.end - inflow.position):
                        if inflow.take(block):
                            since, spooled = self._clock(), self._forget(spooled)
                        elif self._clock() - since >= SPOOL_AFTER_S:
                            spooled = self._spool(inflow, spooled)
                    if not inflow.done:
                        raise self._short(span, inflow.position)
                except NetworkError:
                    cuts = 0 if inflow.position - before >= _PROGRESS else cuts + 1
                    if cuts >= _PATIENCE:
                        raise
                    self._sleep(_PAUSE_S * cuts)
        except PublisherError:
            raise
        except BaseException:
            with suppress(OSError):
                self._spool(inflow, spooled)
            raise

    def _blocks(self, pack: str, start: int, length: int) -> Iterator[bytes]:
        path = f"targets/{pack_path(pack)}"
        try:
            with self._source.open_range(path, start, length) as blocks:
                for block in blocks:
                    self._on_bytes(len(block))
                    yield block
                    # After it was used: what is here is kept even if the wait is cut off.
                    self._limiter.take(len(block))
        except FileNotFoundError as error:
            raise PublisherError(
                "a pack that the recipe names is not in the registry",
                where=f"{self._source.url}/{path}",
                next_step="publish the bundle again: hedgerow registry publish BUNDLE, then playbooks/publish.yml",
            ) from error

    def _short(self, span: Span, position: int) -> PublisherError:
        return PublisherError(
            f"a pack is truncated: it ends at byte {position}, the recipe names bytes up to {span.end}",
            where=f"{self._source.url}/targets/{pack_path(span.pack)}",
            next_step="nothing was activated; bring the registry to the gateway again: playbooks/publish.yml",
        )

    # -- the tail ------------------------------------------------------------

    def _tail(self) -> tuple[Frame, bytes] | None:
        """What a cut has left of a frame; more than one is none."""
        found = list(self._folder.glob("tail-*"))
        match = _TAIL.fullmatch(found[0].name) if len(found) == 1 else None
        if match is None:
            self._forget()
            return None
        path = found[0]
        frame = Frame(match[1], int(match[2]), int(match[3]))
        # The last byte is fetched again at least, so that every frame is handed over by one that comes.
        if path.stat().st_size >= frame.length:
            os.truncate(path, frame.length - 1)
        return frame, path.read_bytes()

    def _spool(self, inflow: _Inflow, spooled: int) -> int:
        """Keep what has come of the frame on its way, of which ``spooled`` bytes are kept already; how much is now."""
        frame, data = inflow.on_its_way
        if frame is None or len(data) <= spooled:
            return spooled
        if not spooled:
            self._forget()  # one of a plan that is no longer followed
        with (self._folder / f"tail-{frame.pack}-{frame.offset}-{frame.length}").open("ab") as file:
            file.write(memoryview(data)[spooled:])
        self._on_spooled(len(data) - spooled)
        return len(data)

    def _forget(self, spooled: int = 1) -> int:
        """Remove the tail, where ``spooled`` says that there is one."""
        if spooled:
            for path in self._folder.glob("tail-*"):
                path.unlink(missing_ok=True)
        return 0


class _Inflow:
    """Bytes of a span as they come, cut into frames; ``position`` is where the next byte lies in the pack."""

    def __init__(self, span: Span, deliver: Callable[[Frame, bytes], None]) -> None:
        self._frames = list(reversed(span.frames))
        self._deliver = deliver
        self._data = bytearray(span.tail)
        self.position = span.start

    @property
    def done(self) -> bool:
        return not self._frames

    @property
    def on_its_way(self) -> tuple[Frame | None, bytearray]:
        return (self._frames[-1] if self._frames else None), self._data

    def take(self, block: bytes) -> bool:
        """Take the next bytes; whether a frame was completed by them."""
        view = memoryview(block)
        completed = False
        while view and self._frames:
            frame = self._frames[-1]
            gap = frame.offset - self.position
            if gap > 0:
                skipped = min(gap, len(view))
                view, self.position = view[skipped:], self.position + skipped
                continue
            wanted = frame.length - len(self._data)
            self._data += view[:wanted]
            taken = min(wanted, len(view))
            view, self.position = view[taken:], self.position + taken
            if len(self._data) == frame.length:
                self._frames.pop()
                data, self._data = bytes(self._data), bytearray()
                completed = True
                self._deliver(frame, data)
        return completed
