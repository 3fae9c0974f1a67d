from __future__ import annotations

import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest

from hedgerow.emulator.archive import repository
from hedgerow.emulator.archive.build import StandIn
from hedgerow.emulator.archive.suites import Suite

SHARED = StandIn("shared", "1.0", "all")
SUITES = {
    "now": Suite("Origin", "Label", "stable", (StandIn("thing", "1:1.0"), StandIn("thing", "1:2.0"), SHARED)),
    "next": Suite("Mirror", "Mirror", "next", (SHARED,)),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    repository.write(root, "amd64", SUITES)
    return root


def paragraphs(root: Path, codename: str) -> list[dict[str, str]]:
    text = (root / repository.FOLDER / f"dists/{codename}/main/binary-amd64/Packages").read_text()
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]


def verify(root: Path, release: Path) -> int:
    command = ["gpgv", "--keyring", str(root / repository.KEYRING), str(release)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_an_index_has_every_version_with_its_sum(root: Path) -> None:
    found = paragraphs(root, "now")
    assert [(entry["Package"], entry["Version"]) for entry in found] == [
        ("thing", "1:1.0"), ("thing", "1:2.0"), ("shared", "1.0"),
    ]  # fmt: skip
    for entry in found:
        data = (root / repository.FOLDER / entry["Filename"]).read_bytes()
        assert (entry["Size"], entry["SHA256"]) == (str(len(data)), hashlib.sha256(data).hexdigest())


def test_suites_share_a_pool(root: Path) -> None:
    assert paragraphs(root, "next")[0] == paragraphs(root, "now")[2]
    assert len(list((root / repository.FOLDER / "pool/main").iterdir())) == 3


def test_the_release_names_what_pins_go_by_and_the_sum_of_each_index(root: Path) -> None:
    folder = root / repository.FOLDER / "dists/now"
    release = (folder / "Release").read_text()
    for line in ("Origin: Origin", "Label: Label", "Suite: stable", "Codename: now", "Architectures: amd64"):
        assert f"{line}\n" in release
    packed = (folder / "main/binary-amd64/Packages.gz").read_bytes()
    assert f" {hashlib.sha256(packed).hexdigest()} {len(packed)} main/binary-amd64/Packages.gz\n" in release
    assert gzip.decompress(packed) == (folder / "main/binary-amd64/Packages").read_bytes()


def test_the_signature_holds_and_a_changed_release_is_refused(root: Path, tmp_path: Path) -> None:
    signed = root / repository.FOLDER / "dists/now/InRelease"
    assert verify(root, signed) == 0
    changed = tmp_path / "InRelease"
    changed.write_bytes(signed.read_bytes().replace(b"Label: Label", b"Label: Other"))
    assert verify(root, changed) != 0


def test_every_build_has_a_key_of_its_own_that_nobody_keeps(root: Path, tmp_path: Path) -> None:
    repository.write(tmp_path, "amd64", {"next": SUITES["next"]})
    assert verify(tmp_path, root / repository.FOLDER / "dists/next/InRelease") != 0
    assert not [path for path in root.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert not list(root.rglob("private-keys*"))


def test_the_digest_is_of_definitions() -> None:
    other = {**SUITES, "next": Suite("Mirror", "Mirror", "next", (StandIn("shared", "1.1", "all"),))}
    assert repository.digest(SUITES) == repository.digest(dict(SUITES))
    assert repository.digest(other) != repository.digest(SUITES)
