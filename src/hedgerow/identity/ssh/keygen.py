"""The one place that runs ``ssh-keygen``: it makes CA keys, signs, and writes revocation lists.

It signs with an encrypted file and with a PKCS#11 token alike, and with every kind of public key there is. Its
passphrase or PIN comes from a file through ``SSH_ASKPASS``: a small script prints that file, so that the secret stands
in no argument and no environment variable, which other processes of the same user can read. Without a file for a
token's PIN a person is asked at the terminal.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import MachineError, UsageError
from hedgerow.identity.keyfile import PASSPHRASE_FILE as FLEET_CA_PASSPHRASE_FILE
from hedgerow.identity.ssh import publickey
from hedgerow.passphrases import read_passphrase

PASSPHRASE_FILE = "HEDGEROW_SSH_CA_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable that names a file
PIN_FILE = "HEDGEROW_SSH_CA_PIN_FILE"
MINIMUM_PASSPHRASE = 12
# Rounds of bcrypt over the passphrase: about a second of a Pi, a third of one here.
_KDF_ROUNDS = "32"
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Key:
    """A CA key that can sign: ``file`` is the private key, or the public one of a key on the token of ``module``."""

    file: Path
    module: str | None = None


def secret_file(*names: str) -> Path | None:
    """The file that the first of these variables names; None if none does.

    Raises:
        UsageError: it is missing, empty, or everybody may read it.
    """
    for name in names:
        if value := os.environ.get(name):
            read_passphrase(Path(value))
            return Path(value).resolve()
    return None


def passphrase_file() -> Path:
    """The file with the passphrase of the authority's keys.

    Raises:
        UsageError: nobody named one, or it is too short to withstand trying.
    """
    found = secret_file(PASSPHRASE_FILE, FLEET_CA_PASSPHRASE_FILE)
    if found is None:
        raise UsageError(
            "the SSH authority's keys are encrypted, and nobody named the file with their passphrase",
            where=f"environment: {PASSPHRASE_FILE}",
            next_step=f"export {PASSPHRASE_FILE}=FILE, one line, mode 0600, kept and backed up apart from the keys",
        )
    return checked(found)


def checked(path: Path) -> Path:
    """The file at ``path``, if its first line can be a passphrase.

    Raises:
        UsageError: it is missing, too short, or everybody may read it.
    """
    if len(read_passphrase(path)) < MINIMUM_PASSPHRASE:
        raise UsageError(f"a passphrase has {MINIMUM_PASSPHRASE} characters or more", where=str(path))
    return path.resolve()


def generate(target: Path, comment: str, secret: Path) -> str:
    """Make an encrypted Ed25519 key at ``target`` (0600) and ``target``.pub; return the public line."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _private_folder(target.parent) as folder:
        made = folder / "key"
        _run(["-q", "-t", "ed25519", "-a", _KDF_ROUNDS, "-C", comment, "-f", str(made)], secret=secret)
        public = made.with_suffix(".pub")
        for file in (made, public):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        made.replace(target)
        public.replace(target.with_name(f"{target.name}.pub"))
    return target.with_name(f"{target.name}.pub").read_text(encoding="utf-8").strip()


def open_check(key: Path, secret: Path) -> str:
    """The public line of the private key in ``key``: shows that the passphrase opens it.

    Raises:
        UsageError: it does not, or the file is damaged.
    """
    done = _run(["-y", "-f", str(key)], secret=secret, check=False)
    if done.returncode != 0:
        raise UsageError(
            "the SSH authority's key does not open: wrong passphrase or damaged file",
            where=f"{key}: {_said(done)}",
            next_step=f"correct the file that {PASSPHRASE_FILE} names, or restore the key from your backup",
        )
    return publickey.parse(done.stdout, where=str(key))


def token_keys(module: str) -> list[tuple[str, str]]:
    """The public keys on a PKCS#11 token that OpenSSH can sign with: (line, label).

    Raises:
        MachineError: the library is missing, or gives none.
    """
    if not Path(module).is_file():
        raise MachineError(
            "the token's PKCS#11 library is not here",
            where=module,
            next_step="install it (for SoftHSM2: apt-get install softhsm2) and name its file",
        )
    done = _run(["-D", module], secret=secret_file(PIN_FILE), check=False)
    found = []
    for line in done.stdout.splitlines():
        words = line.split(maxsplit=2)
        if len(words) > 1 and words[0] in publickey.KINDS:
            found.append((" ".join(words[:2]), words[2] if len(words) > 2 else ""))  # noqa: PLR2004 - label
    if not found:
        raise MachineError(
            f"the token has no key that SSH can use: {_said(done)}",
            where=module,
            next_step="make an EC key on P-256 or P-384 on it, readable without the PIN",
        )
    return found


