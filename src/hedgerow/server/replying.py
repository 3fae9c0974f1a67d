"""uvicorn's HTTP/1.1 protocol, with a short answer written at once.

An answer is two messages to uvicorn: each goes through all layers of the application, and every name and value of the
head is looked through for what may not stand there. For a small model that is a tenth of the whole request. An
application that finds ``REPLY`` in a request's scope may give a whole answer instead, of whose head it is sure.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

Headers = Sequence[tuple[bytes, bytes]]
Reply = Callable[[Headers, bytes | memoryview], bool]

REPLY: Final = "hedgerow.reply"
"""Key in the ASGI scope of a ``Reply``: writes an answer with status 200, of a POST; False where it has to be sent as
usual. ``headers`` must have the body's length, and nothing that came from a caller unchecked. It refers weakly to
uvicorn's cycle, which has the scope: what refers to each other is freed only when the collector looks for it, and the
next requests take new memory until then."""
HEADS: Final = "hedgerow.heads"
"""Key of the head's fields by their names in lower case, the first of several; whoever needs them first makes it."""
GIVEN: Final = "hedgerow.given"
"""Key of one more header for any answer, where a layer outside has one."""


class ReplyingProtocol(HttpToolsProtocol):
    """Offers ``REPLY`` for each request."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment] # extensions are not in its type
        scope[REPLY] = functools.partial(self._reply, weakref.ref(self.cycle))

    def _reply(self, reference: weakref.ref[RequestResponseCycle], headers: Headers, body: bytes | memoryview) -> bool:
        cycle = reference()
        if (
            cycle is None
            or cycle.disconnected
            or cycle.response_started
            or not cycle.keep_alive
            or self.flow.write_paused
            or cycle.scope["method"] != "POST"
        ):
            return False
        parts: list[bytes | memoryview] = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True
