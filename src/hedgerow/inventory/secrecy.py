"""Which values of an inventory are secrets, by their names; none of them is for Hedgerow to know or to repeat.

Ansible decrypts files that ansible-vault encrypted as a whole before anybody can ask it not to, so that
``ansible-inventory`` tells their values to whoever has the vault's password.
"""

from __future__ import annotations

import re
from typing import Any

from hedgerow.inventory.files import SOPS_KEY

OWN = "vault_"
"""An operator's own variables begin so (``inventory/schema.json``): Ansible's convention for what stands in a vault.

Source: Ansible's documentation, "Tips and tricks", "Keep vaulted variables safely visible"."""
HIDDEN = "(not shown)"
_SECRET_KEY = re.compile(r"(^|_)(pass|passwd|password|passphrase|secret|token|api_key|private_key)$")


def names_secret(key: str) -> bool:
    """Whether ``key`` is the name of a secret."""
    return key.startswith(OWN) or _SECRET_KEY.search(key.lower()) is not None


def hide(document: dict[str, Any]) -> dict[str, Any]:
    """``ansible-inventory --list`` without the values of secrets, and without what SOPS needs to decrypt them."""
    meta = document.get("_meta", {})
    shown = {
        host: {key: _hidden(key, value) for key, value in variables.items() if key != SOPS_KEY}
        for host, variables in meta.get("hostvars", {}).items()
    }
    return {**document, "_meta": {**meta, "hostvars": shown}} if shown else document


def _hidden(key: str, value: Any) -> Any:
    """``value`` without secrets, in it or below it. A switch is none, whatever its name."""
    if isinstance(value, bool | None):
        return value
    if names_secret(key):
        return HIDDEN
    if isinstance(value, dict):
        return {name: _hidden(str(name), item) for name, item in value.items()}
    return [_hidden(key, item) for item in value] if isinstance(value, list) else value
