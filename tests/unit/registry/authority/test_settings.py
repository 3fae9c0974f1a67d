"""``authority.yml`` and the files that keys are in."""

from __future__ import annotations

import json
import stat
from importlib.resources import files

import jsonschema
import msgspec
import pytest
import yaml
from tests.unit.registry.authority.conftest import PASSPHRASE

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import keys, settings
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.settings import Lifetimes, Settings


def test_what_is_saved_is_read_and_obeys_the_schema(all_keys, tmp_path):
    _, made = all_keys
    settings.save(tmp_path, made)
    assert settings.load(tmp_path) == made
    plain = yaml.safe_load((tmp_path / "authority.yml").read_text())
    jsonschema.Draft202012Validator(settings.json_schema()).validate(plain)
    assert PASSPHRASE not in (tmp_path / "authority.yml").read_text()


def test_the_schema_in_the_package_is_the_structs():
    kept = json.loads(files("hedgerow.registry.authority").joinpath("authority.schema.json").read_text())
    assert kept == settings.json_schema()


@pytest.mark.parametrize(
    "text", ["schema: 2", "schema: 1\nfleet: f\nstage: UP", "- no mapping", "schema: 1\nstages: x"]
)
def test_settings_that_break_a_rule(text, tmp_path):
    (tmp_path / "authority.yml").write_text(text)
    with pytest.raises(UsageError, match="settings are not valid"):
        settings.load(tmp_path)


def test_no_settings(tmp_path):
    with pytest.raises(UsageError, match="no authority yet") as caught:
        settings.load(tmp_path / "production")
    assert caught.value.next_step == "hedgerow registry init --stage production"


def test_one_name_one_key(all_keys):
    _, made = all_keys
    ann, ben = made.keys["root-ann"], made.keys["root-ben"]
    assert settings.add_key(made, "root-ann", ann) == made
    for name, entry in (("root-ann", ben), ("another", ann)):
        with pytest.raises(RefusedError, match="one-name"):
            settings.add_key(made, name, entry)


def test_lives_of_roles():
    lives = Lifetimes(root=400, delegations=90)
    assert [lives.of(role).days for role in ("root", "build-model", "timestamp")] == [400, 90, 1]


def test_a_key_is_encrypted_and_private(all_keys):
    folder, _ = all_keys
    path = folder / "keys" / "root-ann.pem"
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_a_killed_run_left_is_taken_up(tmp_path):
    first = keys.generate(tmp_path, "ann", "ann", PASSPHRASE)
    assert keys.generate(tmp_path, "ann", "ann", PASSPHRASE) == first
    with pytest.raises(UsageError, match="passphrase is wrong"):
        keys.generate(tmp_path, "ann", "ann", "another passphrase")
    (tmp_path / "keys" / "ann.pem").chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        keys.generate(tmp_path, "ann", "ann", PASSPHRASE)


def test_passphrases(tmp_path):
    with pytest.raises(UsageError, match="12 characters"):
        keys.generate(tmp_path, "ann", "ann", "short")
    file, other = tmp_path / "all", tmp_path / "ann"
    file.write_text("for all\nnot this\n")
    other.write_text("for ann")
    for path in (file, other):
        path.chmod(0o600)
    found = Passphrases({None: file, "ann": other})
    assert (found.of("ann"), found.of("ben")) == ("for ann", "for all")
    assert Passphrases({None: file}).of("ann", other) == "for ann", "a key's own file is nearer than that of all"
    with pytest.raises(UsageError, match="needs its passphrase"):
        Passphrases().of("ann")
    asked = []
    assert Passphrases(ask=lambda text: asked.append(text) or "told").of("ann") == "told"
    assert asked == ["passphrase or PIN of the key ann"]
    file.chmod(0o604)
    with pytest.raises(UsageError, match="holds a secret"):
        Passphrases({None: file}).of("ben")


def test_a_session_for_keys_that_do_not_exist(all_keys):
    folder, made = all_keys
    with pytest.raises(UsageError, match="there is no key 'nobody'"):
        keys.Keyring(made, folder, Passphrases(), ["nobody"])


def test_names_that_both_sides_share():
    assert names.target("runtime", "base", "1.0.0") == "runtimes/base/1.0.0/manifest.json"
    assert names.paths("model") == ["models/*/*/*"]
    assert names.paths("model", "a.b") == ["models/a.b/*/*"]
    for role, parsed in {
        "build-model": ("build", "model", None),
        "approve-runtime-a-b": ("approve", "runtime", "a-b"),
        "build-model-": None,
        "sign-model": None,
        "build-thing": None,
        "targets": None,
    }.items():
        assert names.parse_role(role) == parsed
    assert names.role("approve", "runtime", "a-b") == "approve-runtime-a-b"
    assert names.release("models/a/1.0.0/manifest.json") == ("model", "a", "1.0.0")
    assert names.release("models/a/1.0.0/transfer.json.zst") is None
    assert names.release("nonsense/a/1.0.0/manifest.json") is None
    with pytest.raises(KeyError):
        names.role("build", "nonsense")


def test_an_empty_stage_has_a_good_name():
    assert settings.new("meadow", "dev", None) == Settings(schema=1, fleet="meadow", stage="dev")
    assert settings.new("meadow", "dev", "s3://bucket/x").store == "s3://bucket/x"
    with pytest.raises(UsageError, match="no name of a stage"):
        settings.new("meadow", "../dev", None)
    assert msgspec.to_builtins(settings.new("meadow", "dev", None)) == {"schema": 1, "fleet": "meadow", "stage": "dev"}
