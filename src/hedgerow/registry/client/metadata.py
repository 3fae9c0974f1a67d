"""What python-tuf's client downloads metadata with: a source, and an end to all of it together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface

from hedgerow.errors import NetworkError
from hedgerow.registry.source import ForbiddenError, Source

_FORBIDDEN = 403
_NOT_FOUND = 404


class BoundedFetcher(FetcherInterface):
    """Lets the metadata of one operation take ``seconds`` altogether. Lengths are python-tuf's to hold."""

    def __init__(self, source: Source, seconds: float, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._seconds = seconds
        self._monotonic = monotonic
        self._deadline = monotonic() + seconds

    def restart(self) -> None:
        """A new operation begins."""
        self._deadline = self._monotonic() + self._seconds

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """As python-tuf's, without its temporary file; and the line is closed at once where more comes than may.

        Raises:
            DownloadLengthMismatchError: more than ``max_length`` bytes come.
            DownloadHTTPError: there is no such file.
            NetworkError: the line is cut, or slow.
        """
        data = bytearray()
        with contextlib.closing(self._fetch(url)) as blocks:
            for block in blocks:
                data += block
                if len(data) > max_length:
                    raise DownloadLengthMismatchError(f"{url} is longer than the {max_length} bytes that it may have")
        return bytes(data)

    def _fetch(self, url: str) -> Generator[bytes, None, None]:
        path = url.removeprefix(f"{self._source.url}/")
        try:
            with self._source.open(path) as blocks:
                for block in blocks:
                    if self._monotonic() > self._deadline:
                        raise NetworkError(
                            f"the registry's metadata did not arrive within {self._seconds:.0f} s",
                            where=url,
                            next_step="what serves goes on; try again when the line is better",
                        )
                    yield block
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{url} is not there", _NOT_FOUND) from error
        except ForbiddenError as error:
            # S3 answers 403 for what is not there, to whoever may not list. The client asks for the next root until
            # there is none, and takes either number for that; where all is forbidden, the timestamp says so next.
            if path.endswith(".root.json"):
                raise DownloadHTTPError(f"{url} is not there", _FORBIDDEN) from error
            raise
