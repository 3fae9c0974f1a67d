"""What OpenAI's clients may ask for: the fields that are supported, and how they become a ``TextRequest``.

Source: OpenAI's API reference, "Chat completions" and "Completions". A field that is not supported is refused by name,
never silently ignored; one that is given its neutral value (``n: 1``, ``tools: null``) is accepted.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from msgspec import Meta, Struct

from hedgerow.server.backends import TextRequest
from hedgerow.server.config import Limits
from hedgerow.server.errors import BadRequest

# OpenAI's own default for completions; chat has none there, so this server's is a short answer.
_COMPLETION_TOKENS = 16
_CHAT_TOKENS = 256
_Nought = Annotated[float, Meta(ge=0, le=0)]
_Stops = Annotated[list[str], Meta(max_length=4)]
_Count = Annotated[int, Meta(ge=1)]
# "developer" is OpenAI's newer name for "system"; chat templates know the older one.
_ROLES = {"developer": "system"}
# Who waits begins in this order.
_TIERS = {"priority": 1, "auto": 2, "default": 2, "flex": 3}


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One message; a list of parts is joined."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream ends with."""

    include_usage: bool = False


class TextFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """The one format of answers: free text."""

    type: Literal["text"]


class _Asked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields that both kinds share. ``n`` and the penalties only with their neutral values; ``user`` is not used."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | _Stops | None = None
    n: Literal[1] | None = None
    presence_penalty: _Nought | None = None
    frequency_penalty: _Nought | None = None
    logit_bias: None = None
    user: str | None = None

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _text_request(
        self,
        limits: Limits,
        tokens: int,
        *,
        messages: list[dict[str, str]] | None = None,
        prompt: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> TextRequest:
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options is for streams; set stream", field="stream_options")
        if tokens > limits.max_tokens:
            raise BadRequest(f"max_tokens is {tokens}; this server allows {limits.max_tokens}", field="max_tokens")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if not all(stop):
            raise BadRequest("stop holds an empty text", field="stop")
        return TextRequest(
            messages=messages,
            prompt=prompt,
            max_tokens=tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            priority=priority,
            timeout_s=timeout_s,
        )


class ChatRequest(_Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A conversation."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: None = None
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] = "auto"
    tools: None = None
    tool_choice: None = None

    def text_request(self, limits: Limits, timeout_s: float | None) -> TextRequest:
        """What to generate, within ``timeout_s``.

        Raises:
            BadRequest: a value that is not supported, by its field.
        """
        if self.logprobs and self.stop:
            raise BadRequest("logprobs is not supported together with stop", field="logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise BadRequest("max_tokens and max_completion_tokens say the same; give one", field="max_tokens")
        messages = [{"role": _ROLES.get(each.role, each.role), "content": each.text} for each in self.messages]
        tokens = self.max_tokens or self.max_completion_tokens or min(_CHAT_TOKENS, limits.max_tokens)
        wanted = self._text_request(
            limits, tokens, messages=messages, priority=_TIERS[self.service_tier], timeout_s=timeout_s
        )
        return dataclasses.replace(wanted, logprobs=bool(self.logprobs))


class CompletionRequest(_Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text to go on from, given to the model as it is: no chat template."""

    prompt: str | list[str]
    best_of: Literal[1] | None = None
    echo: bool | None = None
    logprobs: None = None
    suffix: None = None

    def text_request(self, limits: Limits, timeout_s: float | None) -> TextRequest:
        """What to generate, within ``timeout_s``.

        Raises:
            BadRequest: a value that is not supported, by its field.
        """
        if self.echo:
            raise BadRequest("echo is not supported", field="echo")
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise BadRequest(f"prompt holds {len(prompts)} texts; one a request is supported", field="prompt")
        tokens = self.max_tokens or min(_COMPLETION_TOKENS, limits.max_tokens)
        return self._text_request(limits, tokens, prompt=prompts[0], timeout_s=timeout_s)
