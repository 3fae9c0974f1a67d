"""The promotion log: it tells what happened, and shows when somebody changed what it tells."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.registry.authority.conftest import let_out

from hedgerow.errors import PublisherError
from hedgerow.registry.authority import audit, changing, log, releasing, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.releasing import Wanted


@pytest.fixture
def told(session, make_bundle):
    """A stage whose log has its founding, two delegations, a release, other keys and a withdrawal."""
    wanted = let_out(session, make_bundle())
    changing.rotate(session, "build-model", RoleKeys(("build-eve",)), note="dan leaves")
    releasing.withdraw(session, wanted, note="wrong answers")
    return session


def test_what_ran_when_and_who_approved(told, clock):
    found = audit.verify(told)
    assert found.wrong == ()
    whole = [(entry.event.what, entry.event.subject, entry.note) for entry in found.entries]
    assert whole[:4] == [("roles", role, "") for role in ("root", "targets", "snapshot", "timestamp")]
    assert whole[4:] == [
        ("roles", "build-model", ""),
        ("roles", "approve-model", ""),
        ("release", "assistant@1.0.0", ""),
        ("roles", "build-model", "dan leaves"),
        ("withdraw", "assistant@1.0.0", "wrong answers"),
    ]
    release = found.entries[6]
    assert release.at == clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [person.owner for person in (*release.event.built, *release.event.approved)] == ["dan", "fay"]
    assert {person.owner for person in found.entries[0].event.approved} == {"ann", "ben"}
    assert found.entries[7].event.changes[0].startswith("+ eve (")


@pytest.mark.parametrize("number", [1, 7, 9])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_changed_or_missing_entry(number, damage, told):
    path = log.path(number)
    if damage == "gone":
        del told.store.files[path]
    else:
        told.store.files[path] = told.store.files[path].replace(b'"at": "2', b'"at": "1')
    with pytest.raises(PublisherError, match="promotion log was changed"):
        audit.read(told)


def test_a_log_that_was_written_anew(told):
    """Every link is right again, but the end is not what snapshot's signature names."""
    end = log.Anchor()
    for number in range(1, 10):
        entry = log.decode(told.store.files[log.path(number)], "")
        data = log.encode(msgspec.structs.replace(entry, previous=end.sha256, operator="somebody else"))
        told.store.files[log.path(number)] = data
        end = log.Anchor(number, log.digest(data))
    with pytest.raises(PublisherError, match="not the one that the snapshot names"):
        audit.read(told)


def test_nothing_is_changed_while_the_log_is_broken(told, make_bundle):
    told.store.files[log.path(9)] += b" "
    with pytest.raises(PublisherError, match="promotion log was changed"):
        staging.stage(told, make_bundle("1.1.0"))


def _forged(session, number, change):
    """Rewrite entry ``number`` and all after it, and have the snapshot's own key sign the new end: an inside job."""
    entries = [log.decode(session.store.files[log.path(each)], "") for each in range(1, 10)]
    entries[number - 1] = change(entries[number - 1])
    end = log.Anchor()
    for entry in entries:
        data = log.encode(msgspec.structs.replace(entry, previous=end.sha256))
        session.store.files[log.path(entry.entry)] = data
        end = log.Anchor(entry.entry, log.digest(data))
    return end


def _with_event(entry, **changes):
    return msgspec.structs.replace(entry, event=msgspec.structs.replace(entry.event, **changes))


@pytest.mark.parametrize(
    "number, changes, why",
    [
        (7, {"approved": (log.Person("gus", "0" * 64),)}, "signed by others"),
        (7, {"sha256": "0" * 64}, "was not released with"),
        (9, {"subject": "assistant@2.0.0", "what": "release"}, "was not released"),
    ],
)
def test_a_lie_that_the_log_key_itself_told(number, changes, why, told, monkeypatch):
    """Whoever holds the online keys can rewrite the log, but not the signatures of builders and approvers."""
    end = _forged(told, number, lambda entry: _with_event(entry, **changes))
    monkeypatch.setattr(log, "anchor", lambda _: end)
    found = audit.verify(told)
    assert [(entry, why in text) for entry, text in found.wrong] == [(number, True)]


def test_a_release_that_the_log_does_not_tell(session, make_bundle, monkeypatch):
    let_out(session, make_bundle())
    end = log.Anchor(6, log.digest(session.store.files[log.path(6)]))
    monkeypatch.setattr(log, "anchor", lambda _: end)
    assert [number for number, _ in audit.verify(session).wrong] == [0]


def test_an_entry_that_no_snapshot_names_never_happened(session, make_bundle):
    session.store.files[log.path(7)] = b"left by a kill"
    wanted = let_out(session, make_bundle())
    assert wanted == Wanted("model", "assistant", "1.0.0")
    assert audit.verify(session).wrong == ()
