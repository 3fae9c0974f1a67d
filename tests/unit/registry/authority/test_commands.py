"""The ceremony as an operator types it: exit codes, JSON, and what stands on the screen before somebody signs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands.registry import registry
from hedgerow.errors import HedgerowError

PASSPHRASE = "correct horse battery"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Type a command of ``hedgerow registry``; the exit code and what it printed as JSON, or the error's."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    # Reading an inventory takes Ansible a second; which fleet it names is all that counts here.
    monkeypatch.setattr(inventories, "load", lambda _path: SimpleNamespace(fleet="meadow", registry_stage="dev"))
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE)
    file.chmod(0o600)
    signing = {
        "init", "add-key", "delegate", "stage", "approve", "release", "promote", "withdraw", "rotate", "revoke",
        "import", "sign", "refresh", "publish",
    }  # fmt: skip

    def typed(*arguments: object, stage: str | None = "dev") -> tuple[int, object]:
        line = [str(each) for each in arguments]
        line += ["--passphrase-file", str(file)] if line[0] in signing else []
        line += ["--stage", stage] if stage is not None else []
        result = CliRunner().invoke(registry, [*line, "--json"], standalone_mode=False)
        if isinstance(result.exception, HedgerowError):
            return int(result.exception.exit_code), str(result.exception)
        if result.exception is not None:
            raise result.exception
        return int(result.return_value or 0), (json.loads(result.stdout), result.stderr)

    return typed


@pytest.mark.slow
def test_from_keys_to_a_release_and_back(run, make_bundle, tmp_path):
    for name in ("ann", "ben", "spare"):
        assert run("add-key", name, "--owner", name)[0] == 0
    code, (made, _) = run("init", "--root", "ann", "--root", "ben", "--root-threshold", 2)
    assert (code, made["changed"]) == (0, True)
    assert run("init", "--root", "ann", "--root", "ben", "--root-threshold", 2)[1][0]["changed"] is False
    for purpose, name in (("build", "dan"), ("approve", "fay")):
        run("add-key", name, "--owner", name)
        assert run("delegate", purpose, "model", "--by", name)[0] == 0
    code, text = run("delegate", "approve", "model", "--by", "dan")
    assert (code, "separate-keys" in text) == (3, True)

    folder = make_bundle()
    assert run("stage", folder)[1][0]["changed"] is True
    code, text = run("release", "assistant@1.0.0")
    assert (code, "hedgerow registry approve assistant@1.0.0 --stage dev" in text) == (3, True)
    code, text = run("approve", "assistant@1.0.0")
    assert (code, "add --yes" in text) == (2, True)
    code, (word, shown) = run("approve", "assistant@1.0.0", "--yes")
    assert (code, word["waiting"]) == (0, [])
    assert "Apache-2.0" in shown
    assert "signs models/assistant/1.0.0/manifest.json sha256" in shown
    assert run("release", "assistant@1.0.0")[1][0]["events"][0]["what"] == "release"

    code, (waiting, _) = run("rotate", "root", "--to", "ann", "--to", "spare", "--threshold", 2, "--key", "spare")
    assert (code, waiting["waiting"][0]["missing"]) == (4, 2)
    request = tmp_path / "request.json"
    assert run("request", "root", "--output", request)[0] == 0
    keys = tmp_path / "var" / "fleets" / "meadow" / "stages" / "dev" / "keys"
    for name in ("ann", "ben"):
        uri = f"pem:{keys / name}.pem"
        code, (signed, shown) = run("sign", request, "--key", name, "--uri", uri, "--yes", stage=None)
        assert (code, signed["changed"]) == (0, True)
        assert "keys of root: + spare" in shown
    assert run("import", request)[1][0]["waiting"] == []
    assert "root" in run("release")[1][0]["written"]

    code, (status, _) = run("ceremony")
    assert {each["role"]: each["version"] for each in status["roles"]}["root"] == 2
    assert [each["bundle"] for each in status["releases"]] == ["assistant@1.0.0"]
    assert run("withdraw", "assistant@1.0.0", "--note", "wrong answers")[0] == 0
    code, (told, _) = run("log", "--verify")
    assert (code, told["wrong"]) == (0, [])
    assert told["entries"][-1]["note"] == "wrong answers"
    assert run("refresh")[1][0]["changed"] is False


@pytest.mark.slow
def test_promotion_from_stage_to_stage(run, make_bundle):
    for stage in ("dev", "production"):
        run("init", stage=stage)
        for purpose in ("build", "approve"):
            run("add-key", purpose, stage=stage)
            run("delegate", purpose, "model", "--by", purpose, stage=stage)
    run("stage", make_bundle())
    run("approve", "assistant@1.0.0", "--yes")
    run("release")
    code, (word, _) = run("promote", "assistant@1.0.0", "--from", "dev", stage="production")
    assert (code, word["changed"]) == (0, True)
    run("approve", "assistant@1.0.0", "--yes", stage="production")
    event = run("release", stage="production")[1][0]["events"][0]
    assert (event["what"], event["origin"]) == ("promote", "dev")


@pytest.mark.slow
def test_a_small_fleet_publishes_by_two_commands(run, make_bundle):
    code, (made, _) = run("init", stage=None)
    assert (code, made["changed"]) == (0, True)
    assert run("init", stage=None)[1][0]["changed"] is False
    folder = make_bundle()
    code, text = run("publish", folder, stage=None)
    assert (code, "add --yes" in text) == (2, True)
    code, (done, shown) = run("publish", folder, "--yes", stage=None)
    assert (code, done["changed"], done["bundle"], done["stage"]) == (0, True, "assistant@1.0.0", "dev")
    assert "Apache-2.0" in shown
    assert run("publish", folder, "--yes", stage=None)[1][0]["changed"] is False
    code, (listed, _) = run("list", stage=None)
    assert [(each["bundle"], each["kind"]) for each in listed["bundles"]] == [("assistant@1.0.0", "model")]
    assert {"root", "timestamp", "approve-runtime"} <= listed["expires"].keys()
    assert run("show", "assistant@1.0.0", stage=None)[1][0]["version"] == "1.0.0"
    assert run("verify", stage=None) == (0, ({"assistant@1.0.0": []}, ""))
    assert run("refresh", stage=None)[1][0]["changed"] is False


def test_what_is_altered_is_told(run, make_bundle, tmp_path):
    run("init", "--unattended")
    run("publish", make_bundle(), "--yes")
    (pack,) = (tmp_path / "var/fleets/meadow/stages/dev/registry/targets/packs").glob("*/*")
    pack.write_bytes(b"x" * pack.stat().st_size)
    code, (told, _) = run("verify")
    (error,) = told["assistant@1.0.0"]
    assert (code, error["what"].startswith(f"pack {pack.name[:12]} of assistant@1.0.0 was altered")) == (1, True)


def test_unattended_keys_ask_nobody(run, make_bundle, tmp_path):
    assert run("init", "--unattended")[0] == 0
    secret = tmp_path / "var/fleets/meadow/stages/dev/keys.passphrase"
    assert secret.stat().st_mode & 0o777 == 0o600
    (tmp_path / "passphrase").write_text("something else entirely")
    assert run("publish", make_bundle(), "--yes")[0] == 0
    secret.unlink()
    code, text = run("rotate", "build-model", "--to", "targets")
    assert (code, "no file with the passphrase" in text) == (2, True)


def test_an_export_comes_out_of_the_stage_verified(run, make_bundle, tmp_path):
    run("init", "--unattended")
    run("publish", make_bundle(), "--yes")
    code, text = run("export", "assistant@1.0.0", tmp_path / "triton")
    assert (code, "onnx-genai" in text or "ONNX" in text) == (3, True)
    for blob in (tmp_path / "var/fleets/meadow/stages/dev/registry/targets/blobs").iterdir():
        blob.write_bytes(b"")
    code, text = run("export", "assistant@1.0.0", tmp_path / "triton")
    assert (code, "is truncated" in text) == (1, True)


def test_a_stage_that_is_not_there(run):
    code, text = run("ceremony", stage="nowhere")
    assert (code, "hedgerow registry init --stage nowhere" in text) == (2, True)
