"""Requests to one bucket: each with the checksum, the encryption and the description that it needs, and clear errors.

What the answers mean for a registry is ``stores.s3``. Every upload carries the SHA-256 of its bytes, which the server
compares before it keeps them. Retries are botocore's, adaptive: it also slows down when the server asks for that.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.exceptions as boto
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from hedgerow.errors import UsageError
from hedgerow.registry.bundle import hash_file
from hedgerow.registry.store import Entry, Tagged
from hedgerow.registry.stores import s3_errors
from hedgerow.registry.stores.s3_errors import naming
from hedgerow.registry.stores.settings import DEFAULT_REGION, S3Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_BLOCK: Final = 1 << 20
# Above the 32 MiB of a pack: those keep a checksum of the whole file, which ``kept_sha256`` answers from; of what went
# up in parts a server keeps one of the parts' checksums.
_IN_PARTS_FROM: Final = 40 << 20
_PART: Final = 16 << 20
_THREADS: Final = 4
# Idle connections kept; packing sends several packs at a time, each perhaps in parts.
_POOL: Final = 16
_CONNECT_S: Final = 5
_READ_S: Final = 60


class Bucket:
    """``settings`` say where; credentials come by the standard chain. Paths are below its prefix. Safe for threads.

    Every method raises as ``s3_errors.naming`` says.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.where = settings.where
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._s3 = _client(settings)
        self._encryption: dict[str, Any] = {}
        if settings.sse is not None:
            self._encryption["ServerSideEncryption"] = settings.sse
        if settings.kms_key is not None:
            self._encryption["SSEKMSKeyId"] = settings.kms_key

    def get(self, path: str) -> Tagged | None:
        with naming(self.where, path):
            try:
                answer = self._s3.get_object(**self._at(path))
                return Tagged(answer["Body"].read(), answer["ETag"], _age_s(answer["LastModified"], _date(answer)))
            except boto.ClientError as error:
                if s3_errors.code(error) in s3_errors.NOT_FOUND:
                    return None
                raise

    def put(self, path: str, data: bytes, **condition: str) -> str | None:
        """The new tag; None where ``condition`` (``IfMatch``, ``IfNoneMatch``) does not hold.

        Where the answer to a conditional write was lost it was carried out, and its second try is refused by its own
        result; so what is there is read before this says no.
        """
        described: dict[str, Any] = {**self._at(path), **_described(path), **self._encryption, **condition}
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with naming(self.where, path):
            try:
                return self._s3.put_object(**described, Body=data, ChecksumSHA256=checksum)["ETag"]
            except boto.ClientError as error:
                gone = s3_errors.NOT_FOUND if "IfMatch" in condition else frozenset[str]()
                if not condition or s3_errors.code(error) not in s3_errors.CONFLICT | gone:
                    raise
                present = self.get(path) if s3_errors.retried(error) else None
                return present.etag if present is not None and present.data == data else None

    def put_file(self, path: str, source: Path) -> None:
        size = source.stat().st_size
        described: dict[str, Any] = {**_described(path), **self._encryption}
        with naming(self.where, path):
            if size < _IN_PARTS_FROM:
                checksum = to_base64(hash_file(source))
                with source.open("rb") as body:
                    self._s3.put_object(
                        **self._at(path), **described, Body=body, ContentLength=size, ChecksumSHA256=checksum
                    )
                return
            how = TransferConfig(
                multipart_threshold=_IN_PARTS_FROM, multipart_chunksize=_PART, max_concurrency=_THREADS
            )
            described["ChecksumAlgorithm"] = "SHA256"
            self._s3.upload_file(str(source), **self._at(path), ExtraArgs=described, Config=how)

    def head(self, path: str) -> Any | None:
        """Size (``ContentLength``), tag (``ETag``), and ``ChecksumSHA256`` where the server keeps it."""
        with naming(self.where, path):
            try:
                return self._s3.head_object(**self._at(path), ChecksumMode="ENABLED")
            except boto.ClientError as error:
                if s3_errors.code(error) in s3_errors.NOT_FOUND:
                    return None
                raise

    def entries(self, prefix: str) -> Iterator[Entry]:
        with naming(self.where, prefix):
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                now = _date(page)
                for found in page.get("Contents", ()):
                    path = found["Key"].removeprefix(self._prefix)
                    yield Entry(path, found["Size"], _age_s(found["LastModified"], now))

    def delete(self, path: str) -> None:
        with naming(self.where, path):
            self._s3.delete_object(**self._at(path))

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        with naming(self.where, path), contextlib.closing(self._open(path)["Body"]) as body:
            yield body.iter_chunks(_BLOCK)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        with naming(self.where, path):
            try:
                answer = self._open(path, Range=f"bytes={offset}-{offset + length - 1}")
            except boto.ClientError as error:
                if s3_errors.code(error) in s3_errors.BEYOND_ITS_END:
                    return b""
                raise
            data: bytes = answer["Body"].read()
            # A server that ignores ranges sends the whole file.
            return data if "ContentRange" in answer else data[offset : offset + length]

    def abort_uploads(self, older_than_s: float) -> int:
        """Drop uploads in parts that were begun longer ago and never finished; how many."""
        found = 0
        with naming(self.where):
            pages = self._s3.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                now = _date(page)
                for upload in page.get("Uploads", ()):
                    if _age_s(upload["Initiated"], now) > older_than_s:
                        where: Any = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self._s3.abort_multipart_upload(**where)
                        found += 1
        return found

    def _open(self, path: str, **how: Any) -> Any:
        try:
            return self._s3.get_object(**self._at(path), **how)
        except boto.ClientError as error:
            if s3_errors.code(error) in s3_errors.NOT_FOUND:
                raise FileNotFoundError(f"{self.where}, {path}") from error
            raise

    def _at(self, path: str) -> Any:
        return {"Bucket": self._bucket, "Key": self._prefix + path}


def to_base64(sha256: str) -> str:
    """A hash as S3 spells it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _client(settings: S3Settings) -> S3Client:
    if settings.ca is not None and not Path(settings.ca).is_file():
        raise UsageError("the CA of the store is not there", where=settings.ca, next_step="correct ca= in its address")
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": settings.attempts},
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        max_pool_connections=_POOL,
        tcp_keepalive=True,
    )
    with naming(settings.where):
        session = boto3.Session(profile_name=settings.profile)
        return session.client(
            "s3",
            region_name=settings.region or session.region_name or DEFAULT_REGION,
            endpoint_url=settings.endpoint,
            verify=settings.ca,
            config=config,
        )


def _described(path: str) -> dict[str, str]:
    """Type, and how long caches may keep it: what is named by content or by version never changes."""
    name = path.rpartition("/")[2]
    kind = "application/json" if name.endswith(".json") else "application/octet-stream"
    fixed = path.startswith("targets/") or name.split(".")[0].isdigit()
    return {"ContentType": kind, "CacheControl": "public, max-age=31536000, immutable" if fixed else "no-cache"}


def _date(answer: Any) -> datetime:
    """The server's clock when it answered."""
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(said) if said else datetime.now(UTC)


def _age_s(modified: datetime, now: datetime) -> float:
    return max(0.0, (now - modified).total_seconds())
