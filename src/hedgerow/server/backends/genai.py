"""onnxruntime-genai: a conversation in, tokens out."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime_genai as og

from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import BadRequest

# Spinning threads fight with whatever else runs on these cores (bench/README.md has the figures).
_SESSION_OPTIONS = {"session.intra_op.allow_spinning": "0"}


class GenaiBackend:
    """One model with its tokenizer; every generation has its own key-value cache."""

    platform = "onnxruntime_genai"

    def __init__(self, folder: Path, *, threads: int) -> None:
        config = og.Config(str(folder))
        options = {"intra_op_num_threads": threads, **_SESSION_OPTIONS}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        described = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self._context = int(described["model"]["context_length"])

    def begin(self, request: TextRequest) -> GenaiDecoding:
        if request.messages is not None:
            text = self._tokenizer.apply_chat_template(
                json.dumps([dict(message) for message in request.messages]), add_generation_prompt=True
            )
        else:
            text = request.prompt or ""
        prompt = self._tokenizer.encode(text)
        room = self._context - len(prompt)
        if room < 1:
            raise BadRequest(
                f"the prompt has {len(prompt)} tokens; the model's context holds {self._context}", field="messages"
            )
        return GenaiDecoding(self._model, self._tokenizer, prompt, request, room)

    def close(self) -> None:
        del self._tokenizer
        del self._model


class GenaiDecoding:
    """One generation: ``step`` makes one token."""

    def __init__(
        self, model: og.Model, tokenizer: og.Tokenizer, prompt: list[int], request: TextRequest, room: int
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.truncated = False
        parameters = og.GeneratorParams(model)
        options: dict[str, bool | int | float] = {"max_length": len(prompt) + min(request.max_tokens, room)}
        if request.temperature > 0:
            # top_k 0 leaves the choice to top_p alone, as OpenAI's interface has no top_k.
            options |= {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
            if request.seed is not None:
                options["random_seed"] = request.seed
        else:
            options["do_sample"] = False
        parameters.set_search_options(**options)
        self._generator = og.Generator(model, parameters)
        self._stream = tokenizer.create_stream()
        self._ends = frozenset(int(token) for token in tokenizer.eos_token_ids)
        self._generator.append_tokens(prompt)

    def step(self) -> str | None:
        if self._generator.is_done():  # an end token has returned below already: what is left is the length
            self.truncated = True
            return None
        self._generator.generate_next_token()
        token = int(self._generator.get_next_tokens()[0])
        if token in self._ends:
            return None
        return str(self._stream.decode(token))

    def close(self) -> None:
        del self._stream
        del self._generator
