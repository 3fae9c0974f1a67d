from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.device import confinement

Kernel = Callable[..., Path]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel's files: profiles with their modes, and the labels of a unit's processes (None: hidden from us)."""

    def write(profiles: dict[str, str], *, enabled: str = "Y", **units: list[str | None]) -> Path:
        files = {"sys/module/apparmor/parameters/enabled": f"{enabled}\n"}
        for number, (name, mode) in enumerate(profiles.items()):
            folder = f"sys/kernel/security/apparmor/policy/profiles/{name}.{number}"
            files |= {f"{folder}/name": f"{name}\n", f"{folder}/mode": f"{mode}\n"}
        pid = 100
        for unit, labels in units.items():
            pids = []
            for label in labels:
                pid += 1
                pids.append(f"{pid}\n")
                if label is not None:
                    files[f"proc/{pid}/attr/current"] = f"{label}\n"
            files[f"sys/fs/cgroup/system.slice/{unit.replace('_', '-')}.service/cgroup.procs"] = "".join(pids)
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


HELD = "hedgerow-server (enforce)"


@pytest.mark.parametrize(
    "mode,labels,expected",
    [
        ("enforce", [HELD, HELD], True),
        ("enforce", [], True),  # it does not run; what starts is confined
        ("enforce", [HELD, "unconfined"], False),
        ("enforce", ["hedgerow-server (complain)"], False),
        ("complain", ["hedgerow-server (complain)"], False),
        ("complain", [None], None),
        ("enforce", [None], None),
    ],
)
def test_every_process_counts(kernel: Kernel, *, mode: str, labels: list[str | None], expected: bool | None) -> None:
    root = kernel({"hedgerow-server": mode}, hedgerow_server=labels)
    assert confinement.enforcing(root).get("hedgerow-server") is expected


def test_a_service_without_a_loaded_profile_is_not_confined(kernel: Kernel) -> None:
    root = kernel({"hedgerow-mender": "enforce"}, hedgerow_server=["unconfined"])
    assert confinement.enforcing(root) == {"hedgerow-mender": True, "hedgerow-server": False}


def test_a_kernel_without_apparmor_confines_nothing_and_says_so(kernel: Kernel) -> None:
    root = kernel({}, enabled="N", nginx=[None], prometheus_node_exporter=[])
    assert confinement.enforcing(root) == {"hedgerow-nginx": False}


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """An `apparmor_parser` that writes down how it was called, and ends with this code."""

    def install(code: int) -> Path:
        said = tmp_path / "said"
        program = tmp_path / "bin/apparmor_parser"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >>{said}\ncat >>{said}\necho why >&2\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return said

    return install


def test_profiles_go_by_name_and_come_by_file(parser: Callable[[int], Path]) -> None:
    said = parser(0)
    assert confinement.apply(["hedgerow-server"], ["hedgerow-old"])["changed"]
    assert said.read_text() == (
        "--remove\nprofile hedgerow-old {}--replace --skip-read-cache --write-cache /etc/apparmor.d/hedgerow-server\n"
    )


def test_nothing_to_do_starts_nothing(parser: Callable[[int], Path]) -> None:
    said = parser(0)
    assert not confinement.apply([], [])["changed"]
    assert not said.exists()


def test_what_the_kernel_refuses_is_said(parser: Callable[[int], Path]) -> None:
    parser(1)
    done = confinement.apply(["hedgerow-server"], [])
    assert done["failed"]
    assert "why" in done["msg"]
