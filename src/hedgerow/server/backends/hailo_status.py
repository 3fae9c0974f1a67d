"""What HailoRT's status codes mean here, in words that say what to do. No IO, no import of ``hailo_platform``.

Source of the numbers: ``hailort.h`` of HailoRT 5.2; of the exceptions: ``pyhailort.py`` of 5.x. That has classes of
its own for some codes and puts the others into its message ("libhailort failed with error: 74 (HAILO_…)"). Some calls
let the bindings' own exception through, whose argument is the number.
"""

from __future__ import annotations

import re

from hedgerow.server.errors import BadRequest, Overloaded, ServingError

TIMEOUT, DEVICE_IN_USE, OUT_OF_DEVICES = 4, 73, 74
_TEXTS = {
    TIMEOUT: "the accelerator did not answer in time",
    7: "this HailoRT does not do that on this chip",
    13: "the accelerator's node cannot be opened; see hailortcli scan",
    26: "the file is no valid HEF",
    36: "the driver refused; the server's user may lack the right to open the node (see dmesg)",
    62: "the link to the accelerator is closed; if it stays so, power the board off and on",
    64: "no driver is loaded; see dkms status and the board's packages",
    DEVICE_IN_USE: "another process uses the accelerator; see fuser -v /dev/hailo0 /dev/h1x-0",
    OUT_OF_DEVICES: "another process owns the accelerator; see fuser -v /dev/hailo0 /dev/h1x-0",
    75: "the HEF is for another kind of accelerator",
    76: "driver and library differ in version; install and hold the same of both, then power the board off and on",
    81: "the host's contiguous memory is used up; raise cma= on the kernel's command line, restart the server",
    85: "the driver answered with an error; see dmesg",
    86: "the driver answered with an error; see dmesg",
    87: "the driver did not answer in time; see dmesg",
    92: "the HEF is not supported by this HailoRT",
    93: "the HEF is not for this accelerator",
    96: "the accelerator is not connected",
    97: "the accelerator is not available",
}
# Exceptions that stand for one code each.
_CLASSES = {
    "HailoRTTimeout": TIMEOUT,
    "HailoRTInvalidArgumentException": 2,
    "HailoRTInvalidHEFException": 26,
    "HailoRTHEFNotCompatibleWithDevice": 93,
    "HailoRTDriverOperationFailedException": 36,
    "HailoCommunicationClosedException": 62,
}
_NUMBER = re.compile(r"error: (\d+)|^(\d+)$")
# Gone when the other process has ended.
_PASSING = {DEVICE_IN_USE, OUT_OF_DEVICES}


def status_of(error: BaseException) -> int | None:
    """The code behind an exception; None where it tells none."""
    known = _CLASSES.get(type(error).__name__)
    if known is not None:
        return known
    found = _NUMBER.search(str(error))
    return None if found is None else int(found[1] or found[2])


def explained(error: BaseException) -> str:
    """The code and what it means, and the runtime's own words where nothing is known of it."""
    status = status_of(error)
    if status is None:
        return f"HailoRT: {error}"
    return f"HailoRT status {status}: {_TEXTS.get(status, str(error))}"


def while_running(error: BaseException) -> ServingError:
    """What a caller is told whose request met ``error``."""
    status = status_of(error)
    if status == _CLASSES["HailoRTInvalidArgumentException"]:
        return BadRequest(f"the model refuses these inputs: {error}")
    if status in _PASSING:
        return Overloaded(explained(error))
    return ServingError(explained(error))
