from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgerow.converge import hardening
from hedgerow.errors import RefusedError, UsageError

ROLE = Path(__file__).parents[3] / "roles/hardening"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
SSHD: dict[str, Any] = {
    "users": ["admin"],
    "tcp_forwarding": "no",
    "auth_tries": 4,
    "login_grace_s": 30,
    "exempt": [],
    "trusted_user_ca_keys": None,
    "host_certificate": None,
    "revoked_keys": None,
}
STATE = {"container": False, "packages": {}, "units": {}}


def plan(state: dict[str, Any] | None = None, **change: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "sshd": SSHD,
        "sysctls": [{"kernel.x": {"value": 1, "reason": "why"}, "net.ipv4.y": {"value": 0, "reason": "why"}}],
        "services": [[{"unit": "cups.service", "reason": "why"}]],
        "waivers": [],
        "conditions": {"wifi": True},
        "firewall": "enforce",
        "today": "2026-11-21",
    } | change
    return hardening.plan(STATE | (state or {}), asked)


def waiver(rule: str, **change: Any) -> list[list[dict[str, Any]]]:
    return [[{"rule": rule, "reason": "a printer stands here", "until": "2026-12-31"} | change]]


# -- sshd ------------------------------------------------------------------


def settings(**change: Any) -> dict[str, str]:
    return {keyword: value for keyword, value, _ in hardening.sshd_settings(**(SSHD | change))}


def test_sshd_takes_keys_of_the_admin_user_alone() -> None:
    found = settings()
    assert found["AllowUsers"] == "admin"
    assert found["AuthenticationMethods"] == "publickey"
    assert {found[key] for key in ("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitRootLogin")} == {
        "no"
    }


def test_each_keyword_stands_once_since_the_first_counts() -> None:
    keywords = [keyword for keyword, _, _ in hardening.sshd_settings(**SSHD)]
    assert len(keywords) == len(set(keywords))


def test_room_for_the_certificate_authority() -> None:
    assert not {"TrustedUserCAKeys", "HostCertificate", "RevokedKeys"} & settings().keys()
    found = settings(principals_file="/d/%u", authorized_keys_files="/e/%u")
    assert (found["AuthorizedPrincipalsFile"], found["AuthorizedKeysFile"]) == ("/d/%u", "/e/%u")
    assert not {"AuthorizedPrincipalsFile", "AuthorizedKeysFile"} & settings().keys()
    found = settings(trusted_user_ca_keys="/a", host_certificate="/b", revoked_keys="/c", exempt=["10.0.0.0/24"])
    assert (found["TrustedUserCAKeys"], found["HostCertificate"], found["RevokedKeys"]) == ("/a", "/b", "/c")
    assert found["PerSourcePenaltyExemptList"] == "10.0.0.0/24"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client on this machine")
@pytest.mark.parametrize(
    "kind,offered", [("kex", hardening.KEY_EXCHANGES), ("cipher", hardening.CIPHERS), ("mac", hardening.MACS)]
)
def test_this_machine_s_client_can_talk_to_it(kind: str, offered: tuple[str, ...]) -> None:
    known = subprocess.run(["ssh", "-Q", kind], capture_output=True, text=True, check=True).stdout.split()
    assert set(offered) & set(known)


# -- kernel settings -------------------------------------------------------


def test_the_more_special_list_wins_and_null_takes_off() -> None:
    found = plan(sysctls=[
        {"kernel.x": {"value": 1, "reason": "fleet"}, "kernel.y": {"value": 1, "reason": "fleet"}},
        {"kernel.x": {"value": 2, "reason": "group"}},
        {"kernel.y": None},
    ])["sysctl"]  # fmt: skip
    assert found["wanted"] == {"kernel.x": "2"}
    assert found["why"] == {"kernel.x": "group"}


def test_a_container_gets_its_own_network_s_settings_alone() -> None:
    found = plan({"container": True})["sysctl"]
    assert found["wanted"] == {"net.ipv4.y": "0"}
    assert "its machine" in found["left_out"]["kernel.x"]


@pytest.mark.parametrize("entry", [{"value": 1}, {"reason": "r"}, 1, {"value": None, "reason": "r"}])
def test_a_setting_needs_value_and_reason(entry: Any) -> None:
    with pytest.raises(UsageError, match=r"kernel\.x needs a value and a reason"):
        plan(sysctls=[{"kernel.x": entry}])


def test_the_role_s_own_settings_are_keys_of_linux() -> None:
    missing = [key for key in DEFAULTS["hardening_sysctls"] if not Path("/proc/sys", key.replace(".", "/")).exists()]
    # What a kernel may be built without, or a container does not see; a mistyped key would be missing everywhere.
    assert set(missing) <= {
        "kernel.yama.ptrace_scope", "kernel.perf_event_paranoid", "kernel.kexec_load_disabled", "kernel.sysrq",
        "kernel.unprivileged_bpf_disabled", "vm.unprivileged_userfaultfd", "dev.tty.ldisc_autoload",
        "net.core.bpf_jit_harden",
    }  # fmt: skip


