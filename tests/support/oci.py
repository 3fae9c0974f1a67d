"""OCI images for tests, written with ``tarfile`` and ``json`` alone: whole by default, and broken where a test says."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

Entry = tuple[tarfile.TarInfo, bytes]
OCI = "application/vnd.oci.image"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "tar+gzip": lambda data: gzip.compress(data, mtime=0),
    "tar+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def entry(
    name: str,
    data: bytes | str = b"x",
    *,
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    pax: dict[str, str] | None = None,
    link: str = "",
) -> Entry:
    content = data.encode() if isinstance(data, str) else data
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.pax_headers, info.linkname = mode, kind, pax or {}, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def folder(name: str) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE)


def link(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, link=target)


def hard(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, link=target)


def tar(entries: Sequence[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


RUN = entry("app/run", "#!/bin/sh\n")


@dataclass
class Image:
    """``layers`` are entries, or a tar's bytes as they are. ``alter`` gets each blob's name and bytes, last of all."""

    layers: Sequence[Sequence[Entry] | bytes] = ((RUN,),)
    kind: str = "tar+gzip"
    media_type: str | None = None
    """Of layers, where it is not what their kind says."""
    architecture: str = "arm64"
    config: dict[str, Any] = field(default_factory=lambda: {"Entrypoint": ["/app/run"], "User": "10001"})
    document: dict[str, Any] = field(default_factory=dict)
    """Instead of what the configuration has beside ``config``."""
    manifest: dict[str, Any] = field(default_factory=dict)
    platform: dict[str, Any] | None = None

    def put(self, blobs: dict[str, bytes]) -> dict[str, Any]:
        """Add its blobs; return the descriptor of its manifest."""
        plain = [each if isinstance(each, bytes) else tar(each) for each in self.layers]
        document = {
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(each)}" for each in plain]},
        } | self.document
        media_type = self.media_type or f"{OCI}.layer.v1.{self.kind}"
        manifest = {
            "schemaVersion": 2,
            "config": put(blobs, json.dumps(document).encode(), f"{OCI}.config.v1+json"),
            "layers": [put(blobs, PACKERS[self.kind](each), media_type) for each in plain],
        } | self.manifest
        descriptor = put(blobs, json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        return descriptor if self.platform is None else descriptor | {"platform": self.platform}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    blobs[f"blobs/sha256/{digest(data)}"] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest(data)}", "size": len(data)}


def files(*images: Image) -> dict[str, bytes]:
    """The files of a layout that has ``images`` side by side."""
    blobs: dict[str, bytes] = {}
    index = {"schemaVersion": 2, "manifests": [image.put(blobs) for image in images]}
    return blobs | {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}


def write(path: Path, content: dict[str, bytes], *, mtime: int = 0) -> Path:
    """An archive where ``path`` ends with ``.tar``, a folder else."""
    if path.suffix == ".tar":
        entries = [entry(name, data, mode=0o644) for name, data in content.items()]
        for info, _ in entries:
            info.mtime = mtime
        path.write_bytes(tar(entries))
        return path
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def image(path: Path, *layers: Sequence[Entry] | bytes, **fields: Any) -> Path:
    """One image, of ``layers`` where there are any."""
    return write(path, files(Image(**fields, **({"layers": layers} if layers else {}))))
