from __future__ import annotations

import json
import os
import time

import pytest
import stages
from click.testing import CliRunner

from hedgerow.commands.registry_store import export, gc, push
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.store import FolderStore
from hedgerow.registry.stores import sweep


@pytest.fixture
def store(tmp_path):
    """Of a stage without a release."""
    return stages.found(tmp_path / "stage").store


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def debris(store, name="a", *, days=2):
    path = f"targets/packs/{name * 2}/{name * 64}"
    store.put(path, b"x" * 2_000_000)
    then = time.time() - days * 86400
    os.utime(store.root / path, (then, then))
    return path


def test_gc_shows_first_and_removes_when_told(store):
    old, young = debris(store), debris(store, "b", days=0)
    shown = run(gc, "--store", store.root)
    assert "would remove 1 files, 2.0 MB" in shown
    assert "1 are younger than 24 h" in shown
    assert "--delete" in shown
    assert store.size(old) == 2_000_000
    assert "removed 1 files" in run(gc, "--store", store.root, "--delete")
    assert (store.size(old), store.size(young)) == (None, 2_000_000)
    assert "would remove 0 files" in run(gc, "--store", store.root)


@pytest.mark.parametrize("delete", [(), ("--delete",)])
def test_gc_gives_up_what_was_withdrawn_when_told(store, monkeypatch, delete):
    asked = []
    plan = sweep.plan

    def told(*arguments, **options):
        asked.append(options["withdrawn"])
        return plan(*arguments, **options)

    monkeypatch.setattr(sweep, "plan", told)
    run(gc, "--store", store.root, *delete)
    run(gc, "--store", store.root, "--withdrawn", *delete)
    assert asked == [False, True]


def test_gc_for_machines(store):
    path = debris(store)
    found = json.loads(run(gc, "--store", store.root, "--grace-hours", "1", "--json"))
    assert [(each["path"], each["bytes"]) for each in found["files"]] == [(path, 2_000_000)]
    assert (found["removed"], found["bytes"], found["named"]) == (False, 2_000_000, 0)


def test_gc_lists_a_few_and_counts_the_rest(store):
    for number in range(23):
        path = f"targets/packs/00/{number:064x}"
        store.put(path, b"")
        os.utime(store.root / path, (0, 0))
    assert "… and 3 more" in run(gc, "--store", store.root)


def test_gc_wants_one_place(store):
    with pytest.raises(UsageError, match="both say which registry"):
        run(gc, "--store", store.root, "--stage", "dev")


def test_push_brings_it_and_goes_on(store, tmp_path):
    target = tmp_path / "copy"
    count = len(list(store.list("")))
    assert f"{count} files sent" in run(push, target, "--store", store.root)
    again = json.loads(run(push, target, "--store", store.root, "--json"))
    assert (again["files"], again["kept"], again["target"]) == (0, count, str(target))
    assert FolderStore(target).get("metadata/timestamp.json") == store.get("metadata/timestamp.json")


def test_push_never_goes_back(store, tmp_path):
    run(push, tmp_path / "copy", "--store", store.root)
    store.put("metadata/timestamp.json", FolderStore(tmp_path / "copy").get("metadata/timestamp.json") + b"\n")
    with pytest.raises(RefusedError, match="no step back"):
        run(push, tmp_path / "copy", "--store", store.root)


def test_export_wants_a_bundle(tmp_path):
    with pytest.raises(UsageError, match="is not NAME@VERSION"):
        run(export, "nothing here", tmp_path / "triton")
