"""The board and its HAT, read by the same module as on the device and in Ansible."""

from __future__ import annotations

from typing import Any

from pyinfra import host
from pyinfra.api import FactBase

from hedgerow import remote_script


class Hardware(FactBase[dict[str, Any]]):
    """What ``hedgerow.device.hardware.read`` returns; needs nothing on the host but Python.

    Root sees more (``vcgencmd`` and the HAT): ``host.get_fact(Hardware, _sudo=True)``.
    """

    def command(self) -> str:
        # A here-document, because a fact has no standard input of its own.
        program = remote_script.build("hedgerow.device.hardware", "read")
        return f"python3 - <<'HEDGEROW_END'\n{program}\nHEDGEROW_END"

    def process(self, output: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = remote_script.parse("\n".join(output), host=host.name)
        return found
