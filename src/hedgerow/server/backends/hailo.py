"""HailoRT (``hailo_platform`` 5.x): a compiled network, or a language model on a Hailo-10H.

Which of the two a HEF is, its folder says: ``hailo_llm.json`` beside it (may be ``{}``) makes it a language model. A
HEF carries no mark that could be read without the device.

Used of the library: ``VDevice``, ``InferModel`` (VStreams are not implemented on a Hailo-10H) and ``genai.LLM``. Held
to the library's source (5.x) and to a test double of that subset; no board has run it yet. What only a board can tell
is marked "not verified".
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hedgerow.server.backends import Backend, Decoding, TensorSpec, TextRequest, hailo_status, the_one
from hedgerow.server.backends.hailo_device import NPU
from hedgerow.server.backends.serial import SerialDecoding
from hedgerow.server.errors import BadRequest, ContextExceeded, ServingError, Unusable

# By its name: among our own sources is an emulated board's stand-in of the same name, which mypy would look into.
hailo_platform: Any = importlib.import_module("hailo_platform")

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays

LANGUAGE_MARK = "hailo_llm.json"
_RUN_MS = 10_000
# A first token of a long prompt takes seconds; a stuck chip takes for ever.
_TOKEN_MS = 60_000
_TYPES = {"UINT8": ("UINT8", np.uint8), "UINT16": ("UINT16", np.uint16), "FLOAT32": ("FP32", np.float32)}


def open_folder(folder: Path, *, threads: int) -> Backend:
    """The folder's HEF; ``threads`` are the host's, which has nothing to compute."""
    del threads
    path = the_one(folder, ".hef")
    if path is None:
        raise FileNotFoundError(f"{folder} holds no single .hef file")
    return HailoLanguage(path) if (folder / LANGUAGE_MARK).is_file() else HailoNetwork(path)


class HailoNetwork:
    """A network: rows of frames in, rows of results out (dequantized to FP32)."""

    platform = "hailo_hef"

    def __init__(self, path: Path) -> None:
        device = NPU.take()
        try:
            self._model = device.create_infer_model(str(path))
            for stream in self._model.outputs:
                stream.set_format_type(hailo_platform.FormatType.FLOAT32)
            self.inputs = tuple(_spec(stream) for stream in self._model.inputs)
            self.outputs = tuple(_spec(stream) for stream in self._model.outputs)
            self._configured = self._model.configure()
        except Exception as error:
            NPU.give_back()
            raise Unusable("load_failed", f"{path.name}: {hailo_status.explained(error)}") from error

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        names = list(outputs) or [spec.name for spec in self.outputs]
        rows = {array.shape[0] for array in inputs.values()}
        if len(rows) != 1:
            raise BadRequest("all inputs must have the same number of rows")
        frames = []
        with _explained():
            for row in range(rows.pop()):
                bindings = self._configured.create_bindings()
                for name, array in inputs.items():
                    bindings.input(name).set_buffer(np.ascontiguousarray(array[row]))
                for stream in self._model.outputs:
                    bindings.output(stream.name).set_buffer(np.empty(stream.shape, np.float32))
                frames.append(bindings)
            if frames:
                self._configured.run(frames, _RUN_MS)
        return {name: self._rows(name, frames) for name in names}

    def close(self) -> None:
        # In this order: neither may outlive the device.
        del self._configured, self._model
        NPU.give_back()

    def _rows(self, name: str, frames: Sequence[Any]) -> np.ndarray[Any, Any]:
        # Detections as [classes, 5, boxes]: the other form is ragged.
        found = [np.asarray(frame.output(name).get_buffer(tf_format=True)) for frame in frames]
        shape = next(spec.shape for spec in self.outputs if spec.name == name)
        return np.stack(found) if found else np.empty((0, *(max(size, 0) for size in shape[1:])), np.float32)


class HailoLanguage:
    """A language model. The chip has one context: generations follow each other, each from an empty one."""

    platform = "hailo_llm"
    generations = 1

    def __init__(self, path: Path) -> None:
        from hailo_platform.genai import LLM

        device = NPU.take()
        try:
            self._llm = LLM(device, str(path))
            self._context = int(self._llm.max_context_capacity())
        except Exception as error:
            NPU.give_back()
            raise Unusable("load_failed", f"{path.name}: {hailo_status.explained(error)}") from error

    def begin(self, request: TextRequest) -> Decoding:
        # Not verified: what the chip's own chat template adds. A prompt beyond the ceiling is answered with nothing.
        field = "prompt" if request.messages is None else "messages"
        text = request.prompt or "".join(message["content"] for message in request.messages or ())
        with _explained():
            tokens = len(self._llm.tokenize(text))
        if not tokens:
            raise BadRequest("the prompt is empty", field=field)
        if tokens >= self._context:
            raise ContextExceeded(
                f"the prompt has {tokens} tokens; the model's context holds {self._context}", field=field
            )
        return SerialDecoding(NPU.generating, lambda: _Completion(self._llm, request))

    def close(self) -> None:
        self._llm.release()
        del self._llm
        NPU.give_back()


class _Completion:
    """One generation on the chip."""

    def __init__(self, llm: Any, request: TextRequest) -> None:
        self.prompt_tokens = 0
        self.truncated = False
        self._llm = llm
        self._tokens = 0
        prompt = request.prompt if request.messages is None else [dict(message) for message in request.messages]
        greedy = request.temperature <= 0
        with _explained():
            # The library keeps what was said before as the conversation so far; here each request tells all of it.
            llm.clear_context()
            self._completion = llm.generate(
                prompt,
                temperature=None if greedy else request.temperature,
                top_p=None if greedy else request.top_p,
                max_generated_tokens=request.max_tokens,
                do_sample=not greedy,
                seed=request.seed,
            )

    def next(self) -> str | None:
        with _explained():
            status = self._completion.generation_status.name
            if status != "GENERATING":
                self.truncated = status == "MAX_TOKENS_REACHED"
                return None
            text = str(self._completion.read(_TOKEN_MS))
            self._tokens += 1
            if self._tokens == 1:
                # Not verified: that the context counts the prompt and this token by now.
                self.prompt_tokens = max(0, int(self._llm.get_context_usage_size()) - 1)
        return text

    def close(self) -> None:
        self._completion.release()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ServingError:
        raise
    except Exception as error:
        raise hailo_status.while_running(error) from error


def _spec(stream: Any) -> TensorSpec:
    kind = str(stream.format.type).rpartition(".")[2]
    if kind not in _TYPES:
        raise ValueError(f"stream '{stream.name}' has format {kind}; known: {', '.join(_TYPES)}")
    shape = (-1, -1, 5, -1) if stream.is_nms else (-1, *stream.shape)
    return TensorSpec(stream.name, _TYPES[kind][0], shape)
