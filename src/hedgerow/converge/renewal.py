"""Who may renew at a gateway, as the inventory has it, for ``/etc/hedgerow/renewal.yml``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hedgerow.identity import holders


def boards(
    hostvars: Mapping[str, Any],
    names: Iterable[str],
    gateways: Iterable[str],
    history: Iterable[holders.Line],
) -> list[dict[str, str]]:
    """The machines of a site by name, as ``hedgerow.gateway.renewal.config.Board`` takes them.

    ``history`` is what visits have found in place: a board that has vouched with its own key must go on doing so, and
    a serial that a person has settled begins anew at the gateway, too.
    """
    lines = list(history)
    machines = set(gateways)
    found = []
    for name in sorted(names):
        serial = str(hostvars[name]["pi_serial"])
        board = {"host": name, "serial": serial, "profile": "gateway" if name in machines else "device"}
        if (anchor := holders.anchor_of(lines, serial)) is not None:
            board["anchor"] = anchor
        settled = [line.time for line in lines if isinstance(line, holders.Settled) and line.serial == serial]
        if settled:
            board["cleared"] = settled[-1]
        found.append(board)
    return found
