"""llama.cpp (``llama_cpp``): a GGUF file on the processor. Optional: ``pip install 'hedgerow[llamacpp]'``.

The package has no wheels: installing it compiles it, which wants a C++ compiler and minutes on a Pi.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_cpp import Llama

from hedgerow.server.backends import Decoding, TextRequest, the_one
from hedgerow.server.backends.serial import Lease, SerialDecoding
from hedgerow.server.errors import BadRequest, ContextExceeded


class LlamaBackend:
    """One model with one context: generations follow each other."""

    platform = "llama_cpp"
    generations = 1

    def __init__(self, folder: Path, *, threads: int) -> None:
        # A context of 0 is the one that the model was trained with.
        self._llama = Llama(model_path=str(the_one(folder, ".gguf")), n_threads=threads, n_ctx=0, verbose=False)
        self._lease = Lease()

    def begin(self, request: TextRequest) -> Decoding:
        field = "prompt" if request.messages is None else "messages"
        text = request.prompt or "".join(message["content"] for message in request.messages or ())
        tokens, context = len(self._llama.tokenize(text.encode())), int(self._llama.n_ctx())
        if not text:
            raise BadRequest("the prompt is empty", field=field)
        if tokens >= context:
            raise ContextExceeded(f"the prompt has {tokens} tokens; the model's context holds {context}", field=field)
        return SerialDecoding(self._lease, lambda: _Chunks(self._llama, request))

    def close(self) -> None:
        self._llama.close()
        del self._llama


class _Chunks:
    """One generation as the package streams it."""

    def __init__(self, llama: Llama, request: TextRequest) -> None:
        self.prompt_tokens = 0
        self.truncated = False
        self._llama = llama
        options: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stream": True,
        }
        if request.messages is None:
            self._chunks: Iterator[Any] = llama.create_completion(request.prompt, **options)
        else:
            messages = [dict(message) for message in request.messages]
            self._chunks = llama.create_chat_completion(messages, **options)

    def next(self) -> str | None:
        for chunk in self._chunks:
            choice = chunk["choices"][0]
            text = choice["text"] if "text" in choice else choice["delta"].get("content")
            if not self.prompt_tokens:
                self.prompt_tokens = int(self._llama.n_tokens)
            if choice["finish_reason"] is not None:
                self.truncated = choice["finish_reason"] == "length"
            elif text is not None:
                return str(text)
        return None

    def close(self) -> None:
        self._chunks.close()  # type: ignore[attr-defined] # it is a generator
