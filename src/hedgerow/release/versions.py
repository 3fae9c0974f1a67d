"""Versions of drivers, kernels and bundles' requirements: numbers, compared as numbers."""

from __future__ import annotations

import re

_CLAUSE = re.compile(r"(==|!=|>=|<=|<|>)\s*(\d+(?:\.\d+)*)")


def numbers(version: str) -> tuple[int, ...]:
    """``6.18.50-1+rpt1`` → (6, 18, 50); an epoch and what follows the third number do not count."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+){0,3})", version)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


def upstream(version: str) -> str:
    """The upstream part of a Debian version: ``1:6.18.50-1+rpt1`` → ``6.18.50``."""
    return version.rpartition(":")[2].partition("-")[0]


def within(version: str, specifier: str) -> bool:
    """Whether ``version`` satisfies ``>=5.1,<5.2``; missing numbers are zeros.

    Raises:
        ValueError: the specifier is not of this form.
    """
    have = _padded(numbers(version))
    for clause in specifier.split(","):
        found = _CLAUSE.fullmatch(clause.strip())
        if found is None:
            raise ValueError(f"{clause.strip()!r} is no clause such as >=5.1")
        wanted = _padded(numbers(found[2]))
        holds = {
            "==": have == wanted,
            "!=": have != wanted,
            ">=": have >= wanted,
            "<=": have <= wanted,
            "<": have < wanted,
            ">": have > wanted,
        }[found[1]]
        if not holds:
            return False
    return True


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    return (*version, 0, 0, 0, 0)[:4]
