"""What a host is told: lists that sshd reads, rules that visudo accepts, words that a viewer may say."""

from __future__ import annotations

import http.server
import json
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgerow.device import ssh_viewer
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.ssh import on_host, roles
from hedgerow.identity.ssh.roles import SshRole

ROLE = Path(__file__).parents[4] / "roles/ssh_access"


# -- lists of principals and keys ----------------------------------------------


def test_each_account_lets_in_its_own_role_of_its_own_site_and_host() -> None:
    for role in SshRole:
        lines = on_host.principals(role, "orchard", "pi-1", [("10.0.0.5", 22)]).splitlines()[1:]
        assert [line.split()[-1] for line in lines] == [f"{role}@orchard", f"{role}@pi-1.orchard"]
        assert all(line.startswith("restrict") for line in lines)


def test_forwarding_is_the_jumps_alone_and_to_listed_places_alone() -> None:
    jump = on_host.principals(SshRole.JUMP, "orchard", "gw", [("10.0.0.5", 22), ("fd00::5", 2222)])
    assert 'permitopen="10.0.0.5:22",permitopen="[fd00::5]:2222"' in jump
    assert "pty" not in jump
    nowhere = on_host.principals(SshRole.JUMP, "orchard", "gw").splitlines()[1]
    assert nowhere.index("no-port-forwarding") > nowhere.index("port-forwarding")
    for role in (SshRole.VIEWER, SshRole.OPERATOR, SshRole.ADMIN):
        assert "port-forwarding" not in on_host.principals(role, "orchard", "pi-1")


def test_the_forced_command_is_the_same_on_both_sides() -> None:
    """sshd refuses a login whose two commands differ."""
    for role in SshRole:
        said = [option.partition("=")[2] for option in roles.options(role) if option.startswith("force-command=")]
        listed = on_host.principals(role, "a", "b", [("10.0.0.5", 22)])
        assert ('command="' in listed) is bool(said)
        assert all(f'command="{command}"' in listed for command in said)


def test_keys_that_live_long_are_bound_to_their_networks() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH2y8fXn9PoFq9iDqXqQ1rXkqYQyq0Xq1T4X5Jm5o2bE"
    assert on_host.keys([line, ""], source=["10.0.0.0/8"]).splitlines()[1:] == [f'from="10.0.0.0/8" {line}']
    assert on_host.keys([]).splitlines()[1:] == []
    with pytest.raises(UsageError):
        on_host.keys([line], source=['10.0.0.1" x'])
    with pytest.raises((UsageError, RefusedError)):
        on_host.keys([f'command="x" {line}'])


# -- sudo ----------------------------------------------------------------------


def visudo(tmp_path: Path, text: str) -> int:
    file = tmp_path / "sudoers"
    file.write_text(text)
    file.chmod(0o440)
    return subprocess.run(["visudo", "-cf", str(file)], capture_output=True, check=False).returncode


def test_the_roles_own_rules_are_accepted_by_visudo(tmp_path: Path) -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    text = on_host.sudoers(defaults["ssh_access_operator_commands"])
    assert visudo(tmp_path, text) == 0
    assert visudo(tmp_path, text + "hedgerow-operator ALL=(root NOPASSWD\n") != 0  # visudo does look
    assert "ALL=(root:root) NOPASSWD: /usr/bin/systemctl restart hedgerow-server.service\n" in text


def test_a_program_without_arguments_takes_none(tmp_path: Path) -> None:
    text = on_host.sudoers([{"command": "/usr/sbin/reboot", "reason": "a board that hangs"}])
    assert 'NOPASSWD: /usr/sbin/reboot ""' in text
    assert visudo(tmp_path, text) == 0
    assert visudo(tmp_path, on_host.sudoers([{"command": "/bin/x --a=b c:d", "reason": "why"}])) == 0


@pytest.mark.parametrize(
    "command",
    ["systemctl restart x", "/bin/systemctl restart *", "/bin/sh, /bin/bash", "/bin/../bin/sh", "ALL", "",
     "/bin/a\n/bin/b", "/bin/a 'b'", "/bin/a !b", "/bin/a $x", "/bin/a [ab]"],
)  # fmt: skip
def test_rules_that_could_mean_more_are_refused(command: str) -> None:
    with pytest.raises(UsageError, match="cannot be given"):
        on_host.sudoers([{"command": command, "reason": "why"}])


def test_a_rule_without_a_reason_is_refused() -> None:
    with pytest.raises(UsageError):
        on_host.sudoers([{"command": "/bin/true", "reason": " \n"}])


def test_a_reason_cannot_be_a_rule() -> None:
    text = on_host.sudoers([{"command": "/bin/true", "reason": "why\nhedgerow-operator ALL=(ALL) ALL"}])
    assert [line for line in text.splitlines() if line.startswith("hedgerow-operator")] == [
        'hedgerow-operator ALL=(root:root) NOPASSWD: /bin/true ""'
    ]


