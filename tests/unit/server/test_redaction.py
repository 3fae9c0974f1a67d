"""The redactor: what it finds, what it leaves, and that it is done in time whatever it is given."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.server import redaction
from hedgerow.server.redaction import Finding, Kind, Redactor

REDACTOR = Redactor()
FOUND = [
    ("write to jane.doe+x@mail.example.org.", "write to [email]."),
    ("<jörg@exämple.de>", "<[email]>"),
    ("card 4111 1111 1111 1111 12 times", "card [card] 12 times"),
    ("5500-0000-0000-0004", "[card]"),
    ("378282246310005", "[card]"),
    ("3782 822463 10005", "[card]"),
    ("IBAN DE89 3704 0044 0532 0130 00 AND so on", "IBAN [iban] AND so on"),
    ("gb82west12345698765432", "[iban]"),
    ("SSN 078-05-1120", "SSN [ssn]"),
    ("from 192.0.2.17:8443", "from [network address]:8443"),
    ("from 2001:db8::8a2e:370:7334", "from [network address]"),
    ("b8:27:eb:12:34:56", "[network address]"),
    ("call +49 (0)30 1234-5678", "call [phone]"),
    ("call (030) 1234567", "call [phone]"),
    ("call 07911 123456", "call [phone]"),
    ("06 12 34 56 78", "[phone]"),
    ("212-555-0123", "[phone]"),
    ("Authorization: Bearer abcDEF123.~-_x", "Authorization: Bearer [token]"),
    ("key sk-proj-abcdefghijklmnop", "key [token]"),
    ("AKIAIOSFODNN7EXAMPLE", "[token]"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[token]"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w", "[token]"),
    ("password = 'hunter22'", "password = '[password]'"),
    ("https://jane:hunter2@example.org/x", "https://jane:[password]@example.org/x"),
    ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nend", "[private key]\nend"),
]


@pytest.mark.parametrize("text,redacted", FOUND)
def test_it_finds(text, redacted) -> None:
    assert REDACTOR.redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # no checksum of a card
        "0000000000000000",
        "DE89 3704 1144 1532 1130 11",
        "version 1.2.3.4.5 of 2026-11-21, 12:30:45, 01-02-2026, 21/11/2026",
        "listening on http://127.0.0.1:8000, http://[::1]:8000 and 0.0.0.0",
        "1234567890123 ns, 65536 rows, 3.14159265358979",
        "5a" * 32,
        "550e8400-e29b-41d4-a716-446655440000",
        "std::vector and a[::2]",
        "@decorator, a @ b, user@localhost",
        "the secretary's password was changed",
    ],
)
def test_it_leaves(text) -> None:
    assert REDACTOR.redact(text) == text


def test_only_what_is_asked_for() -> None:
    text = "jane@example.org, 192.0.2.1"
    assert Redactor([Kind.EMAIL]).redact(text) == "[email], 192.0.2.1"
    assert Redactor([]).redact(text) == text


def test_words_that_the_operator_names() -> None:
    redactor = Redactor(words=["Hedge", "Hedge & Row (Ltd)"])
    assert redactor.redact("HEDGE & ROW (LTD), hedge, hedgerow") == "[redacted], [redacted], hedgerow"


def test_findings_say_where() -> None:
    assert REDACTOR.find("a jane@example.org b 192.0.2.1") == [
        Finding(2, 18, Kind.EMAIL),
        Finding(21, 30, Kind.ADDRESS),
    ]


@given(st.text(st.sampled_from("aA0149 .:@-+/()=eyJsk_[]\n'\"é"), max_size=80))
def test_redacting_twice_is_redacting_once(text) -> None:
    once = REDACTOR.redact(text)
    assert REDACTOR.redact(once) == once


@given(
    st.lists(
        st.sampled_from([text for text, _ in FOUND] + ["and", "1234", "x@y", "-----BEGIN PRIVATE KEY-----"]), max_size=6
    )
)
def test_findings_do_not_overlap(parts) -> None:
    found = REDACTOR.find(" ".join(parts))
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))


@pytest.mark.parametrize("rule", redaction._RULES, ids=lambda rule: rule.pattern.pattern[:30])
def test_no_repetition_is_without_bound(rule) -> None:
    # So a text of n characters takes at most n times what one pattern's longest match takes.
    assert not re.search(r"(?<!\\)[*+](?![^\[]*\])|\{\d*,\}", rule.pattern.pattern)


def test_a_long_text_of_unfinished_beginnings_is_left_in_peace() -> None:
    text = "-----BEGIN eyJ- bearer DE89 sk- +1 (0 a@a. ab: https://a:" * 2000
    assert REDACTOR.redact(text) == text
