"""Before the first host is touched: can every one go back to what it serves now?

A device goes back to the version that it served before, which it keeps. What can be known beforehand is whether that is
what it says it is: the version it serves is asked over mutual TLS, and its manifest's hash is held to the registry's.

- Another hash than the registry's under the same name is refused: nobody knows what the host would go back to.
- A version that the registry does not have is on the device alone; that is said, and does not stop a release.
- A first installation has nothing to go back to; that is said, too.
- A host that is silent now is asked again in its own preflight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from hedgerow import paths
from hedgerow.errors import HedgerowError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.rollout import events, kinds
from hedgerow.rollout.events import Outcome, State
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.plan import Release

LOOKERS = 24
"""Hosts that are asked at one time; each may take its 5 s to stay silent."""

NAMED = 10
"""Hosts that a line names; the journal has them all."""


Vouched = Callable[[str], frozenset[str] | None]
"""``name@version`` → hashes of its manifest and of its variants', as the registry vouches for; None: it has none."""


def survey(
    journal: Journal,
    look_at: Callable[[str], Callable[[], Look]],
    vouched: Vouched,
    say: Callable[[str], None],
    clock: Clock | None = None,
) -> State:
    """Ask every planned host once, journal what was found, and refuse hosts whose way back is not known.

    ``vouched`` is ``registry``'s. Does nothing where it was done before, or where a host was touched already.
    """
    state = journal.read()
    if state.surveyed or state.wave or state.turns:
        return state
    hosts = [name for name in state.plan.hosts if state.hosts[name].outcome is None]
    with ThreadPoolExecutor(LOOKERS, thread_name_prefix="survey") as pool:
        looks = dict(zip(hosts, pool.map(lambda look: look(), map(look_at, hosts)), strict=True))
    at = timestamp((clock or Clock()).now())
    found = judge(looks, state.plan.release, vouched, at=at)
    state = journal.record(found)
    for line in describe(found):
        say(line)
    for host, reason in found.refused.items():
        state = journal.record(events.HostFinished(at=at, host=host, outcome=Outcome.REFUSED, reason=reason))
    return state


def judge(looks: dict[str, Look], release: Release, vouched: Vouched, *, at: str) -> events.Surveyed:
    """Sort hosts by what was seen of them. Pure but for ``vouched``."""
    known = 0
    first: list[str] = []
    unknown: list[str] = []
    silent: list[str] = []
    refused: dict[str, str] = {}
    for host, look in looks.items():
        if not look.reached or look.status is None:
            silent.append(host)
            continue
        if release.kind != "model":
            why = _unlike(look, release)
            known += why is None
            refused |= {} if why is None else {host: why}
            continue
        if look.version is None:
            first.append(host)
            continue
        hashes = release.serves_hashes if look.version == release.bundle else vouched(look.version)
        if hashes is None:
            unknown.append(host)
        elif look.sha256 not in hashes:
            refused[host] = (
                f"rule way-back: its {look.version} has manifest {look.sha256}, the registry's is "
                f"{' or '.join(sorted(hashes))}: nobody knows what it would go back to"
            )
        else:
            known += 1
    return events.Surveyed(at=at, known=known, first=first, unknown=unknown, refused=refused, silent=silent)


def _unlike(look: Look, release: Release) -> str | None:
    """Why a host cannot go back from, or be judged with, a release that is no model; None: it can.

    The version before stays on the device, which holds it to its own sum before anything changes.
    """
    untold = kinds.untold(look.applications, kinds.seen(look, release), release)
    if untold is not None:
        return f"rule way-back: {untold}"
    return kinds.other_model(look.version, look.sha256, release)


def describe(found: events.Surveyed) -> Sequence[str]:
    """What was found, in lines for people."""
    lines = [f"the way back: {found.known} host(s) serve a version that the registry vouches for"]
    lines += _named("first installation, nothing to go back to", found.first)
    lines += _named("a version that this registry does not have, to go back to on the device alone", found.unknown)
    lines += _named("silent, asked again at its turn", found.silent)
    lines += [f"  {host}: {reason}" for host, reason in found.refused.items()]
    return lines


def _named(what: str, hosts: Iterable[str]) -> list[str]:
    names = list(hosts)
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"  {what}: {', '.join(names[:NAMED])}{more}"]


def registry(fleet: str, stage: str = paths.DEFAULT_STAGE) -> Vouched:
    """Asks the registry of the fleet's stage."""

    @cache
    def ask(bundle: str) -> frozenset[str] | None:
        try:
            manifest, data = trusted(store_of_stage(fleet, stage), Reference.parse(bundle))
        except HedgerowError:
            return None
        taken = (variants.take(manifest, name) for name in variants.names(manifest) if manifest.variants)
        return frozenset({manifests.digest(data), *(manifests.digest(manifests.encode(each)) for each in taken)})

    return ask
