"""``hedgerow model pack-runtime``, ``pack-adapter``, ``pack-application``: bundles that are no models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hedgerow.commands.model_import_show import show
from hedgerow.output import json_option

if TYPE_CHECKING:
    from hedgerow.models.describing import Description

_PATH: Final = click.Path(path_type=Path)


def _said(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every bundle has."""
    options = (
        click.option("--name", required=True, help="Name of the bundle."),
        click.option("--version", required=True, help="Semantic version of the bundle."),
        click.option("--license", "license_id", required=True, metavar="SPDX-ID", help="License of what is in it."),
        click.option("--license-file", type=_PATH, help="License text to put into the bundle."),
        click.option("--description", default="", help="A line about it."),
        click.option("--output", type=_PATH, help="Copy the bundle here (default: only the cache)."),
        json_option,
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command("pack-runtime")
@click.argument("wheels", type=_PATH)
@click.option("--python", required=True, help="The device's Python, as 3.13.")
@click.option(
    "--machine",
    type=click.Choice(["aarch64", "x86_64"]),
    default="aarch64",
    show_default=True,
    help="The device's processor.",
)
@_said
def pack_runtime(wheels: Path, python: str, machine: Any, output: Path | None, *, as_json: bool, **said: Any) -> None:
    """Pack a folder of WHEELS as a runtime bundle.

    \b
    Example:
      hedgerow model pack-runtime wheels --python 3.13 --name runtime --version 0.2.0 --license Apache-2.0
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.models import pack_runtime as runtime

    request = runtime.RuntimeRequest(wheels, python, machine, _description(said, runtime.BUILDER))
    _finish(runtime.pack(request), output, as_json=as_json)


@click.command("pack-adapter")
@click.argument("file", type=_PATH)
@click.option("--base", required=True, help="Name of the bundle that it adapts.")
@click.option("--base-version", required=True, metavar="RANGE", help="Its versions, as >=1.0,<2.")
@click.option("--base-folder", required=True, type=_PATH, help="One such bundle, to check the adapter against.")
@click.option("--base-sha256", metavar="SHA256", help="Pin the base to one manifest.")
@click.option("--golden", type=_PATH, required=True, help="What the base answers with it (JSON).")
@_said
def pack_adapter(  # noqa: PLR0917 -- click passes them by name
    file: Path,
    base: str,
    base_version: str,
    base_folder: Path,
    base_sha256: str | None,
    golden: Path,
    output: Path | None,
    *,
    as_json: bool,
    **said: Any,
) -> None:
    """Pack a LoRA adapter FILE (.onnx_adapter) for onnxruntime-genai as a bundle that names its base.

    \b
    Example:
      hedgerow model pack-adapter tuned.onnx_adapter --base assistant --base-version '>=1.0,<2' \\
        --base-folder bundles/assistant-1.0.0 --golden asked.json --name tone --version 1.0.0 --license MIT
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.errors import UsageError
    from hedgerow.models import pack_adapter as adapter
    from hedgerow.registry.manifest import Base

    try:
        of = Base(base, base_version, base_sha256)
    except ValueError as error:
        raise UsageError(str(error), next_step="write it like: --base assistant --base-version '>=1.0,<2'") from error
    request = adapter.AdapterRequest(file, of, base_folder, _description(said, adapter.BUILDER, golden))
    _finish(adapter.pack(request), output, as_json=as_json)


@click.command("pack-application")
@click.argument("source", type=_PATH)
@click.option("--port", "ports", multiple=True, metavar="PORT[/udp][=WHAT FOR]", help="It listens on; repeatable.")
@click.option("--asks", "models", multiple=True, metavar="NAME", help="A model that it asks; repeatable.")
@click.option("--memory-mb", type=click.IntRange(min=1), default=128, show_default=True, help="What it may take.")
@click.option(
    "--platform",
    type=click.Choice(["linux/arm64", "linux/amd64"]),
    default="linux/arm64",
    show_default=True,
    help="Of an image: which one; the second for machines that stand in for a device.",
)
@click.option("--drop-setuid", is_flag=True, help="Of an image: pack files without setuid bits and capabilities.")
@_said
def pack_application(  # noqa: PLR0917 -- click passes them by name
    source: Path,
    ports: tuple[str, ...],
    models: tuple[str, ...],
    memory_mb: int,
    platform: str,
    output: Path | None,
    *,
    drop_setuid: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Pack SOURCE, an OCI image or a folder with a unit, as an application that runs beside the server.

    An image (an archive or a layout) is made a root file system with a unit; its own user is not asked, for
    applications run as one that systemd makes up. Refused (exit code 3) where it could gain rights, leads out of
    itself, or exposes a port that was not declared; a folder's unit too where it would run as root.

    \b
    Example:
      hedgerow model pack-application kiosk.tar --port 8090=page --asks assistant \\
        --name kiosk --version 1.0.0 --license MIT
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.models import pack_application as application

    request = application.ApplicationRequest(
        source,
        _description(said, application.BUILDER),
        tuple(application.read_port(port) for port in ports),
        models,
        memory_mb,
        platform,
        drop_setuid,
    )
    _finish(application.pack(request), output, as_json=as_json)


def _description(said: dict[str, Any], builder: str, golden: Path | None = None) -> Description:
    from hedgerow.models.describing import Description

    return Description(
        name=said["name"],
        version=said["version"],
        license=said["license_id"],
        license_file=said["license_file"],
        description=said["description"],
        golden=golden,
        builder=builder,
    )


def _finish(found: Path, output: Path | None, *, as_json: bool) -> None:
    from hedgerow.models import place

    show(found if output is None else place.export(found, output.absolute()), as_json=as_json)
