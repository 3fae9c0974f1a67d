"""Whether a host is fit to get a release: pure rules over what it reports, before anything is touched."""

from __future__ import annotations

from hedgerow.fleet.reported import Report
from hedgerow.rollout import kinds
from hedgerow.rollout.events import HostState, Outcome
from hedgerow.rollout.gate.judge import Look
from hedgerow.rollout.plan import Release
from hedgerow.rollout.plan_types import Placement

DISK_MARGIN_MB = 100
"""Left free beside a new bundle, for logs and metadata."""

UNPACKED = {"runtime": 6, "application": 2}
"""Size of an installed runtime, or a placed application, with what it came in, in bundles; where its manifest says
what it takes beside its own files (``requires.disk_mb``), that counts."""

MENDED_BY_A_RELEASE = frozenset({"no_model", "model_failed"})
"""Critical reasons that a release may take away; a host with any other is not well enough to get one."""


def serves(report: Report, release: Release, wanted: str | None = None) -> bool:
    """Whether the host serves exactly this release. ``wanted``: its own version of it (``kinds.wanted``)."""
    model = report.model
    served = model is not None and report.reference == release.serves and model.sha256 in release.serves_hashes
    return served and kinds.had(report, release) == (wanted or release.bundle)


def had(report: Report, release: Release, known: HostState, wanted: str | None = None) -> tuple[Outcome, str] | None:
    """The outcome of a host that serves the release with nothing pending; None if it is to go on.

    A host that this rollout started and judged well had its confirmation before the run was cut off.
    """
    if not serves(report, release, wanted) or report.pending is not None:
        return None
    what = kinds.had(report, release)
    if known.started_at is not None:
        return (Outcome.CONFIRMED, f"{known.reason}; it was confirmed already") if known.verdict == "pass" else None
    if report.status == "failing":
        listed = ", ".join(reason.code for reason in report.troubles)
        return Outcome.REFUSED, f"serves {what} already, and is failing: {listed}"
    if release.kind == "application":
        seen = kinds.application(report.applications, release.bundle)
        if seen is not None and seen.trouble is not None:
            return Outcome.REFUSED, f"has {what} already, which does not run as it should: {seen.trouble}"
    return Outcome.ALREADY, f"serves {what}"


def unfit(
    report: Report, release: Release, place: Placement | None = None, wanted: str | None = None
) -> tuple[Outcome, str] | None:
    """Why an untouched host does not get the release, and as what that counts; None if it is fit.

    ``place`` is the host's in the plan, which names its variant, and declares an outage where old and new models do
    not fit into its memory together.
    """
    if report.pending is not None:
        reason = f"{report.reference or 'an activation'} waits there for a confirmation that is not this rollout's"
        return Outcome.SKIPPED, f"{reason}; its deadline will end that"
    critical = {reason.code for reason in report.reasons if reason.severity == "critical"} - MENDED_BY_A_RELEASE
    if critical:
        return Outcome.REFUSED, f"not well before its turn: {', '.join(sorted(critical))}"
    lack = _unlike(report, release) or _lack(report, release, place, wanted) or _memory(report, release, place)
    return None if lack is None else (Outcome.REFUSED, lack)


def _unlike(report: Report, release: Release) -> str | None:
    """Why a host cannot be judged, or taken back, with a release that is no model."""
    if release.kind == "model":
        return None
    untold = kinds.untold(report.applications, kinds.had(report, release), release)
    if untold is not None:
        return untold
    sha256 = None if report.model is None else report.model.sha256
    return kinds.other_model(report.reference, sha256, release)


def unseen(look: Look) -> str | None:
    """Why users cannot reach a host that answers over SSH; None if they can."""
    return None if look.reached else f"it answers over SSH, but not as its users reach it: {look.note or 'no answer'}"


def _lack(report: Report, release: Release, place: Placement | None, wanted: str | None) -> str | None:
    """What the host has too little of for one more bundle."""
    size_mb = release.size_bytes / 1e6
    own = [each for each in release.variants if place is None or place.variant in {None, each.name}]
    said = [each.requires.disk_mb for each in own if each.requires.disk_mb is not None]
    # They are unpacked beside the archive that they come in.
    needed_mb = DISK_MARGIN_MB + (size_mb + max(said) if said else UNPACKED.get(release.kind, 1) * size_mb)
    free_mb = report.board.disk_free_mb
    if serves(report, release, wanted) or free_mb is None or free_mb >= needed_mb:
        return None
    return f"{free_mb:.0f} MB free on its disk, {needed_mb:.0f} MB needed"


def _memory(report: Report, release: Release, place: Placement | None) -> str | None:
    """Whether the new model can stand beside the old one, by what is free now: the plan knew the board's size alone."""
    available_mb = report.board.memory_available_mb
    if place is None or place.outage_s is not None or available_mb is None:
        return None
    variant = next((each for each in release.variants if each.name == place.variant), None)
    if variant is None or variant.requires.memory_mb <= available_mb:
        return None
    return f"{available_mb:.0f} MB of its memory free, {variant.requires.memory_mb} MB needed beside what it serves"
