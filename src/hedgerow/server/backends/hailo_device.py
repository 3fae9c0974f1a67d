"""The accelerator as one process owns it: a single ``VDevice``, lent to every model that runs on it.

A second ``VDevice`` of the same chip fails with status 74, also within one process. So vision and language share this
one, under HailoRT's own scheduler; the last to give it back releases it. Another process must wait: the group name is
given, so that a runtime which shares (HailoRT 5.3 and later, hailo-ollama by its environment) may join it.

Not verified on a board: that a language model and a network run side by side on one ``VDevice`` of a Hailo-10H without
waiting for each other; that memory comes back on ``release`` (one report says it needs the process to end).
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from hedgerow.server.backends import hailo_status
from hedgerow.server.backends.serial import Lease
from hedgerow.server.errors import Unusable

# By its name: among our own sources is an emulated board's stand-in of the same name, which mypy would look into.
hailo_platform: Any = importlib.import_module("hailo_platform")

# As hailo-ollama reads it.
_GROUP = os.environ.get("HAILO_OLLAMA_VDEVICE_GROUP_ID", "SHARED")


class Npu:
    """Counts who uses the one ``VDevice``.

    ``generating`` is held by the one generation that runs: there is one context a chip.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._device: Any = None
        self._users = 0
        self.generating = Lease()

    def take(self) -> Any:
        """The device, opened for the first user.

        Raises:
            Unusable: it cannot be opened; the text says why.
        """
        with self._lock:
            if self._device is None:
                try:
                    parameters = hailo_platform.VDevice.create_params()
                    parameters.scheduling_algorithm = hailo_platform.HailoSchedulingAlgorithm.ROUND_ROBIN
                    parameters.group_id = _GROUP
                    self._device = hailo_platform.VDevice(parameters)
                except Exception as error:
                    raise Unusable("load_failed", hailo_status.explained(error)) from error
            self._users += 1
            return self._device

    def give_back(self) -> None:
        """One user less."""
        with self._lock:
            self._users -= 1
            if not self._users:
                device, self._device = self._device, None
                device.release()


NPU = Npu()
