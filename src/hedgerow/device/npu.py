"""The driver stack of an AI HAT on a host: what is built, loaded, configured and said; clearing up and recovery.

Standard library only: ``hedgerow.remote_script`` sends this file to hosts. ``read`` changes nothing and starts one
program, ``modinfo``; ``clean`` and ``recover`` are the host's part of role ``hat`` and playbook ``recover_npu``.

What the board and its kernel show is read below the hardware root (``hedgerow.device.hardware``); modules, dkms and
modprobe.d are the system's own. What all this means is decided in ``hedgerow.device.hat_chain``.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT_FILE = Path("/etc/hedgerow/hardware-root")
MODULES = Path("/lib/modules")
DKMS = Path("/var/lib/dkms")
FIRMWARE = Path("/lib/firmware/hailo")
MODPROBE_D = tuple(
    Path(folder) / "modprobe.d" for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
)  # modprobe.d(5)
LOGS = Path("/var/log/hedgerow-npu")
VENDOR = "0x1e60"
# PCI id → the last file of its firmware (facts §3.6): where it is missing the package is not whole.
FIRMWARE_FILES = {"0x45c4": "hailo10h/image-fs", "0x2864": "hailo8_fw.bin"}
CHIP_LOGS = ("runtime", "system_control", "nnc")
NODES = ("hailo[0-9]*", "h1x-[0-9]*")
_TIMEOUT_S = 20.0
_BUILD_TIMEOUT_S = 900.0  # compiled on the board
_RELOAD_TIMEOUT_S = 60.0  # firmware alone takes up to 7 s, and fails after some more
_POLL_S = 0.2
_LOG_LINES = 80
_KERNEL_SAYS = re.compile(r"hailo|brcm-pcie|pci_ep", re.IGNORECASE)


class NpuError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


# ── parsers: no IO ──────────────────────────────────────────────────────────


def parse_modules_dep(text: str) -> dict[str, str]:
    """Module → its file of every module of Hailo's that depmod found; there modprobe looks, and nowhere else."""
    files = re.findall(r"(?m)^(\S*/hailo[^/:\s]*\.ko(?:\.\w+)?):", text)
    return {_module_name(file): file for file in files}


def parse_modprobe(files: Mapping[str, str]) -> dict[str, Any]:
    """What modprobe.d says of Hailo's modules; ``files`` is path → text."""
    found: dict[str, Any] = {"blacklisted": [], "install_lines": [], "options": {}}
    for path, text in files.items():
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if len(words) < 2 or not words[1].replace("-", "_").startswith("hailo"):  # noqa: PLR2004 - verb, module
                continue
            verb, module = words[0], words[1].replace("-", "_")
            if verb == "blacklist":
                found["blacklisted"].append(module)
            elif verb == "install":
                found["install_lines"].append({"path": path, "module": module, "line": line})
            elif verb == "options":
                found["options"].setdefault(module, {}).update(dict(word.partition("=")[::2] for word in words[2:]))
    found["blacklisted"] = sorted(set(found["blacklisted"]))
    return found


def parse_kernel_log(text: str) -> list[str]:
    """The messages that concern the HAT, oldest first, of records as /dev/kmsg gives them."""
    messages = [line.partition(";")[2] for line in text.splitlines() if not line.startswith(" ")]
    return [message for message in messages if _KERNEL_SAYS.search(message)][-_LOG_LINES:]


def parse_cma(text: str) -> dict[str, int | None]:
    """Memory that the kernel keeps for devices, in kB, of /proc/meminfo."""
    sizes = dict(re.findall(r"^(CmaTotal|CmaFree):\s+(\d+) kB", text, re.MULTILINE))
    return {
        "total_kb": int(sizes["CmaTotal"]) if "CmaTotal" in sizes else None,
        "free_kb": int(sizes["CmaFree"]) if "CmaFree" in sizes else None,
    }


# ── reading ─────────────────────────────────────────────────────────────────


def read(root: str | None = None) -> dict[str, Any]:
    """Everything below the NPU's library, as JSON values; the same keys on a host without a HAT."""
    base = _root(root)
    device = _device(base)
    release = _text(base / "proc/sys/kernel/osrelease").strip() or os.uname().release
    loaded = _loaded(base)
    kernels = {
        folder.name: _kernel(folder) for folder in sorted(MODULES.glob("*")) if (folder / "modules.dep").exists()
    }
    here = kernels.get(release, {"modules": {}})["modules"]
    identity = _text(device / "device").strip() if device else None
    return {
        "address": device.name if device else None,
        "device": identity,
        "resettable": device is not None and (device / "reset").exists(),
        "kernel": release,
        "kernels": kernels,
        "on_disk": {name: _modinfo(release, name) for name in sorted({*here} | {*loaded})},
        "dkms": _dkms(),
        "loaded": loaded,
        "modprobe": parse_modprobe(_modprobe_files()),
        "firmware_missing": _firmware_missing(identity),
        "nodes": _nodes(base),
        "owners": _owners(base),
        "log": parse_kernel_log(_kernel_log(base)),
        "cma": parse_cma(_text(base / "proc/meminfo") or (_text(Path("/proc/meminfo")) if base == Path("/") else "")),
    }


