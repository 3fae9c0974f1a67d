"""What is wrong with a simulated release. Pure."""

from __future__ import annotations

from typing import Self

import msgspec

from hedgerow.errors import UsageError

KINDS = {
    "good": "nothing is wrong with it",
    "broken": "it fails its trial on every device, before the switch",
    "wrong": "it passes its trial and then answers wrongly, everywhere",
    "slow": "slow:K, its answers take K times as long (1.8)",
    "passive": "it overheats boards without a fan: degraded, and K times as slow (2)",
    "leak": "leak:S, it is well for S seconds (600) and then fails",
    "fails": "fails:P, it fails after the switch on P percent of the hosts (5)",
    "flaky": "flaky:S, the same for a share S (0.05)",
}
_DEFAULTS = {"slow": 1.8, "passive": 2.0, "leak": 600.0, "fails": 5.0, "flaky": 0.05}
_PERCENT = 100


class Flaw(msgspec.Struct, frozen=True):
    """``kind`` is one of ``KINDS``, ``flaky`` being ``fails``; ``value`` is its factor, seconds, or percentage."""

    kind: str = "good"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``good``, ``slow:1.8``, ``fails:5`` ….

        Raises:
            UsageError: It is none of these.
        """
        kind, _, given = text.partition(":")
        try:
            value = float(given) if given else _DEFAULTS.get(kind, 0.0)
        except ValueError:
            value = -1.0
        takes = kind in _DEFAULTS
        if kind not in KINDS or (given and not takes) or (takes and not 0 < value < float("inf")):
            raise UsageError(
                f"no simulated release {text!r}",
                where="--release",
                next_step="; ".join(f"{name}: {what}" for name, what in KINDS.items()),
            )
        if kind == "flaky":
            kind, value = "fails", round(value * _PERCENT, 9)
        if kind == "fails" and value > _PERCENT:
            raise UsageError("a release fails on 100 percent of the hosts at most", where=f"--release {text}")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:g}" if self.kind in _DEFAULTS else self.kind

    def hurts_after_s(self, *, passive: bool, lot: float) -> float | None:
        """Seconds after the switch from which users of a device feel it; None: never. ``lot`` is in [0, 1)."""
        match self.kind:
            case "wrong" | "slow":
                return 0.0
            case "passive":
                return 0.0 if passive else None
            case "leak":
                return self.value
            case "fails":
                return 0.0 if lot * _PERCENT < self.value else None
        return None

    def slower(self, *, passive: bool) -> float:
        """Factor on the time of an answer."""
        if self.kind == "slow" or (self.kind == "passive" and passive):
            return self.value
        return 1.0
