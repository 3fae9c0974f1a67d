"""The server's configuration as the inventory has it, the very text that the role ``inference_runtime`` places.

A configuration names its host, so every host has a version of its own. What is released to a fleet is what is left when
the host's own keys are taken away: its hash is the release's, so that a host which comes later joins the same rollout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from hedgerow.converge import config
from hedgerow.device.change import configuration_version
from hedgerow.errors import UsageError

HEADER = "Written by Hedgerow (role inference_runtime); changes here are overwritten."
STRUCT = "hedgerow.server.config.ServerConfig"
FACTS = ("pi_serial", "fleet", "site", "serving_model", "inference_runtime_grpc", "inference_runtime_server")
"""Variables of a host that make its configuration."""
_OWN = ("host", "serial", "site")


def render(host: str, variables: Mapping[str, Any]) -> bytes:
    """The host's ``server.yml``; ``variables`` as the inventory has them.

    Raises:
        UsageError: the server would not accept it, or it is a template, which two readers cannot share.
    """
    own = dict(variables.get("inference_runtime_server") or {})
    if "{{" in json.dumps(own):
        raise UsageError(
            f"inference_runtime_server of {host} is a template",
            where=f"inference_runtime_server of {host}",
            next_step="write literal values: plans read it as Ansible does",
        )
    names = {"host": host, "serial": variables["pi_serial"], "fleet": variables["fleet"], "site": variables["site"]}
    # The role's default is to serve it.
    without = {"grpc": None, "grpcs": None} if variables.get("inference_runtime_grpc") is False else {}
    return config.render(names | {"model": variables["serving_model"]} | without | own, STRUCT, HEADER).encode()


def versions(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
    """Of a fleet: the hash of what is configured, and host → its own version. Raises as ``render``."""
    texts = {host: render(host, variables) for host, variables in hosts.items()}
    settings = set()
    for text in texts.values():
        values = {key: value for key, value in yaml.safe_load(text).items() if key not in _OWN}
        settings.add(json.dumps(values, sort_keys=True))
    digest = hashlib.sha256(json.dumps(sorted(settings)).encode()).hexdigest()
    return digest, {host: configuration_version(text) for host, text in texts.items()}
