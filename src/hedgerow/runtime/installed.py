"""Which runtime this process runs in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hedgerow import __version__
from hedgerow.runtime.install import MARKER


def version(prefix: Path | None = None) -> str:
    """The version of the runtime at ``prefix`` (this process's own), as its marker says it; elsewhere the package's."""
    try:
        marker = json.loads(((prefix or Path(sys.prefix)) / MARKER).read_text(encoding="utf-8"))
        return str(marker["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return __version__
