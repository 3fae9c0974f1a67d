"""What the commands of ``hedgerow-device`` share: two options, and how an answer is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow.device import config as configs

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=configs.DEFAULT_PATH,
    show_default=True,
    help="This device's configuration.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def show(value: Any, text: str, *, as_json: bool) -> None:
    """Print ``value`` as JSON, or ``text``."""
    click.echo(msgspec.json.encode(value) if as_json else text)
