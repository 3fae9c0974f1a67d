"""The shapes of the REST interface's answers, for its published description; tests hold what adapters write to them.

Sources: KServe, "Open Inference Protocol" (REST), and Triton's extensions of it; OpenAI's API reference.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class Error(Struct, frozen=True, forbid_unknown_fields=True):
    """What went wrong, in words."""

    error: str


class OpenAIErrorDetail(Struct, frozen=True, forbid_unknown_fields=True):
    """``param``: the field that is at fault."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIError(Struct, frozen=True, forbid_unknown_fields=True):
    """What went wrong, as OpenAI's clients read it."""

    error: OpenAIErrorDetail


# ── Open Inference Protocol ─────────────────────────────────────────────────


class ServerMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """The server and the extensions it has."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of a model; -1 is a free dimension."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes and gives; a text model has no tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ResponseParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The size of an output's bytes behind the JSON."""

    binary_data_size: int


class ResponseOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """An output: its values in row-major order, or the size of its bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: ResponseParameters | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(Struct, frozen=True, forbid_unknown_fields=True):
    """A model's outputs."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    id: str | UnsetType = UNSET


class Generated(Struct, frozen=True, forbid_unknown_fields=True):
    """A text model's answer."""

    model_name: str
    model_version: str
    text_output: str
    id: str | UnsetType = UNSET


class StatisticDuration(Struct, frozen=True, forbid_unknown_fields=True):
    """How often, and nanoseconds in all."""

    count: int
    ns: int


class InferStatistics(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time of a model's requests went."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration
    cache_miss: StatisticDuration


class InferBatchStatistics(Struct, frozen=True, forbid_unknown_fields=True):
    """The same of runs with so many rows."""

    batch_size: int
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class ModelStatistics(Struct, frozen=True, forbid_unknown_fields=True):
    """What a version has done since it was loaded; ``last_inference`` in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[InferBatchStatistics]
    memory_usage: list[Any]


class Statistics(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one model's versions, or of all models."""

    model_stats: list[ModelStatistics]


class ModelIndex(Struct, frozen=True, forbid_unknown_fields=True):
    """A version in the repository and its state; ``reason`` says why it is not served."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


# ── OpenAI ──────────────────────────────────────────────────────────────────


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """A model, or an adapter of ``parent``."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | UnsetType = UNSET


class Models(Struct, frozen=True, forbid_unknown_fields=True):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Usage(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model says."""

    role: Literal["assistant"]
    content: str


class TokenLogprob(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the natural logarithm of its probability; ``bytes`` of its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any]


class ChatLogprobs(Struct, frozen=True, forbid_unknown_fields=True):
    """Of every token of the answer."""

    content: list[TokenLogprob]
    refusal: None


class ChatChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """The one answer."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None


class ChatCompletion(Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation's next message."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """The one answer."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None


class Completion(Struct, frozen=True, forbid_unknown_fields=True):
    """A text's continuation."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
