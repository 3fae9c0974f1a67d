"""Personal data and secrets in text: found by their shape, replaced by their kind. No IO.

What has a checksum is held to it (cards, IBANs), so that ordinary numbers stay. Names of people and places have no
shape; nothing here finds them. Whoever must not pass them on must not pass the text on, or name them (``words``).

Invariants:

- Every repetition in a pattern is bounded, so the time that a text takes grows with its length alone.
- Findings do not overlap; of two that would, the one that begins first counts, then the one that is first in the table.
- Redacting what is redacted changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What was found; stands in its place as ``[email]``."""

    PRIVATE_KEY = "private key"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    PASSWORD = "password"  # noqa: S105 - the name of a kind
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    SSN = "ssn"
    ADDRESS = "network address"
    PHONE = "phone"
    WORD = "redacted"


@dataclass(frozen=True, order=True)
class Finding:
    """``text[start:end]`` is of ``kind``."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class _Rule:
    kind: Kind
    pattern: re.Pattern[str]
    # How much of the match, from its beginning, is one; 0: none of it.
    length: Callable[[str], int] = len
    # Of the match, the part that is replaced.
    group: int = 0


def _all_of(check: Callable[[str], bool]) -> Callable[[str], int]:
    return lambda text: len(text) if check(text) else 0


def _groups_of(check: Callable[[str], bool]) -> Callable[[str], int]:
    """Numbers are written in groups, and the next word may look like one more: without the last ones if need be."""

    def longest(text: str) -> int:
        ends = [len(text), *(match.start() for match in reversed(list(re.finditer(r"[ -]", text))))]
        return next((end for end in ends if check(text[:end])), 0)

    return longest


_CARD_DIGITS: Final = range(13, 20)
_IBAN_LENGTHS: Final = range(15, 35)
_ADDRESS_DIGITS: Final = 5
_PHONE_DIGITS: Final = range(8, 16)  # E.164 has at most 15


def _luhn(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(each) for each in text if each.isdigit()]
    if len(digits) not in _CARD_DIGITS:
        return False
    doubled = (each * 2 for each in digits[-2::-2])
    return any(digits) and (sum(digits[-1::-2]) + sum(each - 9 if each > 9 else each for each in doubled)) % 10 == 0  # noqa: PLR2004 - digits


def _iban(text: str) -> bool:
    """ISO 13616: the number with its first four characters at the end is 1 modulo 97."""
    plain = re.sub(r"[ -]", "", text).upper()
    return len(plain) in _IBAN_LENGTHS and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _ssn(text: str) -> bool:
    """The numbers that the United States' administration never gives out are none."""
    area, group, serial = text[:3], text[4:6], text[7:]
    return area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"


def _address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    # These name no one, and errors without them say nothing. A slice of a list looks like a very short one.
    short = ":" in text and sum(each != ":" for each in text) < _ADDRESS_DIGITS
    return not (found.is_loopback or found.is_unspecified or short)


def _phone(text: str) -> bool:
    return sum(each.isdigit() for each in text) in _PHONE_DIGITS


