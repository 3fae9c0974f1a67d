"""``hedgerow inventory`` as it is typed."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from hedgerow import cli, paths

EMULATED = paths.repository_root() / "inventory" / "emulated"


@pytest.fixture
def run():
    return lambda *words: CliRunner().invoke(cli.cli, words, standalone_mode=False)


@pytest.fixture
def broken(tmp_path):
    shutil.copytree(EMULATED, tmp_path / "mine")
    (tmp_path / "mine/group_vars/pis.yml").write_text("hat: hat-plus-3\n")
    return tmp_path / "mine"


def test_check_of_a_sound_inventory(run):
    result = run("inventory", "check", "-i", str(EMULATED))
    assert result.return_value == 0
    assert "fleet meadow, 4 hosts, nothing wrong" in result.stdout


def test_check_of_a_broken_one(run, broken):
    result = run("inventory", "check", "-i", str(broken))
    assert result.return_value == 2
    assert f'{broken}/group_vars/pis.yml:1: hat: "hat-plus-3" is not a value it can take' in result.stdout
    assert "allowed: none, hat-plus-13, hat-plus-26, hat-plus-2" in result.stdout


def test_check_as_json(run, broken):
    result = run("inventory", "check", "-i", str(broken), "--json")
    assert result.return_value == 2
    [problem] = json.loads(result.stdout)["problems"]
    assert (problem["line"], problem["key"], problem["value"]) == (1, "hat", "hat-plus-3")


def test_show_as_json_has_hosts_and_release(run):
    result = run("inventory", "show", "-i", str(EMULATED), "--limit", "gateways", "--json")
    shown = json.loads(result.stdout)
    assert [host["name"] for host in shown["hosts"]] == ["gw-orchard"]
    assert shown["release"]["os"]["suite"] == "trixie"


def test_show_as_a_table(run):
    result = run("inventory", "show", "-i", str(EMULATED), "-l", "gateways")
    assert "release 2026.10-emulated" in result.stdout
