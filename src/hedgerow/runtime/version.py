"""Name a runtime by its content: a code change makes a new version, an unchanged tree never does.

No time and no git state goes in, so that a second `make demo` finds what the
first one installed, on any controller with the same tree.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

_IGNORED = {"__pycache__"}


def source_digest(root: Path, extras: Sequence[str] = ()) -> str:
    """sha256 over what decides the wheel and its dependencies: package files, project table, locks."""
    digest = hashlib.sha256()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _feed(digest, "project", json.dumps(project, sort_keys=True).encode())
    _feed(digest, "lock", (root / "requirements/device.txt").read_bytes())
    for extra in extras:
        _feed(digest, f"lock {extra}", (root / f"requirements/{extra}.txt").read_bytes())
    package = root / "src/hedgerow"
    for path in sorted(package.rglob("*")):
        if path.is_file() and not _IGNORED & set(path.parts) and path.suffix != ".pyc":
            _feed(digest, path.relative_to(package).as_posix(), path.read_bytes())
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, name: str, data: bytes) -> None:
    # Lengths keep "ab"+"c" and "a"+"bc" apart.
    digest.update(f"{name}\0{len(data)}\0".encode())
    digest.update(data)


def runtime_version(root: Path, extras: Sequence[str] = ()) -> str:
    """``0.1.0+3f9c2d81aa04``: the package's version and the content's short hash, the same for every target.

    ``extras`` are in the order of ``extras.chosen``; each set of them has a version of its own.
    """
    return named(root, source_digest(root, extras))


def named(root: Path, digest: str) -> str:
    """The version that a content's hash makes."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['version']}+{digest[:12]}"
