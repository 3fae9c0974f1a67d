"""The runtime on the architecture that it is for: the aarch64 wheels install, load with 16 KiB pages, and answer."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

CURRENT = "/opt/hedgerow/runtime/current"
DEVICE = f"{CURRENT}/bin/hedgerow-device"
BUNDLE = "assistant@1.0.0"

_FOREIGN = f"""
import struct, sys
from pathlib import Path
AARCH64 = 183
for path in Path("{CURRENT}/").rglob("*.so*"):
    data = path.read_bytes()
    if data[:4] != b"\\x7fELF":
        continue
    if struct.unpack_from("<H", data, 18)[0] != AARCH64:
        print("machine", path)
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, *_, align = struct.unpack_from("<IIQQQQQQ", data, start + number * size)
        if kind == 1 and align % 16384:
            print("alignment", align, path)
"""


def test_the_runtime_is_the_aarch64_one(vm):
    said = vm.root(f"{CURRENT}/bin/python -c 'import platform, sys; print(platform.machine(), *sys.version_info[:2])'")
    assert said.split() == ["aarch64", *vm.inventory.release.runtime.python.split(".")]
    assert json.loads(vm.root(f"cat {CURRENT}/hedgerow-runtime.json"))["architecture"] == "aarch64"


def test_f12_no_library_of_it_is_built_for_smaller_pages_than_a_pi_has(vm):
    """A segment that is aligned to 4 KiB alone cannot be mapped with 16 KiB pages."""
    done = vm.fleet.hosts[vm.name].run([f"{CURRENT}/bin/python", "-"], stdin=_FOREIGN.encode())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_every_native_module_loads(vm):
    vm.root(
        f"{CURRENT}/bin/python -c 'import cryptography.hazmat.bindings._rust, httptools, msgspec, numpy, onnxruntime, "
        "onnxruntime_genai, uvloop, yaml'"
    )


@pytest.fixture(scope="module")
def serving(vm, tmp_path_factory):
    """The machine serving a real language model, published and mirrored as ever."""
    folder = tmp_path_factory.mktemp("bundle") / "assistant"
    for command in (
        ("model", "import", "smollm2", "--name", "assistant", "--version", "1.0.0", "--output", str(folder)),
        ("registry", "publish", str(folder), "--yes"),
    ):
        where = () if command[0] == "model" else ("-i", str(vm.inventory.path))
        done = vm.command("hedgerow", *command, *where)
        assert done.returncode == 0, done.stderr
    done = vm.play("playbooks/publish.yml", limit=False)
    assert done.returncode == 0, done.stdout[-3000:]
    started = time.monotonic()
    answer = vm.root(f"{DEVICE} activate {BUNDLE} --json")
    print(f"fetched, verified, loaded and checked by its golden inputs in {time.monotonic() - started:.0f} s")
    assert json.loads(answer)["model"]["version"] == "1.0.0"
    return vm


def test_the_server_answers_over_mutual_tls(serving):
    started = time.monotonic()
    done = serving.command(
        "hedgerow", "fleet", "ask", "Name a colour.", "--max-tokens", "8", "--limit", serving.name, "--json",
        "-i", str(serving.inventory.path),
    )  # fmt: skip
    print(f"8 tokens in {time.monotonic() - started:.1f} s of software emulation")
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = json.loads(done.stdout)
    print(f"first token after {answer['ttft_ms']:.0f} ms, {answer['tokens_per_s']} tokens/s")
    assert answer["text"].strip()


def test_it_serves_again_after_a_reboot(serving):
    serving.reset_by("systemctl reboot")
    serving.until(lambda: serving.run("curl -sf http://127.0.0.1:8000/health/ready").returncode == 0)
    report = json.loads(serving.root(f"{DEVICE} report --json"))
    assert report["model"]["version"] == "1.0.0"