# -- viewers -------------------------------------------------------------------


@pytest.fixture
def ran() -> list[list[str]]:
    return []


@pytest.fixture
def say(ran: list[list[str]]) -> Any:
    def run(words: Any) -> int:
        ran.append(list(words))
        return 0

    return lambda text: ssh_viewer.main(shlex.split(text), run)


@pytest.mark.parametrize(
    "text,last",
    [
        ("journal", ["--lines=200", "--unit=hedgerow-*"]),
        ("journal hedgerow-server.service -n 50", ["--lines=50", "--unit=hedgerow-server.service"]),
        ("journal nginx --since -2h", ["--since=-2h", "--lines=200", "--unit=nginx"]),
        ('journal --since "2026-11-22 08:00"', ["--since=2026-11-22 08:00", "--lines=200", "--unit=hedgerow-*"]),
        ("kernel -n 5", ["--lines=5", "--dmesg"]),
        ("status hedgerow-agent.service", ["status", "hedgerow-agent.service"]),
        ("units", ["--all", "hedgerow-*"]),
    ],
)
def test_what_a_viewer_may_say(say: Any, ran: list[list[str]], text: str, last: list[str]) -> None:
    assert say(text) == 0
    assert ran[0][-len(last) :] == last
    assert "--no-pager" in ran[0]


@pytest.mark.parametrize(
    "text",
    [
        "sh", "journal -f", "journal --file=/etc/shadow", "journal -n", "journal -n 0", "journal -n 999999",
        "journal cron", "journal sudo.service", "journal hedgerow-a hedgerow-b", "journal --since 'now; id'",
        "kernel hedgerow-server", "status --all", "status sshd", "status", "status 'hedgerow-x --output=cat'",
        "units x", "report x", "metrics /etc", "events --follow", "journal -D/ hedgerow-x", "journal --vacuum-size=1",
        "restart hedgerow-server.service",
    ],
)  # fmt: skip
def test_what_a_viewer_may_not_say(
    say: Any, ran: list[list[str]], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(text) == ssh_viewer.UNKNOWN
    assert ran == []
    assert "not for viewers" in capsys.readouterr().err


def test_broken_quotes_are_one_unknown_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert ssh_viewer.entry("journal 'x") == ssh_viewer.UNKNOWN
    assert "not for viewers" in capsys.readouterr().err


def test_report_and_metrics_are_the_servers_own(
    say: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"asked": self.path}).encode()
            self.send_response(503 if self.path == "/health/ready" else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(ssh_viewer, "SERVER", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert [say(text) for text in ("report", "metrics", "health")] == [0, 0, 1]
        server.shutdown()
    said = capsys.readouterr().out
    assert [json.loads(line)["asked"] for line in said.splitlines()] == ["/health/report", "/metrics", "/health/ready"]
    assert say("report") == 1
    assert "does not answer" in capsys.readouterr().err


def test_events_are_read_past_a_torn_line(
    say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older, younger = tmp_path / "events.1.jsonl", tmp_path / "events.jsonl"
    older.write_text('{"at": "2026-11-22T08:00:00Z", "event": "activated", "model": "a@1"}\n{"at": "20')
    younger.write_text('{"at": "2026-11-22T09:00:00Z", "event": "reverted", "model": "a@1", "reason": "slow"}\n')
    monkeypatch.setattr(ssh_viewer, "EVENTS", (older, younger))
    assert say("events") == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-22T08:00:00Z  activated  a@1",
        "2026-11-22T09:00:00Z  reverted  a@1  slow",
    ]


# -- one list in three places --------------------------------------------------


def test_the_guide_names_the_variables_that_the_role_asks_for() -> None:
    wanted = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["_ssh_access_hardening"]
    guide = (ROLE.parents[1] / "docs/ssh.md").read_text(encoding="utf-8")
    block = yaml.safe_load(guide.split("```yaml\n# inventory/mine/group_vars/all/ssh_access.yml\n")[1].split("```")[0])
    certificate = "/etc/ssh/hedgerow/ssh_host_ed25519_key-cert.pub"
    assert {key: block[key] for key in wanted} == wanted | {"hardening_ssh_host_certificate": certificate}
    assert block["ssh_access_enabled"] is True


def test_where_a_gateway_may_connect_to_has_one_order() -> None:
    hosts = {"a": {"ansible_host": "192.0.2.7"}, "b": {"ansible_host": "192.0.2.3", "ansible_port": "2222"}}
    assert on_host.targets(hosts, ["a", "b"]) == on_host.targets(hosts, ["b", "a"])
    assert on_host.targets(hosts, ["a", "b"])[0] == ("192.0.2.3", 2222)
