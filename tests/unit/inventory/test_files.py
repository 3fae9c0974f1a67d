"""Where values are written."""

from __future__ import annotations

from hedgerow.inventory import files


def _definitions(path):
    return {
        (definition.scope, definition.key): (definition.value, definition.file.name, definition.line)
        for definition in files.read(path).definitions()
    }


def test_every_kind_of_file_with_its_line(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "field:\n  vars:\n    site: x\n  children:\n    pis:\n      hosts:\n        pi-1:\n          hat: none\n"
    )
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/a.yml").write_text("# first\nfleet: f\n")
    (tmp_path / "group_vars/pis.yml").write_text("labels:\n  ring: canary\n")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/pi-1").write_text("storage: sd\n")
    assert _definitions(tmp_path) == {
        ("group:field", "site"): ("x", "hosts.yml", 3),
        ("host:pi-1", "hat"): ("none", "hosts.yml", 8),
        ("group:all", "fleet"): ("f", "a.yml", 2),
        ("group:pis", "labels"): ({"ring": "canary"}, "pis.yml", 1),
        ("host:pi-1", "storage"): ("sd", "pi-1", 1),
    }


def test_one_file_as_inventory_brings_the_vars_beside_it(tmp_path):
    (tmp_path / "mine.yml").write_text("pis:\n  hosts:\n    pi-1:\n")
    (tmp_path / "other.yml").write_text("pis:\n  hosts:\n    pi-2:\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/pis.yaml").write_text("hat: none\n")
    found = files.read(tmp_path / "mine.yml")
    assert [document.file.name for document in found.documents] == ["mine.yml", "pis.yaml"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "hosts.ini").write_text("[pis]\npi-1\n")
    (tmp_path / "cloud.yml").write_text("plugin: amazon.aws.aws_ec2\n")
    script = tmp_path / "assets.yml"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n3061\n")
    (tmp_path / "group_vars/.hidden.yml").write_text("[")
    found = files.read(tmp_path)
    assert (found.documents, found.faults) == ([], [])


def test_a_host_is_found_where_it_has_variables(tmp_path):
    (tmp_path / "hosts.yml").write_text("a:\n  hosts:\n    pi-1:\nb:\n  hosts:\n    pi-1:\n      hat: none\n")
    assert files.read(tmp_path).host_lines() == {"pi-1": (tmp_path / "hosts.yml", 6)}
