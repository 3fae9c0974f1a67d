"""Filters: each a thin name for a pure function of ``hedgerow.converge``, with its errors as Ansible's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from hedgerow import paths
from hedgerow.converge import (
    apparmor,
    applications,
    apt_sources,
    boot,
    config,
    eeprom,
    firewall,
    hardening,
    hat,
    origin,
    pins,
    preflight,
    reboot,
    renewal,
    storage,
    vision,
)
from hedgerow.device.change import configuration_version
from hedgerow.errors import HedgerowError
from hedgerow.identity.authority import generations
from hedgerow.identity.holders import Holders
from hedgerow.identity.ssh import on_host
from hedgerow.identity.ssh.roles import SshRole
from hedgerow.registry.authority import anchors
from hedgerow.release import rings

FILTERS: dict[str, Callable[..., Any]] = {
    "hedgerow_apparmor_modes": apparmor.modes,
    "hedgerow_apparmor_not_loaded": apparmor.not_loaded,
    "hedgerow_apparmor_not_ours": apparmor.not_ours,
    "hedgerow_apparmor_texts": apparmor.texts,
    "hedgerow_apparmor_to_load": apparmor.to_load,
    "hedgerow_apparmor_unproven": apparmor.unproven,
    "hedgerow_application_places": applications.places,
    "hedgerow_apt_sources": apt_sources.files,
    "hedgerow_boot_remarks": boot.remarks,
    "hedgerow_boot_trial": boot.trial_of,
    "hedgerow_boot_trial_problems": boot.trial_problems,
    "hedgerow_cmdline_tokens": boot.cmdline_tokens,
    "hedgerow_cmdline_txt": boot.cmdline_text,
    "hedgerow_config": config.render,
    "hedgerow_config_lines": boot.config_lines,
    "hedgerow_configuration_version": lambda text: configuration_version(text.encode()),
    "hedgerow_config_txt": boot.config_text,
    "hedgerow_config_txt_findings": lambda text, facts, hat, flavour: boot.findings(
        text, boot.board(facts["hardware"]), hat=hat, flavour=flavour
    ),
    "hedgerow_drift": lambda facts, release, kind: pins.drift(release, kind, facts),
    "hedgerow_eeprom": lambda facts, release, layers, downgrade: eeprom.plan(
        facts, release, eeprom.merged(*layers), downgrade=downgrade
    ),
    "hedgerow_eeprom_too_old": lambda facts, release: eeprom.too_old(facts["hardware"]["eeprom"], release["eeprom"]),
    "hedgerow_firewall": firewall.plan,
    "hedgerow_first_root": lambda fleet, stage: str(anchors.first_root(fleet, stage)),
    "hedgerow_fleet_dir": lambda fleet: str(paths.fleet_dir(fleet)),
    "hedgerow_hardening": hardening.plan,
    "hedgerow_hat_module_options": hat.options,
    "hedgerow_hat_options_waiting": hat.options_waiting,
    "hedgerow_hat_plan": hat.plan,
    "hedgerow_hat_refuse_foreign": lambda found, wanted, purge: hat.refuse_foreign(found, wanted, purge=purge),
    "hedgerow_hat_unloaded": hat.unloaded,
    "hedgerow_hat_verdict": hat.verdict,
    "hedgerow_origin": lambda asked, host, found, nameservers: origin.plan(
        asked, host=host, found=found, nameservers=nameservers
    ),
    "hedgerow_origin_readers": lambda found, host: origin.readers(host, found),
    "hedgerow_origins": origin.gateways,
    "hedgerow_peers": firewall.peers,
    "hedgerow_pin_remarks": pins.remarks,
    "hedgerow_pins": pins.pins,
    "hedgerow_pins_on_device": pins.on_device,
    "hedgerow_preflight": lambda facts, host, limits: preflight.problems(host, facts, limits),
    "hedgerow_reboot_reasons": reboot.reasons,
    "hedgerow_renewal_boards": lambda hostvars, names, gateways, fleet: renewal.boards(
        hostvars, names, gateways, Holders(paths.fleet_dir(fleet) / "ca").lines()
    ),
    "hedgerow_ring_gate": rings.gate,
    "hedgerow_transactions": pins.transactions,
    "hedgerow_in_window": reboot.in_window,
    "hedgerow_pending_kernel": lambda facts: reboot.pending_kernel(
        facts["hardware"]["kernel"]["release"], facts["packages"]
    ),
    "hedgerow_holds": lambda release, hat, state: pins.holds(release, hat, state["packages"], state["holds"]),
    "hedgerow_locked": pins.locked,
    "hedgerow_not_by_apt": pins.not_by_apt,
    "hedgerow_ssh_keys": lambda lines, source=(): on_host.keys(lines, source=source),
    "hedgerow_ssh_principals": lambda role, site, host, to=(): on_host.principals(SshRole(role), site, host, to),
    "hedgerow_ssh_sudoers": on_host.sudoers,
    "hedgerow_ssh_targets": on_host.targets,
    "hedgerow_storage": storage.plan,
    "hedgerow_vision_egress": vision.egress,
    "hedgerow_vision_plan": vision.plan,
    "hedgerow_verify_depth": lambda fleet: generations.depth(paths.fleet_dir(fleet) / "ca"),
}


def _speaking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn our errors into Ansible's, so that a run ends with our three lines and no traceback."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except HedgerowError as error:
            # Ansible prints a chain of causes link by link: ours says everything in one.
            raise AnsibleFilterError(str(error)) from None

    return wrapped


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {name: _speaking(function) for name, function in FILTERS.items()}
