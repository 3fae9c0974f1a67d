"""An application bundle: an OCI image archive, or a folder with a systemd unit, checked before it can be signed.

What is checked is what a device then relies on: it runs unprivileged, nothing in it can gain rights (no setuid or
setgid bit, no file capability, no device node), and every port that it listens on is declared.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import RefusedError, UsageError
from hedgerow.models import application_unit, oci_archive, place
from hedgerow.models.describing import Description, make
from hedgerow.registry.manifest import Application, Manifest, Port, Requires

IMAGE: Final = "image.tar"
FOLDER: Final = "application.tar"
BUILDER: Final = "hedgerow model pack-application"


@dataclass(frozen=True)
class ApplicationRequest:
    """``source`` is an image archive (``.tar``) or a folder. ``ports`` are all that it listens on; ``models`` it asks.

    ``memory_mb`` is what it may take at the most.
    """

    source: Path
    said: Description
    ports: tuple[Port, ...] = ()
    models: tuple[str, ...] = ()
    memory_mb: int = 128


def pack(request: ApplicationRequest, *, cache: Path | None = None) -> Path:
    """Build the bundle of an application; return its folder.

    Raises:
        UsageError: neither an image archive nor a folder with one unit.
        RefusedError: it would run as root, could gain rights, or listens on a port that was not declared.
    """
    files = application_unit.files_of(request.source) if request.source.is_dir() else [request.source]

    def fill(folder: Path) -> Manifest:
        if request.source.is_dir():
            unit = application_unit.check(request.source)
            shutil.copyfile(request.source / unit.name, folder / unit.name)
            application_unit.archive(request.source, folder / FOLDER)
            application = Application(user=unit.user, unit=unit.name, ports=request.ports, models=request.models)
            kind = "unit-folder"
        else:
            image = oci_archive.check(request.source)
            _check_ports(image.ports, request.ports, str(request.source))
            shutil.copyfile(request.source, folder / IMAGE)
            application = Application(user=image.user, image=IMAGE, ports=request.ports, models=request.models)
            kind = "oci-archive"
        return make(
            request.said,
            folder,
            files=files,
            tools={},
            kind="application",
            format=kind,
            requires=Requires(memory_mb=request.memory_mb),
            application=application,
        )

    return place.build(
        fill,
        name=request.said.name,
        version=request.said.version,
        inputs=request.said.inputs(request.source),
        facts=request.said.facts("application", request.ports, request.models, request.memory_mb),
        tools={},
        cache=cache,
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
