"""What the fleet is, in one read-only pass: ``pyinfra -y @fleet/inventory/emulated deploy/sweep.py``.

Prints one table on standard output (``--data json=true``: one JSON document); pyinfra's own words go to standard
error. There are no operations: hosts are asked at the same time, and whoever comes last prints. Exit code 1 if a host
could not be asked.
"""

from deploy.facts.hardware import Hardware
from deploy.facts.serving import Serving
from deploy.report import record, show, unreachable
from pyinfra import host, state

me = host.data.inventory_host
hardware = host.get_fact(Hardware, _sudo=True)
serving = host.get_fact(Serving)

# A fact that failed is None, and pyinfra has said why.
if hardware is None or serving is None:
    host.connector_data["sweep"] = unreachable(me, "no answer; see above")
else:
    host.connector_data["sweep"] = record(me, host.data.fleet_inventory.release, hardware, serving)

asked = state.inventory.get_active_hosts()
if all("sweep" in one.connector_data for one in asked):
    rows = [
        one.connector_data.get("sweep") or unreachable(one.data.inventory_host, "no login; see above")
        for one in state.inventory
        if state.is_host_in_limit(one)
    ]
    show(host.data.fleet_inventory.fleet, rows, as_json=bool(host.data.get("json")))
