"""Bech32 (BIP 173) without its limit of length: how age writes recipients and identities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH: Final = 6


def encode(prefix: str, data: bytes) -> str:
    """``prefix`` (lower case), 1, data and checksum."""
    values = _regroup(data, 8, 5, pad=True)
    checksum = _polymod([*_expand(prefix), *values, *([0] * _CHECKSUM_LENGTH)]) ^ 1
    values += [checksum >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)]
    return f"{prefix}1" + "".join(_CHARSET[value] for value in values)


def decode(text: str, wanted: str) -> bytes:
    """The data of a text with the prefix ``wanted`` (lower case).

    Raises:
        ValueError: it is no Bech32, has another prefix, or a letter of it is wrong.
    """
    if text not in {text.lower(), text.upper()}:
        raise ValueError("mixed case")
    prefix, found, rest = text.lower().rpartition("1")
    if not found or not prefix or len(rest) < _CHECKSUM_LENGTH or not set(rest) <= set(_CHARSET):
        raise ValueError("not written as Bech32")
    values = [_CHARSET.index(letter) for letter in rest]
    if _polymod([*_expand(prefix), *values]) != 1:
        raise ValueError("its checksum is wrong")
    if prefix != wanted:
        raise ValueError(f"it does not begin with {wanted}1")
    return bytes(_regroup(values[:-_CHECKSUM_LENGTH], 5, 8, pad=False))


def _expand(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            checksum ^= generator if top >> place & 1 else 0
    return checksum


def _regroup(data: Iterable[int], before: int, after: int, *, pad: bool) -> list[int]:
    """Bits of ``before`` a piece in pieces of ``after``."""
    held, bits, found = 0, 0, []
    for value in data:
        held, bits = held << before | value, bits + before
        while bits >= after:
            bits -= after
            found.append(held >> bits & (1 << after) - 1)
        held &= (1 << bits) - 1
    if pad and bits:
        found.append(held << after - bits & (1 << after) - 1)
    elif not pad and (bits >= before or held):
        raise ValueError("its padding is wrong")
    return found
