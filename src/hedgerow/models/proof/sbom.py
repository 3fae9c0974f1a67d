"""A CycloneDX 1.6 bill of materials with a model card, the same bytes for the same bundle.

No time and no random serial number: the serial number is made from the files' hashes (RFC 9562, version 5). The
document is held to CycloneDX's own JSON Schema, in its strict form, before it is written and whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any, Final

from hedgerow import __version__
from hedgerow.errors import PublisherError
from hedgerow.models.proof import licenses
from hedgerow.models.proof.component import Component
from hedgerow.models.proof.contents import Contents, own_proofs
from hedgerow.registry.manifest import Expectation, Manifest, Tensor

FILE_NAME: Final = "sbom.cdx.json"
MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_MAIN_TYPES: Final = {
    "model": "machine-learning-model",
    "adapter": "machine-learning-model",
    "runtime": "framework",
    "application": "application",
    "configuration": "data",
}
_FIGURES: Final = {
    "p50_ms": "latency p50, ms",
    "p95_ms": "latency p95, ms",
    "p99_ms": "latency p99, ms",
    "ttft_p50_ms": "time to first token p50, ms",
    "ttft_p95_ms": "time to first token p95, ms",
    "tokens_per_s": "tokens per second",
    "peak_memory_mb": "peak memory, MB",
    "load_ms": "load, ms",
}


def build(document: Manifest, contents: Contents) -> dict[str, Any]:
    """The bill of materials of a bundle."""
    main = _main(document)
    components = [_component(each) for each in contents.components]
    inside = [each["bom-ref"] for each in components if each.get("scope") != "excluded"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(document)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "hedgerow", "version": __version__}]},
            "component": main,
        },
        "components": components,
        "dependencies": [{"ref": main["bom-ref"], "dependsOn": sorted(inside)}],
    }


def encode(bill: dict[str, Any]) -> bytes:
    """Its bytes, held to the schema.

    Raises:
        PublisherError: CycloneDX's schema refuses it.
    """
    data = json.dumps(bill, indent=2, sort_keys=True).encode() + b"\n"
    validate(data, where=FILE_NAME)
    return data


def validate(data: bytes, *, where: str) -> dict[str, Any]:
    """Hold a bill of materials to CycloneDX 1.6's strict JSON Schema; return it.

    Raises:
        PublisherError: it is none.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())
        bill: Any = json.loads(data)
    except ValueError as error:
        raise PublisherError(f"no JSON: {error}", where=where, next_step=_AGAIN) from error
    if wrong is not None or not isinstance(bill, dict) or bill.get("specVersion") != "1.6":
        detail = str(getattr(wrong, "data", wrong) or "another version")
        raise PublisherError(
            f"the bill of materials is not valid CycloneDX 1.6: {detail[:300]}", where=where, next_step=_AGAIN
        )
    return bill


def file_hashes(bill: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of every component that is a file of the bundle, by its path."""
    found = {}
    for component in bill.get("components", []):
        path = next((each["value"] for each in component.get("properties", []) if each["name"] == _PATH), None)
        if path is not None:
            found[path] = next((each["content"] for each in component.get("hashes", [])), "")
    return found


_AGAIN: Final = "hedgerow model prove BUNDLE writes it anew"
_PATH: Final = "hedgerow:path"


def _serial(document: Manifest) -> uuid.UUID:
    proofs = own_proofs(document)
    listed = [(file.path, file.sha256) for file in document.files if file.path not in proofs]
    digest = hashlib.sha256(json.dumps(sorted(listed)).encode()).hexdigest()
    return uuid.uuid5(uuid.NAMESPACE_URL, f"hedgerow:{document.reference}:{digest}")


def _main(document: Manifest) -> dict[str, Any]:
    main: dict[str, Any] = {
        "type": _MAIN_TYPES[document.kind],
        "bom-ref": f"bundle:{document.reference}",
        "name": document.name,
        "version": document.version,
        "licenses": licenses.as_cyclonedx(document.license),
        "properties": _properties({"hedgerow:kind": document.kind, "hedgerow:format": document.format}),
    }
    if document.description:
        main["description"] = document.description
    if main["type"] == "machine-learning-model":
        main["modelCard"] = _card(document)
    return main


def _card(document: Manifest) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if document.features.get("chat") or document.format == "onnx-genai":
        parameters["task"] = "text-generation"
    for key, tensors in (("inputs", document.inputs), ("outputs", document.outputs)):
        if tensors:
            parameters[key] = [{"format": _format(each)} for each in tensors]
    sets = _datasets(document)
    if sets:
        parameters["datasets"] = sets
    card: dict[str, Any] = {"bom-ref": f"card:{document.reference}"}
    if parameters:
        card["modelParameters"] = parameters
    figures = [*_figures("", document.expectations)]
    for variant in document.variants:
        figures += _figures(f"variant {variant.name}, ", variant.expectations)
    if figures:
        card["quantitativeAnalysis"] = {"performanceMetrics": figures}
    builds = {"": document.quantization} | {each.name: each.quantization for each in document.variants}
    schemes = {
        f"hedgerow:quantization{':' + name if name else ''}": f"{each.scheme}, {each.bits} bits"
        for name, each in builds.items()
        if each is not None
    }
    if schemes:
        card["properties"] = _properties(schemes)
    return card


def _format(tensor: Tensor) -> str:
    return f"{tensor.name}: {tensor.dtype}{list(tensor.shape)}"


def _datasets(document: Manifest) -> list[dict[str, Any]]:
    hashes = {"training data": document.provenance.dataset_sha256}
    if document.calibration is not None:
        hashes["calibration set"] = document.calibration.sha256
    for variant in document.variants:
        if variant.calibration is not None:
            hashes[f"calibration set of variant {variant.name}"] = variant.calibration.sha256
    return [
        {"type": "dataset", "name": name, "contents": {"properties": _properties({"sha256": sha256})}}
        for name, sha256 in hashes.items()
        if sha256 is not None
    ]


def _figures(prefix: str, expectations: Iterable[Expectation]) -> list[dict[str, str]]:
    return [
        {"type": text, "value": f"{value:g}", "slice": f"{prefix}{each.condition} on {each.machine.model}"}
        for each in expectations
        for field, text in _FIGURES.items()
        if (value := getattr(each, field)) is not None
    ]


def _component(each: Component) -> dict[str, Any]:
    a_file = each.role == "inside" and each.package is None
    kind = {"inside": "file" if a_file else "library", "source": "data", "tool": "library"}
    found: dict[str, Any] = {
        "type": kind.get(each.role, "machine-learning-model"),
        "bom-ref": _reference(each),
        "name": each.name,
        # CycloneDX: "excluded" documents what is not part of what is delivered.
        "scope": "required" if each.role in {"inside", "base"} else "excluded",
        "properties": _properties(
            {"hedgerow:role": each.role}
            | ({_PATH: each.name} if a_file else {})
            | ({"hedgerow:within": each.within} if each.within is not None else {})
        ),
    }
    if each.version is not None:
        found["version"] = each.version
    if each.sha256 is not None:
        found["hashes"] = [{"alg": "SHA-256", "content": each.sha256}]
    if each.license is not None:
        found["licenses"] = licenses.as_cyclonedx(each.license)
    if not a_file:
        found["purl"] = each.purl
    return found


def _reference(each: Component) -> str:
    """Several archives may hold the same package, and distributions several of one name."""
    if each.within is not None:
        return f"{each.role}:{each.within}:{each.purl}"
    return f"{each.role}:{each.name}:{each.sha256 or each.version or ''}"


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]
