"""A registry in S3, or in any server that speaks it.

- Two publishers cannot overwrite each other: ``lock`` is a lease (``stores.lease``), and what is written under it is
  fenced: the lease is looked at *after* the file's tag was learnt, and the write is on condition of that tag. Blobs and
  packs need no fence, because their name is their content.
- Whether a server keeps conditions is asked, never believed: ``lock`` tries a write that must be refused.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import botocore.exceptions as boto

from hedgerow.errors import UsageError
from hedgerow.registry.store import Entry, Tagged
from hedgerow.registry.stores import s3_errors
from hedgerow.registry.stores.lease import DEFAULT_TTL_S, Lease
from hedgerow.registry.stores.s3_bucket import Bucket, to_base64
from hedgerow.registry.stores.settings import S3Settings

_LEASE: Final = ".lease"
_PROBE: Final = ".conditional"
# How long two publishers wait for each other where the server ignores conditions.
_SETTLE_S: Final = 2.0
# No file has this tag: nobody has seen content whose MD5 is all zeros.
_NO_TAG: Final = '"00000000000000000000000000000000"'


class S3Store:
    """An ``ObjectStore`` in the bucket that ``settings`` name. Safe for threads, except for ``lock`` itself.

    ``ttl_s`` is the life of a lease that its holder stops renewing, ``settle_s`` the wait of ``stores.lease``; seconds.
    """

    def __init__(self, settings: S3Settings, *, ttl_s: float = DEFAULT_TTL_S, settle_s: float = _SETTLE_S) -> None:
        self._bucket = Bucket(settings)
        self._ttl_s = ttl_s
        self._settle_s = settle_s
        self._conditional = settings.conditional
        self._lease: Lease | None = None
        # Tags of what was read or written under the lease; None of what was not there.
        self._seen: dict[str, str | None] = {}

    @property
    def where(self) -> str:
        return self._bucket.where

    def get(self, path: str) -> bytes | None:
        tagged = self._bucket.get(path)
        if self._lease is not None:
            self._seen[path] = None if tagged is None else tagged.etag
        return None if tagged is None else tagged.data

    def get_tagged(self, path: str) -> Tagged | None:
        return self._bucket.get(path)

    def put(self, path: str, data: bytes) -> None:
        if self._lease is None:
            self._bucket.put(path, data)
            return
        if path not in self._seen:
            self._seen[path] = self._tag(path)
        self._lease.check()
        etag = self._seen[path]
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        written = self._bucket.put(path, data, **(condition if self._conditional else {}))
        if written is None:
            self._seen.pop(path)
            self._lease.check()  # says who, if that is why
            raise UsageError(
                "somebody changed this file while the registry was leased to this process",
                where=f"{self.where}, {path}",
                next_step="find who writes without the lease (the bucket's access log); then run it again",
            )
        self._seen[path] = written

    def put_new(self, path: str, data: bytes) -> bool:
        if not self._conditional:
            return self.size(path) is None and self._bucket.put(path, data) is not None
        return self._bucket.put(path, data, IfNoneMatch="*") is not None

    def put_if(self, path: str, data: bytes, etag: str) -> bool:
        if not self._conditional:
            return self._tag(path) == etag and self._bucket.put(path, data) is not None
        return self._bucket.put(path, data, IfMatch=etag) is not None

    def put_file(self, path: str, source: Path) -> None:
        self._bucket.put_file(path, source)

    def holds(self, path: str, *, size: int, sha256: str) -> bool:
        answer = self._bucket.head(path)
        if answer is None or answer["ContentLength"] != size:
            return False
        kept = answer.get("ChecksumSHA256", "")
        if kept and "-" not in kept:  # with a dash it is the parts' checksums' own
            return bool(kept == to_base64(sha256))
        hasher = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError), self.open(path) as blocks:
            for block in blocks:
                hasher.update(block)
        return hasher.hexdigest() == sha256

    def list(self, prefix: str) -> Iterator[str]:
        return (entry.path for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        for entry in self._bucket.entries(prefix):
            name = entry.path.rpartition("/")[2]
            if name and not name.startswith("."):  # without a name it is what a console shows as a folder
                yield entry

    def delete(self, path: str) -> None:
        self._bucket.delete(path)

    def size(self, path: str) -> int | None:
        answer = self._bucket.head(path)
        return None if answer is None else int(answer["ContentLength"])

    def open(self, path: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        return self._bucket.open(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self._bucket.read_range(path, offset, length)

    def discard_unfinished(self, older_than_s: float) -> int:
        return self._bucket.abort_uploads(older_than_s)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self._conditional = self._conditional and self._keeps_conditions()
        settle_s = None if self._conditional else self._settle_s
        lease = Lease(self, _LEASE, work="publishing", ttl_s=self._ttl_s, settle_s=settle_s)
        with lease.held():
            self._lease, self._seen = lease, {}
            try:
                yield
            finally:
                self._lease, self._seen = None, {}

    def _keeps_conditions(self) -> bool:
        """Ask for what must be refused: a server that does it ignores conditions, and has a file of no bytes now."""
        try:
            return self._bucket.put(_PROBE, b"", IfMatch=_NO_TAG) is None
        except UsageError as error:
            cause = error.__cause__
            if isinstance(cause, boto.ClientError) and s3_errors.code(cause) in s3_errors.NOT_IMPLEMENTED:
                return False
            raise

    def _tag(self, path: str) -> str | None:
        answer = self._bucket.head(path)
        return None if answer is None else str(answer["ETag"])
