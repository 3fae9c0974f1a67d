"""An endpoint over HTTPS: a certificate shown and one demanded, a bearer token from its file, pieces as they come.

Invariants:

- The token is read when it is needed and stands nowhere but in a request's head.
- No error has a word of what the endpoint said: it may repeat the prompt.
- Leaving the generator early closes the connection, which ends the generation there.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from hedgerow.errors import MachineError, UsageError
from hedgerow.secretfile import refuse_public
from hedgerow.server.fallback.wire import Answer, Events, Malformed

if TYPE_CHECKING:
    import httpcore

    from hedgerow.server.fallback.config import EndpointConfig
    from hedgerow.server.fallback.wire import Outgoing
    from hedgerow.server.pieces import Piece

# They log every request, at a level that an operator may turn on for other reasons.
for _noisy in ("httpx", "httpcore"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

_MOST_TOKEN_BYTES = 16 * 1024
_OK, _CLIENT_FAULT, _SERVER_FAULT = 200, 400, 500
# Of the statuses that blame the caller, those that are not about this one request: no token or right, no such model,
# too slow, too many.
_ENDPOINT_FAULT = frozenset({401, 403, 404, 408, 429})


class EndpointFailed(Exception):
    """No answer, or no whole one.

    ``left``: the request may have reached it. ``billed``: it may have cost something. ``sick``: another one would fail
    as well.
    """

    def __init__(self, text: str, *, left: bool, billed: bool, sick: bool = True) -> None:
        super().__init__(text)
        self.left = left
        self.billed = billed
        self.sick = sick


class Endpoint:
    """A client of one endpoint, for one event loop.

    Raises:
        MachineError: certificate, key, CA or token cannot be used.
        UsageError: everybody may read the token.
    """

    def __init__(
        self, name: str, config: EndpointConfig, *, token: Path, certificate: Path, key: Path, ca: Path | None
    ) -> None:
        self.name = name
        self.url = config.url.rstrip("/")
        self._token = token
        self._certificate = certificate
        self._key = key
        self._ca = ca
        self._context = ssl.create_default_context()
        if ca is not None:
            # A private CA alone: a public one must not vouch for it as well.
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.reload()
        self._client = httpx.AsyncClient(
            verify=self._context,
            # The environment's proxies are none of this request's business, and a redirect would carry the prompt on.
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(config.silence_s, connect=config.connect_s, pool=config.connect_s),
        )

    def reload(self) -> None:
        """Read certificate, key and CA again; connections that are up stay.

        Raises:
            MachineError, UsageError: they, or the token, cannot be used; what was loaded before stays in use.
        """
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self._certificate, self._key)
            self._context.load_cert_chain(self._certificate, self._key)
            if self._ca is not None:
                self._context.load_verify_locations(self._ca)
            self._bearer()
        except (OSError, ValueError) as error:
            files = (self._certificate, self._key, self._ca, self._token)
            raise MachineError(
                f"endpoint {self.name} cannot be used: {error}",
                where=", ".join(str(path) for path in files if path is not None),
                next_step="name files that the server may read, as LoadCredential= of its unit (docs/fallback.md)",
            ) from error

    async def ask(self, outgoing: Outgoing, answer: Answer) -> AsyncGenerator[list[Piece], None]:
        """Send it and yield the pieces of ``answer``, all that are ready at once.

        Raises:
            EndpointFailed
        """
        events, handshake = Events(), _Handshake()
        try:
            async with self._client.stream(
                "POST",
                self.url + outgoing.path,
                content=outgoing.body,
                headers=self._head(),
                extensions={"trace": handshake},
            ) as response:
                _check(response)
                # Raw: an answer that comes compressed in spite of the head is refused above, so none can grow.
                async for data in response.aiter_raw():
                    batch = [piece for event in events.feed(data) for piece in answer.take(event)]
                    if batch:
                        yield batch
                        if batch[-1].finish is not None:
                            return
            last = answer.end()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise EndpointFailed(f"cannot be reached: {_said(error)}", left=False, billed=False) from error
        except httpx.TimeoutException as error:
            raise EndpointFailed("is silent", left=True, billed=True) from error
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
            raise EndpointFailed(f"cut the line: {type(error).__name__}", left=True, billed=True) from error
        except Malformed as error:
            raise EndpointFailed(str(error), left=True, billed=True) from error
        finally:
            await handshake.close()
        if last:
            yield last

    async def close(self) -> None:
        await self._client.aclose()

    def _head(self) -> dict[str, str]:
        try:
            bearer = self._bearer()
        except (OSError, ValueError, UsageError) as error:
            text = error.what if isinstance(error, UsageError) else error
            raise EndpointFailed(f"its token cannot be read: {text}", left=False, billed=False) from error
        return {
            "authorization": f"Bearer {bearer}",
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "hedgerow",
        }

    def _bearer(self) -> str:
        with self._token.open("rb") as file:
            refuse_public(file, self._token)
            text = file.read(_MOST_TOKEN_BYTES).strip()
        # RFC 6750, section 2.1; the message must not repeat it.
        if not text or not text.isascii() or not text.decode().isprintable() or b" " in text:
            raise ValueError(f"{self._token} holds no bearer token: one line of printable ASCII without spaces")
        return text.decode()


class _Handshake:
    """A connection until its TLS handshake is done: httpcore (1.0.9) leaves it open where that is cancelled."""

    def __init__(self) -> None:
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Httpcore's extension ``trace``."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._stream = None

    async def close(self) -> None:
        """Close it, if nobody else will."""
        if self._stream is not None:
            await self._stream.aclose()


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if status != _OK:
        sick = not _CLIENT_FAULT <= status < _SERVER_FAULT or status in _ENDPOINT_FAULT
        raise EndpointFailed(f"answered HTTP {status}", left=True, billed=False, sick=sick)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise EndpointFailed("answered compressed, unasked", left=True, billed=True)
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise EndpointFailed("answered with no stream of events", left=True, billed=True)


def _said(error: Exception) -> str:
    """What the network said: of the prompt it knows nothing."""
    return str(error) or type(error).__name__


async def next_within(pieces: AsyncGenerator[list[Piece], None], deadline: float) -> list[Piece] | None:
    """The next pieces, None where there are no more.

    Raises:
        TimeoutError: they have not come by ``deadline``, a time of the running loop.
        EndpointFailed
    """
    # Around each wait, never across a yield: the first pieces are awaited in one task and the others in another.
    async with asyncio.timeout_at(deadline):
        return await anext(pieces, None)
