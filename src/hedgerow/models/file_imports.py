"""Imports that take a finished file as it is: TensorFlow Lite, HEF, and a folder for onnxruntime-genai.

What such a bundle answers can be asked here only where its runtime is: a HEF has none on the build side, and LiteRT is
an extra of its own. Otherwise the golden questions come from the operator, in a file.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hedgerow.errors import UsageError
from hedgerow.models import golden, hef_file, place, quantize_files, tflite_file
from hedgerow.models.describing import Description, make
from hedgerow.models.genai import CONFIG_FILE
from hedgerow.models.hugging_face import read_json
from hedgerow.models.onnx_import import golden as golden_of_arrays
from hedgerow.registry.manifest import GoldenTensors, Hailo, Hat, Manifest, Requires

_LITERT: Final = "ai_edge_litert"
_LANGUAGE_MARK: Final = "hailo_llm.json"
# The HAT that each chip is on (docs/decisions/0015 has how a device proves it).
HATS: Final[dict[str, tuple[Hat, ...]]] = {
    "hailo8": ("hat-plus-26",),
    "hailo8l": ("hat-plus-13",),
    "hailo10h": ("hat-plus-2",),
}
_RUNTIME_MB: Final = 100
_GENAI_MB: Final = 200
_SEED: Final = 20_240_229


def import_tflite(file: Path, said: Description, *, cache: Path | None = None) -> Path:
    """Build the bundle of a TensorFlow Lite file; return its folder.

    Raises:
        UsageError: no such file, or its answers cannot be asked here and ``said`` has no golden questions.
    """
    facts = tflite_file.read(file)
    runs = importlib.util.find_spec(_LITERT) is not None
    if said.golden is None and not runs:
        raise _need_golden(file, "ai-edge-litert is not installed here")
    tools = place.versions_of("ai-edge-litert") if said.golden is None else {}

    def fill(folder: Path) -> Manifest:
        target = folder / "model.tflite"
        shutil.copyfile(file, target)
        return make(
            said,
            folder,
            files=[file],
            tools=tools,
            format="tflite",
            requires=Requires(memory_mb=2 * file.stat().st_size // 1_000_000 + _RUNTIME_MB),
            inputs=facts.inputs,
            outputs=facts.outputs,
            golden=() if said.golden is not None else (_ask_litert(target),),
        )

    return _build(fill, said, [file], tools, cache)


def _ask_litert(file: Path) -> GoldenTensors:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=str(file), num_threads=1)
    model.allocate_tensors()
    random = np.random.default_rng(_SEED)
    feeds: dict[str, Any] = {}
    for each in model.get_input_details():
        shape, kind = tuple(each["shape"]), each["dtype"]
        whole = np.issubdtype(kind, np.integer)
        feeds[each["name"]] = (random.integers(0, 100, shape) if whole else random.integers(0, 9, shape) / 8).astype(
            kind
        )
        model.set_tensor(each["index"], feeds[each["name"]])
    model.invoke()
    outputs = {each["name"]: model.get_tensor(each["index"]) for each in model.get_output_details()}
    return golden_of_arrays(feeds, outputs, file)


@dataclass(frozen=True)
class HefRequest:
    """``hailort`` is a range such as ``>=5.1,<5.2``; ``architecture`` where the file's own is not known here.

    ``language``: the HEF is a language model (a HEF carries no mark of it).
    """

    file: Path
    hailort: str
    architecture: str | None = None
    language: bool = False


def import_hef(request: HefRequest, said: Description, *, cache: Path | None = None) -> Path:
    """Build the bundle of a HEF; return its folder.

    Raises:
        UsageError: no HEF, a chip that nobody names or that two name differently, or no golden questions.
    """
    hailo = _hailo(request)
    if said.golden is None:
        raise _need_golden(request.file, "a HEF runs on its chip alone")

    def fill(folder: Path) -> Manifest:
        shutil.copyfile(request.file, folder / "model.hef")
        if request.language:
            (folder / _LANGUAGE_MARK).write_text("{}\n", encoding="ascii")
        needs = Requires(
            memory_mb=request.file.stat().st_size // 1_000_000 + _RUNTIME_MB,
            hat=HATS.get(hailo.architecture, ()),
            hailort=request.hailort,
        )
        return make(said, folder, files=[request.file], tools={}, format="hef", requires=needs, hailo=hailo)

    return _build(fill, said, [request.file], {}, cache, request.hailort, hailo, request.language)


def _hailo(request: HefRequest) -> Hailo:
    facts = hef_file.read(request.file)
    if facts.architecture is None and request.architecture is None:
        raise UsageError(
            f"the HEF is for the chip number {facts.number}, which is not known here",
            where=str(request.file),
            next_step="ask its publisher, and say it: --architecture hailo10h",
        )
    if None not in {facts.architecture, request.architecture} and facts.architecture != request.architecture:
        raise UsageError(
            f"the HEF is for {facts.architecture}, and --architecture says {request.architecture}",
            where=str(request.file),
            next_step=f"leave the option away, or compile the model for {request.architecture}",
        )
    if facts.architecture is not None:
        return Hailo(facts.architecture, "file", facts.compiler)
    return Hailo(request.architecture, "operator", facts.compiler)  # type: ignore[arg-type] # decoding checks it


def import_genai(folder: Path, said: Description, *, cache: Path | None = None) -> Path:
    """Build the bundle of a folder that onnxruntime-genai reads (``genai_config.json``); return the bundle's folder.

    Raises:
        UsageError: a file is missing, lies outside, or the configuration loads code.
        PublisherError: the golden run failed.
    """
    config = read_json(folder / CONFIG_FILE)
    files = _genai_files(folder, config)
    tools = place.versions_of("onnxruntime-genai", "onnxruntime")

    def fill(target: Path) -> Manifest:
        for file in files:
            shutil.copyfile(file, target / file.name)
        return make(
            said,
            target,
            files=files,
            tools=tools,
            format="onnx-genai",
            requires=Requires(memory_mb=_genai_memory_mb(target, config)),
            golden=() if said.golden is not None else golden.record(target, golden.GENERIC),
            features={"chat": True},
        )

    return _build(fill, said, files, tools, cache)


def _genai_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    where = str(folder / CONFIG_FILE)
    if "custom_ops_library" in json.dumps(config):
        raise UsageError(
            "the configuration loads a library (custom_ops_library): code that nobody has looked at",
            where=where,
            next_step="build the model with onnxruntime's own operators",
        )
    model = config.get("model")
    parts = [each for each in model.values() if isinstance(each, dict)] if isinstance(model, dict) else []
    names = [str(part["filename"]) for part in parts if "filename" in part]
    if not names:
        raise UsageError("genai_config.json names no model", where=where, next_step="give a folder of one")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UsageError(f"there is no {name!r} beside genai_config.json", where=where, next_step="copy it there")
    try:
        needed = {file.name for name in names for file in quantize_files.files_of(folder / name)}
    except (OSError, ValueError) as error:
        raise UsageError(f"a model cannot be read: {error}", where=str(folder), next_step="fetch it again") from error
    missing = sorted(name for name in needed if not (folder / name).is_file())
    if missing:
        raise UsageError(f"weights are missing: {missing[0]}", where=str(folder), next_step="copy them there")
    # Flat, as onnxruntime-genai reads it; folders (a build's cache) and hidden files are no part of it.
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _genai_memory_mb(folder: Path, config: dict[str, Any]) -> int:
    """Weights twice and a full cache in float32, as the GGUF import estimates it."""
    weights = sum(path.stat().st_size for path in folder.iterdir() if ".onnx" in path.name)
    model = config["model"]
    decoder = model.get("decoder", {})
    figures = [decoder.get(key, 0) for key in ("num_hidden_layers", "num_key_value_heads", "head_size")]
    cache = 2 * 4 * int(np.prod(figures)) * int(model.get("context_length", 0))
    return (2 * weights + cache) // 1_000_000 + _GENAI_MB


def _need_golden(file: Path, why: str) -> UsageError:
    return UsageError(
        f"{why}, so the model's answers cannot be asked here",
        where=str(file),
        next_step="ask it on a device and give what it answered: --golden FILE (docs/building-models.md)",
    )


def _build(
    fill: Any, said: Description, files: Sequence[Path], tools: dict[str, str], cache: Path | None, *facts: Any
) -> Path:
    return place.build(
        fill,
        name=said.name,
        version=said.version,
        inputs=said.inputs(*files),
        facts=said.facts(*facts),
        tools=tools,
        cache=cache,
    )
