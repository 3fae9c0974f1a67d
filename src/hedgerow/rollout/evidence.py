"""Everything about a rollout in one archive, signed, so that it can be kept and shown to somebody else.

The archive is a tar without times and owners of its own, entries sorted: the
same rollout gives the same bytes. In it::

    hosts/<host>.json     verdict, criteria, metrics before and after, versions, the host's lines of the journal
    waves/<number>.json   who was in it, counts
    rollout.json, plan.json, policy.json, journal.jsonl, requests.jsonl, report.html
    bundle/manifest.json  as the registry vouches for it, provenance included
    MANIFEST.json         DSSE envelope around an in-toto statement: the SHA-256 of every other entry

The statement's subjects are the bundle (by its manifest's SHA-256) and the
entries; whoever changes a byte is named by ``verify``. Keys and envelope are
securesystemslib's (DSSE v1: github.com/secure-systems-lab/dsse, protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Key

from hedgerow import atomic
from hedgerow.errors import UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.rollout import events, html, report
from hedgerow.rollout import evidence_seal as seal
from hedgerow.rollout.events import Event, State
from hedgerow.rollout.journal import Journal

FILE = "evidence.tar"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://hedgerow.invalid/rollout-evidence/v1"
"""A name, not an address: ``.invalid`` is nobody's (RFC 2606)."""


def collect(folder: Path, target: Path | None = None) -> Path:
    """Write the archive of the rollout in ``folder`` (``var/fleets/<fleet>/rollouts/<id>``), signed.

    ``target`` None: ``evidence.tar`` in the folder.

    Raises:
        UsageError: The rollout has said nothing yet.
    """
    fleet = folder.resolve().parent.parent.name
    journal = Journal(folder)
    recorded = journal.events()
    state = events.replay(recorded)
    if state is None:
        raise UsageError("the rollout has no journal yet", where=str(folder))
    entries = _entries(folder, fleet, recorded, state)
    statement = _statement(folder.name, state, entries)
    entries[seal.SIGNED] = seal.signed(statement, seal.signer(fleet))
    path = folder / FILE if target is None else target
    atomic.write_bytes(path, seal.tar(entries))
    return path


def verify(path: Path, key: Key) -> tuple[dict[str, Any], list[seal.Problem]]:
    """The statement in the archive ``path``, and what of it does not hold against ``key``; nothing: all does.

    Raises:
        UsageError: It is no archive, or has no signed manifest.
        RefusedError: Its manifest is not signed by ``key``: nothing in it can be believed.
    """
    entries, problems = seal.read(path)
    statement = seal.opened(entries.get(seal.SIGNED), key, where=str(path))
    named = {each["name"]: each["digest"]["sha256"] for each in statement["predicate"]["entries"]}
    for name in sorted(named.keys() | entries.keys() - {seal.SIGNED}):
        if name not in entries:
            problems.append(seal.Problem(name, "is missing"))
        elif name not in named:
            problems.append(seal.Problem(name, "was added"))
        elif (found := seal.sha256(entries[name])) != named[name]:
            problems.append(seal.Problem(name, f"was changed: sha256 {found}, signed was {named[name]}"))
    return statement, problems


# -- what goes in -----------------------------------------------------------------


def _entries(folder: Path, fleet: str, recorded: list[Event], state: State) -> dict[str, bytes]:
    plan = msgspec.to_builtins(state.plan)
    lines: dict[str, list[Any]] = {}
    for event in recorded:
        host = getattr(event, "host", None)
        if host is not None:
            lines.setdefault(host, []).append(msgspec.to_builtins(event))
    entries = {
        "rollout.json": seal.encoded(report.document(folder.name, state)),
        "plan.json": seal.encoded(plan),
        "policy.json": seal.encoded(plan["policy"]),
        "journal.jsonl": b"".join(msgspec.json.encode(event) + b"\n" for event in recorded),
        "report.html": html.render(folder.name, recorded).encode(),
    }
    requests = folder / "requests.jsonl"
    if requests.is_file():
        entries["requests.jsonl"] = requests.read_bytes()
    entries |= _bundle(fleet, state)
    for number, wave in enumerate(state.plan.waves, start=1):
        counts: dict[str, int] = {}
        for name in wave:
            outcome = report.outcome(state.hosts[name])
            counts[outcome] = counts.get(outcome, 0) + 1
            entries[f"hosts/{name}.json"] = seal.encoded(_host(name, number, state, lines.get(name, [])))
        entries[f"waves/{number:03d}.json"] = seal.encoded({"wave": number, "hosts": wave, "counts": counts})
    return entries


def _host(name: str, wave: int, state: State, lines: list[Any]) -> dict[str, Any]:
    host = state.hosts[name]
    return {
        "host": name,
        "wave": wave,
        "release": state.plan.release.bundle,
        **msgspec.to_builtins(host),
        # What of the journal says why: the device's own words are in the reasons of these lines.
        "journal": lines,
    }


def _bundle(fleet: str, state: State) -> dict[str, bytes]:
    """The bundle's manifest with its provenance, if the registry still vouches for just that one."""
    release = state.plan.release
    if release.kind != "model":
        # No registry has it: what it is stands in the plan, and its hash in the statement.
        said = {"bundle": release.bundle, "kind": release.kind, "sha256": release.sha256, "serves": release.serves}
        return {"bundle/release.json": seal.encoded(said)}
    try:
        _, data = trusted(store_of_stage(fleet, release.stage), Reference.parse(release.bundle))
    except Exception as error:  # noqa: BLE001 - a registry that is gone must not cost the rest of the evidence
        return {"bundle/missing.json": seal.encoded({"bundle": release.bundle, "why": type(error).__name__})}
    found = manifests.digest(data)
    if found != release.sha256:
        why = f"the registry's has sha256 {found} now, the rollout's had {release.sha256}"
        return {"bundle/missing.json": seal.encoded({"bundle": release.bundle, "why": why})}
    return {"bundle/manifest.json": data}


def _statement(rollout: str, state: State, entries: Mapping[str, bytes]) -> dict[str, Any]:
    release = state.plan.release
    return {
        "_type": STATEMENT,
        "subject": [{"name": release.bundle, "digest": {"sha256": release.sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "rollout": rollout,
            "phase": state.phase,
            "opened_at": state.opened_at,
            "closed_at": state.closed_at,
            "by": state.by,
            "counts": state.count(),
            "entries": [
                {"name": name, "digest": {"sha256": seal.sha256(entries[name])}, "size": len(entries[name])}
                for name in sorted(entries)
            ],
        },
    }
