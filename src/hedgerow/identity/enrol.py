"""A device's half of enrolment: key and request out, certificate in.

The standard library and the ``openssl`` program alone: the controller sends this
source to hosts that have no Hedgerow yet (``hedgerow.remote_script``), and openssl's
providers (TPM, PKCS#11) can hold the key later. Invariants:

- The private key is made here, is never printed and never leaves. Nothing here reads its bytes.
- Nothing is replaced before everything that replaces it is verified and on disk; with a full disk,
  or a certificate that is wrong, what was there stays.
- The folder is 0700, the key 0600; what is found looser is named (``faults``), ``repair`` mends it.

Files: ``device.key``, ``device.crt``, ``ca.crt`` (docs/contracts.md).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY, CERTIFICATE, CA = "device.key", "device.crt", "ca.crt"
_MODES = {KEY: 0o600, CERTIFICATE: 0o644, CA: 0o644}
_FOLDER_MODE = 0o700
_STAGED = ".new"  # beside the file it will replace; a crash leaves at most one of each, which the next run overwrites
_TIMEOUT_S = 60


class EnrolError(Exception):
    """What is wrong on this device, where, and what to type next; ``remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def status(directory: str) -> dict[str, Any]:
    """Say what is there; changes nothing.

    Returns ``{"public_key", "certificate", "ca", "faults", "key_exposed"}``: PEM texts or None (``public_key``
    also where the key is damaged), ``faults`` a list of ``{"path", "what"}`` that ``repair`` would mend, and
    whether a user other than root could have read the key.
    """
    folder = Path(directory)
    faults = list(_faults(folder))
    key = folder / KEY
    return {
        "public_key": _public_key(key) if key.exists() else None,
        "certificate": _text(folder / CERTIFICATE),
        "ca": _text(folder / CA),
        "faults": faults,
        "key_exposed": _exposed(folder),
    }


def repair(directory: str) -> dict[str, Any]:
    """Set owner and modes right; returns what was wrong, as ``{"faults": [...]}``."""
    folder = Path(directory)
    with _locked(folder):
        faults = list(_faults(folder))
        for fault in faults:
            path = Path(fault["path"])
            os.chown(path, os.geteuid(), os.getegid())
            path.chmod(_FOLDER_MODE if path == folder else _MODES[path.name])
    return {"faults": faults}


def request(directory: str, serial: str, *, new_key: bool = False) -> dict[str, Any]:
    """Return ``{"csr": PEM, "key_created": bool}``, making the key if there is none that works.

    ``new_key`` makes another one beside the present one; ``install`` of its certificate replaces both.
    """
    folder = Path(directory)
    with _locked(folder):
        key = folder / KEY
        replace = new_key and key.exists()
        create = replace or not key.exists() or _public_key(key) is None
        if create:
            # A key that does not open is of no use to anyone; it is replaced at once.
            staged = _make_key(folder)
            if replace:
                key = staged
            else:
                staged.replace(key)
                _sync(folder)
        csr = _openssl("req", "-new", "-sha256", "-key", str(key), "-subj", f"/CN={serial}")
    return {"csr": csr, "key_created": create}


def install(directory: str, certificate: str, ca: str) -> dict[str, Any]:
    """Put certificate and CA (PEM) in place; returns ``{"changed": [file names]}``.

    Refused, with everything left as it was, unless the certificate is for this device's key and chains to ``ca``.
    Time is not checked: the controller issued it now, and a Pi's clock may be years off before its first sync.
    """
    folder = Path(directory)
    with _locked(folder):
        key = _key_of(certificate, folder)
        wanted = {CERTIFICATE: certificate, CA: ca}
        changed = [name for name, text in wanted.items() if _text(folder / name) != text]
        if key.name != KEY:
            changed.insert(0, KEY)
        staged = [folder / (name + _STAGED) for name in (CERTIFICATE, CA)]
        try:
            for path, (name, text) in zip(staged, wanted.items(), strict=True):
                _write(path, text, _MODES[name])
            _verify(*staged)
            # Key and certificate change places next to each other: a power cut between the two is the one
            # moment in which they do not match, and the next run notices and renews.
            for name in (CA, KEY, CERTIFICATE):
                if name in changed:
                    (folder / (name + _STAGED)).replace(folder / name)
        finally:
            for path in staged:
                path.unlink(missing_ok=True)
        (folder / (KEY + _STAGED)).unlink(missing_ok=True)
        _sync(folder)
    return {"changed": changed}


# -- key and certificate ---------------------------------------------------


def _make_key(folder: Path) -> Path:
    staged = folder / (KEY + _STAGED)
    staged.unlink(missing_ok=True)
    try:
        # openssl writes the file itself, under our umask: the key passes through no pipe and no argument.
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(staged))
        _check_key(staged)
        staged.chmod(_MODES[KEY])
        _sync(staged)
    except BaseException as error:
        staged.unlink(missing_ok=True)
        if isinstance(error, EnrolError) and os.statvfs(folder).f_bavail == 0:
            raise _full(staged) from error
        raise
    return staged


