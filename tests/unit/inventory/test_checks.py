"""Bad inventories: each problem is named with file, line, key, value and what is allowed."""

from __future__ import annotations

import json

import pytest

from hedgerow import paths
from hedgerow.errors import UsageError
from hedgerow.inventory import FleetRelease, Host, checks, schema
from hedgerow.inventory.checks import check

ALL = "group_vars/all/fleet.yml"


def _only(problems):
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


@pytest.mark.parametrize("name", ["emulated", "example"])
def test_inventories_that_ship_are_sound(name):
    assert check(paths.repository_root() / "inventory" / name) == []


def test_unknown_key(copy, check_files):
    line = copy.edit("hosts.yml", "labels: { ring: canary }", "lables: { ring: canary }")
    problem = _only(check_files())
    assert problem.file.endswith("hosts.yml")
    assert (problem.line, problem.key, problem.what) == (line, "lables", "is an unknown key")
    assert problem.hint == "did you mean labels?"


def test_wrong_hat(copy, check_files):
    copy.write("group_vars/pis.yml", "# the HAT\nhat: hat-plus2\n")
    problem = _only(check_files())
    assert problem.file.endswith("group_vars/pis.yml")
    assert (problem.line, problem.key, problem.value) == (2, "hat", "hat-plus2")
    assert problem.allowed == "none, hat-plus-13, hat-plus-26, hat-plus-2"
    assert problem.hint == "did you mean hat-plus-2?"


def test_unquoted_serial(copy, check_files):
    line = copy.edit("hosts.yml", "e0d1c2b3a4950012", "1000000000000012")
    problem = _only(check_files())
    assert (problem.line, problem.key) == (line, "pi_serial")
    assert "is a number, not a string in quotes" in problem.what
    assert "16 lower-case hex digits" in str(problem.allowed)


def test_key_in_the_wrong_place(copy, check_files):
    copy.edit("hosts.yml", "cooling: passive", "fleet: other")
    problem = _only(check_files())
    assert (problem.key, problem.what, problem.allowed) == ("fleet", "does not belong here", "in group_vars/all")


def test_misspelt_word_of_a_hosts_file(copy, check_files):
    copy.edit("hosts.yml", "gateways:\n  hosts:", "gateways:\n  host:")
    problem = _only(check_files())
    assert (problem.allowed, problem.hint) == ("hosts, children, vars", "did you mean hosts?")


def test_row_of_the_version_lock_is_missing(copy, check_files):
    copy.edit("group_vars/all/release.yml", '  apparmor:\n    abi: "4.0"\n', "")
    problem = _only(check_files())
    assert (problem.key, problem.what) == ("fleet_release.apparmor", "is missing")


def test_template_where_two_readers_need_a_literal(copy, check_files):
    line = copy.edit(ALL, "serving_model: assistant", 'serving_model: "{{ model }}"')
    problem = _only(check_files())
    assert (problem.line, problem.key, problem.allowed) == (line, "serving_model", "a literal value")
    assert "template" in problem.what


def test_template_where_ansible_reads_alone(copy, check_files):
    copy.edit("group_vars/all/ssh.yml", "ansible_user: hedgerow-admin", "ansible_become_method: '{{ how }}'")
    assert check_files() == []


VAULTED = """!vault |
  $ANSIBLE_VAULT;1.1;AES256
  3061
"""


def test_vaulted_secret_is_fine_and_a_vaulted_literal_is_not(copy, check_files):
    copy.write("group_vars/all/secret.yml", f"ansible_become_password: {VAULTED}")
    assert check_files() == []
    copy.write("group_vars/all/secret.yml", f"serving_model: {VAULTED}")
    assert "is encrypted" in _only(check_files()).what


def test_secret_in_the_clear_is_told_but_not_repeated(copy, check_files):
    copy.write("host_vars/pi-orchard-1.yml", "ansible_become_password: hunter2\n")
    problem = _only(check_files())
    assert "secret in the clear" in problem.what
    assert "hunter2" not in str(problem)
    assert "hunter2" not in json.dumps(problem.value)


def test_private_key_under_an_innocent_name(copy, check_files):
    copy.edit("hosts.yml", "ring: canary", 'ring: "-----BEGIN OPENSSH PRIVATE KEY-----"')
    assert "secret in the clear" in _only(check_files()).what


