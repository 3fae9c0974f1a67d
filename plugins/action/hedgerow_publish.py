"""Bring the registry of the fleet's stage to a gateway: what it lacks and nothing else, data first, the timestamp last.

    - name: Bring the registry to the gateway
      hedgerow_publish:
        dest: /srv/hedgerow/registry
        origin: "{{ registry_mirror_origin | default(none) }}"
        port: "{{ registry_mirror_port | default(443) }}"

A gateway with an ``origin`` caches that, and nothing is brought to it. What the stage has must then be seen through it,
at ``port`` and with the controller's own certificate (``hedgerow.rollout.through``); the answer has ``seen``.

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
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow import paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.fleet import access
from hedgerow.identity.profiles import Profile
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.source import HttpsSource
from hedgerow.registry.store import FolderStore, ObjectStore
from hedgerow.rollout import mirror, through
from hedgerow.rollout.mirror import StoreFile

_HOST_PART = "hedgerow.rollout.mirror_host"
_HTTPS = 443


class ActionModule(ActionBase):
    """``hedgerow_publish``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"dest", "origin", "port"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        dest = str(self._task.args["dest"])
        host = str(variables["inventory_hostname"])
        stage = str(variables.get("registry_stage") or paths.DEFAULT_STAGE)
        try:
            store = store_of_stage(str(variables["fleet"]), stage)
            if self._task.args.get("origin") is not None:
                return result | self._look(store, variables)
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

    def _look(self, store: ObjectStore, variables: dict[str, Any]) -> dict[str, Any]:
        """Nothing to bring: see that devices are told the release."""
        host, fleet = str(variables["inventory_hostname"]), str(variables["fleet"])
        where = access.endpoint(host, str(variables["ansible_host"]), site=str(variables["site"]), fleet=fleet)
        url = f"{replace(where, port=int(self._task.args.get('port', _HTTPS))).url}/"
        source = HttpsSource(url, access.files(fleet, Profile.OPERATOR), server_name=where.server_name)
        self._display.display(f"  {host}: caches {self._task.args['origin']}, so nothing is brought to it")
        seen = through.look(store, source)
        self._display.display(
            f"  {host}: timestamp {seen.timestamp} and snapshot {seen.snapshot} of the stage are seen through it"
            + ("" if seen.pack is None else f", and {seen.pack}")
        )
        return {"changed": False, "sent": [], "sent_bytes": 0, "seen": asdict(seen)}

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
