"""``hedgerow vision``."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.vision.pipeline import Seen


@click.group()
def vision() -> None:
    """Cameras in front of a detection model (docs/vision.md)."""


@vision.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="Cameras and model, vision.yml.")
@click.option("--json", "as_json", is_flag=True, help="Print each frame's detections as a line of JSON.")
def run(config: Path, *, as_json: bool) -> None:
    """Watch cameras until SIGTERM; the model is the one that `hedgerow serve` serves on this machine."""
    from hedgerow.vision.config import load

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    settings = load(config)
    try:
        from hedgerow.vision import run as running
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise UsageError(
            "PyAV is not installed",
            next_step="pip install 'hedgerow[vision]' (a fleet: inference_runtime_extras: [vision])",
        ) from error
    printing = threading.Lock()

    def tell(seen: Seen) -> None:
        with printing:
            click.echo(json.dumps(_line(seen)))

    running.run(settings, tell=tell if as_json else lambda _: None)


def _line(seen: Seen) -> dict[str, object]:
    return {
        "camera": seen.camera,
        "frame": seen.frame,
        "age_s": round(seen.age_s, 4),
        "model_version": seen.result.version,
        "detections": [
            {**asdict(each), "confidence": round(each.confidence, 4), "box": [round(edge, 1) for edge in each.box]}
            for each in seen.result.detections
        ],
    }
