"""Simulated devices: what a fleet is made of, drawn from a seed. Pure.

Defaults are stated assumptions, to be replaced by a fleet's own figures: answers of a small model on a board of the
fourth or fifth generation, uplinks of shops and schools.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Annotated

import msgspec

from hedgerow.rollout.plan import Target

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Above = Annotated[float, msgspec.Meta(gt=0)]

BOARDS = (("4B", 4096, 1.8), ("5", 8192, 1.0), ("5", 16384, 0.95))
"""Revision, memory in MB, and how long an answer takes on it, as a factor."""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What devices, links and the mechanism are like. ``_s`` seconds, ``_ms`` milliseconds."""

    hosts_per_site: Annotated[int, msgspec.Meta(ge=1)] = 8
    link_mbit: Above = 50.0
    """Median downlink of a site, shared by its hosts."""
    link_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.7
    """Standard deviation of the logarithm of that speed."""
    answer_ms: Above = 120.0
    """Median time of an answer."""
    answer_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.12
    activate_s: Above = 6.0
    """Median of trial and switch together."""
    activate_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.3
    revert_s: Above = 2.0
    restart_s: Above = 12.0
    """Of a release that is no model: draining, and the server's restart until it serves again; forward as back."""
    step_s: Annotated[float, msgspec.Meta(ge=0)] = 0.3
    """What each step costs over SSH besides its work."""
    silent_s: Above = 10.0
    """Until the mechanism gives a silent host up, once."""
    passive: Share = 0.3
    """Boards without a fan."""
    unreachable: Share = 0.01
    """Hosts that are off before their turn."""
    failing: Share = 0.0
    """Hosts whose activation fails for a reason of their own."""
    lost: Share = 0.0
    """Hosts that go off in their activation, and return after ``away_s``."""
    away_s: Above = 900.0
    throttling: Share = 0.0
    """Hosts that are slowed down by their supply during their gate."""
    answers_s: Above = 900.0
    """Until a person approves, or resumes."""


class Device:
    """One device. ``lot`` in [0, 1) decides what a share of the fleet has."""

    __slots__ = (
        "answer_ms",
        "failing",
        "lost",
        "lot",
        "name",
        "passive",
        "site",
        "target",
        "throttling",
        "unreachable",
    )

    def __init__(self, target: Target, site: str, model: Model, seed: str) -> None:
        draw = random.Random(f"{seed}/{target.name}")  # noqa: S311 - a simulation is to give the same twice
        self.target = target
        self.name = target.name
        self.site = site
        factor = next((each[2] for each in BOARDS if (each[0], each[1]) == (target.board, target.memory_mb)), 1.0)
        self.passive = target.cooling == "passive" if target.cooling else draw.random() < model.passive
        self.answer_ms = model.answer_ms * factor * math.exp(draw.gauss(0, 0.05))
        self.unreachable = draw.random() < model.unreachable
        self.failing = draw.random() < model.failing
        self.lost = draw.random() < model.lost
        self.throttling = draw.random() < model.throttling
        self.lot = draw.random()


def synthetic(hosts: int, model: Model, seed: str) -> list[Device]:
    """A fleet of ``hosts`` devices on sites of ``model.hosts_per_site``."""
    draw = random.Random(f"{seed}/fleet")  # noqa: S311 - as above
    devices = []
    for number in range(hosts):
        board, memory_mb, _ = draw.choice(BOARDS)
        site = f"site-{number // model.hosts_per_site + 1:04d}"
        target = Target(
            name=f"pi-{number + 1:06d}",
            site=site,
            board=board,
            memory_mb=memory_mb,
            cooling="passive" if draw.random() < model.passive else "active",
            storage=draw.choice(("sd", "nvme")),
        )
        devices.append(Device(target, site, model, seed))
    return devices


def of_targets(targets: Iterable[Target], model: Model, seed: str) -> list[Device]:
    """The devices that an inventory's hosts would be; a host without a site has a link of its own."""
    return [Device(target, target.site or target.name, model, seed) for target in targets]


def link_bytes_s(site: str, model: Model, seed: str) -> float:
    """Bytes a second that a site's link carries."""
    draw = random.Random(f"{seed}/{site}/link")  # noqa: S311 - as above
    return model.link_mbit * 1e6 / 8 * math.exp(draw.gauss(0, model.link_spread))
