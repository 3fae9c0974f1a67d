"""onnxruntime-genai: a conversation in, tokens out.

The package has two ways to generate, and each request takes the better one that can serve it:

- ``Engine`` computes without Python's lock, so that health probes and other connections are answered meanwhile. It
  wants logits of every position, and holds them all while it reads the prompt; it takes no seed on a processor, and
  shows no logits.
- ``Generator`` holds the lock, so it reads the prompt in parts. It takes every graph, any prompt, a seed, shows the
  logits of each token, and takes a LoRA adapter: each file ``adapters/NAME.onnx_adapter`` beside the model is one. All
  of them share the model's weights.

Figures: docs/decisions/0005-server-stack.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import onnxruntime_genai as og

from hedgerow.server.backends import Decoding, TextRequest
from hedgerow.server.backends.genai_decoding import EngineDecoding, GeneratorDecoding, Sampling
from hedgerow.server.errors import BadRequest, ContextExceeded, ServingError, Unusable

log = logging.getLogger("hedgerow.server.genai")

# Spinning threads fight with whatever else runs on these cores (bench/README.md has the figures).
_SESSION_OPTIONS = {"session.intra_op.allow_spinning": "0"}
# What the engine may hold of logits while it reads a prompt: 1,365 tokens of a vocabulary of 49,152.
_LOGITS_BYTES = 256 * 1024 * 1024
_FLOAT_BYTES = 4


class GenaiBackend:
    """One model with its tokenizer; every generation has its own key-value cache.

    ``engine`` is whether this model's graph can be run by ``Engine``, found by trying.
    """

    platform = "onnxruntime_genai"
    logprobs = True

    def __init__(self, folder: Path, *, threads: int) -> None:
        og.disable_telemetry_events()
        config = og.Config(str(folder))
        options = {"intra_op_num_threads": threads, **_SESSION_OPTIONS}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        described = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self._context = int(described["context_length"])
        self._vocabulary = int(described["vocab_size"])
        self._ends = frozenset(int(token) for token in self._tokenizer.eos_token_ids)
        self._adapters = og.Adapters(self._model)
        self.adapters = tuple(self._load_adapters(folder / "adapters"))
        self.engine = self._try_engine()

    def begin(self, request: TextRequest) -> Decoding:
        prompt = self._prompt(request)
        room = self._context - len(prompt)
        if room < 1:
            raise ContextExceeded(
                f"the prompt has {len(prompt)} tokens; the model's context holds {self._context}", field=_field(request)
            )
        sampling = Sampling.of(request, self._vocabulary)
        length = min(request.max_tokens, room)
        stream = self._tokenizer.create_stream()
        plain = request.adapter is None and not request.logprobs
        if self.engine and plain and self._suits_engine(len(prompt), sampling):
            return EngineDecoding(self._model, stream, prompt, length, sampling)
        adapter = None if request.adapter is None else (self._adapters, request.adapter)
        decoding = GeneratorDecoding(self._model, stream, prompt, length, sampling, ends=self._ends, adapter=adapter)
        decoding.weighs = request.logprobs
        return decoding

    def close(self) -> None:
        # The model last: all others point into it.
        del self._adapters
        del self._tokenizer
        del self._model

    def _load_adapters(self, folder: Path) -> Iterator[str]:
        for path in sorted(folder.glob("*.onnx_adapter")):
            try:
                self._adapters.load(str(path), path.stem)
            except RuntimeError as error:
                raise Unusable("load_failed", f"{path.name} is no adapter of this model: {error}") from error
            yield path.stem

    def _prompt(self, request: TextRequest) -> list[int]:
        texts = [request.prompt or "", *(text for each in request.messages or () for text in each.values())]
        if any("\0" in text for text in texts):  # the tokenizer would silently end there
            raise BadRequest("the prompt holds a NUL character", field=_field(request))
        if request.messages is None:
            text = request.prompt or ""
        else:
            messages = json.dumps([dict(message) for message in request.messages])
            try:
                text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            except Exception as error:  # templates refuse what they do not know, such as two system messages
                raise BadRequest(f"the chat template refuses these messages: {error}", field="messages") from error
        prompt: list[int] = self._tokenizer.encode(text).tolist()
        if not prompt:
            raise BadRequest("the prompt is empty", field=_field(request))
        return prompt

    def _suits_engine(self, prompt_tokens: int, sampling: Sampling | None) -> bool:
        seeded = sampling is not None and sampling.seed is not None
        return not seeded and prompt_tokens * self._vocabulary * _FLOAT_BYTES <= _LOGITS_BYTES

    def _try_engine(self) -> bool:
        """One token from a prompt of two: a graph with logits of the last position alone fails at once."""
        if not hasattr(og, "TurnOptions"):
            log.info("this onnxruntime-genai has no usable Engine; generating holds Python's lock")
            return False
        prompt = sorted(self._ends)[:1] * 2 or [0, 0]
        try:
            decoding = EngineDecoding(self._model, self._tokenizer.create_stream(), prompt, 1, None)
            try:
                decoding.step()
            finally:
                decoding.close()
        except (RuntimeError, ServingError) as error:
            log.info("its graph is not for Engine, so generating holds Python's lock: %s", error)
            return False
        return True


def _field(request: TextRequest) -> str:
    """The part of the request that the prompt came in."""
    return "prompt" if request.messages is None else "messages"