def _check_key(staged: Path) -> None:
    """On a full disk openssl 3.5 leaves an empty file and exits with 0."""
    if _public_key(staged) is None:
        raise EnrolError(
            "openssl wrote no usable key; the old one stays",
            where=str(staged),
            next_step=f"look for room: df -h {staged.parent}",
        )


def _key_of(certificate: str, folder: Path) -> Path:
    """The key, present or staged, that ``certificate`` is for."""
    try:
        wanted = _openssl("x509", "-pubkey", "-noout", stdin=certificate)
    except EnrolError as fault:
        raise EnrolError(
            "what arrived is no certificate", where=str(folder / CERTIFICATE), next_step="run the playbook again"
        ) from fault
    for path in (folder / (KEY + _STAGED), folder / KEY):
        if path.exists() and _public_key(path) == wanted:
            return path
    raise EnrolError(
        "the certificate is for another key; nothing was changed",
        where=str(folder / KEY),
        next_step="make a new request on this device: run playbooks/rotate_identity.yml for it",
    )


def _verify(certificate: Path, ca: Path) -> None:
    try:
        _openssl(
            *("verify", "-x509_strict", "-no_check_time", "-no-CApath", "-no-CAstore"),
            *("-CAfile", str(ca), str(certificate)),
        )
    except EnrolError as fault:
        raise EnrolError(
            "the certificate does not chain to the fleet CA; nothing was changed: " + fault.what,
            where=str(certificate.parent / CERTIFICATE),
            next_step="compare: hedgerow ca show, with ca.crt on this device",
        ) from fault


def _public_key(key: Path) -> str | None:
    """SubjectPublicKeyInfo (PEM) of a key file; None if it is damaged."""
    try:
        # An empty passphrase, so that an encrypted key is an error and no prompt.
        return _openssl("pkey", "-in", str(key), "-pubout", "-passin", "pass:")
    except MissingProgramError:
        raise
    except EnrolError:
        return None


class MissingProgramError(EnrolError):
    """The program is not installed."""


def _openssl(*arguments: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(
            ["openssl", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            umask=0o077,
        )
    except FileNotFoundError:
        raise MissingProgramError(
            "the program openssl is not installed", where="PATH", next_step="apt-get install openssl"
        ) from None
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise EnrolError(
            f"openssl {arguments[0]} failed: {_gist(lines)}", where="openssl", next_step="see the message of openssl"
        )
    return done.stdout


def _gist(lines: list[str]) -> str:
    return next((line for line in lines if line.startswith("error")), lines[-1] if lines else "no message")


# -- files -----------------------------------------------------------------


def _faults(folder: Path) -> Iterator[dict[str, str]]:
    for path, wanted in ((folder, _FOLDER_MODE), *((folder / name, mode) for name, mode in _MODES.items())):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        regular = stat.S_ISDIR(found.st_mode) if path == folder else stat.S_ISREG(found.st_mode)
        if not regular:
            raise EnrolError(
                f"{path} is neither a plain file nor the folder it should be",
                where=str(path),
                next_step=f"look at it: ls -ld {path}; then move it away",
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode != wanted:
            yield {"path": str(path), "what": f"mode {mode:04o} instead of {wanted:04o}"}
        elif (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            yield {"path": str(path), "what": f"owner {found.st_uid}:{found.st_gid} instead of root"}


def _exposed(folder: Path) -> bool:
    """Whether another user could reach and read the key: the folder let them through, and the key let them read."""
    try:
        outer, key = folder.lstat(), (folder / KEY).lstat()
    except FileNotFoundError:
        return False
    if key.st_uid != os.geteuid() or outer.st_uid != os.geteuid():
        return True
    through = {"group": bool(outer.st_mode & stat.S_IXGRP), "other": bool(outer.st_mode & stat.S_IXOTH)}
    readable = {"group": bool(key.st_mode & stat.S_IRGRP), "other": bool(key.st_mode & stat.S_IROTH)}
    return any(through[who] and readable[who] for who in through)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise _full(path) from error
        raise


def _full(path: Path) -> EnrolError:
    return EnrolError(
        "the disk is full; the old certificate stays",
        where=str(path.parent),
        next_step=f"make room: df -h {path.parent}",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing, and hold it for one process at a time."""
    try:
        if not folder.is_dir():
            for parent in reversed(folder.parents):
                if not parent.exists():
                    parent.mkdir(mode=0o755)
                    parent.chmod(0o755)
            folder.mkdir(mode=_FOLDER_MODE)
            folder.chmod(_FOLDER_MODE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(folder) from error
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
