"""Where a device fetches from: bytes over HTTPS with the fleet's certificates, or from a folder on the same machine.

A ``Source`` moves bytes and verifies nothing; ``registry.client`` and ``device.store`` decide what they are worth.
What it does promise is that a peer cannot hold it: a line that is silent, or slower than a ``Pace``, is a
``NetworkError``, and an answer is never unpacked, so that a few bytes cannot become many.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import urllib3

from hedgerow.errors import NetworkError, PublisherError, UsageError
from hedgerow.registry.client.pace import Pace, TooSlowError, keep

_BLOCK = 1 << 18
# Of a range: what a cut loses at the most, eight seconds of a line of 64 kbit/s.
_RANGE_BLOCK = 1 << 16
# A site's uplink may be slow, but a line that says nothing for this long is dead.
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)
# Waits 0, 0.5 and 1 s: long enough for a server's restart, short enough for a person who watches. A wait that the
# server asks for (Retry-After) is not granted: it could be any.
_RETRIES = urllib3.Retry(
    total=3, backoff_factor=0.5, status_forcelist=(502, 503, 504), redirect=0, respect_retry_after_header=False
)
_HTTP_OK = 200
_HTTP_PARTIAL = 206
_HTTP_FORBIDDEN = 403
_HTTP_NOT_FOUND = 404
_HTTP_BEYOND = 416
# RFC 9110, section 14.4
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<size>\d+|\*)")


class ForbiddenError(NetworkError):
    """The registry answered 403: this device may not, or, as S3 answers who may not list, there is no such file."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a client: its certificate, its key, and the CA of the servers it trusts."""

    certificate: Path
    key: Path
    ca: Path

    def context(self) -> ssl.SSLContext:
        """A context that trusts this CA alone.

        Raises:
            UsageError: a file is missing or damaged.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the device's certificate cannot be used: {error.strerror or error}",
                where=f"{self.certificate}, {self.key}, {self.ca}",
                next_step="converge the role device_identity on this host",
            ) from error
        return context


class Source(Protocol):
    """Reads files of a registry by path."""

    url: str

    def open(self, path: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """The file's content in blocks.

        Raises:
            FileNotFoundError: the registry has no such file.
            NetworkError: it cannot be reached, or the line was cut; worth another try.
        """


@dataclass
class Part:
    """A piece of a file as it arrives: iterate over it for blocks.

    ``start`` is where it begins, in bytes. It is what was asked for, unless a ``validator`` was given and the file has
    changed since: then it is 0. ``size`` is the whole file's, where the server says it. ``validator`` tells this
    content from any other at the same address (a strong ETag); hand it back to go on after a cut.
    """

    start: int
    size: int | None
    validator: str | None
    _blocks: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks


class RangeSource(Source, Protocol):
    """A ``Source`` that can begin in the middle of a file."""

    def open_range(
        self, path: str, start: int, length: int | None = None, *, validator: str | None = None
    ) -> contextlib.AbstractContextManager[Part]:
        """``length`` bytes of a file from byte ``start`` on; to its end without ``length``. Never more than that.

        A file that lies under its own hash needs no ``validator``.

        Raises:
            FileNotFoundError: the registry has no such file.
            PublisherError: the file ends before ``start``.
            NetworkError: it cannot be reached, or the line was cut; what came is good, go on after it.
        """


class HttpsSource:
    """A registry behind HTTPS. ``server_name`` is verified and sent as SNI, whatever address the URL holds."""

    def __init__(self, url: str, tls: TlsFiles, *, server_name: str | None, pace: Pace | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.hostname is None:
            raise UsageError(f"{url!r} is no https address", where="registry_url")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._pool = urllib3.HTTPSConnectionPool(
            parts.hostname,
            parts.port or 443,
            ssl_context=keep(tls.context(), pace or Pace()),
            server_hostname=server_name,
            assert_hostname=server_name,
            timeout=_TIMEOUT,
            retries=_RETRIES,
        )

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        with self._ask(path, {}) as response:
            if response.status != _HTTP_OK:
                raise NetworkError(f"the registry answered HTTP {response.status}", where=f"{self.url}/{path}")
            yield response.stream(_BLOCK, decode_content=False)

    @contextlib.contextmanager
    def open_range(
        self, path: str, start: int, length: int | None = None, *, validator: str | None = None
    ) -> Iterator[Part]:
        if start == 0 and length is None:
            headers = {}
        else:
            headers = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
            if validator is not None:
                headers["If-Range"] = validator
        with self._ask(path, headers) as response:
            yield _part(response, start, length, validator, where=f"{self.url}/{path}")

    @contextlib.contextmanager
    def _ask(self, path: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        where = f"{self.url}/{path}"
        try:
            response = self._pool.request("GET", f"{self._prefix}/{path}", headers=headers, preload_content=False)
            try:
                if response.status == _HTTP_NOT_FOUND:
                    raise FileNotFoundError(where)
                if response.status == _HTTP_FORBIDDEN:
                    raise ForbiddenError("the registry answered HTTP 403: this device may not read it", where=where)
                yield response
            finally:
                if not response.closed:  # what was not read must not be taken for the next answer
                    response.close()
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError(
                f"the registry cannot be reached: {_reason(error)}",
                where=where,
                next_step="see whether the gateway is on: ansible gateways -m ansible.builtin.ping",
            ) from error


class FolderSource:
    """A registry that lies in a folder: the controller's own, or a mounted medium."""

    def __init__(self, root: Path) -> None:
        self.url = root.resolve().as_uri()
        self._root = root

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        with (self._root / path).open("rb") as file:
            yield iter(lambda: file.read(_BLOCK), b"")

    @contextlib.contextmanager
    def open_range(
        self, path: str, start: int, length: int | None = None, *, validator: str | None = None
    ) -> Iterator[Part]:
        file_path = self._root / path
        with file_path.open("rb") as file:
            status = os.fstat(file.fileno())
            now = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if validator not in {None, now}:
                start, length = 0, None
            if start > status.st_size:
                raise _beyond(start, str(file_path))
            file.seek(start)
            blocks = iter(lambda: file.read(_RANGE_BLOCK), b"")
            yield Part(start, status.st_size, now, _limited(blocks, 0, length))


