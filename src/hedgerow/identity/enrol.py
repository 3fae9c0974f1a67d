"""A device's half of enrolment: key and request out, certificate in.

The standard library and the ``openssl`` program alone: the controller sends this
source, and what it imports of ``keys_device``, to hosts that have no Hedgerow yet
(``hedgerow.remote_script``). Invariants:

- The private key is made here, is never printed and never leaves. Nothing here reads its bytes.
- Nothing is replaced before everything that replaces it is verified, tried if there is a peer to try it with, and on
  disk; with a full disk, or a certificate that is wrong or not taken, what was there stays.
- The folder is 0700, the key 0600; what is found looser is named (``faults``), ``repair`` mends it.

Files: ``device.key``, ``device.crt``, ``ca.crt`` (docs/contracts.md, ``keys_device.folder``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hedgerow.identity.keys_device import folder as folders
from hedgerow.identity.keys_device import kinds, otp, trial
from hedgerow.identity.keys_device.folder import CA, CERTIFICATE, FILES, GENERATIONS, KEY, LAYOUTS, MODES, STAGED
from hedgerow.identity.keys_device.tool import EnrolError, MissingProgramError, openssl

OTP = "otp"  # a key in a file that the Pi's own key vouches for

__all__ = ["EnrolError", "MissingProgramError", "install", "repair", "request", "status"]


def status(directory: str, key: str | None = None) -> dict[str, Any]:
    """Say what is there; changes nothing.

    Returns ``{"public_key", "certificate", "ca", "faults", "key_exposed", "key_kind", "layout", "anchor"}``: PEM texts
    or None (``public_key`` also where the key is damaged), ``faults`` a list of ``{"path", "what"}`` that ``repair``
    would mend, and whether a user other than root could have read the key. ``key_kind`` is None without a key.
    ``anchor`` is the public key of the board's own key, looked at only with ``key="otp"``.
    """
    folder = Path(directory)
    faults = list(folders.faults(folder))
    path = folder / KEY
    return {
        "public_key": kinds.public_key(path) if path.exists() else None,
        "certificate": folders.text(folder / CERTIFICATE),
        "ca": folders.text(folder / CA),
        "faults": faults,
        "key_exposed": folders.exposed(folder),
        "key_kind": kinds.of(path).name if path.exists() else None,
        "layout": folders.layout(folder),
        "anchor": otp.look().public_key if key == OTP else None,
    }


def repair(directory: str) -> dict[str, Any]:
    """Set owner and modes right; returns what was wrong, as ``{"faults": [...]}``."""
    folder = Path(directory)
    with folders.locked(folder):
        return {"faults": folders.mend(folder)}


def request(
    directory: str,
    serial: str,
    *,
    new_key: bool = False,
    key: str | None = None,
    challenge: str | None = None,
    keep_pending: bool = False,
) -> dict[str, Any]:
    """Return ``{"csr": PEM, "key_created": bool, "anchor": …}``, making the key if there is none that works.

    ``new_key`` makes another one beside the present one; ``install`` of its certificate replaces both. So does a
    ``key`` (``file``, ``tpm``, ``otp``; None: whatever there is) of another kind than the present one. With
    ``keep_pending`` a new key that waits for its certificate is asked for again and not made again.
    ``challenge`` is the word that makes a request good for once. ``anchor`` is None, or the Pi's own key's word for the
    request: ``{"public_key": PEM, "signature": Base64}``.
    """
    folder = Path(directory)
    with folders.locked(folder):
        path = folder / KEY
        present = kinds.of(path) if path.exists() else None
        kind = present or kinds.FILE if key is None else kinds.named(kinds.FILE.name if key == OTP else key)
        works = present is not None and kinds.public_key(path) is not None
        replace = works and (new_key or kind is not present)
        create = replace or not works
        pending = folder / (KEY + STAGED)
        if replace and keep_pending and _is_good(pending, kind):
            path, create = pending, False
        elif create:
            # A key that does not open is of no use to anyone; it is replaced at once.
            staged = _make_key(folder, kind)
            if replace:
                path = staged
            else:
                _put_key(folder, staged)
        csr = kinds.request(path, serial, challenge)
    return {"csr": csr, "key_created": create, "anchor": otp.vouch(csr) if key == OTP else None}


def install(
    directory: str,
    certificate: str,
    ca: str,
    *,
    layout: str | None = None,
    peer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Put certificate (with its chain) and CA (PEM) in place; returns ``{"changed": [file names], "layout": …}``.

    Refused, with everything left as it was, unless the certificate is for this device's key, chains to ``ca`` and is
    taken by ``peer`` where there is one: ``{"host", "port", "name", "path"}``, which must answer 200. ``layout`` turns
    a folder of ``files`` into ``generations``; there is no way back, and None leaves it as it is.
    Time is not checked: the controller issued it now, and a Pi's clock may be years off before its first sync.
    """
    folder = Path(directory)
    if layout is not None and layout not in LAYOUTS:
        raise EnrolError(
            f"{layout!r} is no layout", where="device_identity_layout", next_step=f"one of: {', '.join(LAYOUTS)}"
        )
    with folders.locked(folder):
        key = _key_of(certificate, folder)
        wanted = {CERTIFICATE: certificate, CA: ca}
        changed = [name for name, text in wanted.items() if folders.text(folder / name) != text]
        if key.name != KEY:
            changed.insert(0, KEY)
        generations = GENERATIONS in (layout, folders.layout(folder))
        with _staged(folder, wanted) as staged:
            contents = {KEY: key} | staged
            _verify(contents[CERTIFICATE], contents[CA])
            if peer is not None and changed:
                _try(peer, contents)
            if generations and (changed or folders.layout(folder) == FILES):
                folders.switch_generation(folder, contents)
            elif not generations:
                folders.switch_files(folder, {name: contents[name] for name in changed})
        (folder / (KEY + STAGED)).unlink(missing_ok=True)
        folders.sync(folder)
        return {"changed": changed, "layout": folders.layout(folder)}


