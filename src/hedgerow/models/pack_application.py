"""An application bundle: an OCI image, or a folder with a systemd unit, checked before it can be signed.

What is checked is what a device then relies on: it runs unprivileged, nothing in it can gain rights (no setuid or
setgid bit, no file capability, no device node), and every port that it listens on is declared.

An image becomes what a folder is, files with a unit, so that a device needs no container engine: its layers are made
one root file system, its configuration a unit.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import RefusedError, UsageError
from hedgerow.models import application_unit, oci_image, oci_layers, oci_layout, oci_root, oci_unit, place
from hedgerow.models.describing import Description, make
from hedgerow.registry.manifest import Application, Manifest, Port, Requires, Source
from hedgerow.registry.manifest_fields import Architecture

FOLDER: Final = "application.tar"
ROOT: Final = "root.tar"
BUILDER: Final = "hedgerow model pack-application"
MACHINES: Final[dict[str, Architecture]] = {"linux/arm64": "aarch64", "linux/amd64": "x86_64"}
"""Platforms, as images spell them, that there are devices of; the second for machines that stand in for one."""


@dataclass(frozen=True)
class ApplicationRequest:
    """``source`` is an OCI image (archive or layout), or a folder. ``ports`` are all that it listens on.

    ``models`` it asks. ``memory_mb`` is what it may take at the most. Of an image: ``platform`` (a key of MACHINES);
    ``drop_setuid`` to pack files without their setuid bits and capabilities instead of refusing them.
    """

    source: Path
    said: Description
    ports: tuple[Port, ...] = ()
    models: tuple[str, ...] = ()
    memory_mb: int = 128
    platform: str = oci_image.PLATFORM
    drop_setuid: bool = False


def pack(request: ApplicationRequest, *, cache: Path | None = None) -> Path:
    """Build the bundle of an application; return its folder.

    Raises:
        UsageError: neither an image nor a folder with one unit, or an image of another platform.
        PublisherError: the image is damaged.
        RefusedError: it would run as root, could gain rights, or listens on a port that was not declared.
    """
    folder = request.source.is_dir() and not oci_layout.is_layout(request.source)
    return place.build(
        lambda target: _folder(request, target) if folder else _image(request, target),
        name=request.said.name,
        version=request.said.version,
        inputs=request.said.inputs(request.source),
        facts=request.said.facts(
            "application", request.ports, request.models, request.memory_mb, request.platform, request.drop_setuid
        ),
        tools={},
        cache=cache,
    )


def _folder(request: ApplicationRequest, folder: Path) -> Manifest:
    files = application_unit.files_of(request.source)
    unit = application_unit.check(request.source)
    shutil.copyfile(request.source / unit.name, folder / unit.name)
    application_unit.archive(request.source, folder / FOLDER)
    return make(
        request.said,
        folder,
        files=files,
        tools={},
        kind="application",
        format="unit-folder",
        requires=Requires(memory_mb=request.memory_mb),
        application=Application(user=unit.user, unit=unit.name, ports=request.ports, models=request.models),
    )


def _image(request: ApplicationRequest, folder: Path) -> Manifest:
    """Nothing of the archive but the image itself counts: written again, it gives the same bytes."""
    machine = MACHINES.get(request.platform)
    if machine is None:
        raise UsageError(f"no device is {request.platform}", next_step=f"choose one of: {', '.join(sorted(MACHINES))}")
    where = str(request.source)
    with oci_layout.open_layout(request.source) as layout:
        image = oci_image.read(layout, request.platform)
        _check_ports(image.ports, request.ports, where)
        limits = oci_layers.Limits(drop_setuid=request.drop_setuid)
        with oci_layers.applied(layout, image, folder, limits) as tree:
            started = oci_unit.read(image.config, tree, where)
            unit = oci_unit.text(started, request.said.name)
            oci_unit.check(unit, where)
            oci_root.complete(tree, [started.folder, *started.volumes], where)
            size = oci_root.write(tree, folder / ROOT, where)
    name = f"{request.said.name}.service"
    (folder / name).write_text(unit, encoding="utf-8")
    return make(
        request.said,
        folder,
        files=(),
        sources=(Source("OCI image", image.platform, image.sha256),),
        tools={},
        kind="application",
        format="unit-root",
        requires=Requires(memory_mb=request.memory_mb, machine=machine, disk_mb=size // 1_000_000 + 1),
        application=Application("dynamic", unit=name, root=ROOT, ports=request.ports, models=request.models),
    )


def _check_ports(exposed: tuple[tuple[str, int], ...], declared: tuple[Port, ...], where: str) -> None:
    known = {(port.protocol, port.number) for port in declared}
    for protocol, number in exposed:
        if (protocol, number) not in known:
            raise RefusedError(
                f"the image exposes port {number}/{protocol}, which was not declared (rule: declared-ports)",
                where=where,
                next_step=f"declare it: --port {number}/{protocol}, or build the image without it",
            )


def read_port(text: str) -> Port:
    """Read ``8090``, ``8090/udp`` or ``8090/tcp=what it is for``.

    Raises:
        UsageError: it is none.
    """
    place_, _, purpose = text.partition("=")
    number, _, protocol = place_.partition("/")
    if not number.isdigit() or protocol not in {"", "tcp", "udp"} or not 1024 <= int(number) <= 65535:  # noqa: PLR2004
        raise UsageError(
            f"{text!r} is no port an application may have",
            next_step="write it like 8090, 8090/udp or 8090/tcp=settings; from 1024 on, for it gets no rights",
        )
    return Port(int(number), "udp" if protocol == "udp" else "tcp", purpose or None)
