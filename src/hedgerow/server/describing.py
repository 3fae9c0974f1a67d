"""What a model in service says of itself to whoever asks: its tensors, its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from hedgerow.server import modelconfig
from hedgerow.server.inference import ModelMetadata
from hedgerow.server.modelconfig import ModelConfig, TransactionPolicy

if TYPE_CHECKING:
    from hedgerow.server.models import Served


def metadata(name: str, model: Served, versions: tuple[str, ...]) -> ModelMetadata:
    """What it takes and gives; a text model has no tensors. ``versions`` are those in service under ``name``."""
    inputs, outputs = (tuple(getattr(model.backend, side, ())) for side in ("inputs", "outputs"))
    return ModelMetadata(name, versions, model.backend.platform, inputs, outputs)


def config(known: ModelMetadata, model: Served) -> ModelConfig:
    """Its configuration, completed by what is ``known`` of it."""
    own = model.config or ModelConfig()
    batched = own.max_batch_size > 0
    return structs.replace(
        own,
        name=known.name,
        platform=own.platform or known.platform,
        backend=own.backend or modelconfig.backend_of(known.platform),
        input=own.input or modelconfig.tensors(known.inputs, batched=batched),
        output=own.output or modelconfig.tensors(known.outputs, batched=batched),
        model_transaction_policy=TransactionPolicy(decoupled=hasattr(model.backend, "begin")),
    )
