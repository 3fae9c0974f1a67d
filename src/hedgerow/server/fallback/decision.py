"""Whether a request should leave the device. Pure: no IO, no clock; the caller says how things are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hedgerow.server.errors import Busy, ContextExceeded, DeadlineExceeded, ServingError
from hedgerow.server.fallback.config import Privacy

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hedgerow.device.health import Code
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.fallback.config import Policy, When

# From here on the device is to blame (RFC 9110, section 15.6).
_SERVER_FAULT = 500


class Reason(StrEnum):
    """Why a request left."""

    PROMPT_LENGTH = "prompt_length"
    QUEUE_TIME = "queue_time"
    NOT_IN_SERVICE = "not_in_service"
    UNHEALTHY = "unhealthy"
    DEVICE_ERROR = "device_error"
    LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True)
class Situation:
    """The device as a request finds it. ``expected_wait_s``: until its turn, as the queue estimates it."""

    prompt_characters: int
    in_service: bool
    expected_wait_s: float
    health: Collection[Code]


def may_leave(policy: Policy, request: TextRequest, *, version: str | None) -> bool:
    """Whether anything could make this request leave.

    An adapter, a named version and the probabilities of tokens are the device's own: no endpoint has them.
    """
    if policy.privacy is Privacy.NEVER or request.device_only:
        return False
    return request.adapter is None and version is None and not request.logprobs


def before(when: When, found: Situation) -> Reason | None:
    """Why a request should leave before the device has tried, None if it should not."""
    if not found.in_service:
        return Reason.NOT_IN_SERVICE if when.not_in_service else None
    if when.prompt_characters is not None and found.prompt_characters > when.prompt_characters:
        return Reason.PROMPT_LENGTH
    if any(code in found.health for code in when.health):
        return Reason.UNHEALTHY
    if when.queue_s is not None and found.expected_wait_s > when.queue_s:
        return Reason.QUEUE_TIME
    return None


def unsure(when: When, logprobs: Sequence[float]) -> Reason | None:
    """Why a request should leave whose answer by the device has begun with tokens of these probabilities."""
    if when.confidence is None or not logprobs:
        return None
    average = math.exp(math.fsum(logprobs) / len(logprobs))
    return Reason.LOW_CONFIDENCE if average < when.confidence.below else None


def after(when: When, error: ServingError) -> Reason | None:
    """Why a request should leave that the device has refused or failed, None if its error is the answer."""
    if isinstance(error, ContextExceeded):
        return Reason.PROMPT_LENGTH if when.prompt_characters is not None else None
    if isinstance(error, Busy):
        return Reason.QUEUE_TIME if when.queue_s is not None else None
    if isinstance(error, DeadlineExceeded) or error.status < _SERVER_FAULT:
        # The caller's time is over, or the request itself is wrong: an endpoint would change neither.
        return None
    return Reason.DEVICE_ERROR if when.device_error else None