def _root(root: str | None) -> Path:
    """As ``hedgerow.device.hardware.hardware_root``, which cannot be imported where this runs."""
    named = root or os.environ.get("HEDGEROW_HARDWARE_ROOT") or (_text(ROOT_FILE).splitlines() or [""])[0].strip()
    return Path(named or "/")


def _device(base: Path) -> Path | None:
    for device in sorted(base.glob("sys/bus/pci/devices/*")):
        if _text(device / "vendor").strip() == VENDOR:
            return device
    return None


def _kernel(folder: Path) -> dict[str, Any]:
    """An installed kernel: whether its headers are there, and which of Hailo's modules it could load."""
    return {
        "headers": (folder / "build/include").is_dir(),
        "modules": parse_modules_dep(_text(folder / "modules.dep")),
    }


def _modinfo(release: str, module: str) -> str | None:
    return _run("modinfo", "-k", release, "-F", "version", module).stdout.strip() or None


def _dkms() -> dict[str, dict[str, str]]:
    """``module/version`` → kernel → ``installed`` or ``built``: what `dkms status` would say."""
    found: dict[str, dict[str, str]] = {}
    for added in sorted(DKMS.glob("hailo*/*")):
        if not (added / "source").is_symlink():
            continue  # dkms keeps a link beside them: kernel-RELEASE-ARCH
        states = found.setdefault("/".join(added.parts[-2:]), {})
        for built in sorted(added.glob("*/*/module/*.ko*")):
            kernel = built.parts[-4]
            target = MODULES / kernel / "updates/dkms" / built.name
            states[kernel] = "installed" if target.exists() else "built"
    return found


def _loaded(base: Path) -> dict[str, dict[str, Any]]:
    names = [line.split()[0] for line in _text(base / "proc/modules").splitlines() if line.startswith("hailo")]
    return {
        name: {
            "version": _text(base / "sys/module" / name / "version").strip() or None,
            "parameters": {
                file.name: _text(file).strip() for file in sorted((base / "sys/module" / name / "parameters").glob("*"))
            },
        }
        for name in names
    }


def _modprobe_files() -> dict[str, str]:
    """Path → text as modprobe.d(5) reads them: by name, and of two of one name the first folder's."""
    files: dict[str, Path] = {}
    for folder in MODPROBE_D:
        for file in sorted(folder.glob("*.conf")):
            files.setdefault(file.name, file)
    return {str(files[name]): _text(files[name]) for name in sorted(files)}


def _firmware_missing(identity: str | None) -> str | None:
    file = FIRMWARE_FILES.get(identity or "")
    return None if file is None or (FIRMWARE / file).exists() else str(FIRMWARE / file)


def _nodes(base: Path) -> list[dict[str, Any]]:
    found = []
    for name in sorted(file.name for pattern in NODES for file in (base / "dev").glob(pattern)):
        with contextlib.suppress(OSError):
            status = Path("/dev", name).stat()
            try:
                group = grp.getgrgid(status.st_gid).gr_name
            except KeyError:
                group = str(status.st_gid)
            found.append({"path": f"/dev/{name}", "mode": f"{status.st_mode & 0o777:04o}", "group": group})
    return found


def _owners(base: Path) -> list[dict[str, Any]]:
    """Who has a node open, as fuser would say."""
    nodes = {f"/dev/{file.name}" for pattern in NODES for file in (base / "dev").glob(pattern)}
    found = []
    for process in Path("/proc").glob("[0-9]*") if nodes else ():
        with contextlib.suppress(OSError):
            if any(str(file.readlink()) in nodes for file in (process / "fd").iterdir()):
                unit = re.search(r"([^/]+\.service)", _text(process / "cgroup"))
                program = _text(process / "comm").strip()
                found.append({"pid": int(process.name), "program": program, "unit": unit[1] if unit else None})
    return found


def _kernel_log(base: Path) -> str:
    """Records since boot. The device gives one a read, and none to who may not see the kernel's log."""
    try:
        handle = os.open(base / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    records = []
    try:
        while True:
            try:
                record = os.read(handle, 1 << 16)
            except BrokenPipeError:
                continue  # records were overwritten while we read
            except OSError:
                break
            if not record:
                break
            records.append(record)
    finally:
        os.close(handle)
    return b"".join(records).decode(errors="replace")


# ── changing ────────────────────────────────────────────────────────────────


def clean(install_lines: Sequence[Mapping[str, str]] = (), stray: Sequence[str] = ()) -> dict[str, Any]:
    """Take ``install`` lines of Hailo's modules out of modprobe.d, and module files that no package owns.

    A file that dpkg knows, or that lies where dkms puts its own, is refused: its package has to go instead.
    """
    done = []
    for entry in install_lines:
        path = Path(entry["path"])
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if line != entry["line"]]
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        shutil.copymode(path, temporary)
        temporary.replace(path)
        done.append(f"{path}: {entry['line']}")
    for name in stray:
        file = Path(name).resolve()
        owner = _run("dpkg-query", "-S", str(file)).stdout.partition(":")[0]
        if owner or "updates/dkms" in str(file) or MODULES.resolve() not in file.parents:
            raise NpuError(
                f"{file} belongs to {owner or 'dkms'}",
                where="leftover modules",
                next_step=f"sudo apt-get purge {owner}"
                if owner
                else "dkms status; sudo dkms remove MODULE/VERSION --all",
            )
        file.unlink(missing_ok=True)
        done.append(str(file))
    for kernel in sorted({Path(name).relative_to(MODULES).parts[0] for name in stray}):
        _run("depmod", kernel)
    return {"changed": bool(done), "removed": done}


