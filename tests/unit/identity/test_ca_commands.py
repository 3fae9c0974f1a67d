"""``hedgerow ca``, as an operator types it: two tiers, lists, logs and rotation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hedgerow import cli, inventory
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import issued
from hedgerow.identity.authority import making

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def meadow():
    """The embedded default's inventory, read once: ansible-inventory takes a second."""
    return inventory.load(ROOT / "inventory" / "emulated")


@pytest.fixture
def ca(tmp_path, monkeypatch, meadow, secrets):
    """Run ``hedgerow ca WORDS``; (exit code, output). ``.folder`` is the fleet's ``ca``."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(inventory, "load", lambda _path: meadow)

    def run(*words):
        result = CliRunner().invoke(cli.cli, ["ca", *map(str, words)], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.return_value or 0, result.output

    run.folder = tmp_path / "var" / "fleets" / "meadow" / "ca"
    run.json = lambda *words: json.loads(run(*words, "--json")[1])
    return run


@pytest.fixture
def two(ca):
    """A CA with two tiers: the fleet's issuing CA and that of orchard."""
    assert ca.json("root", "init")["changed"]
    for name in ("fleet", "orchard"):
        assert ca.json("issuing", "add", name)["changed"]
    return ca


def test_two_tiers_from_nothing(two, make_csr, tmp_path, names):
    assert not two.json("root", "init")["changed"]
    assert not two.json("issuing", "add", "orchard")["changed"]
    rows = two.json("issuing", "list")
    assert [(row["name"], row["state"], row["key_here"]) for row in rows] == [
        ("fleet", "in use", True),
        ("orchard", "in use", True),
    ]
    assert rows[1]["may_name"] == ["DNS:orchard.meadow", "URI:meadow"]
    two.json("issuing", "add", "orchard", "--replace")
    assert [row["state"] for row in two.json("issuing", "list")].count("replaced") == 1
    assert two.json("root", "show")[0]["tiers"] == 2
    assert two.json("show")["key_encrypted"] is True
    assert "pem:ca.key (here)" in two("root", "show")[1]
    assert "DNS:orchard.meadow" in two("issuing", "list")[1]

    serial = inventory.load(None).hosts["pi-orchard-1"].serial
    (tmp_path / "request.pem").write_text(make_csr(f"/CN={serial}")[0])
    code, chain = two("sign", tmp_path / "request.pem")
    assert (code, chain.count("BEGIN CERTIFICATE")) == (0, 2)
    assert two.json("issue", "--profile", "operator", "--name", "ada")["changed"]
    last = list(issued.read(two.folder / issued.FILE))[-1]
    assert (last.name, "@" in last.by) == ("ada", True)


def test_a_gateways_request(two, tmp_path):
    (tmp_path / "request.pem").write_text(making.request(tmp_path / "gateway", "orchard", None))
    target = tmp_path / "gateway" / "ca.crt"
    told = two.json("issuing", "sign", tmp_path / "request.pem", "--site", "orchard", "-o", target)
    assert "new key" in told["reason"]
    assert target.read_text() == Path(told["certificate"]).read_text()
    row = next(row for row in two.json("issuing", "list") if row["key_id"] == told["key_id"])
    assert (row["state"], row["key_here"]) == ("in use", False)


@pytest.mark.parametrize(
    "words",
    [
        ("issuing", "add", "barn"),
        ("issuing", "add", "orchard", "--next"),
        ("issuing", "revoke", "barn", "--reason", "x"),
    ],
)
def test_what_is_not_there_is_wrong_use(two, words):
    with pytest.raises(UsageError) as caught:
        two(*words)
    assert caught.value.next_step


def test_lists_with_the_root_away(two):
    assert two.json("crl")["changed"]
    assert not two.json("crl")["changed"]
    assert (two.folder / "crl.pem").read_text().count("BEGIN X509 CRL") == 3
    serial = inventory.load(None).hosts["pi-orchard-1"].serial
    (two.folder / "ca.key").rename(two.folder / "in-the-safe")
    assert two.json("revoke", "pi-orchard-1", "--reason", "stolen")["holder"] == serial
    code, output = two("crl")
    assert code == 0
    assert two.json("issuing", "revoke", "orchard", "--reason", "gateway stolen")["changed"]
    code, output = two("crl")
    assert code == 4
    assert "lacks what was revoked since" in output
    (two.folder / "in-the-safe").rename(two.folder / "ca.key")
    assert two("crl")[0] == 0


def test_logs_are_verified_and_a_changed_one_is_shown(two):
    code, _ = two("log", "--verify")
    assert code == 0
    rows = two.json("log", "--verify")
    assert {row["log"] for row in rows} == {"ca/issued.jsonl", "ca/revocations.jsonl"}
    head = rows[0]["head"]
    two("issue", "--profile", "client", "--name", "app")
    assert two("log", "--head", head)[0] == 0
    log = two.folder / issued.FILE
    log.write_text(log.read_text().replace('"name":"orchard"', '"name":"elsewhere"'))
    code, output = two("log", "--verify")
    assert code == 1
    assert "changed" in output
    with pytest.raises(UsageError, match="no head"):
        two("log", "--head", "hello")


def test_rotation_step_by_step(two):
    assert two.json("rotate", "begin", "--two-tier")["generation"]["state"] == "next"
    for name in ("fleet", "orchard"):
        assert two.json("issuing", "add", name, "--next")["changed"]
    with pytest.raises(UsageError, match="refuses every certificate"):
        two("rotate", "switch")
    assert two.json("rotate", "switch", "--everybody-trusts-both")["generation"] == {
        "number": 2,
        "state": "active",
        "since": two.json("rotate", "status")[1]["generation"]["since"],
    }
    code, table = two("rotate", "status")
    assert code == 0
    assert ["old" in table, "active" in table, "fleet, orchard" in table] == [True] * 3
    assert two("crl")[0] == 0
    assert (two.folder / "crl.pem").read_text().count("BEGIN X509 CRL") == 6
    assert "is now retired" in two("rotate", "finish")[1]
    assert two("rotate", "finish")[1] == "no rotation is under way\n"
    assert two("rotate", "abort")[1] == "there is no next CA\n"
    assert (two.folder / "ca.crt").read_text().count("BEGIN CERTIFICATE") == 1


def test_a_single_tier_stays_what_it_was(ca, secrets, monkeypatch):
    monkeypatch.delenv("HEDGEROW_CA_PASSPHRASE_FILE")
    told = ca.json("init")
    assert (told["changed"], told["key_encrypted"]) == (True, False)
    assert sorted(path.name for path in ca.folder.iterdir()) == ["ca.crt", "ca.key"]
    assert ca.json("issue", "--profile", "operator", "--name", "ada")["changed"]
    assert [row["tiers"] for row in ca.json("root", "show")] == [1]
    with pytest.raises(RefusedError, match="single tier"):
        ca("root", "init", "--passphrase-file", secrets._files[None])
    assert ca.json("rotate", "begin")["changed"], "its next key is unencrypted as the first one is"
    assert ca.json("rotate", "abort")["changed"]
    assert ca.json("init")["changed"] is False
