"""A folder of models on a workstation: which models are in it, and which of their versions are to be served.

Two layouts, side by side: Hedgerow's own (``NAME/VERSION/`` with semantic versions, ``NAME/current``) and Triton's
(``NAME/config.pbtxt``, ``NAME/1/model.onnx``). A model's folder may also hold the model itself, as version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import MachineError
from hedgerow.registry.manifest import FILE_NAME
from hedgerow.registry.reference import version_key
from hedgerow.server import modelconfig
from hedgerow.server.backends import kind_of
from hedgerow.server.errors import NotFound, Unusable
from hedgerow.server.modelconfig import ModelConfig

CONFIG = "config.pbtxt"
_CURRENT = "current"
_ONLY = "1"


@dataclass(frozen=True)
class Version:
    """One version: the folder in which its files lie."""

    name: str
    folder: Path

    def fingerprint(self) -> tuple[object, ...]:
        """Changes when a file of it does. Blocks."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        stats = [(path, path.stat()) for path in files]
        return tuple((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats)

    def size(self) -> int:
        """Bytes of its files. Blocks."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Entry:
    """A model in the folder: its versions, oldest first; its configuration, None where it has none.

    ``current``: the version that a link of that name points at.
    """

    name: str
    folder: Path
    versions: tuple[Version, ...]
    config: ModelConfig | None = None
    current: str | None = None

    def wanted(self) -> tuple[Version, ...]:
        """The versions that its policy serves, the one for requests that name none at the end.

        Without a configuration that is what ``current`` points at, else the newest.

        Raises:
            Unusable: the policy names none that is there.
        """
        if self.config is None and self.current is not None:
            found = tuple(each for each in self.versions if each.name == self.current)
            if not found:
                raise Unusable("load_failed", f"{self.name}/{_CURRENT} points at none of the model's versions")
            return found
        policy = modelconfig.LATEST if self.config is None else self.config.version_policy
        found = self.versions
        if policy.latest is not None:
            found = self.versions[-policy.latest.num_versions :]
        elif policy.specific is not None:
            named = {str(number) for number in policy.specific.versions}
            found = tuple(each for each in self.versions if each.name in named)
            missing = named - {each.name for each in found}
            if missing:
                raise Unusable("load_failed", f"{self.name} has no version {', '.join(sorted(missing))}")
        return found


class Repository:
    """The models below ``root``; looked at anew whenever it is asked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Every model's name."""
        if _is_model(self.root):
            return [self.root.resolve().name]
        return sorted(path.name for path in _folders(self.root) if _versions(path))

    def required(self) -> list[str]:
        """The same.

        Raises:
            MachineError: there is none.
        """
        found = self.names()
        if not found:
            raise MachineError(
                "no model here",
                where=str(self.root),
                next_step="name a folder that holds NAME/VERSION/model.onnx or NAME/VERSION/genai_config.json "
                "(or there one .hef, .tflite or .gguf)",
            )
        return found

    def entry(self, name: str) -> Entry:
        """The model ``name``.

        Raises:
            NotFound: there is none.
            Unusable: its configuration cannot be obeyed.
        """
        # A repository that is itself one model's folder is served under its own name.
        folder = self.root if _is_model(self.root) and name == self.root.resolve().name else self.root / name
        if not name or name in {".", ".."} or "/" in name or "\0" in name or not is_folder(folder):
            raise NotFound(f"model '{name}' is not in the repository")
        versions = _versions(folder)
        if not versions:
            raise NotFound(f"model '{name}' has no version in the repository")
        link = folder / _CURRENT
        current = link.resolve().name if link.is_symlink() else None
        return Entry(name, folder, versions, _config(name, folder), current)


def is_folder(path: Path) -> bool:
    """Whether it is there; a name that no file system would take is not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def model_folder(version: Path) -> Path:
    """Where a version's files lie: Triton has ONNX models of several files in a folder ``model.onnx``."""
    nested = version / "model.onnx"
    return nested if nested.is_dir() else version


def _versions(folder: Path) -> tuple[Version, ...]:
    if _is_model(folder):
        return (Version(_ONLY, model_folder(folder)),)
    found = [path for path in _folders(folder) if path.name != _CURRENT and _is_model(path)]
    return tuple(Version(path.name, model_folder(path)) for path in sorted(found, key=lambda path: _order(path.name)))


def _folders(folder: Path) -> list[Path]:
    """The folders in it; none where it is gone or may not be read."""
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file() or (folder / "model.onnx").is_dir() or kind_of(folder) is not None


def _config(name: str, folder: Path) -> ModelConfig | None:
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable("load_failed", f"{name}/{CONFIG} cannot be read: {error}") from error
    try:
        config = modelconfig.parse(text)
    except ValueError as error:
        raise Unusable("load_failed", f"{name}/{CONFIG}: {error}") from error
    if config.name not in {"", name}:
        raise Unusable("load_failed", f"{name}/{CONFIG} is of '{config.name}'; the folder's name is the model's")
    return config


def _order(name: str) -> tuple[int, object]:
    """Semantic versions and plain numbers (Triton's) by their precedence, above names."""
    try:
        return (1, version_key(name))
    except ValueError:
        return (0, name)
