"""Which image of a layout is meant, and what it says of itself: configuration, layers, ports.

https://github.com/opencontainers/image-spec: ``image-index.md``, ``manifest.md``, ``config.md``, ``media-types.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.oci_layout import AGAIN, Descriptor, Layout

PLATFORM: Final = "linux/arm64"
"""Of devices. Their processors are ARMv8 (``variant`` v8, which ``image-index.md`` lets an image leave out)."""
_VARIANTS: Final = (None, "", "v8")

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIGS: Final = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS: Final = {
    f"application/vnd.oci.image.layer.{kind}v1.tar{suffix}": compression
    for kind in ("", "nondistributable.")
    for suffix, compression in (("", "none"), ("+gzip", "gzip"), ("+zstd", "zstd"))
} | {
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
}
_MOST_INDEXES: Final = 64
MAX_LAYERS: Final = 512


@dataclass(frozen=True)
class Layer:
    """``blob`` is ``compression`` (none, gzip, zstd) of a tar with the SHA-256 (hex) ``diff_id``."""

    blob: Descriptor
    compression: str
    diff_id: str


@dataclass(frozen=True)
class Image:
    """``sha256`` of its manifest; ``config`` as ``config.md`` has it (Entrypoint …); ``ports``: protocol, number."""

    sha256: str
    platform: str
    config: dict[str, Any]
    layers: tuple[Layer, ...]
    ports: tuple[tuple[str, int], ...]


def read(layout: Layout, platform: str = PLATFORM) -> Image:
    """The one image of ``layout`` for ``platform`` (``linux/arm64``).

    Raises:
        UsageError: there is none, or several; or it is of a kind that is not known.
        PublisherError: a blob is missing or is not what its name says.
    """
    said = _choose(layout, platform)
    manifest = layout.document(said)
    if manifest.get("mediaType", said.media_type) != said.media_type:
        raise UsageError("its manifest says it is something else", where=layout.where, next_step=AGAIN)
    configured = layout.descriptor(manifest.get("config"))
    if configured.media_type not in _CONFIGS:
        raise UsageError(
            f"it is no image but {configured.media_type!r}", where=layout.where, next_step="give an image's archive"
        )
    document = layout.document(configured)
    if not _fits({**document, "variant": document.get("variant")}, platform):
        raise UsageError(
            f"the image is for {document.get('os')}/{document.get('architecture')}; devices are {platform}",
            where=layout.where,
            next_step=f"build it for them: podman build --platform {platform}",
        )
    config = _object(layout, document.get("config"), "config")
    return Image(
        said.sha256,
        platform,
        config,
        _layers(layout, manifest, document),
        tuple(
            sorted(_port(text, layout.where) for text in _object(layout, config.get("ExposedPorts"), "ExposedPorts"))
        ),
    )


def _object(layout: Layout, value: object, name: str) -> dict[str, Any]:
    """An OPTIONAL object, which may be null (``config.md``, "Properties")."""
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{name} of the image is no object", where=layout.where, next_step=AGAIN)
    return value or {}


def _choose(layout: Layout, platform: str) -> Descriptor:
    found: dict[str, Descriptor] = {}
    others: set[str] = set()
    for descriptor, said in _manifests(layout, layout.index(), set()):
        if said is None or _fits(said, platform):
            found[descriptor.sha256] = descriptor  # one image may stand there by several names
        else:
            others.add(f"{said.get('os')}/{said.get('architecture')}")
    if len(found) != 1:
        has = f", and others for {', '.join(sorted(others))}" if others else ""
        raise UsageError(
            f"the archive holds {len(found)} images for {platform}{has}; a bundle has one",
            where=layout.where,
            next_step=f"build or pull it with --platform {platform}, and write that one image alone",
        )
    return next(iter(found.values()))


def _manifests(
    layout: Layout, index: dict[str, Any], read_before: set[str]
) -> Iterator[tuple[Descriptor, dict[str, Any] | None]]:
    """Image manifests and their platforms, of nested indexes too. Types that are not known are ignored, by the spec."""
    said = index.get("manifests")
    for each in said if isinstance(said, list) else []:
        descriptor = layout.descriptor(each)
        if descriptor.media_type in _MANIFESTS:
            platform = each.get("platform")
            yield descriptor, platform if isinstance(platform, dict) else None
        elif descriptor.media_type in _INDEXES and descriptor.sha256 not in read_before:
            read_before.add(descriptor.sha256)
            if len(read_before) > _MOST_INDEXES:
                raise UsageError("it has too many indexes of indexes", where=layout.where, next_step=AGAIN)
            yield from _manifests(layout, layout.document(descriptor), read_before)


def _fits(said: dict[str, Any], platform: str) -> bool:
    return f"{said.get('os')}/{said.get('architecture')}" == platform and (
        platform != PLATFORM or said.get("variant") in _VARIANTS
    )


def _layers(layout: Layout, manifest: dict[str, Any], document: dict[str, Any]) -> tuple[Layer, ...]:
    rootfs = _object(layout, document.get("rootfs"), "rootfs")
    said, ids = manifest.get("layers"), rootfs.get("diff_ids")
    if rootfs.get("type") != "layers" or not isinstance(said, list) or not isinstance(ids, list):
        raise UsageError("the image has no layers", where=layout.where, next_step=AGAIN)
    if len(said) != len(ids) or len(said) > MAX_LAYERS:
        raise PublisherError(
            f"the image has {len(said)} layers, and its configuration {len(ids)}", where=layout.where, next_step=AGAIN
        )
    return tuple(_layer(layout, each, str(diff_id)) for each, diff_id in zip(said, ids, strict=True))


def _layer(layout: Layout, said: object, diff_id: str) -> Layer:
    blob = layout.descriptor(said)
    if blob.media_type not in _LAYERS:
        raise UsageError(
            f"a layer is {blob.media_type!r}; these are known: {', '.join(sorted(_LAYERS))}",
            where=layout.where,
            next_step=AGAIN,
        )
    return Layer(blob, _LAYERS[blob.media_type], diff_id.removeprefix("sha256:"))


def _port(text: str, where: str) -> tuple[str, int]:
    number, _, protocol = text.partition("/")
    if not number.isdecimal() or not number.isascii() or protocol not in {"", "tcp", "udp"}:
        raise UsageError(f"the image exposes {text!r}, which is no port", where=where, next_step=AGAIN)
    return protocol or "tcp", int(number)
