"""Bring the registry of the fleet's stage to a gateway: what it lacks and nothing else, data first, the timestamp last.

    - name: Bring the registry to the gateway
      hedgerow_publish:
        dest: /srv/hedgerow/registry

One visit when nothing is new. Each file is sent, hashed again there and renamed into
place, so that a reader never sees a part and a run that was cut off goes on with the
next file. Check mode says what would go. The stage is the inventory's ``registry_stage``;
which files, and in which order, is ``hedgerow.rollout.mirror``, the gateway's part
``hedgerow.rollout.mirror_host``.

rsync was the alternative: a package on both sides, three module executions for the
order, and no check of what has arrived.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow import paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.store import FolderStore, ObjectStore
from hedgerow.rollout import mirror
from hedgerow.rollout.mirror import StoreFile

_HOST_PART = "hedgerow.rollout.mirror_host"


class ActionModule(ActionBase):
    """``hedgerow_publish``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"dest"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        dest = str(self._task.args["dest"])
        host = str(variables["inventory_hostname"])
        stage = str(variables.get("registry_stage") or paths.DEFAULT_STAGE)
        try:
            store = store_of_stage(str(variables["fleet"]), stage)
            there = self._remote("listing", host, root=dest)
            lacking = mirror.missing(mirror.scan(store), {path: (size, sha) for path, (size, sha) in there.items()})
            if lacking and not self._task.check_mode:
                self._send(store, lacking, host, dest)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {
            "changed": bool(lacking),
            "sent": [file.path for file in lacking],
            "sent_bytes": sum(file.size for file in lacking),
        }

    def _send(self, store: ObjectStore, lacking: list[StoreFile], host: str, dest: str) -> None:
        staging = self._make_tmp_path()
        try:
            for number, file in enumerate(lacking, start=1):
                self._display.display(f"  {host}: {number}/{len(lacking)} {file.path} ({file.size / 1e6:.1f} MB)")
                staged = f"{staging.rstrip('/')}/{PurePosixPath(file.path).name}"
                with _local(store, file) as path:
                    self._transfer_file(str(path), staged)
                self._remote("place", host, root=dest, path=file.path, staged=staged, sha256=file.sha256)
        finally:
            self._remove_tmp_path(staging)

    def _remote(self, function: str, host: str, **arguments: str) -> Any:
        return remote_script.run(self._low_level_execute_command, _HOST_PART, function, host=host, **arguments)


@contextmanager
def _local(store: ObjectStore, file: StoreFile) -> Iterator[Path]:
    """The file on this machine: where it lies, or brought from a store elsewhere. The gateway hashes it again."""
    if isinstance(store, FolderStore):
        yield store.root / file.path
        return
    with tempfile.NamedTemporaryFile(prefix="hedgerow-publish-") as copy:
        with store.open(file.path) as blocks:
            copy.writelines(blocks)
        copy.flush()
        yield Path(copy.name)
