"""The signed apt archive of emulated hosts: what Raspberry Pi's is to a board, as a folder in the image.

Invariants:

- The private key lives as long as one build: nobody can sign for an image afterwards, not even we.
- Only what is signed counts: hosts have the public key where Raspberry Pi OS has its archive's.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

from hedgerow.emulator.archive.build import StandIn, build
from hedgerow.emulator.archive.suites import SUITES, Suite
from hedgerow.errors import MachineError

# In a guest. The source and the key's path are Raspberry Pi OS's (facts §1.3), the URI is a folder of the image.
FOLDER = "usr/lib/emulated-pi/archive"
KEYRING = "usr/share/keyrings/raspberrypi-archive-keyring.pgp"
_KEY_NAME = "Emulated Pi archive (one build)"


def digest(suites: Mapping[str, Suite] = SUITES) -> str:
    """Hash of every definition; two archives of one digest differ by key and date alone."""
    parts = {
        codename: [suite.origin, suite.label, suite.suite, [package.inputs() for package in suite.packages]]
        for codename, suite in suites.items()
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write(root: Path, architecture: str, suites: Mapping[str, Suite] = SUITES) -> None:
    """Build every package and suite below ``root`` (``FOLDER`` and ``KEYRING``), signed with a key of this build."""
    folder = root / FOLDER
    (folder / "pool/main").mkdir(parents=True)
    paragraphs: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="hedgerow-key-") as home, _Signer(Path(home)) as signer:
        for codename, suite in suites.items():
            for package in suite.packages:
                if package.filename(architecture) not in paragraphs:
                    paragraphs[package.filename(architecture)] = _add(package, folder, architecture)
            index = "\n".join(paragraphs[package.filename(architecture)] for package in suite.packages)
            release = _write_suite(folder / "dists" / codename, codename, suite, index, architecture)
            signer.sign(release)
        keyring = root / KEYRING
        keyring.parent.mkdir(parents=True, exist_ok=True)
        keyring.write_bytes(signer.public_key())


def _add(package: StandIn, folder: Path, architecture: str) -> str:
    """Build ``package`` into the pool and return its paragraph of ``Packages``."""
    file = build(package, folder / "pool/main", architecture)
    data = file.read_bytes()
    return (
        f"{package.control(architecture)}Filename: {file.relative_to(folder)}\n"
        f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    )


def _write_suite(folder: Path, codename: str, suite: Suite, index: str, architecture: str) -> Path:
    """Write the index and the unsigned ``Release`` of one suite; return the latter."""
    binary = folder / f"main/binary-{architecture}"
    binary.mkdir(parents=True)
    (binary / "Packages").write_text(index, encoding="utf-8")
    (binary / "Packages.gz").write_bytes(gzip.compress(index.encode(), mtime=0))
    sums = []
    for file in sorted(binary.iterdir()):
        data = file.read_bytes()
        sums.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {file.relative_to(folder)}\n")
    release = folder / "Release"
    release.write_text(
        f"Origin: {suite.origin}\nLabel: {suite.label}\nSuite: {suite.suite}\nCodename: {codename}\n"
        f"Date: {formatdate(usegmt=True)}\nArchitectures: {architecture}\nComponents: main\nSHA256:\n{''.join(sums)}",
        encoding="utf-8",
    )
    return release


class _Signer:
    """A key in ``home``, gone with it; gpg's agent is ended on leaving."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> Self:
        self._gpg("--quick-generate-key", _KEY_NAME, "ed25519", "sign", "never")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], capture_output=True, check=False)

    def sign(self, release: Path) -> None:
        """``InRelease`` and ``Release.gpg`` beside ``release``."""
        self._gpg("--clearsign", "--output", str(release.with_name("InRelease")), str(release))
        self._gpg("--armor", "--detach-sign", "--output", str(release.with_name("Release.gpg")), str(release))

    def public_key(self) -> bytes:
        return self._gpg("--export")

    def _gpg(self, *arguments: str) -> bytes:
        options = ["--homedir", str(self._home), "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="]
        done = subprocess.run(
            ["gpg", *options, "--digest-algo=SHA512", *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()
            raise MachineError(f"gpg failed: {words}", where="archive of emulated hosts")
        return done.stdout
