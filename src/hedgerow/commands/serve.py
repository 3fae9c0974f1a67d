"""``hedgerow serve``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.server.config import Address


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="A device's configuration, /etc/hedgerow/server.yml.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of models, served on loopback in plain HTTP and gRPC.",
)
@click.option("--http", default="127.0.0.1:8000", show_default=True, help="With --repository: where to listen.")
@click.option("--grpc", default="127.0.0.1:8001", show_default=True, help="The same for gRPC; 'none' to do without.")
def serve(config: Path | None, repository: Path | None, http: str, grpc: str) -> None:
    """Run the inference server.

    \b
    On a device:      hedgerow serve --config /etc/hedgerow/server.yml
    On a workstation: hedgerow serve --repository models/ --http 127.0.0.1:8000 --grpc 127.0.0.1:8001
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.server import config as configs
    from hedgerow.server import run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if (config is None) == (repository is None):
        raise UsageError("give exactly one of --config and --repository", next_step="hedgerow serve --help")
    if config is not None:
        run.serve_device(*configs.read(config))
        return
    if repository is not None:
        run.serve_folder(
            repository,
            _loopback(http, "HTTP"),
            configs.Limits(),
            grpc=None if grpc == "none" else _loopback(grpc, "gRPC"),
        )


def _loopback(text: str, protocol: str) -> Address:
    from hedgerow.server import config as configs

    address = configs.Address.parse(text)
    if not address.is_loopback:
        raise UsageError(
            f"{text} is not on loopback, and plain {protocol} has no authentication",
            where=f"--{protocol.lower()}",
            next_step="listen on 127.0.0.1, or use --config with mutual TLS",
        )
    return address
