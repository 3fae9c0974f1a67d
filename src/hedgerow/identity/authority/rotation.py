"""From one CA to the next without cutting anybody off: begin → switch → finish.

- ``begin`` makes the next generation beside the present one. Peers get a bundle of both; the old one goes on signing.
- ``switch`` lets the next one sign. What the old one signed is trusted until it ends, and is renewed by and by:
  enrolment sees that another authority issued it.
- ``finish`` takes the old one out of the bundle. Refused while something that it signed has life left.

Each step is one atomic write of ``generations.json``; files made before it mean nothing without it, and what follows
from it (``generations.sync``) is done again by the next command. A step that was done already changes nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, issued, revocations
from hedgerow.identity.authority import build, generations, issuing, making, root
from hedgerow.identity.authority.admission import locked, rfc3339, utc_now
from hedgerow.identity.authority.generations import Generation, State
from hedgerow.identity.authority.leaf import fleet_of, read_first
from hedgerow.identity.authority.root import KeyPlace
from hedgerow.passphrases import Passphrases


@dataclass(frozen=True)
class Row:
    """A generation, for people. ``alive`` counts certificates of it that have life left and are not revoked."""

    generation: Generation
    tiers: int
    fingerprint: str
    not_after: dt.datetime
    home: Path
    issuing: tuple[str, ...]
    alive: int
    last_ends: dt.datetime | None


def begin(
    fleet_dir: Path,
    passphrases: Passphrases | None,
    *,
    two_tier: bool,
    place: KeyPlace | None = None,
    days: int | None = None,
    now: dt.datetime | None = None,
) -> tuple[Generation, bool]:
    """Make the next generation; the one that waits already is returned as it is.

    ``passphrases`` None leaves a single tier's key unencrypted, as its first one may be.

    Raises:
        RefusedError: a rotation is not finished, or its next generation has another number of tiers.
        UsageError: there is no CA, or the key cannot be made.
    """
    now = now or utc_now()
    folder = fleet_dir / "ca"
    with locked(folder):
        found = generations.read(folder)
        waiting = _in(found, "next")
        if waiting is not None:
            _require_tiers(folder, waiting, two_tier=two_tier)
            generations.sync(folder)
            return waiting, False
        old = _in(found, "old")
        if old is not None:
            raise RefusedError(
                f"generation {old.number} of the CA is not taken out of use yet",
                where=str(folder / generations.FILE),
                next_step="hedgerow ca rotate finish",
            )
        fleet = fleet_of(generations.certificate(folder, generations.active(folder).number))
        fresh = Generation(max(each.number for each in found) + 1, "next", rfc3339(now))
        home = generations.home(folder, fresh.number)
        generations.keep_first(folder)
        if read_first(home / generations.CERTIFICATE) is None:
            made = root.found(
                folder,
                home,
                fleet,
                passphrases,
                place=place or KeyPlace(),
                days=days,
                now=now,
                two_tier=two_tier,
                number=fresh.number,
            )
            atomic.write_text(home / generations.CERTIFICATE, certificates.pem(made.certificate))
        _require_tiers(folder, fresh, two_tier=two_tier)
        generations.write(folder, [*found, fresh])
        generations.sync(folder)
    return fresh, True


def switch(fleet_dir: Path, *, now: dt.datetime | None = None) -> tuple[Generation, bool]:
    """Let the next generation sign from now on.

    Raises:
        RefusedError: none was begun, or it has two tiers and lacks an issuing CA that the present one has.
    """
    folder = fleet_dir / "ca"
    with locked(folder):
        found = generations.read(folder)
        waiting, present = _in(found, "next"), generations.active(folder)
        if waiting is None:
            generations.sync(folder)
            if _in(found, "old") is not None:
                return present, False
            raise RefusedError(
                "there is no next generation of the CA to switch to",
                where=str(folder),
                next_step="hedgerow ca rotate begin",
            )
        missing = _missing(folder, present, waiting)
        if missing:
            raise RefusedError(
                f"the next generation has no issuing CA for {', '.join(missing)}",
                where=str(generations.home(folder, waiting.number) / issuing.FOLDER),
                next_step=" && ".join(f"hedgerow ca issuing add {name} --next" for name in missing),
            )
        generations.write(folder, _with(_with(found, present.number, "old", now), waiting.number, "active", now))
        generations.sync(folder)
        return generations.active(folder), True


def finish(fleet_dir: Path, *, force: bool = False, now: dt.datetime | None = None) -> tuple[Generation | None, bool]:
    """Trust the old generation no longer; None if there is none.

    Raises:
        RefusedError: a certificate of it has life left, and not ``force``; or it has not been switched yet.
    """
    now = now or utc_now()
    folder = fleet_dir / "ca"
    with locked(folder):
        found = generations.read(folder)
        if _in(found, "next") is not None:
            raise RefusedError(
                "the next generation of the CA signs nothing yet",
                where=str(folder / generations.FILE),
                next_step="hedgerow ca rotate switch, or give it up: hedgerow ca rotate abort",
            )
        old = _in(found, "old")
        if old is None:
            generations.sync(folder)
            return None, False
        row = _row(folder, old, now)
        if row.alive and not force:
            raise RefusedError(
                f"{row.alive} certificates of generation {old.number} have life left, "
                f"the last until {row.last_ends:%Y-%m-%d %H:%M} UTC",
                where="rule: a CA is trusted while what it signed is in use",
                next_step="ansible-playbook playbooks/rotate_identity.yml, or wait; --force cuts off who still has one",
            )
        found = _with(found, old.number, "retired", now)
        generations.write(folder, found)
        generations.sync(folder)
        return next(each for each in found if each.number == old.number), True


def abort(fleet_dir: Path, *, now: dt.datetime | None = None) -> bool:
    """Give up a next generation that has signed nothing yet; False if there is none."""
    folder = fleet_dir / "ca"
    with locked(folder):
        found = generations.read(folder)
        waiting = _in(found, "next")
        if waiting is not None:
            generations.write(folder, _with(found, waiting.number, "retired", now))
        generations.sync(folder)
        return waiting is not None


def status(fleet_dir: Path, *, now: dt.datetime | None = None) -> list[Row]:
    """Every generation, oldest first.

    Raises:
        UsageError: there is no CA.
    """
    folder = fleet_dir / "ca"
    return [_row(folder, each, now or utc_now()) for each in generations.read(folder)]


def _row(folder: Path, each: Generation, now: dt.datetime) -> Row:
    certificate = generations.certificate(folder, each.number)
    home = generations.home(folder, each.number)
    own = {build.authority_key(certificate)}
    for below in making.all_homes(home):
        found = read_first(below / issuing.CERTIFICATE)
        own |= set() if found is None else {build.authority_key(found)}
    first = build.authority_key(generations.certificate(folder, 1))
    gone = set(revocations.certificates(revocations.read(folder)))
    ends = [
        end
        for entry in issued.read_fleet(folder)
        if entry.profile != issued.ISSUING_CA
        and (entry.issuer_key or first) in own
        and entry.serial_number not in gone
        and (end := dt.datetime.fromisoformat(entry.not_after)) > now
    ]
    return Row(
        each,
        tiers=2 if build.is_root(certificate) else 1,
        fingerprint=certificates.fingerprint(certificate),
        not_after=certificate.not_valid_after_utc,
        home=home,
        issuing=tuple(making.in_use(home)),
        alive=len(ends),
        last_ends=max(ends, default=None),
    )


def _missing(folder: Path, present: Generation, waiting: Generation) -> list[str]:
    if not generations.two_tier(folder, waiting.number):
        return []
    before = making.in_use(generations.home(folder, present.number))
    after = making.in_use(generations.home(folder, waiting.number))
    # From a single tier: one CA for the whole fleet takes over what it did.
    return sorted((before.keys() or {issuing.FLEET}) - after.keys())


def _require_tiers(folder: Path, each: Generation, *, two_tier: bool) -> None:
    if generations.two_tier(folder, each.number) != two_tier:
        raise RefusedError(
            f"the next generation, number {each.number}, was begun with {'one tier' if two_tier else 'two tiers'}",
            where=str(generations.home(folder, each.number)),
            next_step="go on with it, or give it up: hedgerow ca rotate abort",
        )


def _in(found: list[Generation], state: State) -> Generation | None:
    return next((each for each in found if each.state == state), None)


def _with(found: list[Generation], number: int, state: State, now: dt.datetime | None) -> list[Generation]:
    since = rfc3339(now or utc_now())
    return [
        msgspec.structs.replace(each, state=state, since=since) if each.number == number else each for each in found
    ]
