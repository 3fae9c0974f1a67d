"""Requests of gRPC's callers in the data plane's terms. A parameter that is not supported is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from hedgerow.server.errors import BadRequest
from hedgerow.server.inference import InferRequest, Wanted
from hedgerow.server.protocols.grpc import contents, messages

if TYPE_CHECKING:
    from google.protobuf.internal.containers import MessageMap

    from hedgerow.server.protocols.grpc import wire

    Parameters = MessageMap[str, messages.InferParameter]

# Of perf_analyzer, which asks for it where a stream may end without a last answer; here the last answer says so.
EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_PRIORITY, _TIMEOUT, _CLASSES = "priority", "timeout", "classification"
_MICROSECONDS: Final = 1_000_000


def read(request: wire.Request, *, remaining_s: float | None) -> InferRequest:
    """``remaining_s`` is what the call's own deadline leaves.

    Raises:
        BadRequest: a parameter or a tensor, by its name.
    """
    refuse_others(request.parameters, {_PRIORITY, _TIMEOUT, EMPTY_FINAL}, where="the request")
    return InferRequest(
        model=request.model_name,
        version=request.model_version or None,
        inputs=contents.read(request),
        outputs=tuple(_wanted(each) for each in request.outputs),
        id=request.id or None,
        priority=priority(request),
        timeout_s=timeout_s(request, remaining_s=remaining_s),
    )


def priority(request: wire.Request) -> int:
    """1 is the most urgent, 0 the model's default."""
    return _number(request.parameters, _PRIORITY) or 0


def timeout_s(request: wire.Request, *, remaining_s: float | None) -> float | None:
    """The shorter of the call's deadline and the parameter ``timeout`` (microseconds)."""
    asked = _number(request.parameters, _TIMEOUT)
    limits = [each for each in (remaining_s, asked / _MICROSECONDS if asked else None) if each is not None]
    return min(limits, default=None)


def refuse_others(parameters: Iterable[str], known: set[str], *, where: str) -> None:
    """Refuse what is not among ``known``.

    Raises:
        BadRequest: naming it.
    """
    for name in parameters:
        if name not in known:
            raise BadRequest(f"{where} has parameter '{name}', which is not supported", field=name)


def value(parameter: messages.InferParameter) -> Any:
    """What it holds; None for an empty one."""
    which = parameter.WhichOneof("parameter_choice")
    return None if which is None else getattr(parameter, which)


def _wanted(output: messages.ModelInferRequest.InferRequestedOutputTensor) -> Wanted:
    refuse_others(output.parameters, {_CLASSES}, where=f"output '{output.name}'")
    return Wanted(output.name, _number(output.parameters, _CLASSES) or 0)


def _number(parameters: Parameters, name: str) -> int | None:
    """A whole number, 0 or more; None where it is not given."""
    if name not in parameters:
        return None
    number = value(parameters[name])
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise BadRequest(f"parameter '{name}' is {number!r}; it must be a whole number, 0 or more", field=name)
    return number
