"""A folder of models on a workstation: which models are in it, and in which version each is served."""

from __future__ import annotations

from pathlib import Path

from hedgerow.errors import MachineError
from hedgerow.registry.reference import version_key


def find_models(repository: Path) -> list[tuple[str, Path]]:
    """``(name, folder)`` of each model: its ``current``, else its newest version, else a folder without versions.

    A repository that is itself one model's folder is served under its own name.

    Raises:
        MachineError: there is none.
    """
    if _is_model(repository):
        return [(repository.resolve().name, repository)]
    found: list[tuple[str, Path]] = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        versions = [path for path in folder.iterdir() if path.is_dir() and _is_model(path)]
        if _is_model(folder / "current"):
            found.append((folder.name, folder / "current"))
        elif versions:
            found.append((folder.name, max(versions, key=lambda path: _order(path.name))))
        elif _is_model(folder):
            found.append((folder.name, folder))
    if not found:
        raise MachineError(
            "no model here",
            where=str(repository),
            next_step="name a folder that holds NAME/VERSION/model.onnx or NAME/VERSION/genai_config.json",
        )
    return found


def _is_model(folder: Path) -> bool:
    return (folder / "genai_config.json").is_file() or len(list(folder.glob("*.onnx"))) == 1


def _order(name: str) -> tuple[int, object]:
    """Semantic versions above plain numbers (Triton's), numbers above names."""
    try:
        return (2, version_key(name))
    except ValueError:
        return (1, int(name)) if name.isdigit() else (0, name)
