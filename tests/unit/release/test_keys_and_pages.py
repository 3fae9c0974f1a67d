"""Keys of archives made by gpg itself; ELF files made here and the machine's own."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgerow.errors import UsageError
from hedgerow.release import openpgp, pages

DAY_S = 86400


@pytest.fixture(scope="module")
def gpg() -> Iterator[Callable[..., bytes]]:
    program = shutil.which("gpg")
    if program is None:
        pytest.skip("gpg is not installed on this machine")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        options = ["--homedir", home, "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="]

        def run(*arguments: str) -> bytes:
            return subprocess.run([program, *options, *arguments], capture_output=True, check=True).stdout

        yield run
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa3072"])
@pytest.mark.parametrize("armour", [(), ("--armor",)])
def test_f25_the_end_of_a_key_is_read_from_it(
    gpg: Callable[..., bytes], algorithm: str, armour: tuple[str, ...]
) -> None:
    name = f"{algorithm}-{len(armour)}"
    gpg("--quick-generate-key", name, algorithm, "sign", "30d")
    ends = openpgp.expiry(gpg(*armour, "--export", name))
    assert ends is not None
    assert abs(ends - (time.time() + 30 * DAY_S)) < 120


def test_the_newest_word_of_a_key_counts(gpg: Callable[..., bytes]) -> None:
    gpg("--quick-generate-key", "prolonged", "ed25519", "sign", "30d")
    fingerprint = (
        gpg("--with-colons", "--list-keys", "prolonged").decode().partition("fpr:::::::::")[2].partition(":")[0]
    )
    gpg("--faked-system-time", f"{int(time.time()) + 60}!", "--quick-set-expire", fingerprint, "90d")
    ends = openpgp.expiry(gpg("--export", "prolonged"))
    assert ends is not None
    assert ends > time.time() + 60 * DAY_S


def test_a_key_without_an_end_has_none(gpg: Callable[..., bytes]) -> None:
    gpg("--quick-generate-key", "forever", "ed25519", "sign", "never")
    assert openpgp.expiry(gpg("--export", "forever")) is None


@pytest.mark.parametrize(
    "data", [b"", b"no key", b"\x98\xff\x04", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%%%\n-----END"]
)
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"OpenPGP|armour"):
        openpgp.expiry(data)


def elf(align: int, extra: bytes = b"") -> bytes:
    """An ELF file with one segment to load, aligned to ``align``."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, align) + extra


@pytest.mark.parametrize(
    "data,largest",
    [
        (elf(4096), 4096),
        (elf(65536), 65536),
        (elf(65536, b"<jemalloc>: Unsupported system page size"), 4096),
        (b"#!/bin/sh\n", None),
    ],
)
def test_f12_the_pages_that_a_binary_bears_are_read_from_it(data: bytes, largest: int | None) -> None:
    assert pages.largest_page(data) == largest


def test_a_program_of_this_machine_is_read() -> None:
    assert (pages.largest_page(Path(sys.executable).resolve().read_bytes()) or 0) >= 4096


def test_f12_wheels_are_looked_through_in_a_folder_and_in_an_archive(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-cp313-cp313-linux_aarch64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/small.cpython-313.so", elf(4096))
        archive.writestr("a/large.so.1", elf(65536))
        archive.writestr("a/__init__.py", "")
    expected = {f"{wheel.name}: a/small.cpython-313.so": 4096}
    assert pages.odd(tmp_path) == expected
    packed = tmp_path / "runtime.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(wheel, wheel.name)
    assert pages.odd(packed) == expected


def test_no_wheels_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no wheels"):
        pages.odd(tmp_path)
    broken = tmp_path / "x.tar"
    broken.write_bytes(b"x" * 600)
    with pytest.raises(UsageError, match="no archive"):
        pages.odd(broken)
