"""A model's configuration as the model configuration extension shows it, and the part of it that is obeyed here.

Source of names: Triton, "Model Configuration" (``model_config.proto``); its JSON form keeps the field names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from hedgerow.server import textproto
from hedgerow.server.tensors import DTYPES

if TYPE_CHECKING:
    from hedgerow.server.backends import TensorSpec

# The configuration's names for the protocol's platforms and data types, where they differ.
_BACKENDS = {"onnx_onnxv1": "onnxruntime"}
_TYPES = {"BYTES": "TYPE_STRING"}
DATA_TYPES = tuple(_TYPES.get(name, f"TYPE_{name}") for name in DTYPES)
# What runs here, by its names in ``backend`` and ``platform``.
_RUNS = ("onnxruntime", "onnxruntime_onnx", "onnx_onnxv1", "onnxruntime_genai")
# Fields of Triton's that change how fast its own server answers, never what; they are passed over.
_NO_MATTER = frozenset(
    {"instance_group", "optimization", "model_warmup", "metric_tags", "parameters", "response_cache", "runtime"}
)
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class ConfigTensor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An input or output; ``dims`` without the batch where the model has a ``max_batch_size``.

    ``label_filename``: in the model's folder, a line for each class of an output.
    """

    name: str
    data_type: str
    dims: list[int]
    label_filename: str = ""


class Latest(Struct, frozen=True, forbid_unknown_fields=True):
    """The newest so many."""

    num_versions: Annotated[int, Meta(ge=1)] = 1


class All(Struct, frozen=True, forbid_unknown_fields=True):
    """Every version."""


class Specific(Struct, frozen=True, forbid_unknown_fields=True):
    """These versions."""

    versions: Annotated[list[int], Meta(min_length=1)]


class VersionPolicy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which versions are served: one of the three."""

    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.latest, self.all, self.specific)) != 1:
            raise ValueError("version_policy is one of latest, all and specific")


class DynamicBatching(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that come within the delay (microseconds) may be computed together."""

    preferred_batch_size: list[_Count] = field(default_factory=list)
    max_queue_delay_microseconds: _Count = 0


class TransactionPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """``decoupled``: an answer comes in any number of parts."""

    decoupled: bool = False


LATEST = VersionPolicy(latest=Latest())


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``max_batch_size`` 0: the model's shapes hold for a whole request."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    default_model_filename: str = ""
    version_policy: VersionPolicy = field(default_factory=lambda: LATEST)
    max_batch_size: _Count = 0
    input: list[ConfigTensor] = field(default_factory=list)
    output: list[ConfigTensor] = field(default_factory=list)
    dynamic_batching: DynamicBatching | None = None
    model_transaction_policy: TransactionPolicy = field(default_factory=TransactionPolicy)


def parse(text: str) -> ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        ValueError: not of the text format, or a field that is not supported; names the line or the field.
    """
    message = textproto.parse(text)
    tree = {name: values for name, values in message.items() if name not in _NO_MATTER}
    try:
        config = msgspec.convert(_built(tree, ModelConfig), ModelConfig)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    for tensor in (*config.input, *config.output):
        if tensor.data_type not in DATA_TYPES:
            raise ValueError(f"{tensor.name} has data_type {tensor.data_type}; known: {', '.join(DATA_TYPES)}")
    known = ", ".join(_RUNS)
    for name in filter(None, (config.backend, config.platform)):
        if name not in _RUNS:
            raise ValueError(f"'{name}' does not run here; known: {known}")
    if config.dynamic_batching is not None and config.max_batch_size == 0:
        raise ValueError("dynamic_batching needs a max_batch_size")
    return config


def _built(message: textproto.Message, kind: type[Struct]) -> dict[str, Any]:
    """A message's fields as ``kind`` has them: lists where it has lists, else the last value."""
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, values in message.items():
        hint = hints.get(name)
        inner = next((each for each in (hint, *get_args(hint)) if _is_struct(each)), None)
        plain = [_plain(value, inner) for value in values]
        found[name] = plain if get_origin(hint) is list else plain[-1] if plain else None
    return found


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _plain(value: Any, inner: type[Struct] | None) -> Any:
    if isinstance(value, dict):
        return value if inner is None else _built(value, inner)
    if isinstance(value, textproto.Name):
        return {"true": True, "false": False}.get(value, str(value))
    return value


def backend_of(platform: str) -> str:
    """Triton's name of the backend that runs ``platform``."""
    return _BACKENDS.get(platform, platform)


def shown(config: ModelConfig) -> dict[str, Any]:
    """As JSON writes it; readers take a ``dynamic_batching`` of null for one that is there."""
    document: dict[str, Any] = msgspec.to_builtins(config)
    return {name: value for name, value in document.items() if value is not None}


def tensors(specs: Sequence[TensorSpec], *, batched: bool) -> list[ConfigTensor]:
    """A model's own tensors as its configuration writes them."""
    return [
        ConfigTensor(
            name=spec.name,
            data_type=_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
            dims=list(spec.shape[1:] if batched else spec.shape),
        )
        for spec in specs
    ]
