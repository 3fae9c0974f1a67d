"""Where a device fetches from: bytes over HTTPS with the fleet's certificates, or from a folder on the same machine.

A ``Source`` moves bytes and verifies nothing; ``registry.fetch`` decides what they are worth.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import urllib3
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from hedgerow.errors import NetworkError, UsageError

_BLOCK = 1 << 18
# A site's uplink may be slow, but a line that says nothing for this long is dead.
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)
# Waits 0, 0.5 and 1 s: long enough for a server's restart, short enough for a person who watches.
_RETRIES = urllib3.Retry(total=3, backoff_factor=0.5, status_forcelist=(502, 503, 504), redirect=0)
_HTTP_NOT_FOUND = 404
_HTTP_OK = 200


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


class HttpsSource:
    """A registry behind HTTPS. ``server_name`` is verified and sent as SNI, whatever address the URL holds."""

    def __init__(self, url: str, tls: TlsFiles, *, server_name: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.hostname is None:
            raise UsageError(f"{url!r} is no https address", where="registry_url")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._pool = urllib3.HTTPSConnectionPool(
            parts.hostname,
            parts.port or 443,
            ssl_context=tls.context(),
            server_hostname=server_name,
            assert_hostname=server_name,
            timeout=_TIMEOUT,
            retries=_RETRIES,
        )

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        where = f"{self.url}/{path}"
        try:
            response = self._pool.request("GET", f"{self._prefix}/{path}", preload_content=False)
            try:
                if response.status == _HTTP_NOT_FOUND:
                    raise FileNotFoundError(where)
                if response.status != _HTTP_OK:
                    raise NetworkError(f"the registry answered HTTP {response.status}", where=where)
                yield response.stream(_BLOCK)
            finally:
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


class MetadataFetcher(FetcherInterface):
    """What python-tuf's client downloads metadata and targets with."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(f"{self._source.url}/")
        try:
            with self._source.open(path) as blocks:
                yield from blocks
        except FileNotFoundError as error:
            # The client asks for the next root until there is none; it wants to hear that in HTTP's words.
            raise DownloadHTTPError(f"{url} is not there", _HTTP_NOT_FOUND) from error


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error)
