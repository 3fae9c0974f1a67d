"""Keys ``quarantine_s`` and ``cooldown_s``: how long a host, or a bundle, stays out after it went wrong."""

from __future__ import annotations

from typing import Annotated

import msgspec

Quarantine = Annotated[float, msgspec.Meta(ge=0)]
"""Seconds for which a host that failed, was set aside or was lost is left out of other rollouts, unless an operator
releases it. 0: not at all, so that the release which mends it reaches it."""

Cooldown = Annotated[float, msgspec.Meta(ge=0)]
"""Seconds for which a bundle that was taken back on this fleet is not released on it again. 0: at once."""
