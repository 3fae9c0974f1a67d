"""What ``fallback`` in ``/etc/hedgerow/server.yml`` may say. An unknown key is an error that names it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from hedgerow.device.health import Code

STATE_DIR = Path("/var/lib/hedgerow/fallback")

_Seconds = Annotated[float, Meta(gt=0, le=3600)]
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Money = Annotated[float, Meta(ge=0, le=1_000_000)]
# The caller is told "no" here whatever the policy says, so no policy may wait for it.
_NEVER_A_REASON = frozenset({Code.DRAINING, Code.SERVER_DOWN})
_Word = Annotated[str, Meta(min_length=2, max_length=200)]


class Privacy(StrEnum):
    """Which inputs may leave the site: none, those without what ``scrub`` finds, or all as they are."""

    NEVER = "never"
    REDACTED = "redacted"
    ALL = "all"


class BreakerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """After ``failures`` in a row nothing is sent for ``open_s`` seconds; then one request tries."""

    failures: Annotated[int, Meta(ge=1, le=100)] = 5
    open_s: _Seconds = 30.0


class EndpointConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An endpoint that speaks OpenAI's interface; ``url`` ends before ``/chat/completions``.

    Relative paths are systemd credentials. ``ca`` None is the system's store of public CAs. ``silence_s`` is how long
    nothing may come, before the first piece and between two.
    """

    url: str
    token: str
    certificate: str = "device.crt"
    key: str = "device.key"
    ca: str | None = None
    connect_s: _Seconds = 5.0
    silence_s: _Seconds = 20.0
    requests_per_minute: _Count = 30
    breaker: BreakerConfig = BreakerConfig()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"url is {self.url!r}; prompts and the token leave over https alone")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url has more than a host, a port and a path; the token is in the file that token names")


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What 1,000 tokens cost, in the currency of the spend cap."""

    prompt_per_1k: _Money
    completion_per_1k: _Money


class Confidence(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the device is not sure: the probabilities of its answer's first ``tokens`` are ``below`` this on average.

    The average is the geometric one, 1 over the answer's perplexity. Until so many tokens are made nobody gets any.
    """

    below: Annotated[float, Meta(gt=0, lt=1)]
    tokens: Annotated[int, Meta(ge=1, le=512)] = 16


class When(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a request should leave; None, False and an empty list are never.

    ``prompt_characters``: the prompt is longer. It then also leaves where the model's context does not hold it.
    ``queue_s``: it would wait longer for its turn, or has. ``health``: the health report has one of these reasons.
    ``not_in_service``: no version of the model is in service. ``device_error``: the device fails, or refuses
    for want of anything but a place in the queue, before the first token. ``confidence``: its own answer begins
    unsurely; where its backend tells no probabilities this never is so.
    """

    prompt_characters: _Count | None = None
    queue_s: Annotated[float, Meta(ge=0, le=3600)] | None = None
    health: list[Code] = []
    not_in_service: bool = False
    device_error: bool = False
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        for code in self.health:
            if code in _NEVER_A_REASON:
                raise ValueError(f"health names {code}; then this server takes no requests at all")
        if Code.NO_MODEL in self.health or Code.MODEL_FAILED in self.health:
            raise ValueError("health names no_model or model_failed; write not_in_service: true")


class Policy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a model's requests may leave, how, and for how much.

    ``model`` is its name at the endpoint. ``spend_per_hour`` is what any 3,600 seconds may cost. ``words`` are
    redacted beside what is found by its shape. ``limit_field`` is how the endpoint spells ``max_tokens``.
    """

    endpoint: str
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    price: Price
    spend_per_hour: _Money
    when: When
    privacy: Privacy = Privacy.NEVER
    words: list[_Word] = []
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


class CacheConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers are kept for ``ttl_s`` seconds, of all models ``max_bytes`` together."""

    ttl_s: Annotated[float, Meta(gt=0, le=30 * 24 * 3600)] = 3600.0
    max_bytes: Annotated[int, Meta(ge=4096, le=1024**3)] = 16 * 1024 * 1024


class FallbackConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Endpoints by a name that audit lines and metrics have, and the policy of each model that may use one.

    ``state_dir`` holds key, cache, ledger and audit file; the server's user alone may read it. ``cache`` None keeps no
    answers.
    """

    endpoints: dict[str, EndpointConfig]
    models: dict[str, Policy]
    state_dir: Path = STATE_DIR
    cache: CacheConfig | None = CacheConfig()

    def __post_init__(self) -> None:
        for name, policy in self.models.items():
            if policy.endpoint not in self.endpoints:
                known = ", ".join(self.endpoints) or "none"
                raise ValueError(f"models.{name}.endpoint is {policy.endpoint!r}; endpoints: {known}")
