"""The data plane's answers in gRPC's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hedgerow.server.protocols.grpc import contents, messages

if TYPE_CHECKING:
    from hedgerow.server.inference import InferResponse, ModelMetadata

_TYPE_STRING: Final = "TYPE_STRING"
# The runtime's name by the platform's, as Triton's model configuration has them.
_BACKENDS: Final = {"onnx_onnxv1": "onnxruntime"}


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


def config(model: ModelMetadata, *, decoupled: bool) -> messages.ModelConfigResponse:
    """The model's configuration as far as there is one; ``decoupled``: one request may have several answers."""
    return messages.ModelConfigResponse(
        config=messages.ModelConfig(
            name=model.name,
            platform=model.platform,
            backend=_BACKENDS.get(model.platform, model.platform),
            input=[
                messages.ModelInput(name=spec.name, data_type=_type(spec.datatype), dims=spec.shape)
                for spec in model.inputs
            ],
            output=[
                messages.ModelOutput(name=spec.name, data_type=_type(spec.datatype), dims=spec.shape)
                for spec in model.outputs
            ],
            model_transaction_policy=messages.ModelTransactionPolicy(decoupled=decoupled),
        )
    )


def _type(datatype: str) -> str:
    return _TYPE_STRING if datatype == "BYTES" else f"TYPE_{datatype}"
