"""ONNX Runtime's execution providers: which of those that are wanted there are, in their order.

Which providers a wheel has is fixed when it is built: the ones of the package index for a Pi compute on the CPU alone;
one that is built with XNNPACK, ACL or OpenVINO has more (onnxruntime, "Execution Providers").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import onnxruntime as ort

from hedgerow.errors import UsageError
from hedgerow.server.computing import Provider

log = logging.getLogger("hedgerow.server")
CPU: Final = "CPUExecutionProvider"
# Sends what it computes to a service; what may leave a device is the fallback's to say (docs/fallback.md).
_ELSEWHERE: Final = "AzureExecutionProvider"


def check(wanted: Sequence[Provider], *, where: str) -> None:
    """Refuse a list that no build of this onnxruntime could obey. ``where`` is what the list stands in.

    Raises:
        UsageError: a name that onnxruntime does not know, one that is there twice, or one that computes elsewhere.
    """
    known = [name for name in ort.get_all_providers() if name != _ELSEWHERE]
    names = [each.name for each in wanted]
    for name in names:
        if name == _ELSEWHERE:
            raise UsageError(f"{name} computes outside of this machine", where=where, next_step="see docs/fallback.md")
        if name not in known:
            raise UsageError(
                f"onnxruntime {ort.__version__} knows no {name}", where=where, next_step=f"known: {', '.join(known)}"
            )
        if names.count(name) > 1:
            raise UsageError(f"{name} is there twice", where=where, next_step="name each provider once")


def choose(wanted: Sequence[Provider]) -> list[Provider]:
    """Those of ``wanted`` that this build of onnxruntime has, to the CPU, which can compute any model and is the last.

    What is wanted and not there is told in the log: a list serves boards with other builds, too.
    """
    there = ort.get_available_providers()
    found: list[Provider] = []
    for each in wanted:
        if each.name == CPU:
            return [*found, each]
        if each.name in there:
            found.append(each)
        else:
            log.warning("this onnxruntime is built without %s; built with %s", each.name, ", ".join(there))
    return [*found, Provider(CPU)]
