"""A finished request as spans: the request itself, and below it where its time went.

Names of attributes: OpenTelemetry semantic conventions, "Generative AI" and "Errors"; what they have no name for begins
with ``hedgerow.``. No attribute holds what a caller wrote.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from hedgerow import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from hedgerow.server.telemetry.finished import Finished

_NANO: Final = 1_000_000_000


class Spans:
    """Makes spans; used from one thread."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._ids = _Ids()
        self._ended = _Ended()
        provider = TracerProvider(
            # Whether a request is told of has been decided.
            sampler=ALWAYS_ON,
            resource=Resource(dict(resource)),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("hedgerow.server", __version__)

    def of(self, request: Finished) -> list[ReadableSpan]:
        """The spans of one request, children first."""
        since = time.time_ns() - int(time.monotonic() * _NANO)

        def at(seconds: float) -> int:
            return since + int(seconds * _NANO)

        self._ids.trace_id, self._ids.span_id = int(request.caller.trace_id, 16), int(request.span_id, 16)
        span = self._tracer.start_span(
            _name(request),
            context=_parent(request),
            kind=SpanKind.SERVER,
            attributes=_attributes(request),
            start_time=at(request.arrived),
        )
        if request.failed:
            span.set_status(Status(StatusCode.ERROR))
        below = trace.set_span_in_context(span)
        for name, begin, end in _phases(request):
            self._tracer.start_span(name, context=below, start_time=at(begin)).end(at(end))
        span.end(at(request.ended))
        return self._ended.take()


class _Ids(RandomIdGenerator):
    """The ids that the request has had from its beginning; its children's are new."""

    trace_id = 0
    span_id: int | None = None

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, None
        return super().generate_span_id() if given is None else given


class _Ended(SpanProcessor):
    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _parent(request: Finished) -> Context:
    parent = request.caller.parent
    if parent is None:
        return trace.set_span_in_context(trace.INVALID_SPAN)
    context = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(parent.sampled))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def _name(request: Finished) -> str:
    return f"{_operation(request)} {request.model}"


def _operation(request: Finished) -> str:
    return "text_completion" if request.prompt_tokens or request.tokens else "infer"


def _attributes(request: Finished) -> dict[str, str | int | float | list[str]]:
    found: dict[str, str | int | float | list[str] | None] = {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": "hedgerow",
        "gen_ai.request.model": request.model,
        "gen_ai.usage.input_tokens": request.prompt_tokens or None,
        "gen_ai.usage.output_tokens": request.tokens or None,
        "gen_ai.response.finish_reasons": None if request.finish is None else [request.finish],
        "gen_ai.server.time_to_first_token": request.first_token_s,
        "error.type": request.cause,
        "hedgerow.model.version": request.version or None,
        "hedgerow.protocol": request.protocol,
        "hedgerow.status": request.code,
        "hedgerow.request.id": request.caller.request_id,
        "hedgerow.client": request.caller.client or None,
        "hedgerow.batch.rows": request.rows or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _phases(request: Finished) -> list[tuple[str, float, float]]:
    """Where its time went: reading it, waiting for its turn, the prompt, the answer; tensors are computed at once."""
    found = [("receive", request.arrived, request.started), ("queue", request.started, request.began or request.ended)]
    if request.began is not None:
        if request.first is None:
            found.append(("compute", request.began, request.ended))
        else:
            found += [("prompt", request.began, request.first), ("answer", request.first, request.last)]
    return found
