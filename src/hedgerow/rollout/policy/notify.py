"""Section ``notify``: who is told what. Secrets are named here, never written: they come from the environment."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from hedgerow.rollout.policy.units import Seconds

About = Literal["complete", "stopped", "rolled_back", "partial", "superseded", "waiting"]
EVERYTHING: tuple[About, ...] = ("complete", "stopped", "rolled_back", "partial", "superseded", "waiting")
Variable = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9_]*$")]
Header = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Channel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to tell somebody: exactly one of ``webhook``, ``webhook_env`` and ``command``."""

    webhook: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s]+$")] | None = None
    """URL that gets the message as a JSON POST."""
    webhook_env: Variable | None = None
    """Name of the environment variable that holds the URL, where the URL itself is the secret."""
    command: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    """Program and arguments, without a shell; the message is JSON on its standard input."""
    secret_env: Variable | None = None
    """Name of the environment variable whose value goes into ``header``."""
    header: Header = "Authorization"
    on: Annotated[list[About], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: list(EVERYTHING))
    timeout_s: Seconds = 10.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    """Tries in all of a webhook; a command runs once."""

    def __post_init__(self) -> None:
        if [self.webhook, self.webhook_env, self.command].count(None) != 2:  # noqa: PLR2004 - all but one of three
            raise ValueError("notify: give exactly one of webhook, webhook_env and command")
        if self.command is not None and self.secret_env is not None:
            raise ValueError("notify: secret_env is a webhook's; a command reads its own environment")
        if self.webhook is not None:
            self._check(self.webhook)

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise ValueError("notify: a webhook's URL has a host and no password; name its secret in secret_env")
        if self.secret_env is not None and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise ValueError("notify: a secret does not travel in the clear; write https://")
