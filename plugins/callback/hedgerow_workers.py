"""Load filters and tests once, in ansible-playbook itself, so that its workers need not.

A worker is forked for each host and task, with what its parent has loaded. Templating loads the filters when it first
meets one, which is in a worker; what that worker has loaded ends with it, and the next one loads all of them again,
with the modules that they import. Actions need none of this: they are looked up before the fork. Prints nothing.
`bench/ansible_workers.py` measures it.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

DOCUMENTATION = """
name: hedgerow_workers
type: aggregate
short_description: load filters and tests before workers are forked
description: Forked workers have the filters and tests that their parent has loaded.
"""


class CallbackModule(CallbackBase):
    """``hedgerow_workers``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hedgerow_workers"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002 - the name is Ansible's
        """When plays and roles are read: the folders that they bring filters from are known."""
        for loader in (filter_loader, test_loader):
            for _ in loader.all():
                pass
