"""A model's configuration as the model configuration extension shows it, and the part of it that is obeyed here.

Source of names: Triton, "Model Configuration" (``model_config.proto``); its JSON form keeps the field names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

if TYPE_CHECKING:
    from hedgerow.server.backends import TensorSpec

# The configuration's names for the protocol's platforms and data types, where they differ.
_BACKENDS = {"onnx_onnxv1": "onnxruntime"}
_TYPES = {"BYTES": "TYPE_STRING"}
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class ConfigTensor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input or output; ``dims`` without the batch where the model has a ``max_batch_size``."""

    name: str
    data_type: str
    dims: list[int]


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
