"""From what an operator asked for to a plan: the same for ``ansible-playbook`` and for ``hedgerow rollout``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hedgerow.errors import UsageError
from hedgerow.rollout import plan as plans
from hedgerow.rollout import policy as policies
from hedgerow.rollout import release as releases
from hedgerow.rollout.plan import HOLD_LABEL, Plan, Target
from hedgerow.rollout.policy import Policy


def plain(value: Any) -> Any:
    """``value`` as builtin types. Ansible's are tagged subclasses of them, which strict decoding refuses."""
    return json.loads(json.dumps(value))


def target(name: str, labels: Mapping[str, str], *, limited: bool) -> Target:
    """A host of the group ``pis`` as the plan sees it."""
    return Target(name=name, hold=labels.get(HOLD_LABEL), limited=limited)


def read_policy(given: Any) -> Policy:
    """A policy from a mapping, from the path of a YAML file, or from nothing at all (every default).

    Raises:
        UsageError: There is no such file, or what it says is wrong.
    """
    if not isinstance(given, str):
        return policies.parse(given, where="rollout_policy")
    path = Path(given)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the rollout policy cannot be read: {error.strerror}",
            where=str(path),
            next_step="-e rollout_policy=FILE takes a YAML file, seen from where you type",
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"the rollout policy is no YAML: {error}", where=str(path)) from error
    return policies.parse(document, where=str(path))


def plan(fleet: str, *, bundle: str, policy: Any, targets: Iterable[Target]) -> Plan:
    """Check everything that can be checked before a host is touched, then decide.

    Raises:
        UsageError: The bundle's name, the policy or the group of hosts is wrong.
        PublisherError: The registry does not vouch for the bundle.
    """
    return plans.make(targets, read_policy(policy), releases.read(fleet, bundle))
