"""A repository as its operators sign it, made with python-tuf directly: small, and able to do what no operator should.

Also the certificates of one gateway, for what speaks TLS.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.registry import trust_names as names
from hedgerow.registry.reference import Reference

FLEET, SITE = "meadow-client", "orchard"
GATEWAY = f"gw.{SITE}.{FLEET}"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFETIMES = {"root": 365, "snapshot": 7, "timestamp": 1}
TOP = ("root", "targets", "snapshot", "timestamp")
ASSISTANT = Reference("assistant", "1.0.0")
NEXT = Reference("assistant", "1.1.0")


def identity(folder, ca):
    """A gateway's key and certificate, and the CA's, as the files of a device are called."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "1" * 16)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    device = DeviceNames(fleet=FLEET, site=SITE, host="gw", serial="1" * 16)
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    (folder / "device.crt").write_text(ca.sign_csr(pem, Profile.GATEWAY, device))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "device.key").write_bytes(key.private_bytes(*plain))
    shutil.copy(ca.folder / "ca.crt", folder / "ca.crt")
    return folder


def manifest(reference=ASSISTANT, **more):
    return json.dumps({"schema": 2, "name": reference.name, "version": reference.version, **more}).encode()


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now

    def forward(self, **span):
        self.now += timedelta(**span)


class Repository:
    """``signed`` are the roles as they will be signed next; ``publish`` signs what is named and writes it.

    ``signers`` are the keys that sign, ``stolen`` may be anything: tests take keys from here.
    """

    def __init__(self, folder, clock, *, issued=True):
        self.folder, self.clock, self.issued = folder, clock, issued
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in TOP}
        root = Root(consistent_snapshot=True)
        for role in TOP:
            root.add_key(self.signers[role][0].public_key, role)
        targets = Targets(delegations=Delegations({}, {}))
        self.signed = {"root": root, "targets": targets, "snapshot": Snapshot(), "timestamp": Timestamp()}
        self.old_root_signers = []
        for purpose in names.PURPOSES:
            self.delegate(purpose, "model")
        self.publish(*self.signed)

    # -- who may sign what ---------------------------------------------------------

    def delegate(self, purpose, kind, bundle=None, *, signers=None, threshold=1, paths=None):
        """Name a role; sign ``targets`` afterwards."""
        role = names.role(purpose, kind, bundle)
        self.signers[role] = signers or [CryptoSigner.generate_ed25519() for _ in range(threshold)]
        delegations = self.signed["targets"].delegations
        keys = [signer.public_key for signer in self.signers[role]]
        delegations.keys.update({key.keyid: key for key in keys})
        patterns = paths or names.paths(kind, bundle)
        delegations.roles[role] = DelegatedRole(role, [key.keyid for key in keys], threshold, True, patterns)  # noqa: FBT003
        self.signed.setdefault(role, Targets())
        return role

    def rotate(self, role):
        """Another key for a top-level role; publish ``root`` afterwards."""
        root = self.signed["root"]
        if role == "root":
            self.old_root_signers += self.signers["root"]
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        self.signers[role] = [CryptoSigner.generate_ed25519()]
        root.add_key(self.signers[role][0].public_key, role)

    def rotated(self, *roles):
        """New keys for these and a new root, published with whatever they sign."""
        for role in roles:
            self.rotate(role)
        self.publish("root", *(role for role in roles if role != "root"))

    # -- releases --------------------------------------------------------------------

    def release(
        self, reference=ASSISTANT, kind="model", *, by=names.PURPOSES, bundle=None, data=None, file=names.MANIFEST
    ):
        """Write a release's file and let the roles of ``by`` vouch for it; the roles that changed."""
        data = manifest(reference, kind=kind) if data is None else data
        path = names.target(kind, reference.name, reference.version, file)
        changed = []
        for purpose in by:
            role = names.role(purpose, kind, bundle)
            self.signed[role].targets[path] = TargetFile.from_data(path, data, ["sha256"])
            changed.append(role)
        target = self.folder / "targets" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return changed

    def released(self, reference=ASSISTANT, kind="model", **options):
        self.publish(*self.release(reference, kind, **options))

    # -- signing ---------------------------------------------------------------------

    def publish(self, *roles, lifetimes=None):
        """Sign ``roles`` as new versions, then snapshot and timestamp, and write all in the right order."""
        order = [role for role in self.signed if role in roles and role not in {"snapshot", "timestamp"}]
        for role in [*order, "snapshot", "timestamp"]:
            if role not in {"root", "snapshot", "timestamp"}:
                self.signed["snapshot"].meta[f"{role}.json"] = MetaFile(self._next(role))
            if role == "timestamp":
                self.signed["timestamp"].snapshot_meta = MetaFile(self.signed["snapshot"].version)
            self.write(role, self.sign(role, lifetimes))

    def sign(self, role, lifetimes=None, *, signers=None):
        """The next version of ``role``."""
        signed = self.signed[role]
        signed.version = self._next(role)
        days = {**LIFETIMES, **(lifetimes or {})}.get(role, 90)
        signed.expires = self.clock.now + timedelta(days=days)
        if self.issued:
            signed.unrecognized_fields[names.ISSUED] = f"{self.clock.now:%Y-%m-%dT%H:%M:%SZ}"
        metadata = Metadata(copy.deepcopy(signed))
        by = signers or self.signers[role] + (self.old_root_signers if role == "root" else [])
        for signer in by:
            metadata.sign(signer, append=True)
        if role == "root":
            self.old_root_signers = []
        return metadata

    def write(self, role, metadata):
        name = f"{role}.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        path = self.folder / "metadata" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(metadata.to_bytes())
        self._written[role] = metadata.signed.version

    def _next(self, role):
        return self._written.get(role, 0) + 1

    @property
    def _written(self):
        return self.__dict__.setdefault("_versions", {})

    def pretend(self, role, version):
        """Let the next version of ``role`` be ``version``."""
        self._written[role] = version - 1


def device_trust(repository, folder, version=1):
    """A device's trust folder, as the role leaves it."""
    folder.mkdir()
    shutil.copy(repository.folder / "metadata" / f"{version}.root.json", folder / "root.json")
    return folder


def sha256(data):
    return hashlib.sha256(data).hexdigest()
