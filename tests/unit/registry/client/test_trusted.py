"""What a device believes, over a registry in a folder. The attacks over a line are in tests/faults/test_attacks.py."""

from __future__ import annotations

import pytest
from client_support import ASSISTANT, NEXT, manifest, sha256

from hedgerow.registry import trust_names as names
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.limits import Limits


def refused(view, reference=ASSISTANT, kind="model"):
    with pytest.raises(TrustRefusedError) as caught:
        view.manifest(reference, kind)
    return caught.value


def test_a_release_that_two_vouch_for(device):
    view = device()
    assert view.manifest(ASSISTANT) == manifest(kind="model")
    vouched = view.vouched(ASSISTANT)
    assert (vouched.by.build, vouched.by.approve) == ("build-model", "approve-model")
    assert vouched.sha256 == sha256(manifest(kind="model"))


def test_its_recipe(device, repository):
    recipe = b"\x28\xb5\x2f\xfd a recipe"
    repository.released(file=names.TRANSFER, data=recipe)
    assert device().transfer(ASSISTANT) == recipe
