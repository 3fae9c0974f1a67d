"""``hedgerow serve``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from hedgerow.errors import UsageError


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="A device's configuration, /etc/hedgerow/server.yml.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of models, served in plain HTTP on loopback.",
)
@click.option("--http", default="127.0.0.1:8000", show_default=True, help="With --repository: where to listen.")
def serve(config: Path | None, repository: Path | None, http: str) -> None:
    """Run the inference server.

    \b
    On a device:      hedgerow serve --config /etc/hedgerow/server.yml
    On a workstation: hedgerow serve --repository models/ --http 127.0.0.1:8000
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.server import config as configs
    from hedgerow.server import run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if (config is None) == (repository is None):
        raise UsageError("give exactly one of --config and --repository", next_step="hedgerow serve --help")
    if config is not None:
        run.serve_device(*configs.read(config))
        return
    address = configs.Address.parse(http)
    if not address.is_loopback:
        raise UsageError(
            f"{http} is not on loopback, and plain HTTP has no authentication",
            where="--http",
            next_step="listen on 127.0.0.1, or use --config with https",
        )
    if repository is not None:
        run.serve_folder(repository, address, configs.Limits())
