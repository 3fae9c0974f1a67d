"""What the ``hedgerow`` command does when one of its signing commands has ended: collect, and complain aloud.

The things themselves stand in their own logs by then, so a failure here fails nothing: the next command collects.
"""

from __future__ import annotations

from hedgerow import paths
from hedgerow.errors import HedgerowError
from hedgerow.output import err


def collect_all() -> None:
    """Collect for every fleet of this controller."""
    from hedgerow.audit.sealing import collect
    from hedgerow.rollout import lease

    try:
        fleets = sorted(path for path in (paths.var_dir() / "fleets").glob("[!.]*") if path.is_dir())
    except HedgerowError:
        return
    for fleet in fleets:
        try:
            collect(fleet, by=lease.whoami())
        except (HedgerowError, OSError) as error:
            err.print(
                f"the audit log of fleet {fleet.name} was not brought up to date: {error}\n"
                "  next: hedgerow audit verify", style="yellow", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
