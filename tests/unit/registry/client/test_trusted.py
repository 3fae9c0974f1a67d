"""What a device believes, over a registry in a folder. The attacks over a line are in tests/faults/test_attacks.py."""

from __future__ import annotations

import errno
import shutil

import pytest
from client_support import ASSISTANT, NEXT, CryptoSigner, DelegatedRole, Delegations, TargetFile, manifest, sha256
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import atomic
from hedgerow.errors import DeviceError, NetworkError, PublisherError, UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.client import roles
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.limits import Limits
from hedgerow.registry.client.roles import RuleBrokenError
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import FolderSource, ForbiddenError

PATH = names.target("model", ASSISTANT.name, ASSISTANT.version)


def refused(view, reference=ASSISTANT, kind="model"):
    with pytest.raises(TrustRefusedError) as caught:
        view.manifest(reference, kind)
    assert caught.value.exit_code == 3
    assert f"(rule: {caught.value.rule})" in caught.value.where
    assert caught.value.next_step
    return caught.value.rule


# -- two vouch -----------------------------------------------------------------------


def test_a_release_that_two_vouch_for(device):
    view = device()
    assert view.manifest(ASSISTANT) == manifest(kind="model")
    vouched = view.vouched(ASSISTANT)
    assert (vouched.by.build, vouched.by.approve) == ("build-model", "approve-model")
    assert (vouched.path, vouched.sha256) == (PATH, sha256(manifest(kind="model")))


def test_its_recipe(device, repository):
    recipe = b"\x28\xb5\x2f\xfd a recipe"
    repository.released(file=names.TRANSFER, data=recipe)
    assert device().transfer(ASSISTANT) == recipe


@pytest.mark.parametrize(
    "by, rule",
    [([], Rule.UNKNOWN), ([names.BUILD], Rule.NOT_APPROVED), ([names.APPROVE], Rule.NOT_BUILT)],
)
def test_one_of_the_two_is_not_enough(by, rule, device, repository):
    repository.released(NEXT, by=by)
    assert refused(device(), NEXT) is rule
    assert device().manifest(ASSISTANT)


def test_two_that_vouch_for_different_content(device, repository):
    repository.release(NEXT, by=[names.BUILD], data=manifest(NEXT, note="one"))
    repository.release(NEXT, by=[names.APPROVE], data=manifest(NEXT, note="two"))
    repository.publish("build-model", "approve-model")
    assert refused(device(), NEXT) is Rule.DISAGREE


def test_equal_hashes_of_different_lengths_are_no_agreement(device, repository):
    repository.signed["build-model"].targets[PATH].length += 1
    repository.publish("build-model")
    assert refused(device()) is Rule.DISAGREE


def test_a_hash_of_another_kind_vouches_for_nothing(device, repository):
    for role in ("build-model", "approve-model"):
        repository.signed[role].targets[PATH] = TargetFile.from_data(PATH, manifest(kind="model"), ["sha512"])
    repository.publish("build-model", "approve-model")
    assert refused(device()) is Rule.MALFORMED


def test_an_approval_that_was_taken_back(device, repository):
    assert device().manifest(ASSISTANT)
    del repository.signed["approve-model"].targets[PATH]
    repository.publish("approve-model")
    assert refused(device()) is Rule.NOT_APPROVED


def test_the_top_level_targets_vouch_for_no_release(device, repository):
    data = manifest(NEXT)
    repository.release(NEXT, by=[])
    path = names.target("model", NEXT.name, NEXT.version)
    repository.signed["targets"].targets[path] = TargetFile.from_data(path, data, ["sha256"])
    repository.publish("targets")
    assert refused(device(), NEXT) is Rule.UNKNOWN


def test_a_registry_of_the_old_form_names_nobody(device, repository):
    repository.signed["targets"].delegations = None
    repository.publish("targets")
    assert refused(device()) is Rule.NO_ROLE


def test_a_kind_that_nobody_may_release(device, repository):
    assert refused(device(), ASSISTANT, "runtime") is Rule.NO_ROLE


