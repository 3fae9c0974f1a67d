"""A plan carried out: every segment written once, to its final place, after its SHA-256 was checked.

What comes is held to the hash that was signed: a file that changed at its address, as a vendor's models did (F23), is
refused.

What goes wrong with something that lies here (a version whose bytes have changed on the card, a patch that does not fit
them) is no failure: it is noted in ``bad`` and ``failed``, and the next plan takes another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hedgerow.device.store.disk import FATAL, Output, read_exactly
from hedgerow.device.store.layout import FILES, Layout, make_folder
from hedgerow.device.store.planner import Frame, Place, Plan, Step
from hedgerow.device.store.receive import Receiver
from hedgerow.device.store.written import Counter
from hedgerow.errors import DeviceError, PublisherError
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import packs, patches
from hedgerow.registry.transfer.recipe import Recipe, pack_path


@dataclass
class Troubles:
    """What did not hold: places with other bytes than they should have, and segments whose patch led nowhere."""

    bad: set[Place] = field(default_factory=set)
    failed: set[tuple[int, int]] = field(default_factory=set)


class Assembly:
    """The files of one version under construction in ``folder``."""

    def __init__(self, recipe: Recipe, folder: Path, layout: Layout, written: Counter) -> None:
        self._recipe, self._folder, self._layout, self._written = recipe, folder, layout, written

    def done(self, on_bytes: Callable[[int], None] = lambda _: None) -> set[tuple[int, int]]:
        """The segments (file, segment) that are in their place already, found by their hash."""
        found = set()
        for number, file in enumerate(self._recipe.files):
            if not (self._folder / file.path).is_file():
                continue
            with self._open(number) as output:
                for index, (segment, offset) in enumerate(zip(file.segments, file.offsets(), strict=True)):
                    if output.has(offset, segment.size, segment.sha256):
                        found.add((number, index))
                    on_bytes(segment.size)
        return found

    def carry_out(self, plan: Plan, receiver: Receiver, troubles: Troubles) -> set[tuple[int, int]]:
        """Take every step, what lies here first; the segments (file, segment) that are in their place now.

        Raises:
            PublisherError, NetworkError: as ``Receiver.receive``; what came stays.
            OSError: the disk.
        """
        for number, file in enumerate(self._recipe.files):
            make_folder((self._folder / file.path).parent)
            with self._open(number):
                pass  # also an empty file has to be there
        twins: dict[str, list[Step]] = {}
        for step in plan.steps:
            if step.how == "same":
                twins.setdefault(step.sha256, []).append(step)
        work = _Work(self, twins)
        for step in plan.steps:
            if step.how == "here":
                work.copy(step, troubles)
            elif step.how == "done" and step.sha256 in twins:
                work.repeat(step)
        fetched: dict[Frame, list[Step]] = {}
        for step in plan.steps:
            if step.frame is not None:
                fetched.setdefault(step.frame, []).append(step)
        try:
            receiver.receive(fetched, lambda frame, data: work.take(frame, data, fetched[frame], troubles))
        finally:
            work.close()
        return work.placed

    def old(self, place: Place) -> Path:
        """Where the bytes of ``place`` are to be read."""
        reference = Reference.parse(place.reference)
        if place.finished:
            return self._layout.version(reference) / place.path
        return self._layout.partial(reference) / FILES / place.path

    @contextmanager
    def _open(self, number: int) -> Iterator[Output]:
        output = self.open(number)
        try:
            yield output
        finally:
            output.close()

    def open(self, number: int) -> Output:
        """File ``number`` of the recipe, which the caller closes."""
        file = self._recipe.files[number]
        return Output(self._folder / file.path, file.size)

    def count(self, kind: str, size: int) -> None:
        """Count bytes that were written."""
        self._written.add(kind, size)


class _Work:
    """The steps of one ``carry_out``: keeps the file open that was written last."""

    def __init__(self, assembly: Assembly, twins: dict[str, list[Step]]) -> None:
        self._assembly, self._twins = assembly, twins
        self._number: int | None = None
        self._output: Output | None = None
        self.placed: set[tuple[int, int]] = set()

    def copy(self, step: Step, troubles: Troubles) -> None:
        place = step.place
        assert place is not None, "a step that takes what is here says where"  # noqa: S101 - the planner's promise
        path = self._assembly.old(place)
        data = read_exactly(path, place.offset, place.size, place.sha256)
        if data is None:
            troubles.bad.add(place)
            return
        try:
            self._file(step).copy(path, place.offset, step.offset, step.size)
            self._placed(step, "copied")
        except OSError as error:
            if error.errno in FATAL:
                raise
            self._write(step, data, "copied")
        self._repeat(step, data)

    def repeat(self, step: Step) -> None:
        """Write the twins of a segment that an earlier attempt has placed."""
        self._repeat(step, self._file(step).read(step.offset, step.size))

    def take(self, frame: Frame, data: bytes, steps: list[Step], troubles: Troubles) -> None:
        """Put what a frame says into its places.

        Raises:
            PublisherError: a chunk is not what the recipe says.
        """
        where = f"targets/{pack_path(frame.pack)} (bytes {frame.offset} to {frame.offset + frame.length})"
        for step in steps:
            if step.how == "patch":
                self._patch(step, data, where, troubles)
            else:
                content = packs.unframe(data, size=step.size, sha256=step.sha256, where=where)
                self._write(step, content, "fetched")
                self._repeat(step, content)

    def close(self) -> None:
        """Flush and close what is open."""
        if self._output is not None:
            output, self._output, self._number = self._output, None, None
            try:
                output.flush()
            finally:
                output.close()

    def _patch(self, step: Step, frame: bytes, where: str, troubles: Troubles) -> None:
        place = step.place
        assert place is not None, "a patch names what it is applied to"  # noqa: S101 - the planner's promise
        assert step.transform is not None, "and how"  # noqa: S101 - the same
        old = read_exactly(self._assembly.old(place), place.offset, place.size, place.sha256)
        if old is None:
            troubles.bad.add(place)
            return
        try:
            content = patches.apply(
                old,
                frame,
                transform=step.transform,
                old_sha256=place.sha256,
                size=step.size,
                sha256=step.sha256,
                where=where,
            )
        except (DeviceError, PublisherError):
            # The chunk itself still leads there; it costs more bytes than a patch, and less than no version at all.
            troubles.failed.add((step.file, step.segment))
            return
        self._write(step, content, "patched")
        self._repeat(step, content)

    def _repeat(self, step: Step, content: bytes) -> None:
        for twin in self._twins.get(step.sha256, ()):
            self._write(twin, content, "copied")

    def _write(self, step: Step, data: bytes, kind: str) -> None:
        self._file(step).write(step.offset, data)
        self._placed(step, kind)

    def _placed(self, step: Step, kind: str) -> None:
        self._assembly.count(kind, step.size)
        self.placed.add((step.file, step.segment))

    def _file(self, step: Step) -> Output:
        if self._output is None or self._number != step.file:
            self.close()
            self._output, self._number = self._assembly.open(step.file), step.file
        return self._output