@dataclass(frozen=True)
class Certificate:
    """What a certificate is to say. ``serial`` below 2^64; times in seconds since 1970; ``options`` as of ``-O``."""

    public: str
    host: bool
    key_id: str
    principals: Sequence[str]
    serial: int
    valid_after: int
    valid_before: int
    options: Sequence[str] = ()


def sign(key: Key, wanted: Certificate, *, secret: Path | None) -> str:
    """The certificate as a line of a ``-cert.pub`` file.

    Raises:
        UsageError: passphrase or PIN is wrong, or the token refuses.
    """
    if not wanted.principals:  # ssh-keygen would sign for everybody
        raise UsageError("a certificate without principals is not signed", where=wanted.key_id)
    with _private_folder() as folder:
        public = folder / "subject.pub"
        public.write_text(f"{wanted.public}\n", encoding="utf-8")
        words = ["-q", "-s", str(key.file), "-I", wanted.key_id, "-n", ",".join(wanted.principals)]
        words += ["-V", f"0x{wanted.valid_after:x}:0x{wanted.valid_before:x}", "-z", str(wanted.serial)]
        words += ["-D", key.module] if key.module is not None else []
        words += ["-h"] if wanted.host else []
        words += [word for option in wanted.options for word in ("-O", option)]
        done = _run([*words, str(public)], secret=secret, check=False)
        signed = folder / "subject-cert.pub"
        if done.returncode != 0 or not signed.is_file():
            raise UsageError(
                f"the SSH authority cannot sign: {_said(done)}",
                where=key.module or str(key.file),
                next_step=f"check the passphrase or PIN in the file that {PIN_FILE if key.module else PASSPHRASE_FILE} "
                "names; tokens lock themselves after some wrong ones",
            )
        return signed.read_text(encoding="utf-8").strip()


def revocation_list(number: int, keys: Sequence[str], serials: Mapping[str, Sequence[str]]) -> bytes:
    """A KRL: whole ``keys`` (fingerprints), and ``serials`` (decimal) by the public line of the CA that signed them."""
    with _private_folder() as folder:
        krl = folder / "krl"
        listed = folder / "keys"
        listed.write_text("".join(f"hash: {key}\n" for key in keys), encoding="utf-8")
        _run(["-q", "-k", "-f", str(krl), "-z", str(number), str(listed)])
        for place, (ca, numbers) in enumerate(serials.items()):
            public, spec = folder / f"ca-{place}.pub", folder / f"serials-{place}"
            public.write_text(f"{ca}\n", encoding="utf-8")
            spec.write_text("".join(f"serial: {number_}\n" for number_ in numbers), encoding="utf-8")
            _run(["-q", "-k", "-u", "-f", str(krl), "-s", str(public), "-z", str(number), str(spec)])
        return krl.read_bytes()


def revoked(krl: Path, line: str) -> bool:
    """Whether a key or certificate stands in a revocation list."""
    with _private_folder() as folder:
        subject = folder / "subject.pub"
        subject.write_text(f"{line}\n", encoding="utf-8")
        return _run(["-Q", "-f", str(krl), str(subject)], check=False).returncode != 0


def describe(certificate: str) -> str:
    """What ``ssh-keygen -L`` says of a certificate, for people."""
    return _run(["-L", "-f", "-"], stdin=f"{certificate}\n").stdout


def _run(
    arguments: list[str], *, secret: Path | None = None, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    with _askpass(secret) as variables:
        try:
            done = subprocess.run(
                ["ssh-keygen", *arguments],
                env=os.environ | {"LC_ALL": "C", **variables},
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None and variables else None,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise MachineError("ssh-keygen is missing", next_step="apt-get install openssh-client") from error
        except subprocess.TimeoutExpired as error:
            raise MachineError(
                f"ssh-keygen has not finished within {_TIMEOUT_S} s",
                next_step="is the token plugged in, and does it wait for a touch?",
            ) from error
    if check and done.returncode != 0:
        raise MachineError(f"ssh-keygen failed: {_said(done)}", where=" ".join(arguments[:3]))
    return done


@contextmanager
def _askpass(secret: Path | None) -> Iterator[dict[str, str]]:
    if secret is None:
        yield {}
        return
    with _private_folder() as folder:
        script = folder / "askpass"
        script.write_text(f"#!/bin/sh\nexec head -n 1 {shlex.quote(str(secret))}\n", encoding="utf-8")
        script.chmod(0o700)
        yield {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}


@contextmanager
def _private_folder(near: Path | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".hedgerow-ssh-", dir=near) as name:
        yield Path(name)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[-400:] or f"exit code {done.returncode}"
