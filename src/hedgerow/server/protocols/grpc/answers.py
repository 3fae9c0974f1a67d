"""The data plane's answers in gRPC's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from hedgerow.server.protocols.grpc import contents, messages

if TYPE_CHECKING:
    from hedgerow.server.inference import InferResponse, ModelMetadata
    from hedgerow.server.models import Served
    from hedgerow.server.modelstatistics import Duration


def inferred(response: InferResponse, *, typed: bool) -> messages.ModelInferResponse:
    """An answer with its tensors."""
    answer = messages.ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id or ""
    )
    contents.write(answer, response.outputs, typed=typed)
    return answer


def metadata(model: ModelMetadata) -> messages.ModelMetadataResponse:
    """What a model takes and gives."""
    described = messages.ModelMetadataResponse.TensorMetadata
    inputs, outputs = (
        [described(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in side]
        for side in (model.inputs, model.outputs)
    )
    return messages.ModelMetadataResponse(
        name=model.name, versions=model.versions, platform=model.platform, inputs=inputs, outputs=outputs
    )


def config(shown: Mapping[str, Any], tensors: ModelMetadata | None = None) -> messages.ModelConfigResponse:
    """The model's configuration from its JSON form; ``tensors``: those of a text model, whose answers come in parts."""
    found = messages.ModelConfig()
    json_format.ParseDict(dict(shown), found, ignore_unknown_fields=True)
    if tensors is not None:
        found.model_transaction_policy.decoupled = True
        for side, specs in ((found.input, tensors.inputs), (found.output, tensors.outputs)):
            for spec in specs:
                side.add(name=spec.name, data_type=_type(spec.datatype), dims=spec.shape)
    return messages.ModelConfigResponse(config=found)


def statistics(models: Sequence[Served]) -> messages.ModelStatisticsResponse:
    """What the models have done since they were loaded; what is not measured apart is left out, which reads as 0."""
    return messages.ModelStatisticsResponse(model_stats=[_statistics(model) for model in models])


def _statistics(model: Served) -> messages.ModelStatistics:
    figures = model.statistics
    return messages.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=figures.last_inference,
        inference_count=figures.rows,
        execution_count=figures.executions,
        inference_stats=messages.InferStatistics(
            success=_duration(figures.success),
            fail=_duration(figures.fail),
            queue=_duration(figures.queue),
            compute_infer=_duration(figures.compute),
        ),
        batch_stats=[
            messages.InferBatchStatistics(batch_size=batch.batch_size, compute_infer=_duration(batch.compute))
            for batch in sorted(figures.batches.values(), key=lambda each: each.batch_size)
        ],
    )


def _duration(value: Duration) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=value.count, ns=value.ns)


def _type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
