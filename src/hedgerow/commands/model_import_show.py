"""What an import tells: bars while it works, and the bundle once it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hedgerow.output import err, print_json, print_table


class Reporter:
    """One bar a step, made when the step is first heard of."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done)


def progress() -> Progress:
    """Bars on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def show(place: Path, *, as_json: bool) -> None:
    """Say what the bundle in ``place`` is."""
    from hedgerow.registry import bundle  # not before --help

    loaded = bundle.load(place)
    manifest = loaded.manifest
    conversion = _conversion(place)
    if as_json:
        facts: dict[str, Any] = {"path": str(place), "name": manifest.name, "version": manifest.version}
        facts |= {"kind": manifest.kind, "format": manifest.format, "sha256": loaded.sha256, "size": manifest.size}
        facts |= {"files": len(manifest.files), "golden": [golden.expect for golden in _texts(manifest.golden)]}
        print_json(facts | ({"conversion": conversion} if conversion else {}))
        return
    rows: list[tuple[str, Any]] = [
        ("bundle", manifest.reference),
        ("kind", f"{manifest.kind}, {manifest.format}"),
        ("folder", place),
        ("identity", loaded.sha256),
        ("size", f"{manifest.size / 1e6:.1f} MB in {len(manifest.files)} files"),
        ("needs", f"{manifest.requires.memory_mb} MB of memory at full context"),
    ]
    rows += [(f"golden {number}", golden.expect) for number, golden in enumerate(_texts(manifest.golden), 1)]
    rows += [
        (f"output {each['name']}", f"off by {each['max_abs_error']} of {each['range']}, cosine {each['cosine']}")
        for each in conversion.get("outputs", [])
    ]
    tensors = len(manifest.golden) - len(_texts(manifest.golden))
    if tensors:
        rows.append(("golden", f"{tensors} of tensors"))
    print_table(None, ("what", "value"), rows)


def _conversion(place: Path) -> dict[str, Any]:
    """How near the ONNX form came to PyTorch's answers, of a bundle that was converted."""
    file = place / "conversion.json"
    found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    return found


def _texts(golden: tuple[Any, ...]) -> list[Any]:
    return [answer for answer in golden if hasattr(answer, "expect")]
