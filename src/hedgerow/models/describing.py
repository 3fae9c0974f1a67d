"""What an operator says of a bundle that its files do not: name, license, host it needs, golden questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from hedgerow.errors import UsageError
from hedgerow.models import place
from hedgerow.registry import bundle, manifest
from hedgerow.registry.manifest import GoldenTensors, GoldenText, Hat, Manifest, Provenance, Requires, Source

Golden = GoldenText | GoldenTensors
HATS: Final[tuple[Hat, ...]] = get_args(Hat)


@dataclass(frozen=True)
class Description:
    """What is said on the command line. ``golden`` is a file that ``read_golden`` reads.

    ``requires`` holds fields of the manifest's ``requires`` that replace what the import found out; ``builder`` is the
    command's name, for the provenance.
    """

    name: str
    version: str
    license: str
    license_file: Path | None = None
    description: str = ""
    golden: Path | None = None
    requires: dict[str, Any] = field(default_factory=dict)
    builder: str = "hedgerow model import"

    def inputs(self, *others: Path) -> list[Path]:
        """The files that a bundle of this description is made from."""
        return [*others, *(path for path in (self.license_file, self.golden) if path is not None)]

    def facts(self, *others: Any) -> tuple[Any, ...]:
        """What else its bytes depend on, in a form with a stable ``repr``."""
        said = (self.name, self.version, self.license, self.description, sorted(self.requires.items()), self.builder)
        return (*said, *others)


def need_license(license_id: str | None, what: str) -> str:
    """Return ``license_id``.

    Raises:
        UsageError: it was not given.
    """
    if license_id is None:
        raise UsageError(
            f"{what} does not say its license",
            next_step="say it: --license SPDX-ID (see https://spdx.org/licenses)",
        )
    return license_id


def read_golden(path: Path) -> tuple[Golden, ...]:
    """Read golden questions as a manifest has them: a JSON list of ``{"kind": "text" or "tensors", …}``.

    Raises:
        UsageError: no such file, or one of them breaks a rule.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=tuple[Golden, ...])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("no file of golden questions here", where=str(path), next_step=_GOLDEN) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"these are no golden questions: {error}", where=str(path), next_step=_GOLDEN) from error
    if not found:
        raise UsageError("the list of golden questions is empty", where=str(path), next_step=_GOLDEN)
    return found


_GOLDEN: Final = "docs/building-models.md says how to write --golden FILE"


def make(
    said: Description,
    folder: Path,
    *,
    files: Sequence[Path],
    tools: dict[str, str],
    requires: Requires,
    golden: tuple[Golden, ...] = (),
    sources: tuple[Source, ...] = (),
    **fields: Any,
) -> Manifest:
    """Return the manifest of the bundle in ``folder``. ``files`` and ``sources`` are what it was made from.

    Schema 1 where that can say it all, so that devices of any age read it.

    Raises:
        UsageError: a value breaks a rule of manifests, or a license file is missing.
    """
    license_file = place.copy_license(said.license_file, folder)
    try:
        document = Manifest(
            schema=manifest.NEWEST,
            name=said.name,
            version=said.version,
            license=said.license,
            license_file=license_file,
            description=said.description,
            files=bundle.describe_files(folder),
            requires=msgspec.structs.replace(requires, **said.requires),
            golden=read_golden(said.golden) if said.golden is not None else golden,
            provenance=Provenance(
                sources=(*sources, *(Source(path.name, sha256=bundle.hash_file(path)) for path in files)),
                builder=said.builder,
                tools=tools,
            ),
            **fields,
        )
    except ValueError as error:
        raise UsageError(
            f"these values make no valid manifest: {error}", next_step=f"see: {said.builder} --help"
        ) from error
    return document if manifest.newer_fields(document) else msgspec.structs.replace(document, schema=manifest.SCHEMA)
