"""``hedgerow registry``: sign, publish and verify bundles. Every command is of one stage; modules beside this one."""

from __future__ import annotations

import click

from hedgerow.commands import (
    registry_keys,
    registry_look,
    registry_offline,
    registry_publish,
    registry_releases,
    registry_store,
)


@click.group()
def registry() -> None:
    """Sign, publish and verify bundles.

    Each command is of one stage, by default the inventory's registry_stage. Where no other place is named, a stage's
    registry is a folder on the controller; playbooks/publish.yml brings it to the gateways.
    """


for _command in (
    registry_keys.init,
    registry_publish.publish,
    registry_keys.refresh,
    registry_look.verify,
    registry_look.list_bundles,
    registry_look.show,
    registry_store.gc,
    registry_store.push,
    registry_store.export,
    registry_keys.add_key,
    registry_keys.delegate,
    registry_releases.stage,
    registry_releases.approve,
    registry_releases.release,
    registry_releases.promote,
    registry_releases.withdraw,
    registry_keys.rotate,
    registry_keys.revoke,
    registry_keys.renew,
    registry_keys.discard,
    registry_offline.request,
    registry_offline.sign,
    registry_offline.import_,
    registry_offline.log_,
    registry_offline.ceremony,
):
    registry.add_command(_command)
