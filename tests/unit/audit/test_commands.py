"""``hedgerow audit`` as an operator types it."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest

from hedgerow import audit
from hedgerow.audit.after import collect_all
from hedgerow.errors import UsageError
from hedgerow.identity.profiles import Profile


@pytest.fixture
def filled(ca, typed):
    ca.issue_client(Profile.OPERATOR, "ada")
    typed("note", "the CA was made")
    typed("note", "opened the sealed envelope", "--kind", "break-glass")
    return ca


def test_show_collects_and_tells_who_did_what(filled, typed):
    code, shown = typed("show")
    assert code == 0
    assert [row["what"] for row in shown] == [
        "note: the CA was made",
        "break-glass: opened the sealed envelope",
        "signed a certificate (operator) (ca/issued.jsonl)",
    ]
    assert all(row["by"].count("@") == 1 for row in shown)
    assert [row["entry"] for row in typed("show", "--grep", "ENVELOPE")[1]] == [2]
    assert len(typed("show", "--last", "1")[1]) == 1


def test_verify_says_that_the_chain_holds_and_where_it_does_not(filled, typed, fleet_dir):
    typed("collect")
    assert typed("verify")[0] == 0
    log = audit.of_fleet(fleet_dir)
    log.path.write_bytes(log.path.read_bytes().replace(b"was made", b"was lost"))
    code, said = typed("verify")
    assert (code, said["holds"]) == (1, False)
    assert said["problems"][0].endswith("audit.jsonl:2: the line before this one was changed, or one was taken out")


def test_verify_looks_at_sealed_logs_as_well(filled, typed):
    typed("collect")
    filled.log.write_bytes(filled.log.read_bytes().replace(b"ada", b"eve"))
    code, said = typed("verify")
    assert (code, said["problems"]) == (1, ["ca/issued.jsonl: what it said was changed since it was sealed"])


def test_a_published_head_shows_a_log_that_was_written_anew(filled, typed, fleet_dir):
    head = typed("head")[1]["head"]
    assert typed("verify", "--head", head)[0] == 0
    log = audit.of_fleet(fleet_dir)
    log.path.unlink()
    log.anchor_path.unlink()
    for text in ("a", "b", "c"):
        typed("note", text)
    assert typed("verify")[0] == 0
    code, said = typed("verify", "--head", head)
    assert code == 1
    assert "the log was rewritten" in said["problems"][0]


def test_what_is_no_head_is_refused(filled, typed):
    with pytest.raises(UsageError, match="NUMBER:SHA256"):
        typed("verify", "--head", "yesterday")


def test_the_export_is_the_log_and_sha256sum_checks_it(filled, typed, tmp_path):
    head = typed("export", "--output", tmp_path / "copy.jsonl")[1]["head"]
    lines = (tmp_path / "copy.jsonl").read_bytes().splitlines()
    assert f"{len(lines)}:{hashlib.sha256(lines[-1]).hexdigest()}" == head
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["previous"] == hashlib.sha256(before).hexdigest()
    assert (tmp_path / "copy.jsonl").stat().st_mode & 0o077 == 0


def test_an_empty_note_is_refused(fleet_dir, typed):
    with pytest.raises(UsageError):
        typed("note", "  ")


def test_signing_commands_collect_when_they_end(filled, fleet_dir, capsys):
    collect_all()
    assert any("signed" in each.what for entry in audit.of_fleet(fleet_dir).entries()
               for each in getattr(entry.value, "did", []))  # fmt: skip
    audit.of_fleet(fleet_dir).anchor_path.unlink()
    filled.issue_client(Profile.OPERATOR, "ben")
    collect_all()
    assert "was not brought up to date" in capsys.readouterr().err
