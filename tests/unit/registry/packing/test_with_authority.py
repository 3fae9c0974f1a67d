"""The whole way of a release: staged with packs, approved, released, believed by a device, spared by a sweep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hedgerow.registry.authority import changing, keys, releasing, settings, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settings import Settings
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.packing import publish as packing
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import FolderSource
from hedgerow.registry.stores import copying, open_store, sweep
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import check_agrees, pack_path

OWNERS = {"root": "ann", "targets": "ann", "snapshot": "c", "timestamp": "c", "build": "dan", "approve": "fay"}


@pytest.fixture
def session(store, tmp_path):
    folder = tmp_path / "stage"
    folder.mkdir()
    made = Settings(schema=1, fleet="meadow", stage="dev")
    for name, owner in OWNERS.items():
        made = settings.add_key(made, name, keys.generate(folder, name, owner, "a passphrase"))
    (folder / "passphrase").write_text("a passphrase\n")
    (folder / "passphrase").chmod(0o600)
    opened = Session(folder, made, store, Passphrases({None: folder / "passphrase"}))
    changing.found(opened, {role: RoleKeys((role,)) for role in ("root", "targets", "snapshot", "timestamp")})
    changing.delegate(opened, "build-model", RoleKeys(("build",)))
    changing.delegate(opened, "approve-model", RoleKeys(("approve",)))
    return opened


def release(session, bundle):
    staging.stage(session, bundle.directory, packer=packing.packer)
    # Not even what waits for its approval may be swept.
    assert sweep.plan(session.store, now=datetime.now(UTC) + timedelta(days=400), grace_s=0).remove == ()
    of = bundle.manifest
    staging.approve(session, "model", of.name, of.version)
    releasing.release(session, Wanted("model", of.name, of.version))


@pytest.mark.slow
def test_from_a_folder_to_what_a_device_believes(session, make_bundle, weights, tmp_path):
    bundles = [make_bundle("1.0.0", weights()), make_bundle("1.1.0", weights(changed=(2,)))]
    for bundle in bundles:
        release(session, bundle)
    store = session.store
    copy = open_store(str(tmp_path / "origin"))
    copying.copy(store, copy)
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "root.json").write_bytes(copy.get("metadata/1.root.json"))
    device = Trusted(FolderSource(copy.root), trust)
    for bundle in bundles:
        reference = Reference(bundle.manifest.name, bundle.manifest.version)
        assert device.manifest(reference) == (bundle.directory / "manifest.json").read_bytes()
        recipe = codec.decode(device.transfer(reference), where="test")
        check_agrees(recipe, bundle.manifest)
        for pack in named_packs(copy, recipe):
            assert copy.holds(f"targets/{pack_path(pack.sha256)}", size=pack.size, sha256=pack.sha256)
    assert [offer.version for offer in recipe.patches] == ["1.0.0"]
    assert sweep.plan(store, now=datetime.now(UTC), grace_s=0).remove == ()
