"""What goes and what stays: by use, by budget, and never what somebody still needs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.device.store.registry_double import write_bundle

from hedgerow.device import links
from hedgerow.device.store import collect, keep, records
from hedgerow.device.store.collect import Holding, choose
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout
from hedgerow.device.transition import Pending
from hedgerow.errors import DeviceError
from hedgerow.registry.reference import Reference

MB = 1 << 20
A, B, C, D = (Reference("assistant", f"1.{n}.0") for n in range(4))


@pytest.fixture
def places(tmp_path):
    layout = Layout(tmp_path / "models")
    layout.folder.mkdir(parents=True)
    return Places(layout, tmp_path / "activation", tmp_path / "configuration")


def put(places, *references, used=True):
    for reference in references:
        write_bundle(
            places.layout.version(reference), reference.version, {"model": bytes([1]) * MB}, name=reference.name
        )
        if used:
            touch(places, reference)


def touch(places, *references, staged=None):
    used = records.read_used(places.layout)
    used.touch(references)
    if staged is not None:
        used.staged[staged.name] = staged.version
    records.write_used(places.layout, used)


def here(places):
    return set(places.layout.versions())


# -- who stays --------------------------------------------------------------------------


def test_what_is_linked_stays(places):
    put(places, A, B, C)
    links.point(places.layout.home("assistant"), links.CURRENT, A.version)
    links.point(places.layout.home("assistant"), links.PREVIOUS, B.version)
    collect.collect(places, budget=0)
    assert here(places) == {A, B}
    assert keep.kept(places) == {A: "current", B: "previous"}


@pytest.mark.parametrize("field", ["from_", "to", "previous"])
def test_what_an_activation_under_way_names_stays(field, places):
    put(places, A, B)
    names = {"from_": None, "to": "9.9.9", "previous": None} | {field: A.version}
    now = datetime.now(UTC)
    pending = Pending(
        name="assistant", since=now, deadline=now + timedelta(1), boot_id="b", deadline_boottime_s=1.0, **names
    )
    links.write_pending(places.activation_dir, pending)
    collect.collect(places, budget=0)
    assert here(places) == {A}


def test_what_is_pinned_stays_until_it_is_unpinned(places):
    put(places, A, B)
    records.write_pins(places.layout, {A: "the auditor asked"})
    collect.collect(places, budget=0)
    assert here(places) == {A}
    assert keep.kept(places)[A] == "pinned: the auditor asked"
    records.write_pins(places.layout, {})
    collect.collect(places, budget=0)
    assert here(places) == set()


def test_what_was_staged_last_waits_for_its_activation(places):
    put(places, A, B)
    touch(places, A, staged=A)
    touch(places, B)
    collect.collect(places, budget=0)
    assert here(places) == {A}


def test_what_is_being_staged_stays(places):
    put(places, A, B)
    collect.collect(places, budget=0, staying={B})
    assert here(places) == {B}


def test_the_smaller_model_of_a_configuration_stays(places):
    put(places, A, B)
    version = places.configuration_dir / "0123456789ab"
    version.mkdir(parents=True)
    (version / "server.yml").write_text(f"degradation:\n  smaller_model: {A}\n")
    links.point(places.configuration_dir, links.CURRENT, version.name)
    collect.collect(places, budget=0)
    assert here(places) == {A}


def test_an_application_stays_for_links_that_lie_elsewhere_and_for_its_own_activation(places, tmp_path):
    elsewhere = tmp_path / "placed"
    own = Places(
        places.layout, places.activation_dir, places.configuration_dir, kind="application", links_dir=elsewhere
    )
    put(own, A, B, C, D, used=False)
    for version in (A.version, B.version):
        (elsewhere / "assistant" / version).mkdir(parents=True)
    links.point(elsewhere / "assistant", links.CURRENT, A.version)
    links.point(elsewhere / "assistant", links.PREVIOUS, B.version)
    assert keep.kept(own) == {A: "current", B: "previous"}
    assert keep.kept(places) == {}, "a model's links lie beside its versions"
    now = datetime.now(UTC)
    waiting = Pending(
        kind="application", name="assistant", from_=None, to=C.version, since=now, deadline=now + timedelta(hours=1),
        boot_id="", deadline_boottime_s=0,
    )  # fmt: skip
    own.activation_dir.mkdir(exist_ok=True)
    links.write_pending(own.activation_dir, waiting)
    assert keep.kept(own)[C] == "of an activation under way"
    assert C not in keep.kept(places), "it is another kind's"


def test_the_base_of_a_kept_adapter_stays(places):
    adapter = Reference("tone", "1.0.0")
    put(places, A, adapter)
    manifest = places.layout.version(adapter) / "manifest.json"
    value = json.loads(manifest.read_bytes()) | {
        "schema": 2,
        "kind": "adapter",
        "format": "onnx-adapter",
        "base": {"name": "assistant", "version": ">=1"},
    }
    manifest.write_text(json.dumps(value))
    records.write_pins(places.layout, {adapter: "in use"})
    collect.collect(places, budget=0)
    assert here(places) == {A, adapter}


def test_nothing_goes_where_the_pins_cannot_be_read(places):
    put(places, A)
    places.layout.pins.write_bytes(b"{")
    with pytest.raises(DeviceError, match="pins cannot be read"):
        collect.collect(places, budget=0)
    assert here(places) == {A}


def test_nothing_goes_where_the_activation_cannot_be_read(places):
    put(places, A)
    places.activation_dir.mkdir()
    (places.activation_dir / links.PENDING).write_bytes(b"{")
    with pytest.raises(DeviceError, match="pending activation cannot be read"):
        collect.collect(places, budget=0)
    assert here(places) == {A}


# -- who goes -------------------------------------------------------------------------------


def test_the_longest_unused_goes_first(places):
    put(places, A, B, C)
    touch(places, A)
    done = collect.collect(places, budget=2 * MB + MB // 2)
    assert [each.reference for each in done.removed] == [B]
    assert here(places) == {A, C}
    assert not places.layout.trash.exists()


def test_a_clock_that_jumps_changes_no_order(places):
    """Use is numbered. A version of the far future, by its files' times, is no younger for it."""
    put(places, A, B)
    for path in [places.layout.version(A), *places.layout.version(A).iterdir()]:
        os.utime(path, (4e9, 4e9))
    collect.collect(places, budget=MB + MB // 2)
    assert here(places) == {B}


def test_a_dry_run_only_tells(places):
    put(places, A)
    done = collect.collect(places, budget=0, dry_run=True)
    assert [each.reference for each in done.removed] == [A]
    assert here(places) == {A}


def test_room_is_made_as_far_as_it_is_needed(places):
    put(places, A, B, C)
    done = collect.collect(places, budget=None, needed=MB + MB // 2)
    assert [each.reference for each in done.removed] == [A, B]


def test_what_is_over_the_budget_and_stays_is_told(places):
    put(places, A)
    records.write_pins(places.layout, {A: "x"})
    done = collect.collect(places, budget=1000)
    assert done.removed == ()
    assert done.over == done.left - 1000 > 0


def test_debris_goes_without_being_asked_for(places):
    layout = places.layout
    put(places, A, B)
    touch(places, C)
    for name in ("assistant@1.2.0", "assistant@1.0.0", "nonsense"):
        (layout.partials / name / "files").mkdir(parents=True)
    for path in (layout.recipe(A), layout.recipe(D), layout.trash / "x" / "y", layout.folder / ".used.json.abc"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    collect.collect(places, budget=None)
    assert [path.name for path in layout.partials.iterdir()] == ["assistant@1.2.0"]
    assert (layout.recipe(A).exists(), layout.recipe(D).exists()) == (True, False)
    assert not layout.trash.exists()
    assert list(layout.folder.glob(".*")) == []
    assert here(places) == {A, B}
    touch(places, B, staged=B)
    collect.collect(places, budget=None)
    assert list(layout.partials.iterdir()) == [], "another version was staged since"


def test_a_download_of_a_runtime_from_before_this_store_goes(places):
    put(places, A)
    for name in (".staging-1.1.0-x", ".staging-1.1.0-x-damaged"):
        (places.layout.home("assistant") / name / "tokens").mkdir(parents=True)
        (places.layout.home("assistant") / name / "model").write_bytes(b"half")
    collect.collect(places, budget=None)
    assert [path.name for path in places.layout.home("assistant").iterdir()] == [A.version]


def test_an_order_that_was_lost_is_an_order_all_the_same(places):
    put(places, A, B)
    places.layout.used.write_bytes(b"{")
    collect.collect(places, budget=MB + MB // 2)
    assert here(places) == {B}


holdings = st.lists(
    st.builds(
        Holding,
        st.builds(Reference, st.just("assistant"), st.integers(0, 50).map(lambda n: f"1.{n}.0")),
        st.booleans(),
        st.integers(1, 100),
        st.integers(0, 20),
        st.sampled_from([None, "pinned"]),
    ),
    max_size=12,
    unique_by=lambda each: (each.reference, each.finished),
)


@given(holdings=holdings, budget=st.none() | st.integers(0, 600), needed=st.integers(0, 300))
def test_no_more_goes_than_has_to_and_nothing_that_is_kept(holdings, budget, needed):
    gone = choose(holdings, budget=budget, needed=needed)
    total = sum(each.bytes for each in holdings)
    excess = max(0 if budget is None else total - budget, needed)
    freed = sum(each.bytes for each in gone)
    assert all(each.kept is None for each in gone)
    assert len(set(gone)) == len(gone)
    removable = [each for each in holdings if each.kept is None]
    assert freed >= excess or len(gone) == len(removable)
    assert not gone or freed - gone[-1].bytes < excess, "the last one was not needed"
    if gone:
        latest = max(each.used for each in gone)
        assert all(each.used >= latest for each in removable if each not in gone)


def test_a_version_that_serves_is_never_seen_in_part(places, monkeypatch):
    """It leaves by a rename: at no moment is there a folder of that name that is not whole."""
    put(places, A)
    seen = []
    rename = type(places.layout.version(A)).rename

    def watched(path, target):
        seen.append((path.name, sorted(child.name for child in path.iterdir())))
        return rename(path, target)

    monkeypatch.setattr(type(places.layout.version(A)), "rename", watched)
    collect.collect(places, budget=0)
    assert seen == [("1.0.0", ["manifest.json", "model"])]
