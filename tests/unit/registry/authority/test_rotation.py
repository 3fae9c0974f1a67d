"""Other keys for every role, over several versions that a device has missed, and keys that were stolen."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.unit.registry.authority.conftest import MemoryStore, let_out, only

from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.registry.authority import changing, offline, releasing, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.client.errors import TrustRefusedError

ONE = Wanted("model", "assistant", "1.0.0")
NEW_KEYS = {
    "root": RoleKeys(("root-ben", "root-cem", "spare"), 2),
    "targets": RoleKeys(("spare",)),
    "snapshot": RoleKeys(("spare",)),
    "timestamp": RoleKeys(("spare",)),
    "build-model": RoleKeys(("build-eve",)),
    "approve-model": RoleKeys(("approve-gus", "approve-fay"), 2),
}


@pytest.mark.parametrize("role", NEW_KEYS)
def test_every_role_gets_other_keys(role, session, device, make_bundle):
    let_out(session, make_bundle())
    device.manifest("assistant@1.0.0")
    done = changing.rotate(session, role, NEW_KEYS[role])
    assert done.waiting == ()
    assert {event.subject for event in done.events} == {role}
    assert device.manifest("assistant@1.0.0"), "known to a device that saw the version before"
    before = dict(session.store.files)
    assert changing.rotate(session, role, NEW_KEYS[role]).written == ()
    assert session.store.files == before
    let_out(session, make_bundle("1.1.0"))
    assert device.manifest("assistant@1.1.0")


def test_a_device_that_missed_three_roots(session, device, make_bundle):
    let_out(session, make_bundle())
    device.manifest("assistant@1.0.0")
    changing.rotate(session, "root", RoleKeys(("root-ann", "root-ben", "spare"), 2))
    changing.rotate(session, "root", RoleKeys(("root-ben", "spare", "build-eve"), 3))
    for role in ("snapshot", "timestamp", "targets"):
        changing.rotate(session, role, NEW_KEYS[role])
    changing.rotate(session, "root", RoleKeys(("build-eve",)))
    assert session.look().state.root.signed.version == 7
    let_out(session, make_bundle("1.1.0"))
    assert device.manifest("assistant@1.1.0")


def test_root_needs_its_old_and_its_new_threshold(session, device, make_bundle):
    let_out(session, make_bundle())
    done = changing.rotate(only(session, "root-ann", "spare"), "root", RoleKeys(("spare",)))
    assert [(each.role, each.missing) for each in done.waiting] == [("root", 1)]
    assert session.look().state.root.signed.version == 1
    assert device.manifest("assistant@1.0.0")
    done = changing.rotate(only(session, "root-ben"), "root", RoleKeys(("spare",)))
    assert (done.written[0], done.waiting) == ("root", ())
    assert device.manifest("assistant@1.0.0")


def test_new_delegations_wait_for_the_new_keys(session, device, make_bundle):
    let_out(session, make_bundle())
    done = changing.rotate(only(session, "targets-ann"), "build-model", RoleKeys(("build-eve",)))
    assert {(each.role, each.missing) for each in done.waiting} == {("build-model", 1), ("targets", 0)}
    assert done.written == ()
    assert device.manifest("assistant@1.0.0")
    done = changing.renew(only(session, "build-eve"), ["build-model"])
    assert done.written == (), "a new life is no new delegation: that waits for a release or a rotation"
    assert set(releasing.release(session).written) == {"build-model", "targets", "snapshot", "timestamp"}
    assert device.manifest("assistant@1.0.0")


def test_a_stolen_build_key_loses_what_it_alone_signed(session, device, make_bundle):
    changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 1))
    staging.stage(only(session, "build-eve"), make_bundle())
    staging.approve(session, "model", "assistant", "1.0.0")
    releasing.release(session, ONE)
    staging.stage(only(session, "build-dan"), make_bundle("6.6.6"))
    staging.approve(session, "model", "assistant", "6.6.6")
    releasing.release(session, Wanted("model", "assistant", "6.6.6"))
    assert device.manifest("assistant@6.6.6")
    done = changing.revoke(session, "build-dan", replacement=None, note="stolen laptop")
    assert [(event.what, event.subject) for event in done.events] == [
        ("roles", "build-model"),
        ("withdraw", "assistant@6.6.6"),
    ]
    assert device.manifest("assistant@1.0.0")
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@6.6.6")
    assert staging.stage(only(session, "build-dan"), make_bundle("1.2.0")).waiting != ()


def test_what_a_retired_key_signed_stays(session, device, make_bundle):
    """dan retired before eve's key was stolen: his releases were signed under the delegation of their time."""
    let_out(session, make_bundle())
    changing.rotate(session, "build-model", RoleKeys(("build-eve",)))
    changing.revoke(session, "build-eve", replacement="spare", note="stolen")
    assert device.manifest("assistant@1.0.0")


