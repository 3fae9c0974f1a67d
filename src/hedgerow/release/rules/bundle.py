"""A bundle and the lock that it is to run on."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status
from hedgerow.release.rules.sets import sets
from hedgerow.release.versions import within


def _hef_chip(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is None or bundle.format != "hef":
        return
    chips = {known.ARCHITECTURES[hat] for hat in bundle.hats if hat in known.ARCHITECTURES}
    if not chips:
        yield f"{bundle.reference}: requires.hat names no HAT, and a HEF is built for one chip"
    elif len(chips) > 1:
        yield f"{bundle.reference}: requires.hat means {', '.join(sorted(chips))}, a HEF is built for one chip"


def _bundle_host(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is not None and bundle.hats and not any(host.hat in bundle.hats for host in of.hosts.values()):
        yield f"{bundle.reference}: requires.hat is {', '.join(bundle.hats)}, no host of the inventory has one"


def _bundle_stack(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is None:
        return
    for chip, pin, _ in sets(of):
        if not set(chip.hats) & set(bundle.hats):
            continue
        for member, version, wanted in (
            ("hailort", pin.library, bundle.hailort),
            ("firmware", pin.firmware, bundle.firmware),
        ):
            if wanted is not None and (version is None or not _satisfies(version, wanted)):
                yield f"{bundle.reference}: requires.{member} is {wanted}, {chip.row} has {version or 'no pin'}"


def _bundle_runtime(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is not None and bundle.runtime is not None and not _satisfies(of.release.runtime.version, bundle.runtime):
        have = of.release.runtime.version
        yield f"{bundle.reference}: requires.runtime is {bundle.runtime}, runtime.version is {have}"


def _satisfies(version: str, specifier: str) -> bool:
    try:
        return within(version, specifier)
    except ValueError:
        return False  # what cannot be read cannot be met


RULES: tuple[Rule, ...] = (
    Rule("hef-chip", "A HEF is built for one chip.", "§3.4", Status.FORBIDDEN, _hef_chip),
    Rule("bundle-host", "A bundle needs a host that has its HAT.", "§3.1", Status.FORBIDDEN, _bundle_host),
    Rule(
        "bundle-stack",
        "A bundle's range of HailoRT and firmware must hold what the lock brings.",
        "§3.4",
        Status.FORBIDDEN,
        _bundle_stack,
    ),
    Rule(
        "bundle-runtime",
        "A bundle's range of the runtime must hold the lock's.",
        "manifest",
        Status.FORBIDDEN,
        _bundle_runtime,
    ),
)
