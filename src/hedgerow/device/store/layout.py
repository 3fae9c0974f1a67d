"""Where things lie: ``models/<name>/<version>/`` as ever, and ``models/.store/`` beside them.

Beside the versions, because a rename moves what is finished into place, which needs one file system; hidden, because no
bundle can have a name that begins with a dot. In ``.store``:

- ``partial/<name>@<version>/``: a download that has begun: ``files/``, and the tail of what was cut off.
- ``recipes/<name>/<version>``: of versions that are here, so that their chunks are found without cutting them again.
- ``signed/<name>/<version>``: of a version that is one variant, the signed manifest of the whole bundle, whose files
  patches name.
- ``trash/``: versions on their way out; a rename takes them there, so that none is ever half there.
- ``used.json``, ``pins.json``, ``written.json``, ``lock``.

There is no folder of chunks: the versions are the cache. A chunk beside them would be stored twice and written twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hedgerow.device import links
from hedgerow.errors import UsageError
from hedgerow.registry.manifest import is_name, is_version
from hedgerow.registry.reference import Reference

FOLDER = ".store"
FILES = "files"
"""Of an unfinished download: what becomes the version."""
RECIPE = "recipe"
_FOLDER_MODE = 0o755  # the server's user reads models, whatever the umask is


@dataclass(frozen=True)
class Layout:
    """The paths of one device's store."""

    models_dir: Path

    @property
    def folder(self) -> Path:
        return self.models_dir / FOLDER

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def used(self) -> Path:
        return self.folder / "used.json"

    @property
    def pins(self) -> Path:
        return self.folder / "pins.json"

    @property
    def written(self) -> Path:
        return self.folder / "written.json"

    @property
    def trash(self) -> Path:
        return self.folder / "trash"

    @property
    def partials(self) -> Path:
        return self.folder / "partial"

    @property
    def recipes(self) -> Path:
        return self.folder / "recipes"

    @property
    def signed_manifests(self) -> Path:
        return self.folder / "signed"

    @property
    def memories(self) -> tuple[Path, ...]:
        """Folders of what is remembered of versions: ``<name>/<version>`` each."""
        return self.recipes, self.signed_manifests

    def home(self, name: str) -> Path:
        return self.models_dir / name

    def version(self, reference: Reference) -> Path:
        return self.home(reference.name) / reference.version

    def partial(self, reference: Reference) -> Path:
        return self.partials / str(reference)

    def recipe(self, reference: Reference) -> Path:
        return self.recipes / reference.name / reference.version

    def signed(self, reference: Reference) -> Path:
        return self.signed_manifests / reference.name / reference.version

    def versions(self) -> Iterator[Reference]:
        """Every version that is here, sorted by name."""
        for home in _folders(self.models_dir):
            if is_name(home.name):
                for place in _folders(home):
                    if is_version(place.name):
                        yield Reference(home.name, place.name)

    def unfinished(self) -> Iterator[Reference]:
        """Every download that has begun."""
        for place in _folders(self.partials):
            with suppress(UsageError):
                yield Reference.parse(place.name)

    def linked(self, links_dir: Path | None = None) -> dict[Reference, str]:
        """Versions that ``current`` and ``previous`` name, and which of the two (``current`` where it is both).

        ``links_dir`` has the links where they are not beside the versions.
        """
        found: dict[Reference, str] = {}
        for home in _folders(links_dir or self.models_dir):
            for link in (links.PREVIOUS, links.CURRENT):
                version = links.target(home, link)
                if version is not None and is_name(home.name):
                    found[Reference(home.name, version)] = link
        return found


def make_folder(path: Path) -> None:
    """Make missing folders so that the server's user can read them."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(_FOLDER_MODE)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(place for place in path.iterdir() if place.is_dir() and not place.is_symlink())