# -- key and certificate ---------------------------------------------------


def _make_key(folder: Path, kind: kinds.Kind) -> Path:
    staged = folder / (KEY + STAGED)
    try:
        kinds.make(kind, staged)
        _check_key(staged)
        staged.chmod(MODES[KEY])
        folders.sync(staged)
    except BaseException as error:
        staged.unlink(missing_ok=True)
        if isinstance(error, EnrolError) and os.statvfs(folder).f_bavail == 0:
            raise folders.full(staged) from error
        raise
    return staged


def _put_key(folder: Path, staged: Path) -> None:
    """A key where none worked: what was certified for the broken one is of no use, and the next step replaces it."""
    if folders.layout(folder) == GENERATIONS:
        present = {name: (folder / name).resolve() for name in (CERTIFICATE, CA) if (folder / name).exists()}
        folders.switch_generation(folder, {KEY: staged} | present)
        staged.unlink()
    else:
        staged.replace(folder / KEY)
    folders.sync(folder)


def _is_good(key: Path, kind: kinds.Kind) -> bool:
    return key.exists() and kinds.of(key) is kind and kinds.public_key(key) is not None


def _check_key(staged: Path) -> None:
    """On a full disk openssl 3.5 leaves an empty file and exits with 0."""
    if kinds.public_key(staged) is None:
        raise EnrolError(
            "openssl wrote no usable key; the old one stays",
            where=str(staged),
            next_step=f"look for room: df -h {staged.parent}",
        )


def _key_of(certificate: str, folder: Path) -> Path:
    """The key, present or staged, that ``certificate`` is for."""
    try:
        wanted = openssl("x509", "-pubkey", "-noout", stdin=certificate)
    except EnrolError as fault:
        raise EnrolError(
            "what arrived is no certificate", where=str(folder / CERTIFICATE), next_step="run the playbook again"
        ) from fault
    for path in (folder / (KEY + STAGED), folder / KEY):
        if path.exists() and kinds.public_key(path) == wanted:
            return path if path.name != KEY else path.resolve()
    raise EnrolError(
        "the certificate is for another key; nothing was changed",
        where=str(folder / KEY),
        next_step="make a new request on this device: run playbooks/rotate_identity.yml for it",
    )


@contextmanager
def _staged(folder: Path, wanted: dict[str, str]) -> Iterator[dict[str, Path]]:
    """The texts as files beside those that they will replace, on disk; gone again at the end."""
    staged = {name: folder / (name + STAGED) for name in wanted}
    try:
        for name, text in wanted.items():
            folders.write(staged[name], text, MODES[name])
        yield staged
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _verify(certificate: Path, ca: Path) -> None:
    """What follows the leaf in ``certificate`` may be its issuing CA; trust begins at ``ca`` alone."""
    try:
        openssl(
            *("verify", "-x509_strict", "-no_check_time", "-no-CApath", "-no-CAstore"),
            *("-CAfile", str(ca), "-untrusted", str(certificate), str(certificate)),
        )
    except EnrolError as fault:
        raise EnrolError(
            "the certificate does not chain to the fleet CA; nothing was changed: " + fault.what,
            where=str(certificate.parent / CERTIFICATE),
            next_step="compare: hedgerow ca show, with ca.crt on this device",
        ) from fault


def _try(peer: dict[str, Any], contents: dict[str, Path]) -> None:
    trial.try_out(
        trial.Peer(str(peer["host"]), int(peer["port"]), str(peer["name"])),
        trial.Pair(contents[KEY], contents[CERTIFICATE], contents[CA]),
        str(peer["path"]),
        at=peer.get("at"),
    )