def build(kernels: Sequence[str]) -> dict[str, Any]:
    """Have dkms build for ``kernels`` what is added; a module that does not build is named with its log (F7)."""
    for kernel in kernels:
        done = _run("dkms", "autoinstall", "-k", kernel, timeout=_BUILD_TIMEOUT_S)
        if done.returncode != 0:
            raise NpuError(
                f"the driver does not build for {kernel}: {(done.stderr or done.stdout).strip()[-500:]} (F7)",
                where="dkms autoinstall",
                next_step="read the make.log named there; del_timer_sync: 5.3.0 needs a kernel before 6.15",
            )
    return {"changed": bool(kernels)}


def load(driver: str) -> dict[str, Any]:
    """Load module ``driver`` and wait for its node. One that cannot be loaded is no error here: the proof says why."""
    done = _run("modprobe", driver, timeout=_RELOAD_TIMEOUT_S)
    node = _await_node(_root(None)) if done.returncode == 0 else None
    return {"changed": done.returncode == 0, "node": node, "said": done.stderr.strip()}


def apply_rules() -> dict[str, Any]:
    """Have udev read its rules and apply them to nodes that are there, under both names."""
    _quiet("udevadm", "control", "--reload")
    _quiet("udevadm", "trigger", "--subsystem-match=hailo_chardev", "--subsystem-match=hailo1x", "--settle")
    return {"changed": True}


def recover(driver: str, *, reset: bool = False) -> dict[str, Any]:
    """Reload module ``driver``; with ``reset`` the chip is reset on the bus in between, so that it takes firmware anew.

    Services that have the device open are stopped before and started afterwards, whatever happened in between; anything
    else that has it is refused. First the chip's own logs and the kernel's are kept in ``LOGS``: after the reset they
    are gone. Returns ``{"changed", "logs", "node", "log"}``.
    """
    base = _root(None)
    device = _device(base)
    if device is None:
        raise NpuError(
            "there is no Hailo device on the bus",
            where="PCI",
            next_step="switch the power off and on; a chip that fell off the bus comes back by that alone",
        )
    if reset and not (device / "reset").exists():
        raise NpuError(
            "the kernel offers no reset of this device",
            where=str(device / "reset"),
            next_step="switch the power off, wait ten seconds, switch it on (a warm reboot keeps the firmware)",
        )
    owners = _owners(base)
    strangers = [f"{one['program']} (pid {one['pid']})" for one in owners if one["unit"] is None]
    if strangers:
        raise NpuError(f"the NPU is in use by {', '.join(strangers)}", where=device.name, next_step="end it first")
    units = sorted({one["unit"] for one in owners})
    logs = _keep_logs(base, device.name)
    try:
        if units:
            _quiet("systemctl", "stop", *units)
        _quiet("modprobe", "-r", driver)
        if reset:
            (device / "reset").write_text("1\n", encoding="ascii")
        _quiet("modprobe", driver)
        node = _await_node(base)
    finally:
        if units:
            _quiet("systemctl", "start", *units)
    return {"changed": True, "logs": logs, "node": node, "log": parse_kernel_log(_kernel_log(base))[-12:]}


def _quiet(*command: str) -> None:
    done = _run(*command, timeout=_RELOAD_TIMEOUT_S)
    if done.returncode != 0:
        raise NpuError(
            f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}",
            where="NPU",
            next_step="sudo dmesg | grep -i hailo; dkms status; ls /etc/modprobe.d; systemctl --failed",
        )


def _keep_logs(base: Path, address: str) -> str:
    folder = LOGS / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.log").write_text("".join(f"{line}\n" for line in parse_kernel_log(_kernel_log(base))))
    for kind in CHIP_LOGS:
        done = _run("hailortcli", "logs", kind, "-s", address)
        (folder / f"{kind}.log").write_text(done.stdout + done.stderr)
    return str(folder)


def _await_node(base: Path) -> str | None:
    """The node, which udev may make a moment after the module is in; None where the probe failed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pattern in NODES:
            for node in sorted((base / "dev").glob(pattern)):
                return f"/dev/{node.name}"
        time.sleep(_POLL_S)
    return None


def _module_name(file: str) -> str:
    return Path(file).name.partition(".")[0].replace("-", "_")


def _run(*command: str, timeout: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "HAILORT_LOGGER_PATH": "NONE"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {error}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
