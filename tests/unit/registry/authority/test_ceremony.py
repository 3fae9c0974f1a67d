"""From the first key to a device that takes a release, and who may say what on the way."""

from __future__ import annotations

import pytest
from tests.unit.registry.authority.conftest import TOP, Device, let_out, only

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.authority import changing, log, releasing, repository, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.client.errors import TrustRefusedError
from hedgerow.registry.packing.publish import packer

ONE = Wanted("model", "assistant", "1.0.0")


def test_a_release_reaches_a_device(session, device, make_bundle):
    folder = make_bundle()
    let_out(session, folder)
    assert device.manifest("assistant@1.0.0") == (folder / "manifest.json").read_bytes()


def test_founding_and_delegating_again_change_no_byte(session):
    before = dict(session.store.files)
    assert changing.found(session, TOP).written == ()
    assert changing.delegate(session, "build-model", RoleKeys(("build-dan",))).written == ()
    assert session.store.files == before


def test_saying_it_again_changes_no_byte(session, make_bundle):
    folder = make_bundle()
    let_out(session, folder)
    before = dict(session.store.files)
    assert staging.stage(session, folder).changed is False
    assert staging.approve(session, "model", "assistant", "1.0.0").changed is False
    assert releasing.release(session, ONE).written == ()
    assert session.store.files == before


def test_the_builder_alone_releases_nothing(session, device, make_bundle):
    staging.stage(session, make_bundle())
    with pytest.raises(RefusedError, match=r"built and not approved.*both-roles"):
        releasing.release(session, ONE)
    assert releasing.release(session).written == ("build-model", "snapshot", "timestamp")
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.0.0")


def test_the_approver_cannot_approve_what_nobody_built(session):
    with pytest.raises(RefusedError, match="is not built"):
        staging.approve(session, "model", "assistant", "1.0.0")


def test_the_timer_lets_nothing_out(session, device, make_bundle, clock):
    staging.stage(session, make_bundle())
    staging.approve(session, "model", "assistant", "1.0.0")
    clock.forward(hours=20)
    assert releasing.refresh(session).written == ("timestamp",)
    assert releasing.refresh(session).written == ()
    assert log.anchor(session.look().state.snapshot.signed).entries == 6
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.0.0")
    clock.forward(days=6)
    assert releasing.refresh(session).written == ("snapshot", "timestamp")


def test_a_version_never_changes(session, make_bundle):
    staging.stage(session, make_bundle())
    before = dict(session.store.files)
    with pytest.raises(RefusedError, match="immutable"):
        staging.stage(session, make_bundle(text="other"))
    assert session.store.files == before


def test_a_withdrawn_release_is_refused_and_cannot_come_back_changed(session, device, make_bundle):
    let_out(session, make_bundle())
    device.manifest("assistant@1.0.0")
    done = releasing.withdraw(session, ONE, note="wrong answers")
    assert [event.what for event in done.events] == ["withdraw"]
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.0.0")
    assert releasing.withdraw(session, ONE, note="again").written == ()
    with pytest.raises(RefusedError, match="immutable"):
        staging.stage(session, make_bundle(text="other"))


def test_withdrawing_what_never_was(session):
    with pytest.raises(UsageError, match="is not released in dev"):
        releasing.withdraw(session, ONE, note="")


def test_a_threshold_of_builders(session, device, make_bundle):
    changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 2))
    folder = make_bundle()
    word = staging.stage(only(session, "build-dan"), folder)
    assert [(each.missing, each.by) for each in word.waiting] == [(1, ("build-eve",))]
    with pytest.raises(RefusedError, match="lacks signatures"):
        staging.approve(session, "model", "assistant", "1.0.0")
    assert staging.stage(only(session, "build-eve"), folder).waiting == ()
    staging.approve(only(session, "approve-fay"), "model", "assistant", "1.0.0")
    releasing.release(session, ONE)
    assert device.manifest("assistant@1.0.0")


def test_no_key_builds_and_approves(session):
    before = dict(session.store.files)
    with pytest.raises(RefusedError, match="separate-keys"):
        changing.rotate(session, "approve-model", RoleKeys(("build-dan",)))
    with pytest.raises(RefusedError, match="separate-keys"):
        changing.delegate(session, "approve-model-assistant", RoleKeys(("approve-gus", "build-dan")))
    assert session.store.files == before


def test_two_people(open_session, make_bundle):
    session = open_session(two_people=True)
    changing.found(session, TOP)
    changing.delegate(session, "build-model", RoleKeys(("targets-ann",)))
    changing.delegate(session, "approve-model", RoleKeys(("root-ann", "root-ben")))
    staging.stage(session, make_bundle())
    with pytest.raises(RefusedError, match=r"ann built assistant@1\.0\.0 and may not approve"):
        staging.approve(only(session, "root-ann"), "model", "assistant", "1.0.0")
    assert staging.approve(only(session, "root-ben"), "model", "assistant", "1.0.0").waiting == ()


