"""Ansible's ssh connection that notes each program it runs on a host: one line with the host's address.

Appends to the file that ``HEDGEROW_EXECUTIONS`` names. Only ``bench/converge.py`` uses it.
"""

import os
from pathlib import Path

from ansible.plugins.connection import ssh

DOCUMENTATION = ssh.DOCUMENTATION


class Connection(ssh.Connection):  # type: ignore[misc] # ansible publishes no types
    transport = "counting_ssh"

    def exec_command(
        self,
        cmd: str,
        in_data: bytes | None = None,
        sudoable: bool = True,  # noqa: FBT001, FBT002 - the base class's signature
    ) -> tuple[int, bytes, bytes]:
        # O_APPEND keeps the short lines of parallel workers whole.
        with Path(os.environ["HEDGEROW_EXECUTIONS"]).open("a", encoding="utf-8") as file:
            file.write(f"{self.get_option('host')}\n")
        result: tuple[int, bytes, bytes] = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return result
