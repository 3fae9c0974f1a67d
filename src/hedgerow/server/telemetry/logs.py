"""Lines for the journal, without what people wrote.

Invariants:

- A request's line has ids, names, numbers and causes, never its text; nor an error's, which may quote it.
- An exception is its types and where it was raised; its message may quote a prompt, so it is left out.
- Any other message is redacted.
- Lines of requests that went well are written together, ``_WITHIN_S`` late at most; any other line is written at once,
  behind those that came before it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from hedgerow.server.redaction import Redactor
    from hedgerow.server.telemetry.config import Logs
    from hedgerow.server.telemetry.finished import Finished

# Long enough for several lines of a busy server, and the journal is woken once for them; whoever reads sees no delay.
_WITHIN_S: Final = 0.1
_MOST: Final = 256
requests: Final = logging.getLogger("hedgerow.server.requests")
_FIELDS: Final = "hedgerow_fields"
# sd-daemon(3): how a line says its priority to the journal.
_PRIORITIES: Final = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure(settings: Logs, redactor: Redactor) -> None:
    """Send all of the process's log lines to standard error, in the form that ``settings`` say."""
    handler = Batches(sys.stderr)
    handler.setFormatter(Lines(redactor, as_json=settings.format == "json", priorities="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    requests.setLevel(settings.number)
    # A line for each request that it sends, with the whole URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)  # noqa: FBT003 - its only parameter
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


class Batches(logging.StreamHandler[TextIO]):
    """Holds requests' lines back on an event loop, to make and write several at a time: each costs less so."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._held: list[logging.LogRecord] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._held.append(record)
        if not isinstance(record, _RequestRecord) or record.levelno > logging.INFO or len(self._held) >= _MOST:
            self.flush()
        elif self._loop is None or self._loop.is_closed():
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._loop.call_later(_WITHIN_S, self.flush)

    def flush(self) -> None:
        """Write what is held. The standard library calls it when the process ends."""
        self.acquire()
        try:
            held, self._held, self._loop = self._held, [], None
            if held:
                self.stream.write("".join([f"{self.format(record)}\n" for record in held]))
                self.stream.flush()
        except Exception:  # noqa: BLE001 - as any handler: who logs a line need not know that nobody reads it
            self.handleError(held[-1])
        finally:
            self.release()


class Lines(logging.Formatter):
    """One line a record: JSON, or ``LEVEL logger: message key=value …``."""

    def __init__(self, redactor: Redactor, *, as_json: bool, priorities: bool = False) -> None:
        super().__init__()
        self._redactor = redactor
        self._as_json = as_json
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        line = self._json(record) if self._as_json else self._text(record)
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._priorities else line

    def _json(self, record: logging.LogRecord) -> str:
        line = record.__dict__.get(_FIELDS)
        if isinstance(line, RequestLine):  # the most of all lines by far: without a dictionary on the way
            head = f'{{"time":"{_stamp(record.created)}","level":"{record.levelname.lower()}",'
            return f'{head}"logger":"{record.name}","message":"{record.msg}",{_encode(line)[1:].decode()}'
        value = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
            **_fields(record),
        }
        return msgspec.json.encode(value).decode()

    def _text(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        return f"{record.levelname} {record.name}: {self._message(record)}{fields}"

    def _message(self, record: logging.LogRecord) -> str:
        if _FIELDS in record.__dict__:
            return record.getMessage()  # ours, without anything of the request
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a line that cannot be made must not end what wanted to log it
            message = str(record.msg)
        if record.name == "asyncio":
            message = message.partition("\n")[0]  # below stands the exception, message and all
        return " ".join(self._redactor.redact(message).splitlines())


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    line = record.__dict__.get(_FIELDS)
    fields: dict[str, Any] = {} if line is None else msgspec.to_builtins(line)
    if record.exc_info:
        fields.update(_exception(record.exc_info))
    return fields


def _exception(found: _ExcInfo) -> dict[str, Any]:
    types: list[str] = []
    error = found[1]
    while error is not None and len(types) < 8:  # noqa: PLR2004 - enough of any chain
        types.append(type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    stack = [f"{each.filename}:{each.lineno} {each.name}" for each in traceback.extract_tb(found[2])]
    return {"exception": types, "stack": stack[-20:]}


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("hedgerow.server").critical("uncaught", exc_info=(kind, error, trace))


@functools.lru_cache(maxsize=1)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).replace(tzinfo=None).isoformat()


def _stamp(seconds: float) -> str:
    """ISO 8601 with milliseconds, in UTC."""
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}+00:00"


class RequestLines:
    """A line for each request: info, or warning where it was slow or failed."""

    def __init__(self, slow: Callable[[Finished], bool]) -> None:
        self._slow = slow

    def __call__(self, request: Finished) -> None:
        slow = self._slow(request)
        level = logging.WARNING if slow or request.failed else logging.INFO
        if requests.isEnabledFor(level):
            requests.handle(_RequestRecord(level, line_of(request, slow=slow)))


# What the standard library asks for at each record (thread, process, who called from where), and no line of ours says.
_BLANK: Final = vars(logging.makeLogRecord({"name": requests.name, "msg": "request"}))


class _RequestRecord(logging.LogRecord):
    """A request's record, made in a fraction of the time that the standard one takes."""

    def __init__(self, level: int, line: RequestLine) -> None:
        now = time.time()
        self.__dict__.update(_BLANK)
        self.__dict__.update(
            {
                "levelno": level,
                "levelname": logging.getLevelName(level),
                "created": now,
                "msecs": now % 1 * 1000,
                _FIELDS: line,
            }
        )


class RequestLine(Struct, omit_defaults=True, kw_only=True):
    """The fields of a request's line; what there is none of is left out."""

    request_id: str
    trace_id: str
    span_id: str
    client: str | None = None
    protocol: str
    model: str | None = None
    version: str | None = None
    status: int
    cause: str | None = None
    slow: bool | None = None
    duration_ms: float | None = None
    queue_ms: float | None = None
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    finish: str | None = None
    rows: int | None = None


_encode: Final = msgspec.json.Encoder().encode


def line_of(request: Finished, *, slow: bool) -> RequestLine:
    """What is told of it."""
    rate = request.tokens_per_s
    return RequestLine(
        request_id=request.caller.request_id,
        trace_id=request.caller.trace_id,
        span_id=request.span_id,
        client=request.caller.client or None,
        protocol=request.protocol,
        model=request.model or None,
        version=request.version or None,
        status=request.code,
        cause=request.cause,
        slow=slow or None,
        duration_ms=_ms(request.duration_s),
        queue_ms=_ms(request.queued_s),
        first_token_ms=_ms(request.first_token_s),
        prompt_tokens=request.prompt_tokens or None,
        tokens=request.tokens or None,
        tokens_per_s=None if rate is None else round(rate, 1),
        finish=request.finish,
        rows=request.rows or None,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
