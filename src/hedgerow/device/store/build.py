"""One version under construction: from what is here to the version in its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from hedgerow import atomic
from hedgerow.device.store import collect, offers, placing, planner, records
from hedgerow.device.store.assemble import Assembly, Troubles
from hedgerow.device.store.layout import FILES, RECIPE, Layout, make_folder
from hedgerow.device.store.limiter import Limiter
from hedgerow.device.store.planner import Known, Plan
from hedgerow.device.store.receive import Ranges, Receiver
from hedgerow.device.store.terms import MB, Device, Staged
from hedgerow.device.store.wanted import Route, Wanted
from hedgerow.device.store.written import Counter
from hedgerow.errors import DeviceError, PartialError, PublisherError
from hedgerow.registry.reference import Reference

# With everything that lies here found wrong, chunks alone lead to the version: that is the last of so many rounds.
_ROUNDS = 3


class Build:
    """One version under construction. ``limited``: only while the window is open."""

    def __init__(
        self,
        device: Device,
        source: Ranges,
        wanted: Wanted,
        route: Route,
        *,
        written: Counter,
        limited: bool,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._device, self._wanted, self._route, self._written = device, wanted, route, written
        self._manifest, self._recipe, self._reference = wanted.manifest, route.recipe, wanted.reference
        self._layout = device.layout
        self._folder = self._layout.partial(self._reference)
        self._on_bytes = on_bytes
        self._fetched = 0
        rate = device.config.rate_kb_s
        self._receiver = Receiver(
            source,
            self._folder,
            limiter=Limiter(None if rate is None else rate * 1000.0),
            may_go_on=self._check_window if limited else lambda: None,
            on_bytes=self._count,
            on_spooled=lambda size: written.add("spooled", size),
        )
        self._assembly = Assembly(route.recipe, self._folder / FILES, self._layout, written)
        self._troubles = Troubles()

    def run(self) -> Staged:
        """From what is here to the version in its place."""
        make_folder(self._folder / FILES)
        _replace(self._folder / RECIPE, self._route.data)
        placing.tidy(self._folder / FILES, self._manifest)
        used = records.read_used(self._layout)
        used.touch([self._reference])
        records.write_used(self._layout, used)
        by = self._assemble()
        _replace(self._layout.recipe(self._reference), self._route.data)
        if self._wanted.variant is not None:
            _replace(self._layout.signed(self._reference), self._wanted.signed)
        self._place(self._wanted.data)
        shutil.rmtree(self._folder)
        remember(self._layout, self._reference)
        return Staged(
            str(self._reference),
            changed=True,
            new_bytes=by["patch"] + by["chunk"],
            fetched=self._fetched,
            written=self._written.bytes,
            requests=self._receiver.requests,
            by=by,
            notes=self._notes(),
        )

    def _assemble(self) -> dict[str, int]:
        """Have every segment in its place; bytes by how they came."""
        done = self._assembly.done()
        known = offers.known(self._recipe, self._layout, self._receiver, done, numbers=self._route.numbers)
        by: dict[str, int] = {}
        for number in range(_ROUNDS):
            last = number == _ROUNDS - 1
            known = Known(
                {} if last else known.chunks,
                () if last else known.patches,
                done,
                self._troubles.bad,
                self._troubles.failed,
            )
            plan = planner.plan(self._recipe, known, self._device.costs)
            if number == 0:
                by = dict.fromkeys(plan.bytes_by(), 0) | {"done": plan.bytes_by()["done"]}
                self._make_room(plan)
            placed = self._assembly.carry_out(plan, self._receiver, self._troubles)
            for step in plan.missing:
                if (step.file, step.segment) in placed:
                    by[step.how] += step.size
            done |= placed
            if all((step.file, step.segment) in done for step in plan.steps):
                return by
        raise AssertionError("chunks alone lead to every version")

    def _make_room(self, plan: Plan) -> None:
        layout, config = self._layout, self._device.config
        to_come = max(0, self._manifest.size - collect.size(self._folder / FILES))
        needed = to_come + self._device.reserve_mb * MB
        free = shutil.disk_usage(layout.models_dir).free
        budget = None if config.budget_mb is None else max(0, config.budget_mb * MB - to_come)
        if free >= needed and budget is None:
            return
        staying = {self._reference} | {Reference.parse(source) for source in plan.sources()}
        collect.collect(self._device.places, budget=budget, needed=max(0, needed - free), staying=staying)
        free = shutil.disk_usage(layout.models_dir).free
        if free < needed:
            raise DeviceError(
                f"no space for {self._reference}: it needs {-(-needed // MB)} MB more "
                f"({self._device.reserve_mb} MB of them stay free), {free // MB} MB are free",
                where=str(layout.models_dir),
                next_step="see what is kept and why: hedgerow-device cache list; unpin or remove what you can spare",
            )

    def _place(self, data: bytes) -> None:
        files = self._folder / FILES
        try:
            placing.place(files, data, self._manifest, self._layout)
        except PublisherError:
            if len(self._assembly.done()) < sum(len(file.segments) for file in self._recipe.files):
                raise DeviceError(
                    "the disk returns other bytes than were written to it",
                    where=str(files),
                    next_step="nothing was activated; replace the card: it is at its end",
                ) from None
            # All chunks are those of the recipe, and yet the file is not that of the manifest: published wrongly.
            shutil.rmtree(self._folder)
            raise

    def _check_window(self) -> None:
        self._device.check_window(PartialError)

    def _count(self, size: int) -> None:
        self._fetched += size
        self._on_bytes(size)

    def _notes(self) -> tuple[str, ...]:
        damaged = sorted({(place.reference, place.path) for place in self._troubles.bad if place.finished})
        notes = [
            f"{path} of {reference} has other bytes than it should; what was needed of it was fetched instead. "
            f"Mend it: hedgerow-device stage {reference}"
            for reference, path in damaged
        ]
        if self._troubles.failed:
            notes.append(f"{len(self._troubles.failed)} patches did not lead to what was signed; chunks came instead")
        return tuple(notes)


def remember(layout: Layout, reference: Reference) -> None:
    """Note a use: of what is linked, and of what was staged just now, which waits for its activation."""
    used = records.read_used(layout)
    used.touch([*layout.linked(), reference])
    used.staged[reference.name] = reference.version
    records.write_used(layout, used)


def _replace(path: Path, data: bytes) -> None:
    """Write ``data``, unless it is there: a card is spared, and a download that goes on changes nothing."""
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        make_folder(path.parent)
    atomic.write_bytes(path, data)
