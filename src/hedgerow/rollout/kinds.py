"""What is different where a release is no model: what a host has of it, what it is to have, what it serves. Pure.

- A model's release is asked its own questions, and the server switches to it: the host is never drained.
- A runtime and a configuration are taken up by a restart. The host is drained before, serves the same model before and
  after, and is asked that one's questions.
- An application runs beside the server, so the host is never drained for it. It is held to running, unrestarted, with
  ports that answer; the host to the questions of the model that it serves all the while.
- A runtime has one version for all who ask for the same extras; a configuration has one for each host, since it names
  the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hedgerow.device.change import Change
from hedgerow.errors import RefusedError, UsageError
from hedgerow.fleet.reported import Report, ReportedApplication
from hedgerow.registry.reference import Reference
from hedgerow.rollout.gate.samples import Expectation, Look
from hedgerow.rollout.plan_types import Kind, Release

RESTARTING: tuple[Kind, ...] = ("runtime", "configuration")
_LACKING = {
    "adapter": "it comes with a version of its model; make one: hedgerow model attach, then bundle=MODEL@VERSION",
}


def is_kind(what: str) -> bool:
    """Whether an operator's word means no model: ``runtime``, ``application:kiosk@1.0.0``; also what lacks yet."""
    return what.partition(":")[0] in {*RESTARTING, "application", *_LACKING}


def parse(change: str) -> tuple[Kind, str | None]:
    """Read ``runtime``, ``configuration``, or one of them with the version that is expected (``runtime:VERSION``).

    An application always has one: ``application:NAME@VERSION``.

    Raises:
        RefusedError: nothing of that kind can be released yet; says what is missing.
        UsageError: there is no such kind.
    """
    word, colon, version = change.partition(":")
    for kind in RESTARTING:
        if word == kind and (version or not colon):
            return kind, version or None
    if word == "application" and colon:
        return "application", str(Reference.parse(version))
    if word in _LACKING:
        raise RefusedError(f"rule kind: no {word} can be released: {_LACKING[word]}", where=f"change={change}")
    if word == "application":
        raise UsageError(
            "change=application does not say which",
            next_step="name its bundle: bundle=kiosk@1.0.0, or change=application:kiosk@1.0.0",
        )
    raise UsageError(
        f"change={change} is nothing that can be released",
        next_step="change=runtime, change=configuration, or a model or an application: bundle=NAME@VERSION",
    )


def no_model(kind: str, where: str) -> RefusedError:
    """What to say of a bundle of ``kind``, which is not released by its name: how it reaches devices."""
    how = _LACKING.get(kind, f"devices get one with change={kind}")
    return RefusedError(f"rule kind: this is a bundle of kind {kind}: {how}", where=where)


def wanted(release: Release, host: str) -> str:
    """What ``host`` is to activate, as ``hedgerow-device`` names it."""
    version = release.versions.get(host)
    return release.bundle if version is None else f"{release.kind}:{version}"


def had(report: Report, release: Release) -> str | None:
    """What a host has of the release's kind, by its report; None: nothing, or it does not say."""
    if release.kind == "model":
        return report.reference
    if release.kind == "application":
        return _placed(report.applications, release)
    return _named(release.kind, report.runtime, report.configuration)


def seen(look: Look, release: Release) -> str | None:
    """The same by a look at it."""
    if release.kind == "model":
        return look.version
    if release.kind == "application":
        return _placed(look.applications, release)
    return _named(release.kind, look.runtime, look.configuration)


def application(found: Iterable[ReportedApplication] | None, what: str) -> ReportedApplication | None:
    """What a host says of the application that ``what`` is a version of; None: it does not run that one."""
    name = Change.parse(what).name
    return next((each for each in found or () if each.name == name), None)


def untold(found: Iterable[ReportedApplication] | None, version: str | None, release: Release) -> str | None:
    """Why a host cannot get a release that is no model; None: it can. ``found`` are its applications.

    ``version`` is what it has (``had``, ``seen``): of a runtime and of a configuration it has one, or nobody could say
    what it goes back to. An application may be its first.
    """
    if release.kind == "application":
        if application(found, release.bundle) is not None:
            return None
        name = Change.parse(release.bundle).name
        return f"it has no place for {name}: name it in the inventory (applications: [{name}]), then converge it"
    if version is not None:
        return None
    return f"its server does not tell its {release.kind}, so nobody could say what it goes back to: converge it first"


def expectation(release: Release, host: str, baseline: Iterable[str] = ()) -> Expectation:
    """What a look at ``host`` is held against once it has the release."""
    own = None if release.kind == "model" else wanted(release, host)
    return Expectation(
        version=release.serves,
        sha256=release.serves_sha256,
        builds=frozenset(release.builds),
        baseline=frozenset(baseline),
        started_with=own,
    )


def has(look: Look, release: Release, host: str) -> bool:
    """Whether a look found the release on ``host``, whatever else it found."""
    return seen(look, release) == wanted(release, host)


def other_model(serves: str | None, sha256: str | None, release: Release) -> str | None:
    """Why a host cannot be judged by the release's questions: it serves another model; None: it serves that one."""
    if serves == release.serves and sha256 in release.serves_hashes:
        return None
    what = serves or "no model" if serves != release.serves else f"{serves} with manifest {sha256}"
    return f"rule same-model: it serves {what}, and the {release.kind} is judged by the questions of {release.serves}"


def revert(release: Release, reason: str) -> Sequence[str]:
    """The command that brings a host back; it names the kind, so that it never takes back anything else."""
    which = [] if release.kind == "model" else ["--kind", release.kind]
    if release.kind == "application":
        which += ["--name", Change.parse(release.bundle).name]
    return ["revert", *which, "--reason", reason]


def _placed(found: Iterable[ReportedApplication] | None, release: Release) -> str | None:
    seen = application(found, release.bundle)
    return None if seen is None or seen.version is None else str(Change("application", seen.name, seen.version))


def _named(kind: str, runtime: str | None, configuration: str | None) -> str | None:
    version = runtime if kind == "runtime" else configuration
    return None if version is None else f"{kind}:{version}"
