"""A sudoers file is in place only if visudo took it."""

from __future__ import annotations

import os
import subprocess

import pytest
from deploy.operations.sudoers import install

LINES = ["# Hedgerow's own.", "admin ALL=(ALL:ALL) NOPASSWD: ALL"]


@pytest.fixture
def shell(tmp_path):
    """A shell whose visudo answers as told, and whose install needs no root."""

    def run(command, *, verdict):
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "visudo").write_text(f"#!/bin/sh\nexit {verdict}\n")
        (programs / "install").write_text('#!/bin/sh\nshift 6\ncp "$1" "$2"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(["sh", "-c", command], env=environment, check=False).returncode

    return run


@pytest.mark.parametrize("verdict", [0, 1])
def test_visudo_decides(tmp_path, shell, verdict):
    target, candidate = tmp_path / "50-admin", tmp_path / "candidate"
    assert shell(install(str(target), LINES, candidate=str(candidate)), verdict=verdict) == verdict
    assert not candidate.exists()
    assert target.exists() is (verdict == 0)
    if verdict == 0:
        assert target.read_text().splitlines() == LINES