def _part(
    response: urllib3.BaseHTTPResponse, start: int, length: int | None, validator: str | None, *, where: str
) -> Part:
    tag = response.headers.get("ETag")
    strong = tag if tag is not None and tag.startswith('"') else None
    blocks = response.stream(_RANGE_BLOCK, decode_content=False)
    if response.status == _HTTP_PARTIAL:
        given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if given is None or int(given["first"]) != start:
            raise NetworkError("the registry answered with another range than it was asked for", where=where)
        size = None if given["size"] == "*" else int(given["size"])
        return Part(start, size, strong, _limited(blocks, 0, length))
    if response.status == _HTTP_BEYOND:
        raise _beyond(start, where)
    if response.status != _HTTP_OK:
        raise NetworkError(f"the registry answered HTTP {response.status}", where=where)
    stated = response.headers.get("Content-Length", "")
    size = int(stated) if stated.isdecimal() else None
    if validator is not None and start > 0 and strong != validator:
        return Part(0, size, strong, blocks)
    # A server that knows no ranges: wasteful, not wrong.
    return Part(start, size, strong, _limited(blocks, start, length))


def _limited(blocks: Iterator[bytes], skip: int, length: int | None) -> Iterator[bytes]:
    """``blocks`` without the first ``skip`` bytes, ``length`` bytes at the most."""
    left = length
    for each in blocks:
        block = each[skip:]
        skip = max(0, skip - len(each))
        if left is not None:
            block = block[:left]
            left -= len(block)
        if block:
            yield block
        if left == 0:
            return


def _beyond(start: int, where: str) -> PublisherError:
    return PublisherError(
        f"the registry's file ends before byte {start}",
        where=where,
        next_step="publish the bundle again: hedgerow registry publish BUNDLE, then playbooks/publish.yml",
    )


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TooSlowError):
            return f"it sends too slowly: {cause}"
        cause = (
            getattr(cause, "reason", None) if isinstance(cause, urllib3.exceptions.MaxRetryError) else cause.__cause__
        )
    reason = getattr(error, "reason", None)
    return str(reason or error)
