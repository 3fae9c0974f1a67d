"""Whoever may write to the store, and has no key, gets nothing signed by those who have."""

from __future__ import annotations

import pytest
from tests.unit.registry.authority.conftest import let_out, only
from tuf.api.metadata import Metadata, TargetFile

from hedgerow.errors import RefusedError
from hedgerow.registry.authority import changing, releasing, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.releasing import Wanted

EVIL = "models/evil/6.6.6/manifest.json"


def plant(session, role, change):
    """Leave a next version in the store that nobody signed."""
    draft = session.look()
    published = draft.published_root() if role == "root" else draft.published_targets(role)
    metadata = Metadata.from_bytes(published.to_bytes())
    metadata.signed.version += 1
    metadata.signatures.clear()
    change(metadata.signed)
    session.store.files[f"staged/{role}.json"] = metadata.to_bytes()


def name_evil(targets):
    targets.targets[EVIL] = TargetFile.from_data(EVIL, b"evil", ["sha256"])


@pytest.mark.parametrize("role", ["build-model", "approve-model"])
def test_nobody_signs_a_bundle_that_a_stranger_put_beside(role, session, make_bundle):
    folder = make_bundle()
    if role == "approve-model":
        staging.stage(session, folder)
    plant(session, role, name_evil)
    before = dict(session.store.files)
    with pytest.raises(RefusedError, match="own-words") as caught:
        let_out(session, folder)
    assert caught.value.next_step.endswith(f"hedgerow registry discard {role} drops it")
    staged = {path: data for path, data in session.store.files.items() if path.startswith("staged/")}
    assert staged == {path: data for path, data in before.items() if path.startswith("staged/")}
    assert changing.discard(session, role) is True
    assert changing.discard(session, role) is False
    let_out(session, folder)
    assert not any(EVIL in each.signed.targets for each in session.look().state.delegated.values())


@pytest.mark.parametrize("role", ["root", "targets"])
def test_nobody_signs_keys_that_a_stranger_put_beside(role, session, all_keys, make_bundle):
    thief = changing.public_keys(all_keys[1], ["build-eve"])[0]

    def give_all(signed):
        if role == "root":
            signed.add_key(thief, "timestamp")
        else:
            signed.add_key(thief, "approve-model")

    plant(session, role, give_all)
    let_out(session, make_bundle())
    changing.rotate(session, "build-model" if role == "root" else "root", NEW[role])
    state = session.look().state
    assert thief.keyid not in {**state.root.signed.keys, **state.targets.signed.delegations.keys}


NEW = {"root": RoleKeys(("spare",)), "targets": RoleKeys(("root-ben", "root-cem", "spare"), 2)}


def test_a_longer_life_is_another_word(session, make_bundle):
    folder = make_bundle()
    changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 2))
    staging.stage(only(session, "build-dan"), folder)
    path = "staged/build-model.json"
    metadata = Metadata.from_bytes(session.store.files[path])
    metadata.signed.expires = metadata.signed.expires.replace(year=metadata.signed.expires.year + 50)
    session.store.files[path] = metadata.to_bytes()
    with pytest.raises(RefusedError, match="own-words"):
        staging.stage(only(session, "build-eve"), folder)


def test_one_of_two_builders_smuggles_nothing_past_the_other(session, make_bundle):
    changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 2))
    staging.stage(only(session, "build-dan"), make_bundle("6.6.6"))
    with pytest.raises(RefusedError, match="own-words"):
        staging.stage(only(session, "build-eve"), make_bundle())
    changing.discard(session, "build-model")
    let_out(session, make_bundle("1.1.0"))
    assert releasing.released(session, Wanted("model", "assistant", "6.6.6")) is None