# -- whose word counts ------------------------------------------------------------------


def test_a_bundle_with_keys_of_its_own_is_not_spoken_for_by_its_kind(device, repository):
    own = repository.delegate(names.BUILD, "model", "assistant")
    repository.publish("targets", own)
    assert refused(device()) is Rule.NOT_BUILT  # although build-model still vouches for it
    repository.release(by=[names.BUILD], bundle="assistant")
    repository.publish(own)
    assert device().vouched(ASSISTANT).by.build == own
    other = Reference("ears", "1.0.0")
    repository.released(other)
    assert device().vouched(other).by.build == "build-model"


def test_a_bundles_own_role_without_its_paths_vouches_for_nothing(device, repository):
    own = repository.delegate(names.APPROVE, "model", "assistant", paths=["models/ears/*/*"])
    repository.release(by=[names.APPROVE], bundle="assistant")
    repository.publish("targets", own)
    assert refused(device()) is Rule.NO_ROLE


def test_a_role_of_one_bundle_may_not_speak_for_another(device, repository):
    """Shadowing: ``build-model-ears`` claims the assistant's paths, and stands first."""
    thief = repository.delegate(names.BUILD, "model", "ears", paths=["models/*/*/*"])
    delegations = repository.signed["targets"].delegations
    delegations.roles = {thief: delegations.roles.pop(thief), **delegations.roles}
    repository.release(data=manifest(note="another"), by=[names.BUILD], bundle="ears")
    (repository.folder / "targets" / PATH).write_bytes(manifest(kind="model"))
    repository.publish("targets", thief)
    assert device().vouched(ASSISTANT).by.build == "build-model"
    assert device().manifest(ASSISTANT) == manifest(kind="model")


def test_a_delegation_below_the_builder_approves_nothing(device, repository):
    """The builder cannot appoint an approver: only the top-level targets name roles."""
    signer = CryptoSigner.generate_ed25519()
    builder = repository.signed["build-model"]
    del repository.signed["targets"].delegations.roles["approve-model"]
    role = DelegatedRole("approve-model", [signer.public_key.keyid], 1, True, ["models/*/*/*"])  # noqa: FBT003
    builder.delegations = Delegations({signer.public_key.keyid: signer.public_key}, {"approve-model": role})
    repository.signers["approve-model"] = [signer]
    repository.publish("targets", "build-model", "approve-model")
    assert refused(device()) is Rule.NO_ROLE


@pytest.mark.parametrize("renamed", [False, True], ids=["one id", "another id"])
def test_one_key_may_not_speak_for_both(renamed, device, repository):
    thief = repository.signers["build-model"][0]
    if renamed:
        thief = under_another_id(thief)
    repository.delegate(names.APPROVE, "model", signers=[thief])
    repository.publish("targets", "approve-model")
    assert refused(device()) is Rule.SHARED_KEY


def test_one_key_under_two_ids_does_not_make_a_threshold(device, repository):
    signer = CryptoSigner.generate_ed25519()
    repository.delegate(names.APPROVE, "model", signers=[signer, under_another_id(signer)], threshold=2)
    repository.publish("targets", "approve-model")
    assert refused(device()) is Rule.SHARED_KEY


def under_another_id(signer):
    document = signer.public_key.to_dict()
    key = type(signer.public_key).from_dict("ab" * 32, document)
    return CryptoSigner(signer._private_key, key)


ROLES = ("build-model", "approve-model", "build-model-assistant", "approve-model-ears", "build-runtime")
KEYS = {role: CryptoSigner.generate_ed25519().public_key for role in ROLES}


@given(st.permutations(ROLES))
def test_the_order_of_delegations_decides_nothing(order):
    found = {}
    for role in order:
        _, kind, bundle = names.parse_role(role)
        found[role] = DelegatedRole(role, [KEYS[role].keyid], 1, True, names.paths(kind, bundle))  # noqa: FBT003
    delegations = Delegations({key.keyid: key for key in KEYS.values()}, found)
    by = roles.vouchers(delegations, "model", "assistant", PATH)
    assert (by.build, by.approve) == ("build-model-assistant", "approve-model")
    with pytest.raises(RuleBrokenError, match="nobody as approve-runtime"):
        roles.vouchers(delegations, "runtime", "assistant", names.target("runtime", "assistant", "1.0.0"))


