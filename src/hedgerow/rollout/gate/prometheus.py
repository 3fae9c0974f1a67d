"""Instant queries to a Prometheus server (``GET /api/v1/query``, its HTTP API, "Expression queries").

- A query's answer is one number: a scalar, or a vector of one sample. Of several nobody can say which was meant; they
  are no data, as none and NaN are.
- A server that cannot be reached, answers 5xx, or 429, is an **outage**; what it means stands in the policy. A query
  that it refuses is the operator's mistake: no data, whatever the policy says of outages.
- Names of hosts go into queries as quoted strings; nothing that an inventory says can end the string it stands in.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from hedgerow.errors import UsageError
from hedgerow.rollout.policy.gate import PLACE, Prometheus

KEEP_S: Final = 5.0
"""An answer is used again for so long: Prometheus itself scrapes no more often."""
_REFUSED_FOR_NOW: Final = 429
_SERVER_FAULT: Final = 500
_SHORT_ESCAPE: Final = 0xFFFF


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """One round of all queries, by name."""

    values: dict[str, float] = {}
    unanswered: dict[str, str] = {}
    """Why a query has no value, where it is not the outage."""
    outage: str = ""


class _Result(msgspec.Struct):
    type: str = msgspec.field(name="resultType")
    result: Any = None


class _Reply(msgspec.Struct):
    status: str
    data: _Result | None = None
    error: str = ""


class NoNumber(Exception):
    """Why a query has no value."""


class Outage(Exception):
    """Why Prometheus gave no answer."""


class Queries:
    """The policy's queries about one host. ``labels``: what ``$host``, ``$site`` … stand for.

    Raises:
        UsageError: A query has a place that is not known, or a certificate cannot be read.
    """

    def __init__(
        self, rules: Prometheus, labels: Mapping[str, str], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._queries = {name: render(text, labels, name=name) for name, text in rules.queries.items()}
        # The environment's proxies are for the internet, not for a fleet's own network.
        self._http = httpx.Client(verify=_context(rules), timeout=rules.timeout_s, trust_env=False)
        self._now = now
        self._kept: tuple[float, Answers] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(self) -> Answers:
        """Every query's value now, or from the last ``KEEP_S`` seconds. Never raises for what a server does."""
        if self._kept is not None and self._now() - self._kept[0] < KEEP_S:
            return self._kept[1]
        answers = self._ask()
        if not answers.outage:
            self._kept = self._now(), answers
        return answers

    def _ask(self) -> Answers:
        values: dict[str, float] = {}
        unanswered: dict[str, str] = {}
        for name, query in self._queries.items():
            try:
                values[name] = number(self._get(query))
            except NoNumber as why:
                unanswered[name] = str(why)
            except Outage as why:
                return Answers(outage=f"Prometheus at {self._rules.url}: {why}")
        return Answers(values=values, unanswered=unanswered)

    def _get(self, query: str) -> _Result:
        for attempt in range(1, self._rules.attempts + 1):
            try:
                response = self._http.get(f"{self._rules.url.rstrip('/')}/api/v1/query", params={"query": query})
            except httpx.TransportError as error:
                fault = str(error) or type(error).__name__
            else:
                if response.status_code < _SERVER_FAULT and response.status_code != _REFUSED_FOR_NOW:
                    return _read(response)
                fault = f"HTTP {response.status_code}"
            if attempt == self._rules.attempts:
                raise Outage(fault)
        raise ValueError("attempts is at least 1")


def render(query: str, labels: Mapping[str, str], *, name: str) -> str:
    """Put ``labels`` in their places, as quoted PromQL strings; ``$host_re`` quoted for the use with ``=~``.

    Raises:
        UsageError: A place has no label.
    """

    def fill(match: re.Match[str]) -> str:
        place = match.group(1)
        if place in labels:
            return quoted(labels[place])
        if place.endswith("_re") and place.removesuffix("_re") in labels:
            return quoted(re.sub(r"[^\w\s]", r"\\\g<0>", labels[place.removesuffix("_re")], flags=re.ASCII))
        known = ", ".join(f"${label}" for label in sorted(labels))
        raise UsageError(
            f"query {name} has ${place}, which is none of {known} (or one of these with _re)",
            where=f"gate.prometheus.queries.{name}",
        )

    return PLACE.sub(fill, query)


def quoted(text: str) -> str:
    """A PromQL string literal in double quotes, whose escapes are Go's ("Prometheus: Querying basics, Literals")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else _escape(each) for each in escaped) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= _SHORT_ESCAPE else f"\\U{code:08x}"


def number(result: _Result) -> float:
    """The one number of a result.

    Raises:
        NoNumber: It is none, or more than one.
    """
    samples = result.result if isinstance(result.result, list) else []
    if result.type == "scalar":
        samples = [{"value": samples}]
    elif result.type != "vector":
        raise NoNumber(f"it gives a {result.type}, not a number")
    if len(samples) != 1:
        raise NoNumber(f"it gives {len(samples)} samples, not one" if samples else "it gives no sample")
    try:
        value = float(samples[0]["value"][1])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NoNumber(f"its sample cannot be read: {samples[0]!r:.100}") from error
    if math.isnan(value):
        raise NoNumber("it gives NaN")
    return value


def _read(response: httpx.Response) -> _Result:
    try:
        reply = msgspec.json.decode(response.content, type=_Reply)
    except msgspec.DecodeError as error:
        # A proxy's page instead of an answer: the server is not there.
        raise Outage(f"HTTP {response.status_code} without an answer of the API") from error
    if reply.status != "success" or reply.data is None:
        raise NoNumber(f"Prometheus refuses it: {reply.error or f'HTTP {response.status_code}'}")
    return reply.data


def _context(rules: Prometheus) -> ssl.SSLContext | bool:
    if rules.url.startswith("http:"):
        return True
    try:
        context = ssl.create_default_context(cafile=rules.ca)
        if rules.certificate is not None:
            context.load_cert_chain(rules.certificate, rules.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"gate.prometheus: a certificate cannot be read: {error}", where=rules.url) from error
    return context
