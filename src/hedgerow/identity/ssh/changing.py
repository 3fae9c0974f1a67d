"""What changes whom the fleet trusts: revocation, rotation of a CA's key, the key in the safe.

Each step is on disk before ``trust/`` follows from it, so a killed run is completed by the next one; none changes
anything when it is repeated. A host knows of it when it has got ``trust/`` (playbooks/ssh_access.yml).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from hedgerow import atomic
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.ssh import cakeys, events, generations, keygen, publickey, store
from hedgerow.identity.ssh.authority import SshAuthority
from hedgerow.identity.ssh.generations import Authority, CaKey

Step = Literal["begin", "switch", "finish"]
Kind = Literal["operator", "host", "serial", "key"]


def revoke(
    authority: SshAuthority, kind: Kind, name: str, *, reason: str, now: dt.datetime
) -> tuple[events.Revoked, bool]:
    """Let certificates count no more: those of an ``operator`` or ``host``, one ``serial``, or whatever a ``key`` has.

    A ``key`` is named by its fingerprint. A host's key goes with its certificates: whoever took the host has it.
    Returns the line, and whether it was written now.

    Raises:
        UsageError: the log knows no such holder or certificate.
    """
    with store.locked(authority.folder):
        written = store.lines(authority.log)
        gone = store.revoked_serials(written)
        chosen = [line for line in written if isinstance(line, events.Signed) and _meant(line, kind, name)]
        if kind != "key" and not chosen:
            raise UsageError(
                f"nothing was signed for {kind} {name}",
                where=str(authority.log.path),
                next_step="hedgerow ssh list shows whom certificates were signed for, and their numbers",
            )
        # What ended by our clock may have life left on a host whose clock is behind; what ended long ago has not.
        recent = now - dt.timedelta(days=30)
        chosen = [line for line in chosen if events.moment(line.valid_before) > recent]
        serials: dict[str, list[str]] = {}
        for line in chosen:
            if line.serial not in gone.get(line.ca, ()):
                serials.setdefault(line.ca, []).append(line.serial)
        keys = [name] if kind == "key" else [line.key for line in chosen if kind == "host"]
        keys = [key for key in dict.fromkeys(keys) if key not in store.revoked_keys(written)]
        done = events.Revoked(
            time=events.text(now), by=authority.by, what=f"{kind} {name}", serials=serials, keys=keys, reason=reason
        )
        if serials or keys:
            authority.log.append(done)
        authority.write_trust()
    return done, bool(serials or keys)


def _meant(line: events.Signed, kind: Kind, name: str) -> bool:
    if kind == "serial":
        return line.serial == name
    return kind != "key" and line.who == name and line.kind == ("host" if kind == "host" else "user")


def rotate(
    authority: SshAuthority,
    kind: events.CaKind,
    step: Step,
    *,
    now: dt.datetime,
    token: tuple[str, str] | None = None,
    force: bool = False,
) -> CaKey:
    """Do one step of a rotation; return the key that it is about.

    Raises:
        RefusedError: the step does not follow from where the rotation is.
    """
    with store.locked(authority.folder):
        state = store.read(authority.folder)
        keys = state.keys
        if step == "begin":
            generations.require_begin(keys, kind)
            about = cakeys.new_key(authority.folder, keys, kind, "next", fleet=state.fleet, token=token, now=now)
            keys = (*keys, about)
        elif step == "switch":
            keys = generations.switch(keys, kind, now=now)
            about = generations.current(keys, kind)
        else:
            about = next((key for key in keys if (key.kind, key.state) == (kind, "old")), keys[0])
            count = len(alive(store.lines(authority.log), about.name, now=now))
            keys = generations.finish(keys, kind, alive=count, now=now, force=force)
        # The log first: what is trusted changes by a line, never without one.
        authority.log.append(authority.rotated(about, step, now))
        authority.state = Authority(fleet=state.fleet, keys=keys)
        store.write(authority.folder, authority.state)
        authority.write_trust()
    return about


def alive(written: Iterable[events.Line], ca: str, *, now: dt.datetime) -> list[events.Signed]:
    """The certificates of a CA key that count at ``now`` and that no younger one of the same holder has replaced.

    A host's certificate is replaced by its next one; an operator's is not, since both may be in use.
    """
    lines = list(written)
    gone = store.revoked_serials(lines).get(ca, [])
    signed = [line for line in lines if isinstance(line, events.Signed)]
    latest = {line.who: line.serial for line in signed if line.kind == "host"}
    return [
        line
        for line in signed
        if line.ca == ca
        and line.serial not in gone
        and events.moment(line.valid_before) > now
        and (line.kind == "user" or latest[line.who] == line.serial)
    ]


def make_break_glass(authority: SshAuthority, target: Path, secret: Path, *, reason: str, now: dt.datetime) -> str:
    """Make the key for the safe at ``target`` (encrypted) and keep its public part; returns its fingerprint.

    Raises:
        RefusedError: there is one already, or ``target`` is inside the controller's own folders.
    """
    target = target.resolve()
    if target.is_relative_to(authority.fleet_dir.resolve()):
        raise RefusedError(
            "the key for the safe does not stay on the controller",
            where=str(target),
            next_step="name a file on the medium that goes into the safe: --output /media/…/break-glass",
        )
    if target.exists():
        raise RefusedError("there is a file of that name", where=str(target), next_step="name another one")
    with store.locked(authority.folder):
        public = authority.folder / store.KEYS / store.BREAK_GLASS
        if public.exists():
            raise RefusedError(
                "there is a key in the safe already",
                where=str(public),
                next_step="hedgerow ssh break-glass retire --reason WHY comes first",
            )
        line = publickey.parse(keygen.generate(target, f"break-glass@{authority.fleet}", secret), where=f"{target}.pub")
        _note_break_glass(authority, "made", line, reason=reason, now=now)
        atomic.write_text(public, f"{line}\n")
        authority.write_trust()
    return publickey.fingerprint(line)


def retire_break_glass(authority: SshAuthority, *, reason: str, now: dt.datetime) -> str:
    """Let the key in the safe count no more, after it was used or seen; returns its fingerprint.

    Raises:
        UsageError: there is none.
    """
    with store.locked(authority.folder):
        line = store.break_glass(authority.folder).strip()
        if not line:
            raise UsageError("there is no key in the safe", next_step="hedgerow ssh break-glass make --output FILE")
        shown = publickey.fingerprint(line)
        if shown not in store.revoked_keys(store.lines(authority.log)):
            authority.log.append(
                events.Revoked(
                    time=events.text(now), by=authority.by, what="break-glass", serials={}, keys=[shown], reason=reason
                )
            )
        _note_break_glass(authority, "retired", line, reason=reason, now=now)
        (authority.folder / store.KEYS / store.BREAK_GLASS).unlink()
        authority.write_trust()
    return publickey.fingerprint(line)


def _note_break_glass(
    authority: SshAuthority, step: Literal["made", "retired"], line: str, *, reason: str, now: dt.datetime
) -> None:
    shown = publickey.fingerprint(line)
    authority.log.append(
        events.BreakGlass(time=events.text(now), by=authority.by, step=step, fingerprint=shown, reason=reason)
    )
