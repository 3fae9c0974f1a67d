"""Files that hold a token or a password: one that everybody on the machine may read is refused.

The bits of others alone count. What systemd places for a unit (``LoadCredential=``) shows the mask of its access list
where the group's bits are.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from hedgerow.errors import UsageError


def refuse_public(file: IO[bytes], path: Path) -> None:
    """Look at the opened ``file``; ``path`` is what its owner calls it.

    Raises:
        UsageError: others than its owner and group may read or write it.
    """
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if mode & stat.S_IRWXO:
        raise UsageError(
            f"everybody on this machine may use a file that holds a secret (mode {mode:04o})",
            where=str(path),
            next_step=f"chmod o= {path}, and have the secret replaced if others were here",
        )
