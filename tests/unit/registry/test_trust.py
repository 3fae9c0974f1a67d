"""Rules over metadata alone: no store, no clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hedgerow.registry import keys
from hedgerow.registry.trust import LIFETIMES, Roles

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def role_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signing")
    keys.create(folder)
    return keys.load(folder)


@pytest.fixture
def roles(role_keys):
    made = Roles.first(role_keys, NOW)
    made.changed.clear()
    return made


def versions(roles):
    return {role: getattr(roles, role).signed.version for role in keys.ROLES}


def test_the_first_metadata_is_signed_by_its_own_keys(role_keys):
    roles = Roles.first(role_keys, NOW)
    root = roles.root.signed
    assert root.consistent_snapshot is True
    for role in keys.ROLES:
        metadata = getattr(roles, role)
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        assert metadata.signed.expires == NOW + LIFETIMES[role]


def test_the_timestamp_is_written_last(role_keys):
    names = [name for name, _ in Roles.first(role_keys, NOW).files()]
    assert names == ["1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"]


def test_a_new_target_renews_all_but_the_root(roles, role_keys):
    roles.add("models/a/1.0.0/manifest.json", b"{}", NOW)
    roles.add("models/a/1.1.0/manifest.json", b"{}", NOW)
    roles.refresh(NOW)
    roles.sign(role_keys)
    assert versions(roles) == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
    assert roles.snapshot.signed.meta["targets.json"].version == 2
    assert roles.timestamp.signed.snapshot_meta.version == 2
    assert [name for name, _ in roles.files()] == ["2.targets.json", "2.snapshot.json", "timestamp.json"]
    for role in ("targets", "snapshot", "timestamp"):
        metadata = getattr(roles, role)
        roles.root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        assert len(metadata.signatures) == 1


def test_nothing_is_renewed_before_its_time(roles):
    roles.refresh(NOW + timedelta(hours=15))
    assert roles.changed == set()
    assert roles.files() == []


@pytest.mark.parametrize(
    "later, renewed",
    [
        (timedelta(hours=17), {"timestamp"}),
        (timedelta(days=5), {"snapshot", "timestamp"}),
        (timedelta(days=61), {"targets", "snapshot", "timestamp"}),
        (timedelta(days=400), {"targets", "snapshot", "timestamp"}),
    ],
)
def test_what_has_little_life_left_is_renewed_with_all_above_it(later, renewed, roles):
    roles.refresh(NOW + later)
    assert roles.changed == renewed
    for role in renewed:
        assert getattr(roles, role).signed.expires == NOW + later + LIFETIMES[role]
