"""W3C Trace Context: who asks, in whose trace. Source: W3C Recommendation "Trace Context" level 1, section 3.2.

``tracestate`` and ``baggage`` are not read: they are free text of others, and what leaves here is ids alone.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = "traceparent"
_VERSION_0: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED: Final = 1


@dataclass(frozen=True)
class Parent:
    """The caller's span. ``sampled``: whether it is recorded there."""

    trace_id: str
    span_id: str
    sampled: bool


def parse(value: str | None) -> Parent | None:
    """Read a header's value; None where there is none or it is not valid, as the recommendation has it."""
    found = None if value is None else _VERSION_0.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


# Ids are told to everybody and guard nothing: as OpenTelemetry's, they need no call of the kernel each.
_random: Final = random.Random()  # noqa: S311 - see above


def new_trace_id() -> str:
    return f"{_random.getrandbits(128):032x}"


def new_span_id() -> str:
    return f"{_random.getrandbits(64):016x}"


def new_request_id() -> str:
    """A random UUID (RFC 9562, version 4), as text."""
    number = _random.getrandbits(128) & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def chosen(trace_id: str, ratio: float) -> bool:
    """Whether a trace is among ``ratio`` of all: as OpenTelemetry's TraceIdRatioBased, so all hosts choose the same."""
    return int(trace_id[16:], 16) < round(ratio * 2**64)
