"""The age file format, version 1 (c2sp.org/age): X25519 recipients and passphrases, as a stream in both directions.

Written here with ``cryptography``'s primitives, because backups must open with the standard program ``age`` and with
nothing but Hedgerow alike. Invariants:

- Whoever reads gets only bytes whose authenticity was checked; the end of the stream is checked as well, so that a file
  cut off at any point raises, never ends early.
- A file key and a nonce are made for each file and used once.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Sequence
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hedgerow.backup.age_keys import (
    FILE_KEY,
    OTHER_COPY,
    SCRYPT,
    TAG,
    VERSION,
    DamagedError,
    Opener,
    Stanza,
    Wrapper,
    damaged,
    decode,
    encode,
    hkdf,
)
from hedgerow.errors import UsageError

CHUNK: Final = 64 * 1024

_COLUMNS = 64
_MAX_HEADER = 1 << 20
_MAX_LINE = 4096


class Writer:
    """A file-like object that encrypts into ``file``. ``finish`` must be called: without it the file is not whole."""

    def __init__(self, file: IO[bytes], wrappers: Sequence[Wrapper]) -> None:
        file_key, nonce = os.urandom(FILE_KEY), os.urandom(16)
        header = b"".join(_stanza(each.wrap(file_key)) for each in wrappers)
        header = VERSION + b"\n" + header + b"---"
        file.write(header + b" " + encode(_mac(file_key, header)).encode() + b"\n" + nonce)
        self._file = file
        self._cipher = ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))
        self._buffer = bytearray()
        self._counter = 0

    def write(self, data: bytes) -> int:
        self._buffer += data
        # The last chunk is marked as such, so a full one is held back until it is known whether more comes.
        while len(self._buffer) > CHUNK:
            self._chunk(bytes(self._buffer[:CHUNK]), last=False)
            del self._buffer[:CHUNK]
        return len(data)

    def finish(self) -> None:
        self._chunk(bytes(self._buffer), last=True)
        self._buffer.clear()

    def _chunk(self, data: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._counter, last=last), data, None))
        self._counter += 1


class Reader:
    """A file-like object that decrypts ``file``.

    Raises:
        DamagedError: it was cut off or altered.
        UsageError: the key or passphrase is not one of its own.
    """

    def __init__(self, file: IO[bytes], openers: Sequence[Opener]) -> None:
        self._file = file
        self._line = 0
        stanzas, header, mac = self._header()
        if len(stanzas) > 1 and any(each.kind == SCRYPT for each in stanzas):
            raise damaged("its header: a passphrase is the only recipient")
        file_key = next(
            (key for each in stanzas for opener in openers if (key := opener.unwrap(each)) is not None), None
        )
        if file_key is None:
            passphrase = stanzas[0].kind == SCRYPT
            raise UsageError(
                "the passphrase is wrong" if passphrase else "this key is not one that the file was encrypted for",
                next_step="it was encrypted with a passphrase: --passphrase-file FILE"
                if passphrase
                else "--identity FILE with the private key of one of its recipients",
            )
        if not hmac.compare_digest(_mac(file_key, header), mac):
            raise damaged("its header: the checksum is wrong")
        nonce = self._exactly(16)
        self._cipher = ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))
        self._ahead = file.read(CHUNK + TAG)
        self._counter = 0
        self._plain = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, empty at the end that was checked; all that is left if negative."""
        while not self._ended and (size < 0 or len(self._plain) < size):
            self._plain += self._chunk()
        if size < 0:
            size = len(self._plain)
        found, self._plain = self._plain[:size], self._plain[size:]
        return found

    def drain(self) -> int:
        """Read to the end, so that it is checked; how many bytes there were."""
        count = 0
        while data := self.read(CHUNK):
            count += len(data)
        return count

    def _chunk(self) -> bytes:
        data, self._ahead = self._ahead, self._file.read(CHUNK + TAG)
        last = not self._ahead
        try:
            plain = self._cipher.decrypt(_nonce(self._counter, last=last), data, None)
        except InvalidTag as error:
            what = "its end is missing" if last else f"altered near byte {self._counter * CHUNK}"
            raise DamagedError(f"the file is damaged: {what}", next_step=OTHER_COPY) from error
        if last and not plain and self._counter:
            raise damaged("its end")
        self._counter += 1
        self._ended = last
        return plain

    def _header(self) -> tuple[list[Stanza], bytes, bytes]:
        lines = self._lines()
        if (first := next(lines)) != VERSION:
            raise DamagedError("this is no age file", next_step="name a file that hedgerow backup create made")
        header = first + b"\n"
        stanzas: list[Stanza] = []
        for line in lines:
            if line.startswith(b"--- "):
                return stanzas, header + b"---", decode(line[4:].decode("ascii", "replace"))
            words = line.decode("ascii", "replace").split(" ")
            if words[0] != "->" or len(words) < 2 or not all(words):  # noqa: PLR2004 - an arrow and a kind
                raise damaged("its header")
            header += line + b"\n"
            body = ""
            for part in lines:
                header += part + b"\n"
                body += part.decode("ascii", "replace")
                if len(part) < _COLUMNS:
                    break
            stanzas.append(Stanza(words[1], words[2:], decode(body)))
        raise damaged("its header")  # pragma: no cover - _lines raises at the file's end

    def _lines(self) -> Iterator[bytes]:
        read = 0
        while read < _MAX_HEADER:
            line = self._file.readline(_MAX_LINE)
            read += len(line)
            if not line.endswith(b"\n"):
                raise damaged("its header is cut off") if read else DamagedError("the file is empty")
            yield line[:-1]
        raise damaged("its header: too long")

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise damaged("its end is missing")
        return data


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(hkdf(file_key, b"", b"header"), header, "sha256")


def _nonce(counter: int, *, last: bool) -> bytes:
    return counter.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _stanza(stanza: Stanza) -> bytes:
    body = encode(stanza.body)
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
    return "\n".join([" ".join(["->", stanza.kind, *stanza.arguments]), *lines, ""]).encode()