def test_a_revoked_key_loses_its_word_before_the_others_are_asked(session, device, make_bundle):
    changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 1))
    staging.stage(only(session, "build-eve"), make_bundle())
    staging.approve(session, "model", "assistant", "1.0.0")
    releasing.release(session, ONE)
    let_out(session, make_bundle("1.1.0"))
    done = changing.revoke(only(session, "targets-ann"), "build-dan", replacement=None, note="stolen")
    assert [each.role for each in done.waiting] == ["build-model"]
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.1.0")
    asked = offline.request(session, "build-model")
    assert any(line.startswith("+ models/assistant/1.0.0/") for line in offline.show(asked, "build-eve").lines)
    uri = f"pem:{session.directory}/keys/build-eve.pem"
    signed = offline.sign(asked, "build-eve", passphrases=session.passphrases, uri=uri, module=None)
    offline.accept(session, signed)
    releasing.release(session)
    assert device.manifest("assistant@1.0.0")


def test_a_role_is_never_left_below_its_threshold(session):
    before = dict(session.store.files)
    with pytest.raises(RefusedError, match=r"build-model would have 0 key\(s\) and a threshold of 1"):
        changing.revoke(session, "build-dan", replacement=None, note="")
    with pytest.raises(UsageError, match="would need 2 signature"):
        changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-dan"), 2))
    assert session.store.files == before


def test_a_root_key_is_replaced(session, device, make_bundle):
    let_out(session, make_bundle())
    done = changing.revoke(session, "root-ann", replacement="spare", note="lost")
    assert "root" in done.written
    assert device.manifest("assistant@1.0.0")


def test_a_lost_online_key(session, device, make_bundle):
    """Nobody can sign for both roots then: the root comes first, and a kill after it is mended by the timer."""
    let_out(session, make_bundle())
    device.manifest("assistant@1.0.0")
    keys = session.settings.keys
    lost = msgspec.structs.replace(keys["snapshot"], uri="pem:keys/gone.pem")
    session = replace(session, settings=msgspec.structs.replace(session.settings, keys={**keys, "snapshot": lost}))
    writes = MemoryStore(dict(session.store.files))
    changing.rotate(replace(session, store=writes), "snapshot", RoleKeys(("spare",)))
    order = [path for path in writes.files if path not in session.store.files]
    assert order[-2].endswith("2.root.json"), order
    killed = MemoryStore(session.store.files, fail_at=writes.writes - 2)
    with pytest.raises(MachineError):
        changing.rotate(replace(session, store=killed), "snapshot", RoleKeys(("spare",)))
    assert "metadata/2.root.json" in session.store.files
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.0.0")
    assert releasing.refresh(session).written == ("snapshot", "timestamp")
    assert device.manifest("assistant@1.0.0")


def test_renewal(session, device, make_bundle, clock):
    let_out(session, make_bundle())
    clock.forward(hours=2)
    assert set(changing.renew(session, ["root", "targets", "build-model", "approve-model"]).written) == {
        "root", "targets", "build-model", "approve-model", "snapshot", "timestamp",
    }  # fmt: skip
    state = session.look().state
    assert (state.root.signed.expires - clock.now).days == 365
    assert (state.delegated["build-model"].signed.expires - clock.now).days == 180
    assert device.manifest("assistant@1.0.0")
    with pytest.raises(UsageError, match="renewed by refresh"):
        changing.renew(session, ["timestamp"])