def test_a_bundle_with_keys_of_its_own(session, device, make_bundle):
    let_out(session, make_bundle())
    changing.delegate(session, "build-model-assistant", RoleKeys(("build-eve",)))
    assert device.manifest("assistant@1.0.0"), "what the kind's role said was taken over"
    let_out(session, make_bundle("1.1.0"))
    assert device.manifest("assistant@1.1.0")
    own = session.look().published_targets("build-model-assistant").signed.targets
    kind = session.look().published_targets("build-model").signed.targets
    assert {path.split("/")[2] for path in own} == {"1.0.0", "1.1.0"}
    assert {path.split("/")[2] for path in kind} == {"1.0.0"}
    let_out(session, make_bundle("2.0.0", name="other"))
    assert device.manifest("other@2.0.0")


def test_a_kind_that_nobody_may_build(session, make_bundle):
    with pytest.raises(RefusedError, match="nobody may build runtime"):
        session.look().delegation("build", "runtime", "x")
    with pytest.raises(UsageError, match="no role that can be delegated"):
        changing.delegate(session, "build-nonsense", RoleKeys(("build-dan",)))


def test_a_plain_client_gets_the_approvers_word(session, make_bundle):
    """Whoever knows nothing of two roles walks the delegations: approvers come first, and end the walk."""
    changing.delegate(session, "build-model-assistant", RoleKeys(("build-eve",)))
    targets = session.look().state.targets.signed
    walk = list(targets.delegations.get_roles_for_target("models/assistant/1.0.0/manifest.json"))
    assert walk[0] == ("approve-model", True)


def test_promotion_copies_by_hash_and_signs_anew(session, open_session, make_bundle, tmp_path, clock):
    folder = make_bundle()
    let_out(session, folder)
    production = open_session(stage="production")
    changing.found(production, dict.fromkeys(TOP, RoleKeys(("spare",))))
    changing.delegate(production, "build-model", RoleKeys(("build-eve",)))
    changing.delegate(production, "approve-model", RoleKeys(("approve-gus",)))
    device = Device(production.store.files, tmp_path / "production", clock)
    with pytest.raises(UsageError, match=r"other@1\.0\.0 .* is not released in dev"):
        releasing.promote(session, production, Wanted("model", "other", "1.0.0"))
    word = releasing.promote(session, production, ONE)
    assert word.new_bytes > 0
    assert releasing.promote(session, production, ONE).changed is False
    with pytest.raises(TrustRefusedError):
        device.manifest("assistant@1.0.0")
    staging.approve(production, "model", "assistant", "1.0.0")
    done = releasing.release(production, ONE)
    event = done.events[0]
    assert (event.what, event.origin, event.built[0].owner, event.approved[0].owner) == ("promote", "dev", "eve", "gus")
    assert device.manifest("assistant@1.0.0") == (folder / "manifest.json").read_bytes()
    other = Device(session.store.files, tmp_path / "dev", clock)
    with pytest.raises(TrustRefusedError):
        other.manifest("assistant@1.0.0", production.store.files)


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_damaged_release_is_not_promoted(damage, session, open_session, make_bundle):
    let_out(session, make_bundle())
    production = open_session(stage="production")
    changing.found(production, TOP)
    changing.delegate(production, "build-model", RoleKeys(("build-eve",)))
    blob = next(session.store.list("targets/blobs/"))
    if damage == "gone":
        del session.store.files[blob]
    else:
        session.store.files[blob] = b"\0" + session.store.files[blob][1:]
    with pytest.raises(PublisherError, match=r"missing|damaged"):
        releasing.promote(session, production, ONE)
    assert list(production.store.list("staged/")) == []


def test_metadata_that_somebody_else_signed_is_not_built_upon(session, make_bundle):
    let_out(session, make_bundle())
    version = session.look().state.targets.signed.version
    path = f"metadata/{version}.targets.json"
    session.store.files[path] = session.store.files[path].replace(b'"threshold":1', b'"threshold":2')
    with pytest.raises(PublisherError, match="damaged"):
        staging.stage(session, make_bundle("1.1.0"))


def test_a_root_that_the_one_before_did_not_sign(session, open_session):
    thief = open_session()
    changing.found(thief, {**TOP, "root": RoleKeys(("build-eve",))})
    forged = repository.root_version(thief.store, 1)
    forged.signed.version = 2
    session.store.files["metadata/2.root.json"] = forged.to_bytes()
    with pytest.raises(PublisherError, match="root 2 is damaged"):
        session.look()


def test_recipe_and_packs_are_signed_and_promoted(session, open_session, make_bundle):
    folder = make_bundle()
    staging.stage(session, folder, packer=packer)
    staging.approve(session, "model", "assistant", "1.0.0")
    releasing.release(session, ONE)
    assert sorted(path.rpartition("/")[2] for path in releasing.released(session, ONE).files) == [
        "manifest.json", "transfer.json.zst",
    ]  # fmt: skip
    production = open_session(stage="production")
    changing.found(production, TOP)
    changing.delegate(production, "build-model", RoleKeys(("build-eve",)))
    releasing.promote(session, production, ONE)
    packs = list(session.store.list("targets/packs/"))
    assert packs
    assert {path: production.store.files.get(path) for path in packs} == {
        path: session.store.files[path] for path in packs
    }
    assert staging.stage(session, folder, packer=packer).changed is False


def test_a_recipe_of_something_else_is_not_approved(session, make_bundle):
    other = bundles.load(make_bundle("2.0.0", text="other"))
    staging.stage(session, make_bundle(), packer=lambda store, _: packer(store, other))
    with pytest.raises(PublisherError, match="recipe"):
        staging.approve(session, "model", "assistant", "1.0.0")