# Digits are ASCII: a full-width one is not what a system of payment or telephony takes.
_RULES: Final = (
    _Rule(
        Kind.PRIVATE_KEY,
        re.compile(
            r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----(?:[^-]|-(?!-)){0,16384}(?:-----END [A-Z ]{0,32}PRIVATE KEY-----)?"
        ),
    ),
    # A JSON Web Token: RFC 7519 in its compact form; a header always begins with {" in base64.
    _Rule(Kind.TOKEN, re.compile(r"(?<![\w-])eyJ[\w-]{5,4096}\.[\w-]{5,8192}\.[\w-]{0,4096}", re.ASCII)),
    # Keys that their makers gave a prefix so that they can be found.
    _Rule(
        Kind.TOKEN,
        re.compile(
            r"(?<![\w-])(?:sk-[\w-]{16,256}|gh[pousr]_\w{20,255}|github_pat_\w{20,255}|glpat-[\w-]{20,64}"
            r"|xox[abeoprs]-[\w-]{10,256}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{35}|hf_\w{20,64}|npm_\w{36}|[rs]k_(?:live|test)_\w{10,256})",
            re.ASCII,
        ),
    ),
    _Rule(
        Kind.TOKEN,
        re.compile(r"\b(?:bearer|basic)[ ]{1,4}([\w.~+/-]{8,8192}={0,2})", re.ASCII | re.IGNORECASE),
        group=1,
    ),
    _Rule(
        Kind.PASSWORD,
        re.compile(
            r"\b(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?token)"
            r"[\"']?[ ]?[:=][ ]?[\"']?([^\s\"',;]{4,256})",
            re.IGNORECASE,
        ),
        group=1,
    ),
    _Rule(
        Kind.PASSWORD,
        re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@]{0,64}:([^\s/@]{1,256})@", re.IGNORECASE),
        group=1,
    ),
    _Rule(
        Kind.EMAIL,
        re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w](?:[\w-]{0,62}\.){1,8}[\w-]{2,63}(?![\w-])"),
    ),
    _Rule(
        Kind.IBAN,
        re.compile(r"\b[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?\b", re.ASCII | re.IGNORECASE),
        _groups_of(_iban),
    ),
    # In one piece, in fours, or as American Express writes them.
    _Rule(
        Kind.CARD,
        re.compile(
            r"(?<![\w.])(?:[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}(?:\1[0-9]{4}){1,2}(?:\1[0-9]{1,4})?"
            r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})(?!\w)",
            re.ASCII,
        ),
        _groups_of(_luhn),
    ),
    _Rule(Kind.SSN, re.compile(r"(?<![\w-])[0-9]{3}([ -])[0-9]{2}\1[0-9]{4}(?![\w-])", re.ASCII), _all_of(_ssn)),
    _Rule(
        Kind.ADDRESS,
        re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])", re.ASCII),
        _all_of(_address),
    ),
    _Rule(
        Kind.ADDRESS,
        re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.ASCII | re.IGNORECASE),
        _all_of(_address),
    ),
    _Rule(
        Kind.ADDRESS, re.compile(r"(?<![\w:-])[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}(?![\w:-])", re.ASCII | re.IGNORECASE)
    ),
    # With a country's code, or an area code in brackets or behind a nought, and something between its groups.
    _Rule(Kind.PHONE, re.compile(r"(?<![\w.+])\+[0-9](?:[ ()./-]{0,2}[0-9]){7,14}(?![\w])", re.ASCII), _all_of(_phone)),
    _Rule(
        Kind.PHONE,
        re.compile(r"(?<![\w.])\(0?[0-9]{2,5}\)[ ]?[0-9](?:[ /-]?[0-9]){4,10}(?![\w])", re.ASCII),
        _all_of(_phone),
    ),
    _Rule(
        Kind.PHONE,
        re.compile(r"(?<![\w./-])0[0-9]{2,5}[ /-](?:[0-9][ -]?){4,10}[0-9](?![\w/-])", re.ASCII),
        _all_of(_phone),
    ),
    _Rule(Kind.PHONE, re.compile(r"(?<![\w./-])0[1-9](?:([ .-])[0-9]{2})(?:\1[0-9]{2}){3}(?![\w/-])", re.ASCII)),
    _Rule(
        Kind.PHONE,
        re.compile(r"(?<![\w./-])[2-9][0-9]{2}([ .-])[0-9]{3}\1[0-9]{4}(?![\w/-])", re.ASCII),
        _all_of(_phone),
    ),
)


class Redactor:
    """Finds and replaces. ``kinds`` None is all; ``words`` are found as whole words, in any case."""

    def __init__(self, kinds: Iterable[Kind] | None = None, *, words: Sequence[str] = ()) -> None:
        wanted = set(Kind) if kinds is None else set(kinds)
        self._rules = [rule for rule in _RULES if rule.kind in wanted]
        if words:
            listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            self._rules.append(_Rule(Kind.WORD, re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)))

    def find(self, text: str) -> list[Finding]:
        """What is in ``text``, in its order."""
        found: list[tuple[int, int, Finding]] = []
        for place, rule in enumerate(self._rules):
            for match in rule.pattern.finditer(text):
                if length := rule.length(match[0]):
                    start, end = match.span(rule.group)
                    end = min(end, match.start() + length)
                    found.append((start, place, Finding(start, end, rule.kind)))
        kept: list[Finding] = []
        for *_, finding in sorted(found):
            if not kept or finding.start >= kept[-1].end:
                kept.append(finding)
        return kept

    def redact(self, text: str) -> str:
        """``text`` with the kind of each finding in its place."""
        parts: list[str] = []
        place = 0
        for finding in self.find(text):
            parts += [text[place : finding.start], f"[{finding.kind.value}]"]
            place = finding.end
        return "".join((*parts, text[place:]))
