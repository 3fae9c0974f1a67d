"""``inference.GRPCInferenceService``: each call of the protocol on the data plane.

A call asks for the rights that its REST twin asks for (``access``), so there is one table of who may what.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from hedgerow import __version__
from hedgerow.server import modelconfig
from hedgerow.server.errors import BadRequest, NotFound, Overloaded, ServingError
from hedgerow.server.protocols import oip
from hedgerow.server.protocols.grpc import answers, callers, messages, status, texts, wire
from hedgerow.server.protocols.grpc.infer import PROTOCOL, Inference
from hedgerow.server.protocols.grpc.requests import refuse_others
from hedgerow.server.protocols.grpc.stream import InferStream

if TYPE_CHECKING:
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.inference import ModelMetadata
    from hedgerow.server.telemetry.caller import Caller

    Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger("hedgerow.server")
M = TypeVar("M", bound=Message)
NAME: Final = "inference.GRPCInferenceService"
# Raw tensors need no extension here.
EXTENSIONS: Final = tuple(name for name in oip.EXTENSIONS if name != "binary_tensor_data")
TWINS: Final = {
    "ServerLive": "/v2/health/live",
    "ServerReady": "/v2/health/ready",
    "ServerMetadata": "/v2",
    "ModelReady": "/v2/models",
    "ModelMetadata": "/v2/models",
    "ModelConfig": "/v2/models",
    "ModelStatistics": "/v2/models",
    "ModelInfer": "/v2/models",
    "ModelStreamInfer": "/v2/models",
    "RepositoryIndex": "/v2/repository",
    "RepositoryModelLoad": "/v2/repository",
    "RepositoryModelUnload": "/v2/repository",
}
"""Call → the path whose rights it asks for."""


class Service:
    """The calls. ``guard`` ends a call whose caller may not call that path; None where anyone may.

    ``ended``: whether it was the guard who cancelled this call, later.
    """

    def __init__(
        self,
        plane: DataPlane,
        limits: Limits,
        *,
        guard: Callable[[Context, str], Awaitable[None]] | None = None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plane = plane
        self._inference = Inference(plane, limits)
        self._guard = guard
        self._ended = ended
        self._streams: set[InferStream] = set()
        self._stopping = False

    def stop(self) -> None:
        """Let streams take no more requests: one that a caller keeps open must not hold the server up."""
        self._stopping = True
        for stream in self._streams:
            stream.close()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server is given to serve."""
        calls: dict[str, Any] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {name: self._unary(name, call) for name, call in calls.items()}
        # Messages are parsed by us: what cannot be is the caller's fault, and no unexpected exception.
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._told(self._stream), response_serializer=messages.ModelStreamInferResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(NAME, handlers)

    def _unary(self, name: str, call: Callable[[Any, Context], Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
        parse = _request if name == "ModelInfer" else functools.partial(_parsed, getattr(messages, f"{name}Request"))

        async def guarded(data: bytes, context: Context) -> Message | None:
            caller = callers.identified(context)
            await self._check(context, name, caller)
            try:
                answer: Message = await call(parse(data), context)
            except ServingError as error:
                failure = error
            except Exception:
                log.exception("%s failed", name)
                failure = ServingError("the server failed")
            else:
                return answer
            self._refused(caller, failure.status)
            return await context.abort(status.code_of(failure), status.details_of(failure), status.trailers_of(failure))

        written = getattr(messages, f"{name}Response").SerializeToString
        return grpc.unary_unary_rpc_method_handler(self._told(guarded), response_serializer=written)

    def _told(self, call: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        """``call``; one that the guard cancelled is told why. To a call cancelled by itself gRPC sends no answer."""

        async def told(request: Any, context: Context) -> Any:
            try:
                return await call(request, context)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or not self._ended():
                    raise
                task.uncancel()
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate was revoked")

        return told

    async def _check(self, context: Context, name: str, caller: Caller) -> None:
        if self._guard is not None:
            try:
                await self._guard(context, TWINS[name])
            except grpc.aio.AbortError:
                self._refused(caller, HTTPStatus.FORBIDDEN)
                raise

    def _refused(self, caller: Caller, code: int) -> None:
        if not caller.recorded:
            self._plane.recorder.refused(caller, PROTOCOL, code)

    # ── the server and its models ───────────────────────────────────────────

    async def _server_live(self, _request: Any, _context: Context) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: Any, _context: Context) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self._plane.ready())

    async def _server_metadata(self, _request: Any, _context: Context) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(name="hedgerow", version=__version__, extensions=EXTENSIONS)

    async def _model_ready(self, request: messages.ModelReadyRequest, _context: Context) -> messages.ModelReadyResponse:
        if self._plane.on_demand and not request.version:
            return messages.ModelReadyResponse(ready=self._plane.ready(request.name))
        try:
            self._plane.served(request.name, request.version or None)
        except (NotFound, Overloaded):
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._plane.ready(request.name))

    async def _model_metadata(
        self, request: messages.ModelMetadataRequest, _context: Context
    ) -> messages.ModelMetadataResponse:
        await self._plane.bring(request.name)
        return answers.metadata(self._described(request.name, request.version or None))

    async def _model_config(
        self, request: messages.ModelConfigRequest, _context: Context
    ) -> messages.ModelConfigResponse:
        name, version = request.name, request.version or None
        await self._plane.bring(name)
        shown = modelconfig.shown(self._plane.config(name, version))
        text = self._inference.takes_text(name, version)
        return answers.config(shown, self._described(name, version) if text else None)

    def _described(self, name: str, version: str | None) -> ModelMetadata:
        model = self._plane.metadata(name, version)
        return texts.described(model) if self._inference.takes_text(name, version) else model

    async def _model_statistics(
        self, request: messages.ModelStatisticsRequest, _context: Context
    ) -> messages.ModelStatisticsResponse:
        return answers.statistics(self._plane.statistics(request.name or None, request.version or None))

    # ── the repository ──────────────────────────────────────────────────────

    async def _index(
        self, request: messages.RepositoryIndexRequest, _context: Context
    ) -> messages.RepositoryIndexResponse:
        _only_repository(request.repository_name)
        found = [each for each in await self._plane.index() if each.state == "READY" or not request.ready]
        entry = messages.RepositoryIndexResponse.ModelIndex
        return messages.RepositoryIndexResponse(
            models=[entry(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in found]
        )

    async def _load(
        self, request: messages.RepositoryModelLoadRequest, _context: Context
    ) -> messages.RepositoryModelLoadResponse:
        _only_repository(request.repository_name)
        refuse_others(request.parameters, set(), where="the load")
        await self._plane.load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def _unload(
        self, request: messages.RepositoryModelUnloadRequest, _context: Context
    ) -> messages.RepositoryModelUnloadResponse:
        _only_repository(request.repository_name)
        # Models here depend on none, so either value says the same.
        refuse_others(request.parameters, {"unload_dependents"}, where="the unload")
        await self._plane.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    # ── inference ───────────────────────────────────────────────────────────

    async def _infer(self, request: wire.Request, context: Context) -> messages.ModelInferResponse:
        return await self._inference.one(request, context.time_remaining())

    async def _stream(self, data: AsyncIterator[bytes], context: Context) -> None:
        caller = callers.identified(context)
        await self._check(context, "ModelStreamInfer", caller)

        failure: BadRequest | None = None

        async def requests() -> AsyncIterator[wire.Request]:
            nonlocal failure
            async for each in data:
                try:
                    request = _request(each)
                except BadRequest as error:
                    failure = error  # what came before it is answered yet
                    return
                yield request

        def in_order(request: wire.Request) -> bool:
            return not self._inference.takes_text(request.model_name, request.model_version or None)

        def answered(request: wire.Request) -> AsyncIterator[messages.ModelInferResponse]:
            return self._inference.many(request, context.time_remaining())

        stream = InferStream(answered, in_order)
        self._streams.add(stream)
        try:
            await stream.serve(requests(), context.write)
        finally:
            self._streams.discard(stream)
        if self._stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        if failure is not None:
            self._refused(caller, failure.status)
            await context.abort(status.code_of(failure), status.details_of(failure))


def _only_repository(name: str) -> None:
    if name:
        raise BadRequest(f"repository '{name}' is not known; there is one, without a name", field="repository_name")


def _request(data: bytes) -> wire.Request:
    try:
        return wire.parsed(data)
    except DecodeError as error:
        raise BadRequest("this is no ModelInferRequest") from error


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"this is no {kind.DESCRIPTOR.name}") from error
