"""What a device believes of a registry: manifests and recipes that both a builder and an approver vouch for.

Trust, in this order; nothing is handed out before all of it holds:

- The metadata are verified by python-tuf's client from the root in the trust folder: signatures, thresholds, expiry by
  the trusted time (``client.times``), no step back to older metadata, no mixture.
- Builder and approver of the bundle vouch for the same content (``client.roles``).
- The bytes are that content, and the manifest describes the bundle and the kind that its place says.

A refusal changes nothing on the device: what serves goes on serving, and what was staged can still be activated.
"""

from __future__ import annotations

import hashlib
import time as clocks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import DownloadError, RepositoryError

from hedgerow.errors import PublisherError
from hedgerow.registry import trust_names as names
from hedgerow.registry.client import anchor, roles
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.limits import Limits
from hedgerow.registry.client.metadata import BoundedFetcher
from hedgerow.registry.client.refusals import VERIFY, explain
from hedgerow.registry.client.roles import RuleBrokenError, Vouchers
from hedgerow.registry.client.times import TrustedTime
from hedgerow.registry.client.updater import RoleUpdater
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import Source


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Vouched:
    """A target that both roles vouch for: its address, its identity, and who they are."""

    path: str
    length: int
    sha256: str
    by: Vouchers


class Trusted:
    """A registry as one device trusts it. Refreshes when first asked; ``refresh`` looks again.

    ``synced`` is whether the device's clock is synchronised, None where nobody knows.
    """

    def __init__(
        self,
        source: Source,
        trust_dir: Path,
        *,
        now: Callable[[], datetime] = _utc,
        synced: bool | None = None,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = clocks.monotonic,
    ) -> None:
        self._source = source
        self._trust_dir = trust_dir
        self._now = now
        self._synced = synced
        self._limits = limits or Limits()
        self._monotonic = monotonic
        self._fetcher = BoundedFetcher(source, self._limits.refresh_s, monotonic)
        self._updater: RoleUpdater | None = None
        self._refreshed = 0.0

    def refresh(self) -> TrustedTime:
        """Verify the registry's metadata as of now; the time that they prove.

        Raises:
            TrustRefusedError: a rule is broken.
            NetworkError: the registry cannot be reached, or sends too slowly.
            UsageError: this device has no root of trust.
            DeviceError: another process works on the trust folder.
        """
        with anchor.only_one(self._trust_dir):
            return self._refresh().time

    def manifest(self, reference: Reference, kind: str = "model") -> bytes:
        """The bundle's manifest.

        Raises:
            TrustRefusedError, NetworkError, UsageError, DeviceError: as ``refresh``.
            PublisherError: it is vouched for, and not there.
        """
        data = self._fetch(reference, kind, names.MANIFEST, self._limits.manifest)
        self._check_named(data, reference, kind)
        return data

    def transfer(self, reference: Reference, kind: str = "model") -> bytes:
        """The recipe by which the bundle travels, as it lies in the registry (compressed).

        Raises:
            TrustRefusedError, NetworkError, UsageError, DeviceError, PublisherError: as ``manifest``.
        """
        return self._fetch(reference, kind, names.TRANSFER, self._limits.transfer)

    def vouched(self, reference: Reference, kind: str = "model", file: str = names.MANIFEST) -> Vouched:
        """Who vouches for which content of a release's file; nothing of it is fetched.

        Raises:
            TrustRefusedError, NetworkError, UsageError, DeviceError: as ``refresh``.
        """
        path = names.target(kind, reference.name, reference.version, file)
        with anchor.only_one(self._trust_dir):
            updater = self._current()
            with self._judged(updater):
                try:
                    by = roles.vouchers(updater.delegations, kind, reference.name, path)
                    target = roles.agreed(
                        updater.target(by.build, path), updater.target(by.approve, path), by, f"{reference} ({file})"
                    )
                except RuleBrokenError as error:
                    raise self._refused(error.rule, error.what) from error
        return Vouched(path, target.length, target.hashes["sha256"], by)

    def _current(self) -> RoleUpdater:
        if self._updater is None or self._monotonic() > self._refreshed + self._limits.reuse_s:
            return self._refresh()
        self._fetcher.restart()
        return self._updater

    def _refresh(self) -> RoleUpdater:
        self._updater = None
        self._fetcher.restart()
        root = anchor.root(self._trust_dir)
        time = TrustedTime(self._now(), synced=self._synced)
        with self._judged(time):
            updater = RoleUpdater(
                self._trust_dir, self._source.url, self._fetcher, limits=self._limits, root=root, time=time
            )
        with self._judged(updater):
            updater.refresh()
        self._updater, self._refreshed = updater, self._monotonic()
        return updater

    def _fetch(self, reference: Reference, kind: str, file: str, most: int) -> bytes:
        vouched = self.vouched(reference, kind, file)
        if vouched.length > most:
            raise self._refused(Rule.TOO_LONG, f"{vouched.path} is too large: {vouched.length} bytes, at most {most}")
        data = bytearray()
        try:
            with self._source.open(f"targets/{vouched.path}") as blocks:
                for block in blocks:
                    data += block
                    if len(data) > vouched.length:
                        raise self._refused(
                            Rule.TOO_LONG,
                            f"{vouched.path} is longer than the {vouched.length} bytes that were signed for",
                        )
        except FileNotFoundError as error:
            raise PublisherError(
                f"{vouched.path} is vouched for, but not in the registry",
                where=self._source.url,
                next_step="bring the registry to the gateway again: playbooks/publish.yml",
            ) from error
        if len(data) != vouched.length or hashlib.sha256(data).hexdigest() != vouched.sha256:
            raise self._refused(Rule.MIXTURE, f"{vouched.path} is not the content that was signed for")
        return bytes(data)

    def _check_named(self, data: bytes, reference: Reference, kind: str) -> None:
        try:
            named = msgspec.json.decode(data, type=_Named)
        except msgspec.MsgspecError as error:
            raise self._refused(Rule.MISNAMED, f"the manifest of {reference} cannot be read: {error}") from error
        if (named.kind, named.name, named.version) != (kind, reference.name, reference.version):
            raise self._refused(
                Rule.MISNAMED,
                f"the manifest of {kind} {reference} describes {named.kind} {named.name}@{named.version}",
            )

    def _refused(self, rule: Rule, what: str) -> TrustRefusedError:
        return TrustRefusedError(what, rule=rule, url=self._source.url, next_step=VERIFY)

    @contextmanager
    def _judged(self, known: RoleUpdater | TrustedTime) -> Iterator[None]:
        """python-tuf's errors as ours; ``known`` says what time it was then."""
        try:
            yield
        except (RepositoryError, DownloadError) as error:
            time = known.time if isinstance(known, RoleUpdater) else known
            raise explain(error, time, self._source.url) from error


class _Named(msgspec.Struct):
    """What of a manifest, of any schema, its place must agree with. The rest is for whoever decodes it whole."""

    name: str
    version: str
    kind: str = "model"
