"""A model's version with adapters in it: what is released where an adapter is to be.

A device serves one version of a model, and that version says all of what it answers with. So an adapter comes, changes
and goes with a version: proven beside the one in service by its own golden questions, switched to without a gap, gated,
and taken back, like any other. What travels is the adapter; all other bytes a device has (``registry.transfer``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from hedgerow.errors import RefusedError, UsageError
from hedgerow.models import amend, pack_adapter
from hedgerow.registry import bundle, manifest
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import File, GoldenTensors, GoldenText, Manifest, Requires, Source
from hedgerow.registry.manifest_parts import adapter_path

BUILDER: Final = "hedgerow model attach"
FORMAT: Final = "onnx-genai"


def attach(source: Path, adapters: Sequence[Path], output: Path, *, version: str) -> Bundle:
    """Make version ``version`` of the model bundle ``source`` with ``adapters`` (folders of bundles) in ``output``.

    An adapter that the source has by the same name is replaced. Proofs are left out: they are of other bytes.

    Raises:
        UsageError: no such bundle, a wrong kind, two adapters of one name, or ``version`` is none or the source's.
        RefusedError: an adapter is for another base.
        PublisherError: a file is not what its manifest says, or the graph has no place for the adapter.
        MachineError: the disk is full.
    """
    base = _base(bundle.verify_files(source), version)
    found = [_adapter(bundle.verify_files(folder), base) for folder in adapters]
    names = [each.manifest.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two adapters are called {twice[0]!r}", next_step="name one folder for each adapter")
    with amend.new_folder(output) as folder:
        files = {each.path: (source, each.path) for each in _kept(base.manifest, names)}
        for each in found:
            files |= {path: (each.directory, its_path) for path, its_path in _paths(each.manifest).items()}
        for path, (origin, its_path) in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / its_path, folder / path)
        document = _document(base, found, bundle.describe_files(folder), version)
        (folder / manifest.FILE_NAME).write_bytes(amend.encode(document, where=str(output)))
    return bundle.load(output)


def _base(base: Bundle, version: str) -> Bundle:
    document, where = base.manifest, str(base.directory)
    formats = {document.format, *(each.format for each in document.variants)}
    if document.kind != "model" or formats != {FORMAT}:
        raise UsageError(
            f"{document.reference} is of kind {document.kind}, {'/'.join(sorted(formats))}; what takes adapters is a "
            f"model of {FORMAT}",
            where=where,
            next_step="name the bundle of the model first, then those of its adapters",
        )
    if document.variant is not None:
        raise UsageError(
            f"this is variant {document.variant!r} alone, taken out of {document.reference}",
            where=where,
            next_step="name the bundle that has all variants: every device is to get the adapter",
        )
    if version == document.version or not manifest.is_version(version):
        raise UsageError(
            f"{version!r} is no version for it" if version != document.version else f"{document.reference} is the base",
            where=where,
            next_step="a version is immutable; give another one: --version 1.1.0",
        )
    return base


def _adapter(adapter: Bundle, base: Bundle) -> Bundle:
    document, where = adapter.manifest, str(adapter.directory)
    if document.kind != "adapter" or document.base is None:
        raise UsageError(
            f"{document.reference} is a bundle of kind {document.kind}, no adapter",
            where=where,
            next_step="make one: hedgerow model pack-adapter --help",
        )
    wrong = pack_adapter.unfit(document.base, base)
    if wrong is not None:
        raise RefusedError(f"rule base: {wrong}", where=where, next_step="attach it to its own base, or pack it again")
    pack_adapter.check_places(pack_adapter.read(adapter.directory / pack_adapter.ADAPTER_FILE), base)
    return adapter


def _paths(adapter: Manifest) -> dict[str, str]:
    """Path in the model's bundle → path in the adapter's."""
    found = {adapter_path(adapter.name): pack_adapter.ADAPTER_FILE}
    return found if adapter.license_file is None else {**found, _license_path(adapter.name): adapter.license_file}


def _license_path(name: str) -> str:
    return f"adapters/{name}.LICENSE"


def _license(parts: Sequence[Bundle]) -> str:
    """All of their SPDX expressions joined by ``AND``, each once (SPDX 2.3, annex D.4.3)."""
    said = list(dict.fromkeys(each.manifest.license for each in parts))
    return " AND ".join(f"({each})" if len(said) > 1 and " " in each else each for each in said)


def _kept(document: Manifest, replaced: Sequence[str]) -> list[File]:
    """The files that go on as they are."""
    gone = {path(name) for name in replaced for path in (adapter_path, _license_path)}
    gone |= {proof.path for proof in document.proofs}
    return [each for each in document.files if each.path not in gone | {document.sbom}]


def _document(base: Bundle, adapters: Sequence[Bundle], files: tuple[File, ...], version: str) -> Manifest:
    origin = base.manifest
    names = frozenset(each.manifest.name for each in adapters)
    asked = tuple(
        msgspec.structs.replace(golden, adapter=each.manifest.name)
        for each in adapters
        for golden in each.manifest.golden
        if isinstance(golden, GoldenText)
    )
    memory_mb = sum(_memory_mb(each.manifest.size) for each in adapters) - sum(
        _memory_mb(file.size) for file in origin.files if file.path in {adapter_path(name) for name in names}
    )
    sources = [Source(each.manifest.name, each.manifest.version, each.sha256) for each in (base, *adapters)]
    changes: dict[str, Any] = {"requires": _more(origin.requires, memory_mb), "golden": _asked(origin, names, asked)}
    changes["variants"] = tuple(
        msgspec.structs.replace(
            each,
            requires=_more(each.requires, memory_mb),
            golden=_asked(each, names, asked) if each.golden else (),
        )
        for each in origin.variants
    )
    provenance = msgspec.structs.replace(
        origin.provenance, sources=tuple(sources), builder=BUILDER, tools={**origin.provenance.tools}
    )
    # All at once: a manifest checks itself, and half of these changes would name files that are not listed.
    changes |= {"schema": manifest.NEWEST, "version": version, "files": files, "sbom": None, "proofs": ()}
    return msgspec.structs.replace(origin, license=_license([base, *adapters]), provenance=provenance, **changes)


def _asked(
    origin: Any, replaced: frozenset[str], more: tuple[GoldenText, ...]
) -> tuple[GoldenText | GoldenTensors, ...]:
    """The golden questions of a manifest or variant, without those of adapters that are replaced, and ``more``."""
    return (*(each for each in origin.golden if getattr(each, "adapter", None) not in replaced), *more)


def _memory_mb(size: int) -> int:
    """What an adapter of ``size`` bytes takes: as it is read and as it is held, as ``pack_adapter`` has it."""
    return 2 * (size // 1_000_000 + 1)


def _more(requires: Requires, memory_mb: int) -> Requires:
    return msgspec.structs.replace(requires, memory_mb=max(1, requires.memory_mb + memory_mb))
