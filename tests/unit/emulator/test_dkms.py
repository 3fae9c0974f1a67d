"""The stand-in of dkms as a program, below a folder instead of a root."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow.emulator.archive.build import GUEST

NOW, NEXT = "6.18.50+rpt-rpi-2712", "6.18.55+rpt-rpi-2712"
CONF = """\
PACKAGE_NAME="{0}"
PACKAGE_VERSION="{1}"
BUILT_MODULE_NAME[0]="{0}"
DEST_MODULE_LOCATION[0]="/updates/dkms"
AUTOINSTALL="yes"
"""


class Host:
    def __init__(self, root: Path) -> None:
        self.root = root
        text = (GUEST / "dkms/dkms").read_text()
        for path in ("/usr/src", "/var/lib/dkms", "/lib/modules", "/hardware/"):
            assert f'"{path}' in text, path
            text = text.replace(f'"{path}', f'"{root}{path}')
        self.program = root / "dkms"
        self.program.write_text(text)
        (root / "bin").mkdir()
        (root / "bin/depmod").write_text("#!/bin/sh\n")
        (root / "bin/depmod").chmod(0o755)
        self.write("hardware/proc/sys/kernel/osrelease", f"{NOW}\n")
        self.headers(NOW)

    def write(self, relative: str, content: str) -> None:
        file = self.root / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def headers(self, kernel: str) -> None:
        self.write(f"lib/modules/{kernel}/build/include/x.h", "")

    def kernel(self, kernel: str) -> None:
        (self.root / f"lib/modules/{kernel}").mkdir(parents=True, exist_ok=True)

    def source(self, name: str, version: str, code: str = "int x;\n") -> None:
        self.write(f"usr/src/{name}-{version}/dkms.conf", CONF.format(name, version))
        self.write(f"usr/src/{name}-{version}/main.c", code)

    def dkms(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        command = [sys.executable, str(self.program), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})

    def module(self, kernel: str) -> Path:
        return self.root / f"lib/modules/{kernel}/updates/dkms/hailo1x_pci.ko.xz"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.source("hailo1x_pci", "5.1.1")
    return host


def test_a_module_is_added_built_and_installed_and_says_so(host: Host) -> None:
    assert host.dkms("status").stdout == ""
    assert host.dkms("add", "hailo1x_pci/5.1.1").returncode == 0
    assert host.dkms("status").stdout == "hailo1x_pci/5.1.1: added\n"
    assert host.dkms("build", "-m", "hailo1x_pci", "-v", "5.1.1").returncode == 0
    assert host.dkms("status").stdout == f"hailo1x_pci/5.1.1, {NOW}, aarch64: built\n"
    assert host.dkms("install", "hailo1x_pci/5.1.1").returncode == 0
    assert host.dkms("status").stdout == f"hailo1x_pci/5.1.1, {NOW}, aarch64: installed\n"
    data = lzma.decompress(host.module(NOW).read_bytes())
    assert data.startswith(b"\x7fELF")
    assert b"version=5.1.1\0" in data
    assert f"vermagic={NOW} ".encode() in data


def test_without_headers_nothing_is_built_and_a_kernel_hook_does_not_fail(host: Host) -> None:
    host.dkms("install", "hailo1x_pci/5.1.1")
    host.kernel(NEXT)
    refused = host.dkms("install", "hailo1x_pci/5.1.1", "-k", NEXT)
    assert refused.returncode == 21
    assert f"linux-headers-{NEXT}" in refused.stderr
    hook = host.dkms("kernel_postinst", "--kernelver", NEXT)
    assert hook.returncode == 0
    assert "headers are missing" in hook.stderr
    assert not host.module(NEXT).exists()
    host.headers(NEXT)
    assert host.dkms("kernel_postinst", "--kernelver", NEXT).returncode == 0
    assert host.module(NEXT).is_file()


def test_a_call_that_the_kernel_no_longer_has_fails_the_build(host: Host) -> None:
    host.source("hailo1x_pci", "5.3.0", "void stop(void)\n{\n\tdel_timer_sync(&timer);\n}\n")
    failed = host.dkms("install", "hailo1x_pci/5.3.0")
    assert failed.returncode == 10
    log = host.root / "var/lib/dkms/hailo1x_pci/5.3.0/build/make.log"
    assert "main.c:3: error: implicit declaration of function 'del_timer_sync'" in log.read_text()
    assert host.dkms("autoinstall").returncode != 0
    old = "6.12.75+rpt-rpi-2712"
    host.headers(old)
    assert host.dkms("install", "hailo1x_pci/5.3.0", "-k", old).returncode == 0


def test_what_is_removed_leaves_nothing(host: Host) -> None:
    host.dkms("install", "hailo1x_pci/5.1.1")
    assert host.dkms("remove", "hailo1x_pci/5.1.1", "--all").returncode == 0
    assert not host.module(NOW).exists()
    assert host.dkms("status").stdout == ""
    assert host.dkms("remove", "hailo1x_pci/5.1.1", "--all").returncode == 3


def test_a_kernel_that_goes_takes_its_modules_along(host: Host) -> None:
    host.headers(NEXT)
    for kernel in (NOW, NEXT):
        host.dkms("install", "hailo1x_pci/5.1.1", "-k", kernel)
    assert host.dkms("kernel_prerm", "--kernelver", NOW).returncode == 0
    assert not host.module(NOW).exists()
    assert host.dkms("status").stdout == f"hailo1x_pci/5.1.1, {NEXT}, aarch64: installed\n"


@pytest.mark.parametrize(
    "words", [("add", "hailo_pci/4.23.0"), ("install", "hailo_pci/4.23.0"), ("build",), ("frobnicate", "a/1")]
)
def test_what_is_not_there_is_refused(host: Host, words: tuple[str, ...]) -> None:
    assert host.dkms(*words).returncode not in {0, None}
