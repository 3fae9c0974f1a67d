"""What first contact leaves, read from the deploy itself: pyinfra runs it on hosts alone."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = (ROOT / "deploy/bootstrap.py").read_text(encoding="utf-8")


def operations() -> dict[str, dict[str, ast.expr]]:
    """Operation → its arguments, in the order of the file."""
    return {
        ast.unparse(node.func): {word.arg: word.value for word in node.keywords if word.arg}
        for statement in ast.parse(SOURCE).body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"server.user", "sudoers",
                                                                     "server.user_authorized_keys"}
    }  # fmt: skip


def rule() -> str:
    """The sudoers file as it lands for the admin user of `inventory/emulated`."""
    content = operations()["sudoers"]["content"]
    return str(eval(compile(ast.Expression(content), "bootstrap", "eval"), {"admin": "hedgerow-admin"}))


def test_f31_the_admin_user_gets_its_own_right_to_become_root_without_a_password() -> None:
    """Images since 2026-04-13 have none for anybody, and `become` would ask nobody for a password."""
    lines = [line for line in rule().splitlines() if not line.startswith("#")]
    assert lines == ["hedgerow-admin ALL=(ALL:ALL) NOPASSWD: ALL"]
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "ansible.cfg")
    assert settings["privilege_escalation"]["become_ask_pass"] == "False"


def test_f31_visudo_takes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "50-hedgerow-admin"
    file.write_text(rule())
    visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin")
    assert visudo is not None, "tools/debian-packages.txt brings it"
    assert subprocess.run([visudo, "-qcf", file], check=False).returncode == 0


def test_f31_the_right_is_there_before_the_login_is() -> None:
    """A first contact that is cut off is begun again as the image's user, who has the password's prompt."""
    order = list(operations())
    assert order.index("sudoers") < order.index("server.user_authorized_keys")
