"""Where a bundle comes from, as an in-toto Statement v1 with a SLSA Provenance v1 predicate.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance; the
subset that is written here has a JSON Schema beside this module. The statement itself carries no signature: it is a
file of the bundle, the bundle's manifest has its hash, and the registry's roles sign that (docs/proving-models.md).
It says nothing of time: the same input gives the same statement.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from hedgerow import __version__
from hedgerow.errors import PublisherError
from hedgerow.models.proof.component import Component
from hedgerow.models.proof.contents import Contents, own_proofs
from hedgerow.registry.manifest import Manifest

FILE_NAME: Final = "provenance.intoto.json"
MEDIA_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:hedgerow:build:bundle:1"
BUILDER: Final = "urn:hedgerow:builder:controller:1"
_SCHEMA: Final = Path(__file__).with_name("provenance.schema.json")


def build(document: Manifest, contents: Contents) -> dict[str, Any]:
    """The statement about every file of the bundle that is no proof."""
    proofs = own_proofs(document)
    provenance = document.provenance
    wanted: dict[str, Any] = {
        "command": provenance.builder,
        "name": document.name,
        "version": document.version,
        "kind": document.kind,
        "format": document.format,
    }
    if document.quantization is not None:
        wanted["quantization"] = msgspec.to_builtins(document.quantization)
    if document.variants:
        wanted["variants"] = [
            {"name": each.name, "quantization": msgspec.to_builtins(each.quantization)} for each in document.variants
        ]
    if provenance.commit is not None:
        wanted["commit"] = provenance.commit
    made_from = [each for each in contents.components if each.role in {"source", "base"}]
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": file.path, "digest": {"sha256": file.sha256}} for file in document.files if file.path not in proofs
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": wanted,
                "resolvedDependencies": [*map(_dependency, made_from), *_datasets(document)],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": provenance.tools | {"hedgerow": __version__}}},
        },
    }


def encode(statement: dict[str, Any]) -> bytes:
    """Its bytes, held to the schema.

    Raises:
        PublisherError: the schema refuses it.
    """
    data = json.dumps(statement, indent=2, sort_keys=True).encode() + b"\n"
    validate(data, where=FILE_NAME)
    return data


def validate(data: bytes, *, where: str) -> dict[str, Any]:
    """Hold a statement to the schema; return it.

    Raises:
        PublisherError: it is none; the message names the place.
    """
    import jsonschema

    try:
        statement: dict[str, Any] = json.loads(data)
        jsonschema.Draft202012Validator(schema()).validate(statement)
    except ValueError as error:
        raise PublisherError(f"no JSON: {error}", where=where, next_step=_AGAIN) from error
    except jsonschema.ValidationError as error:
        raise PublisherError(
            f"the provenance is not valid at {error.json_path}: {error.message[:300]}", where=where, next_step=_AGAIN
        ) from error
    return statement


def subjects(statement: dict[str, Any]) -> dict[str, str]:
    """Path → SHA-256 of what the statement is about."""
    return {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the subset."""
    found: dict[str, Any] = json.loads(_SCHEMA.read_bytes())
    return found


_AGAIN: Final = "hedgerow model prove BUNDLE writes it anew"


def _dependency(each: Component) -> dict[str, Any]:
    """in-toto's ResourceDescriptor: a URI at least, and the digest where it is known."""
    found: dict[str, Any] = {"name": each.name, "uri": each.purl}
    if each.sha256 is not None:
        found["digest"] = {"sha256": each.sha256}
    return found


def _datasets(document: Manifest) -> list[dict[str, Any]]:
    hashes = [("training data", document.provenance.dataset_sha256)]
    calibrations = [document.calibration, *(each.calibration for each in document.variants)]
    hashes += [("calibration set", sha256) for sha256 in dict.fromkeys(c.sha256 for c in calibrations if c is not None)]
    return [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in hashes if sha256 is not None]