# -- the bytes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        manifest(kind="runtime"),
        manifest(NEXT, kind="model"),
        manifest(Reference("ears", "1.0.0"), kind="model"),
        b"no JSON",
        b"[]",
    ],
)
def test_a_manifest_in_a_place_that_is_not_its_own(data, device, repository):
    repository.released(data=data)
    assert refused(device()) is Rule.MISNAMED


def test_a_manifest_of_the_first_schema_is_a_model(device, repository):
    repository.released(data=manifest())
    assert device().manifest(ASSISTANT) == manifest()


def test_a_manifest_larger_than_any(device):
    assert refused(device(limits=Limits(manifest=10))) is Rule.TOO_LONG


@pytest.mark.parametrize(
    "alter, rule",
    [
        (lambda data: data + b" ", Rule.TOO_LONG),
        (lambda data: data[:-1], Rule.MIXTURE),
        (lambda data: data.replace(b"a", b"o"), Rule.MIXTURE),
    ],
)
def test_other_bytes_than_were_signed_for(alter, rule, device, repository):
    file = repository.folder / "targets" / PATH
    file.write_bytes(alter(file.read_bytes()))
    assert refused(device()) is rule


def test_a_manifest_that_is_missing_is_the_publishers_fault(device, repository):
    (repository.folder / "targets" / PATH).unlink()
    with pytest.raises(PublisherError, match="vouched for, but not in the registry"):
        device().manifest(ASSISTANT)


# -- the trust folder ---------------------------------------------------------------------


def test_without_a_root_of_trust_nobody_is_believed(device, trust_dir):
    (trust_dir / "root.json").unlink()
    with pytest.raises(UsageError, match="no root of trust"):
        device().manifest(ASSISTANT)
    shutil.rmtree(trust_dir)
    with pytest.raises(UsageError, match="no root of trust"):
        device().refresh()


def test_a_disk_that_takes_nothing_is_the_devices_fault(device, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/hedgerow/trust")

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(DeviceError, match="trust folder cannot be kept: No space"):
        device().manifest(ASSISTANT)


# -- asking again ------------------------------------------------------------------------


class Counted(FolderSource):
    def __init__(self, root):
        super().__init__(root)
        self.asked = []

    def open(self, path):
        self.asked.append(path)
        return super().open(path)


def test_what_was_just_refreshed_is_not_asked_for_again(repository, device):
    seconds = [0.0]
    view = device(monotonic=lambda: seconds[0])
    view._source = view._fetcher._source = source = Counted(repository.folder)
    view.manifest(ASSISTANT)
    before = source.asked.count("metadata/timestamp.json")
    view.vouched(ASSISTANT)
    assert source.asked.count("metadata/timestamp.json") == before == 1
    repository.released(NEXT)
    seconds[0] += Limits().reuse_s + 1
    assert view.manifest(NEXT)
    assert source.asked.count("metadata/timestamp.json") == 2


def test_metadata_that_take_too_long_altogether(device):
    seconds = iter(range(0, 10_000, 250))
    view = device(monotonic=lambda: next(seconds))
    with pytest.raises(NetworkError, match="did not arrive within 600 s"):
        view.refresh()


def test_a_store_that_forbids_what_is_not_there(device, repository, monkeypatch):
    """S3 answers 403 for the next root, which is not there, to whoever may not list."""

    class S3(FolderSource):
        def open(self, path):
            if not (repository.folder / path).exists():
                raise ForbiddenError("HTTP 403", where=path)
            return super().open(path)

    view = device()
    view._source = view._fetcher._source = S3(repository.folder)
    assert view.manifest(ASSISTANT)
    (repository.folder / "metadata/timestamp.json").unlink()
    with pytest.raises(ForbiddenError):
        view.refresh()
