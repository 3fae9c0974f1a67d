"""Who did what when, of one fleet, in one tamper-evident log: ``var/fleets/<fleet>/audit/audit.jsonl``.

- The log is a ``hedgerow.chainlog``: what is changed or taken out shows, a cut end by its anchor, a log that was
  written anew by a head that was published elsewhere.
- Playbook runs are written to it as they start and end. Everything else has a log of its own, written before the thing
  is done (issuance, revocations, journals, promotions); from those the audit log *collects* what is new and seals them
  by the SHA-256 of all their bytes so far. So nothing has to be done twice, and a seal shows where one was changed.
- Values of variables never come into it.
"""

from __future__ import annotations

from hedgerow.audit.log import of_fleet, record
from hedgerow.audit.sealing import collect, unsealed

__all__ = ["collect", "of_fleet", "record", "unsealed"]