def test_key_written_twice(copy, check_files):
    copy.edit(ALL, "fleet: meadow", "fleet: meadow\nfleet: brook")
    problem = _only(check_files())
    assert problem.key == "fleet"
    assert "twice" in problem.what


def test_vars_file_of_nobody(copy, check_files):
    copy.write("group_vars/gatewayz.yml", "hat: none\n")
    problem = _only(check_files())
    assert problem.file.endswith("gatewayz.yml")
    assert "nobody reads this file" in problem.what
    assert problem.hint == "did you mean gateways?"


def test_broken_yaml_has_its_line(copy, check_files):
    line = copy.edit(ALL, "admin_user: hedgerow-admin", "admin_user: [hedgerow-admin")
    problem = next(problem for problem in check_files() if "broken YAML" in problem.what)
    assert problem.file.endswith(ALL)
    assert problem.line is not None
    assert problem.line >= line


def test_not_a_mapping(copy, check_files):
    copy.write("group_vars/pis.yml", "- hat\n")
    assert "holds a list" in _only(check_files()).what


def test_empty_vars_file_is_fine(copy, check_files):
    copy.write("group_vars/ungrouped.yml", "# nothing yet\n")
    assert check_files() == []


def test_missing_inventory(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_empty_inventory(tmp_path):
    (tmp_path / "hosts.yml").write_text("all:\n  hosts: {}\n")
    assert _only(check(tmp_path)).what == "has no host"


def test_what_only_ansible_can_tell_is_told(tmp_path):
    """An INI file is not read here, so its faults come in Ansible's words."""
    (tmp_path / "hosts.ini").write_text("[pis\npi-1\n")
    problem = _only(check(tmp_path))
    assert problem.file == str(tmp_path)
    assert "ansible cannot read the inventory" in problem.what


def test_options_of_roles_are_known(tmp_path, monkeypatch):
    spec = tmp_path / "roles" / "weather" / "meta" / "argument_specs.yml"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        "argument_specs:\n  main:\n    options:\n"
        "      weather_port: {type: int, description: Where it listens.}\n"
        "      weather_mood: {choices: [sunny, gloomy]}\n"
        "      weather_kinds: {type: list, elements: str, choices: [rain, hail]}\n"
    )
    options = schema.role_options(tmp_path)
    assert options["weather_port"]["type"] == ["integer", "null"]
    assert options["weather_mood"]["enum"] == ["sunny", "gloomy", None]
    assert options["weather_kinds"]["items"] == {"enum": ["rain", "hail"]}
    assert "enum" not in options["weather_kinds"]


def test_an_extra_that_no_runtime_has_is_refused_with_those_that_are(copy, check_files):
    copy.write("group_vars/site_orchard.yml", "inference_runtime_extras: [traces]\n")
    assert check_files() == []
    copy.write("group_vars/site_orchard.yml", "inference_runtime_extras:\n  - traces\n  - visoin\n")
    problem = _only(check_files())
    assert (problem.line, problem.value, problem.allowed) == (3, "visoin", "traces, vision, litert")
    assert problem.hint == "did you mean vision?"


def test_a_role_that_cannot_be_read_is_named(tmp_path):
    spec = tmp_path / "roles" / "weather" / "meta" / "argument_specs.yml"
    spec.parent.mkdir(parents=True)
    spec.write_text("argument_specs: [")
    with pytest.raises(UsageError) as caught:
        schema.role_options(tmp_path)
    assert "weather" in str(caught.value.where)


def test_schema_and_structs_have_the_same_keys():
    document = json.loads((paths.repository_root() / "inventory" / "schema.json").read_text())
    release = document["$defs"]["fleet_release"]["properties"]
    assert set(release) == set(FleetRelease.__struct_fields__)
    for name, field in FleetRelease.__annotations__.items():
        struct = getattr(__import__("hedgerow.inventory", fromlist=[field]), field, None)
        if struct is not None:
            assert set(release[name]["properties"]) == set(struct.__struct_fields__), name
    known = {name for part in ("host_values", "shared_values") for name in document["$defs"][part]["properties"]}
    typed = {"ansible_host", "pi_serial"} | set(Host.__struct_fields__) - {
        "name",
        "address",
        "serial",
        "groups",
        "vars",
    }
    assert typed <= known


def test_text_of_a_problem_has_all_parts():
    problem = checks.Problem("f.yml", "is bad", line=3, key="k", allowed="good", hint="do")
    assert str(problem) == "f.yml:3: k: is bad\n    allowed: good\n    next: do"
