"""One validation from paths to outcome."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hedgerow.models import amend
from hedgerow.models.validate import probes, report, thresholds
from hedgerow.models.validate.builds import opened
from hedgerow.models.validate.compare import compare
from hedgerow.models.validate.report import Outcome
from hedgerow.registry import bundle, manifest
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import Manifest, Proof


def validate(
    new: Path,
    reference: Path,
    probe: Path,
    limits: Path,
    *,
    variant: str | None = None,
    reference_variant: str | None = None,
) -> Outcome:
    """Compare and judge; a missed limit is in the outcome, not an error.

    Raises:
        UsageError, PublisherError: the inputs cannot be used or compared, and the message says why.
    """
    judged_by = thresholds.load(limits)
    asked = probes.load(probe)
    with opened(new, variant) as first, opened(reference, reference_variant) as second:
        comparison = compare(first, second, asked)
        labels = first.label, second.label
    sha256 = asked.sha256 if not isinstance(asked, probes.TextProbe) else bundle.hash_file(probe)
    return Outcome(*labels, sha256, comparison, tuple(thresholds.judge(judged_by, comparison.measured)))


def attach(folder: Path, outcome: Outcome) -> Bundle:
    """Put ``validation.json`` into the bundle in ``folder``, named as a proof in its manifest.

    Raises:
        UsageError, PublisherError, MachineError: as ``amend.add_files``.
    """

    def name(document: Manifest) -> Manifest:
        others = tuple(proof for proof in document.proofs if proof.kind != "validation")
        return msgspec.structs.replace(
            document, schema=manifest.NEWEST, proofs=(*others, Proof("validation", report.FILE_NAME))
        )

    old = frozenset(proof.path for proof in bundle.load(folder).manifest.proofs if proof.kind == "validation")
    return amend.add_files(folder, {report.FILE_NAME: report.encoded(outcome)}, name, drop=old)
