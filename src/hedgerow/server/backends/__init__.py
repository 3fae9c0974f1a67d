"""Backends: what runs a model. One small interface, each backend imported when a model asks for it.

A backend is either a ``TensorBackend`` (arrays in, arrays out) or a ``TextBackend`` (a conversation in, tokens out).
Both are loaded from a bundle's folder and closed once; nothing here knows of HTTP.

Both runtimes' wheels report to their maker unless told not to, from the moment they are imported; this package tells
them before it imports either (docs/decisions/0005-server-stack.md has what was traced).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hedgerow.server.computing import default_threads
from hedgerow.server.errors import ServingError, Unusable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hedgerow.server.computing import Provider

    Arrays = Mapping[str, NDArray[np.generic]]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor at the border; ``datatype`` as Open Inference Protocol v2 spells it, -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TextRequest:
    """What to generate. Exactly one of ``messages`` (a conversation) and ``prompt`` (raw text) is set.

    ``temperature`` 0 is greedy. ``stop``: texts that end the answer and are not part of it. ``adapter`` is one of the
    backend's ``adapters``, None the model as it is. ``priority`` 1 is the most urgent, 0 the usual one; ``timeout_s``
    is when the answer must have ended, waiting included. Both are the scheduler's; a backend need not look at them.
    ``device_only``: no other machine may answer (``hedgerow.server.fallback``). ``logprobs``: the probabilities of the
    tokens are wanted, of a backend that can tell them.
    """

    messages: Sequence[Mapping[str, str]] | None = None
    prompt: str | None = None
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())
    adapter: str | None = None
    priority: int = 0
    timeout_s: float | None = None
    device_only: bool = False
    logprobs: bool = False


class TensorBackend(Protocol):
    """Arrays in, arrays out; ``infer`` may be called from several threads.

    One that computes on the thread that calls it, and waits for no device and no lock, may say so by ``inline = True``:
    where its runs are proven to be quick (``pace``), the event loop then makes them itself.
    """

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Run the model; ``outputs`` empty means all."""

    def close(self) -> None:
        """Give the memory back."""


class RunHandle(Protocol):
    """A run that can be stopped from another thread: it ends with an error soon after ``terminate`` was set."""

    terminate: bool


class StoppableBackend(TensorBackend, Protocol):
    """One whose runs can be stopped."""

    def begin_run(self) -> RunHandle:
        """The handle for one call of ``infer``."""

    def infer(self, inputs: Arrays, outputs: Sequence[str], run: RunHandle | None = None) -> Arrays:
        """As ``TensorBackend.infer``."""


class Decoding(Protocol):
    """One running generation; made, used and closed on one thread.

    ``truncated``: the context was full before the answer ended.
    """

    prompt_tokens: int
    truncated: bool

    def read(self) -> bool:
        """Read a part of the prompt; True once ``step`` may be called."""

    def step(self) -> str | None:
        """Generate one token and return its text (may be empty); None: the model has ended its answer."""

    def close(self) -> None:
        """Give its memory back."""


class WeighingDecoding(Decoding, Protocol):
    """One of a request with ``logprobs``.

    ``logprob`` is of the token that ``step`` made last: the natural logarithm of its probability by the model, before
    any temperature.
    """

    logprob: float


class TextBackend(Protocol):
    """A conversation in, tokens out.

    One that can have no more than so many at once says so in ``generations``; one that has adapters names them in
    ``adapters``; one that can tell how probable its tokens are says so by ``logprobs = True``.
    """

    platform: str

    def begin(self, request: TextRequest) -> Decoding:
        """Tokenize the prompt.

        Raises:
            ContextExceeded: it does not fit the model's context.
            BadRequest: the chat template refuses it.
        """

    def close(self) -> None:
        """Give the memory back."""


Backend = TensorBackend | TextBackend


@dataclass(frozen=True)
class Kind:
    """A backend as it is found: it is imported only when a folder is its own.

    ``fits`` looks at a folder's files. ``factory`` (``module:name``) is called with the folder and, by keyword, the
    number of threads; one that computes through ONNX Runtime's ``providers`` also with those ``wanted``. ``install``
    says how to get what it needs. ``together``: its models share one handle of a device, so none of them can be in a
    process of its own.
    """

    name: str
    fits: Callable[[Path], bool]
    factory: str
    install: str
    providers: bool = False
    together: bool = False

    def open(self, folder: Path, *, threads: int, wanted: Sequence[Provider] = ()) -> Backend:
        """Import the backend and load the model."""
        module, _, name = self.factory.partition(":")
        factory = getattr(importlib.import_module(module), name)
        backend: Backend = factory(folder, threads=threads, **({"wanted": wanted} if self.providers else {}))
        return backend


def the_one(folder: Path, suffix: str) -> Path | None:
    """The file with ``suffix``, where there is exactly one."""
    found = [path for path in folder.glob(f"*{suffix}") if path.is_file()]
    return found[0] if len(found) == 1 else None


def _single(suffix: str) -> Callable[[Path], bool]:
    return lambda folder: the_one(folder, suffix) is not None


_HERE = "hedgerow.server.backends"
KINDS = (
    Kind(
        "onnxruntime-genai",
        lambda folder: (folder / "genai_config.json").is_file(),
        f"{_HERE}.genai:GenaiBackend",
        "pip install 'hedgerow[device]' brings it",
    ),
    Kind(
        "onnx",
        _single(".onnx"),
        f"{_HERE}.onnx:open_folder",
        "pip install 'hedgerow[device]' brings it",
        providers=True,
    ),
    Kind(
        "hailo",
        _single(".hef"),
        f"{_HERE}.hailo:open_folder",
        "apt install python3-h10-hailort brings it for the system's Python; the runtime's environment must see that",
        together=True,
    ),
    Kind("litert", _single(".tflite"), f"{_HERE}.litert:LitertBackend", "pip install 'hedgerow[litert]' brings it"),
    Kind("llama.cpp", _single(".gguf"), f"{_HERE}.llamacpp:LlamaBackend", "pip install 'hedgerow[llamacpp]' brings it"),
)
# Where other packages name a ``Kind`` of theirs (docs/writing-a-backend.md).
ENTRY_POINTS = "hedgerow.backends"


def kind_of(folder: Path) -> Kind | None:
    """What would read the model in ``folder``: a backend of this package, else one that another package brings."""
    for kind in KINDS:
        if kind.fits(folder):
            return kind
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        other = point.load()
        if isinstance(other, Kind) and other.fits(folder):
            return other
    return None


def load(folder: Path, *, threads: int | None = None, providers: Sequence[Provider] = ()) -> Backend:
    """Load the model in ``folder`` with the backend for its files.

    ``providers`` of ONNX Runtime are for a plain ONNX model; a folder of onnxruntime-genai names its own.

    Raises:
        Unusable: no backend reads it, its package is missing, or loading fails; nothing stays loaded.
    """
    kind = kind_of(folder)
    if kind is None:
        raise Unusable(
            "load_failed",
            f"{folder} holds neither genai_config.json nor exactly one .onnx file (nor one .hef, .tflite or .gguf)",
        )
    try:
        return kind.open(folder, threads=threads or default_threads(), wanted=providers)
    except ServingError:
        raise
    except ModuleNotFoundError as error:
        raise Unusable("load_failed", f"{error.name} is not installed: {kind.install}") from error
    except Exception as error:  # runtimes raise their own classes, which differ between versions
        raise Unusable("load_failed", f"{folder.name}: {error}") from error
