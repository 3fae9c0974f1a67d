from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hedgerow.lifecycle import survey

SS = """\
udp   UNCONN 0      0             0.0.0.0:5353       0.0.0.0:*    users:(("avahi-daemon",pid=612,fd=12))
tcp   LISTEN 0      128           0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=801,fd=3))
tcp   LISTEN 0      4096        127.0.0.1:631        0.0.0.0:*    users:(("cupsd",pid=700,fd=7))
tcp   LISTEN 0      50     [::ffff:127.0.0.1]:9999               *:*    users:(("java",pid=900,fd=9))
tcp   LISTEN 0      511           *:8443             *:*    users:(("node",pid=1204,fd=21),("node",pid=1203,fd=21))
tcp   LISTEN 0      128              [::]:22            [::]:*
udp   UNCONN 0      0      [fe80::1]%eth0:546           [::]:*
garbage
"""


def test_listening_sockets_have_program_port_and_reach() -> None:
    found = {(entry["protocol"], entry["address"], entry["port"]): entry for entry in survey.parse_listening(SS)}
    assert found["tcp", "*", 8443]["program"] == "node"
    assert found["tcp", "127.0.0.1", 631]["loopback"]
    assert found["tcp", "::ffff:127.0.0.1", 9999]["loopback"]
    assert not found["udp", "0.0.0.0", 5353]["loopback"]
    assert found["tcp", "::", 22]["program"] is None  # as without root
    assert found["udp", "fe80::1", 546]["port"] == 546
    assert len(found) == 7


def test_conffiles_map_to_what_was_shipped() -> None:
    text = "\n /etc/ssh/sshd_config 0123\n /etc/old 4567 obsolete\n\n newconffile\n"
    assert survey.parse_conffiles(text) == {"/etc/ssh/sshd_config": "0123", "/etc/old": "4567"}


def test_sudoers_without_a_password_are_named() -> None:
    text = "# pi ALL=(ALL) NOPASSWD: ALL\n"
    text += "ada ALL=(ALL) NOPASSWD: ALL\n%ops ALL = \\\n  NOPASSWD: /bin/true\nbob ALL=(ALL) ALL\n"
    assert survey.parse_without_password(text) == ["ada", "%ops"]


def test_files_are_told_by_their_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / name for name in ("shipped", "edited", "own", "ours", "packaged")}
    for name, file in files.items():
        file.write_text(f"{'# Written by Hedgerow.' if name == 'ours' else name}\n")
    shipped = hashlib.md5(b"shipped\n", usedforsecurity=False).hexdigest()
    conffiles = f" {files['shipped']} {shipped}\n {files['edited']} {'0' * 32}\n"

    def output(*command: str) -> str:
        if command[1] == "-W":
            return conffiles
        return "package: x\n" if command[2] == str(files["packaged"]) else ""

    monkeypatch.setattr(survey, "_output", output)
    found = survey._present([*map(str, files.values()), str(tmp_path / "missing")])
    assert {Path(path).name: origin for path, origin in found.items()} == {
        "shipped": "package", "edited": "changed", "own": "foreign", "ours": "ours", "packaged": "package",
    }  # fmt: skip


def test_units_of_a_person_are_neither_links_nor_ours_nor_a_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine.service", "hedgerow-server.service", "packaged.timer", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "alias.service").symlink_to(tmp_path / "mine.service")
    monkeypatch.setattr(survey, "_output", lambda *command: "x" if command[-1].endswith("packaged.timer") else "")
    assert survey._own_units(tmp_path) == ["mine.service"]


def test_it_answers_on_any_machine() -> None:
    answer = survey.read(["/etc/hostname", "/nowhere"])
    assert set(answer) == {
        "root", "listening", "people", "sudoers", "containers", "own_units", "scheduled", "files", "kubernetes",
    }  # fmt: skip
    assert "/nowhere" not in answer["files"]