# -- services --------------------------------------------------------------


@pytest.mark.parametrize(
    "units,masked",
    [
        ({}, []),
        ({"cups.service": {"enabled": "enabled", "active": "active"}}, ["cups.service"]),
        ({"cups.service": {"enabled": "disabled", "active": "inactive"}}, ["cups.service"]),
        ({"cups.service": {"enabled": "masked", "active": "inactive"}}, []),
        ({"cups.service": {"enabled": "masked", "active": "active"}}, ["cups.service"]),
    ],
)
def test_what_is_there_and_could_run_is_masked(units: dict[str, Any], masked: list[str]) -> None:
    assert plan({"units": units})["to_mask"] == masked


def test_a_switch_keeps_a_unit() -> None:
    listed = [[{"unit": "wpa_supplicant.service", "reason": "wired", "unless": "wifi"}]]
    units = {"wpa_supplicant.service": {"enabled": "enabled", "active": "active"}}
    assert plan({"units": units}, services=listed)["to_mask"] == []
    assert plan({"units": units}, services=listed, conditions={"wifi": False})["to_mask"] == ["wpa_supplicant.service"]


@pytest.mark.parametrize(
    "entry", [{"unit": "cups"}, {"unit": "cups.service"}, {"unit": "a.b", "reason": "r", "unless": "?"}]
)
def test_a_service_needs_unit_and_reason(entry: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no unit with a reason"):
        plan(services=[[entry]])


# -- waivers ---------------------------------------------------------------


def test_a_waiver_takes_its_rule_off_and_is_reported() -> None:
    units = {"cups.service": {"enabled": "enabled", "active": "active"}}
    found = plan({"units": units}, waivers=waiver("service.cups.service"))
    assert found["to_mask"] == []
    line = next(rule for rule in found["report"] if rule["id"] == "service.cups.service")
    assert line == {
        "id": "service.cups.service", "state": "waived", "detail": "a printer stands here (until 2026-12-31)",
    }  # fmt: skip


@pytest.mark.parametrize("rule", ["ssh.PasswordAuthentication", "sysctl.kernel.x", "firewall.egress"])
def test_every_kind_of_rule_can_be_waived(rule: str) -> None:
    found = plan(waivers=waiver(rule))
    assert rule in found["waived"]
    assert "PasswordAuthentication" not in {line["keyword"] for line in found["sshd"]} or not rule.startswith("ssh")
    assert "kernel.x" not in found["sysctl"]["wanted"] or not rule.startswith("sysctl")


@pytest.mark.parametrize(
    "waivers,text",
    [
        (waiver("ssh.Nothing"), "names no rule"),
        (waiver("sysctl.kernel.x", reason=" "), "has no reason"),
        (waiver("sysctl.kernel.x", until="2026-11-20"), "ended on 2026-11-20"),
        (waiver("sysctl.kernel.x", until=dt.date(2025, 1, 1)), "ended on 2025-01-01"),
        (waiver("sysctl.kernel.x", until=None), "is no day"),
        (waiver("sysctl.kernel.x", until="soon"), "is no day"),
    ],
)
def test_a_waiver_that_does_not_hold_is_refused(waivers: list[list[dict[str, Any]]], text: str) -> None:
    with pytest.raises(RefusedError, match=text):
        plan(waivers=waivers)


def test_the_last_day_still_counts() -> None:
    assert plan(waivers=waiver("sysctl.kernel.x", until="2026-11-21"))["waived"]


# -- report and HAT --------------------------------------------------------


def test_the_report_says_what_only_counts() -> None:
    states = {rule["id"]: rule["state"] for rule in plan(firewall="report")["report"]}
    assert states["firewall.inbound"] == "counted only"
    assert states["ssh.PermitRootLogin"] == "enforced"
    assert states["ollama.loopback"] == "left out"


def test_f22_the_model_server_of_the_hat_is_bound_where_it_is_installed() -> None:
    assert not plan()["ollama"]
    assert plan({"packages": {"hailo-gen-ai-model-zoo": "5.4.0"}})["ollama"]
    assert not plan({"packages": {"hailo-gen-ai-model-zoo": "5.4.0"}}, waivers=waiver("ollama.loopback"))["ollama"]


def test_f22_both_mechanisms_are_set_and_the_port_is_not_the_server_s() -> None:
    """5.1.1 reads the file alone, 5.4 reads OLLAMA_HOST alone (facts §3.9)."""
    config = (ROLE / "templates/etc/xdg/hailo-ollama/hailo-ollama.json.j2").read_text(encoding="utf-8")
    drop_in = (ROLE / "templates/etc/systemd/system/hailo-ollama.service.d/50-hedgerow.conf.j2").read_text()
    assert "hardening_ollama_listen" in config
    assert "OLLAMA_HOST={{ hardening_ollama_listen }}" in drop_in
    assert "IPAddressDeny=any" in drop_in
    host, _, port = DEFAULTS["hardening_ollama_listen"].rpartition(":")
    assert host == "127.0.0.1"
    assert port not in {"8000", "8001"}
