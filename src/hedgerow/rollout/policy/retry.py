"""Section ``retry``: how often a step is tried again after a cause that passes."""

from __future__ import annotations

import msgspec

from hedgerow.rollout.policy.units import Count, Seconds


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For a line that broke or a registry that did not answer; a refusal is never asked twice."""

    attempts: Count = 4
    """Tries in all."""
    backoff_s: Seconds = 2.0
    """Before the second try; doubled before each further one."""
    max_backoff_s: Seconds = 30.0

    def wait_s(self, attempt: int) -> float | None:
        """Seconds to wait after try number ``attempt`` (from 1) failed; None: that was the last."""
        if attempt >= self.attempts:
            return None
        return float(min(self.backoff_s * 2 ** (attempt - 1), self.max_backoff_s))
