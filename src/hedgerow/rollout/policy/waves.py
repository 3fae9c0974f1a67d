"""Keys ``waves``, ``stratify``: how many hosts get a release at a time, and over what they are spread.

An entry of ``waves`` is one of

- a count: that many more hosts;
- a percentage, ``"25%"``: until that share of the planned hosts have had their
  turn, rounded up, whoever came before included;
- labels, ``{label: {ring: early}}``: all hosts that carry every one of them and
  have not had their turn.

The last entry must reach everybody: a count, which repeats, or ``"100%"``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

import msgspec

from hedgerow.rollout.policy.units import Count

Percent = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3})?%$")]
StratumKey = Annotated[str, msgspec.Meta(pattern=r"^(board|memory|hat|cooling|storage|site|label:[a-z][a-z0-9_]*)$")]

CAREFUL: tuple[int | str, ...] = (1, "10%", "50%", "100%")
STRATIFY = ("board", "memory", "hat", "cooling", "storage", "site")


class Labelled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All hosts with these labels, at once."""

    label: Annotated[dict[str, str], msgspec.Meta(min_length=1)]

    def has(self, labels: dict[str, str]) -> bool:
        """Whether a host with ``labels`` is one of them."""
        return all(labels.get(key) == value for key, value in self.label.items())


Wave = Count | Percent | Labelled


def share(percent: str) -> Fraction:
    """``"12.5%"`` → 1/8, exactly."""
    return Fraction(percent.removesuffix("%")) / 100


def reach(percent: str, hosts: int) -> int:
    """How many of ``hosts`` have had their turn after a wave of ``percent``, rounded up."""
    return math.ceil(share(percent) * hosts)


def text(wave: int | str | Labelled) -> str:
    """The entry in a word."""
    if isinstance(wave, Labelled):
        return ", ".join(f"{key}: {value}" for key, value in wave.label.items())
    return wave if isinstance(wave, str) else f"{wave} more"


def check(waves: Sequence[int | str | Labelled]) -> None:
    """Refuse waves that leave somebody out or that nobody can be in.

    Raises:
        ValueError: Says which entry, and what to write instead.
    """
    last = waves[-1]
    whole = isinstance(last, int) or (isinstance(last, str) and share(last) == 1)
    if not whole:
        raise ValueError(
            f"waves ends with {text(last)!r}, so that other hosts would never have their turn; "
            f'add "100%", or a count, which repeats'
        )
    before = Fraction(0)
    for number, wave in enumerate(waves, start=1):
        if before == 1:
            raise ValueError(f'waves: nothing comes after "100%"; take entry {number} away, or move it before')
        if isinstance(wave, str):
            now = share(wave)
            if now > 1 or now <= before:
                raise ValueError(
                    f"waves: entry {number} is {wave!r}; percentages count whoever came before and must rise, "
                    f"above {float(before * 100):g}% and up to 100% here"
                )
            before = now
