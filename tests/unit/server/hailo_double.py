"""A double of ``hailo_platform`` 5.x: the subset that the server uses, with the library's exceptions and status codes.

A HEF of it is JSON: ``{"arch": …, "inputs": {name: shape}, "outputs": {name: shape}, "says": [tokens]}``. A network's
every output is the mean of its first input's frame. ``Chip`` is the one accelerator.
"""

from __future__ import annotations

import enum
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


class HailoRTException(Exception):
    """The library's base class."""


class HailoRTTimeout(HailoRTException):
    """Status 4."""


class HailoRTInvalidHEFException(HailoRTException):
    """Status 26."""


class HailoRTHEFNotCompatibleWithDevice(HailoRTException):
    """Status 93."""


class HailoCommunicationClosedException(HailoRTException):
    """Status 62."""


class HailoRTInvalidArgumentException(HailoRTException):
    """Status 2."""


class HailoRTStatusException(Exception):
    """The bindings' own, which ``LLM`` lets through: its argument is the number as text."""


def status(code: int, name: str) -> HailoRTException:
    return HailoRTException(f"libhailort failed with error: {code} ({name})")


class Chip:
    """What a test turns: ``fails`` is raised by the next call that reaches the chip."""

    owner: Any = None
    fails: Exception | None = None
    llm: Any = None
    runs: list[int] = []  # noqa: RUF012 - reset by ``install``
    generating = 0
    peak = 0

    @classmethod
    def reach(cls) -> None:
        failure, cls.fails = cls.fails, None
        if failure is not None:
            raise failure


class FormatType(enum.Enum):
    UINT8 = 0
    FLOAT32 = 1


class HailoSchedulingAlgorithm(enum.Enum):
    ROUND_ROBIN = 1


class VDevice:
    def __init__(self, params: Any) -> None:
        assert params.scheduling_algorithm is HailoSchedulingAlgorithm.ROUND_ROBIN
        assert params.group_id
        Chip.reach()
        if Chip.owner is not None:
            raise status(74, "HAILO_OUT_OF_PHYSICAL_DEVICES")
        Chip.owner = self

    @staticmethod
    def create_params() -> types.SimpleNamespace:
        return types.SimpleNamespace(scheduling_algorithm=None, group_id="UNIQUE")

    def create_infer_model(self, path: str) -> _InferModel:
        return _InferModel(_hef(path))

    def release(self) -> None:
        assert Chip.llm is None, "released under a language model"
        Chip.owner = None


def _hef(path: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text())
    except ValueError:
        raise HailoRTInvalidHEFException("Invalid HEF. See hailort.log for more information") from None
    if document.get("arch", "HAILO10H") != "HAILO10H":
        raise HailoRTHEFNotCompatibleWithDevice("HEF file is not compatible with device.")
    return document


class _Stream:
    def __init__(self, name: str, shape: list[int], *, nms: bool = False) -> None:
        self.name, self.shape, self.is_nms = name, shape, nms
        self.format = types.SimpleNamespace(type="FormatType.UINT8")

    def set_format_type(self, kind: FormatType) -> None:
        self.format.type = f"FormatType.{kind.name}"


class _InferModel:
    def __init__(self, hef: dict[str, Any]) -> None:
        self.inputs = [_Stream(*each) for each in hef["inputs"].items()]
        self.outputs = [_Stream(*each, nms=each[0] == "nms") for each in hef["outputs"].items()]

    def configure(self) -> _Configured:
        Chip.reach()
        return _Configured(self)


class _Configured:
    def __init__(self, model: _InferModel) -> None:
        self._model = model

    def create_bindings(self) -> _Bindings:
        return _Bindings(self._model)

    def run(self, bindings: list[_Bindings], timeout: int) -> None:
        assert Chip.owner is not None
        assert timeout > 0
        Chip.reach()
        Chip.runs.append(len(bindings))
        for each in bindings:
            mean = each.input(self._model.inputs[0].name).buffer.mean()
            for stream in self._model.outputs:
                each.output(stream.name).buffer[...] = mean


class _Bindings:
    def __init__(self, model: _InferModel) -> None:
        self._edges = {stream.name: _Edge(stream) for stream in (*model.inputs, *model.outputs)}

    def output(self, name: str) -> _Edge:
        return self._edges[name]

    def input(self, name: str) -> _Edge:
        return self._edges[name]


class _Edge:
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self.buffer: Any = None

    def set_buffer(self, buffer: np.ndarray) -> None:
        if not buffer.flags.c_contiguous:
            raise HailoRTException("Buffer must be C_CONTIGUOUS")
        if list(buffer.shape) != list(self._stream.shape):
            raise HailoRTInvalidArgumentException("Invalid argument. See hailort.log for more information")
        self.buffer = buffer

    def get_buffer(self, *, tf_format: bool = False) -> np.ndarray:
        if self._stream.is_nms:
            assert tf_format, "the other form is ragged"
            return np.zeros((2, 5, 3), np.float32)
        return self.buffer


class Status(enum.Enum):
    GENERATING = 0
    MAX_TOKENS_REACHED = 1
    LOGICAL_END_OF_GENERATION = 2


class LLM:
    def __init__(self, vdevice: VDevice, model_path: str) -> None:
        assert vdevice is Chip.owner
        if Chip.fails is not None:
            failure, Chip.fails = Chip.fails, None
            raise HailoRTStatusException(str(failure))
        self.says = _hef(model_path)["says"]
        self.context: list[str] = []
        self.asked: list[Any] = []
        Chip.llm = self

    def max_context_capacity(self) -> int:
        return 64

    def get_context_usage_size(self) -> int:
        return len(self.context)

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def clear_context(self) -> None:
        self.context = []

    def generate(self, prompt: Any, **options: Any) -> _Completion:
        Chip.reach()
        if Chip.generating:
            raise status(73, "HAILO_DEVICE_IN_USE")
        self.asked.append((prompt, options))
        self.context = ["word"] * 5
        return _Completion(self, options["max_generated_tokens"])

    def release(self) -> None:
        Chip.llm = None


class _Completion:
    def __init__(self, llm: LLM, limit: int) -> None:
        Chip.generating += 1
        self._llm, self._left = llm, llm.says[:limit]
        self._end = Status.MAX_TOKENS_REACHED if len(llm.says) > limit else Status.LOGICAL_END_OF_GENERATION

    @property
    def generation_status(self) -> Status:
        return Status.GENERATING if self._left else self._end

    def read(self, timeout_ms: int) -> str:
        assert timeout_ms > 0
        Chip.reach()
        self._llm.context.append("word")
        return self._left.pop(0)

    def release(self) -> None:
        Chip.generating -= 1


def install(monkeypatch: Any) -> type[Chip]:
    """Let ``import hailo_platform`` find this."""
    Chip.owner = Chip.fails = Chip.llm = None
    Chip.runs, Chip.generating = [], 0
    module = types.ModuleType("hailo_platform")
    for each in (VDevice, FormatType, HailoSchedulingAlgorithm):
        setattr(module, each.__name__, each)
    genai = types.ModuleType("hailo_platform.genai")
    genai.LLM = LLM
    module.genai = genai
    monkeypatch.setitem(sys.modules, "hailo_platform", module)
    monkeypatch.setitem(sys.modules, "hailo_platform.genai", genai)
    for name in ("hailo", "hailo_device"):
        monkeypatch.delitem(sys.modules, f"hedgerow.server.backends.{name}", raising=False)
    return Chip
