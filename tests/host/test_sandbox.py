"""Our units' sandboxes on a converged host: how tight systemd finds them, and that they hold.

What `systemd-analyze security` counts is what a unit declares. Whether the kernel does it is tried by a probe that runs
in a copy of the unit, with every line of its sandbox and another program. AppArmor is left out here on purpose: this is
what holds on a kernel without it (`test_apparmor.py` has the rest).
"""

from __future__ import annotations

import json
import re
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

SCORE = 2.5
# Units that roles have on hosts and that may be above it: why. None is.
WAIVERS: dict[str, str] = {}
PI = ("hedgerow-server.service", "hedgerow-exporter.service", "hedgerow-deadline.service", "hedgerow-agent.service")
HOST = ("prometheus-node-exporter.service", "hedgerow-storage-probe.service")
GATEWAY = ("nginx.service",)
# Those that a fleet may do without.
PI_MAYBE = ("hedgerow-vision.service",)
GATEWAY_MAYBE = ("hedgerow-renewal.service",)

# Runs inside the copy of a unit. Each attempt answers the name of its errno, or "allowed".
PROBE = r"""
import ctypes, errno, json, mmap, os, socket, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def write(path):
    with open(path, "ab"):
        pass

def setuid_file():
    path = "/tmp/probe"
    write(path)
    os.chmod(path, 0o4755)

ATTEMPTS = {
    "write /etc": lambda: write("/etc/hedgerow-probe"),
    "write /usr": lambda: write("/usr/bin/hedgerow-probe"),
    "write the runtime": lambda: write("/opt/hedgerow/runtime/probe"),
    "write the libraries": lambda: write("/usr/lib/hedgerow-probe"),
    "write /run": lambda: write("/run/hedgerow-probe"),
    "write /sys": lambda: write("/sys/kernel/mm/transparent_hugepage/enabled"),
    "write /proc/sys": lambda: write("/proc/sys/kernel/hostname"),
    "write a cgroup": lambda: write("/sys/fs/cgroup/cgroup.procs"),
    "read the device's key": lambda: open("/var/lib/hedgerow/identity/device.key").close(),
    "read another's secrets": lambda: open("/etc/shadow").close(),
    "read a home": lambda: os.listdir("/home") and open("/home/" + os.listdir("/home")[0] + "/.bashrc").close(),
    "start a shell": lambda: subprocess.run(["/bin/sh", "-c", "exit 0"], check=True),
    "start another program": lambda: subprocess.run(["/usr/bin/id"], check=True, stdout=subprocess.DEVNULL),
    "trace its parent": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "read another's memory": lambda: open("/proc/1/mem", "rb").close(),
    "signal another": lambda: os.kill(1, 0),
    "a new namespace": lambda: call("unshare", 0x00020000),
    "a new user namespace": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "the kernel's log": lambda: call("klogctl", 3, ctypes.create_string_buffer(64), 64),
    "the machine's memory": lambda: open("/dev/mem", "rb").close(),
    "a setuid program": setuid_file,
    "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "raw IP": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
    "internet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "written code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "another personality": lambda: call("personality", 0x0008),
}
def written_and_run():
    # Of several mounts on a point the last one is seen. The one file of its cgroup that systemd opens to a unit is no
    # program.
    lines = (line.split()[4:6] for line in open("/proc/self/mountinfo"))
    mounts = {point: options.split(",") for point, options in lines}
    return [
        point
        for point, options in mounts.items()
        if "noexec" not in options and os.access(point, os.W_OK) and not point.endswith("/memory.pressure")
    ]

found = {"written and run": written_and_run()}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        found[name] = "allowed"
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error.errno))
json.dump(found, sys.stdout)
"""

# What every unit of ours is for, and therefore may do; all else of the probe is forbidden.
ALLOWED = {
    # Measured: "written code" is what ML runtimes do, so MemoryDenyWriteExecute= is off for the server alone.
    "hedgerow-server.service": {"internet", "written code"},
    "hedgerow-exporter.service": {"internet"},
    "hedgerow-vision.service": {"internet"},
    "hedgerow-renewal.service": {"internet"},
    # Root without capabilities still owns root's files, and may ask whether root's processes live.
    "hedgerow-deadline.service": {"read another's secrets", "signal another"},
    "hedgerow-agent.service": {"read another's secrets", "signal another"},
    "hedgerow-storage-probe.service": {"read another's secrets", "signal another"},
    "prometheus-node-exporter.service": {"internet", "netlink"},
    # Its pid file.
    "nginx.service": {"write /run", "internet", "read the device's key", "read another's secrets", "signal another"},
}


def in_copy(host, unit, code):
    """Output of a Python program that runs in a copy of ``unit``: its own sandbox, without AppArmor."""
    text = host.root(f"systemctl cat {unit}")
    kept, section, runs = [], "", set()
    for line in text.splitlines():
        if re.match(r"\[\w+\]$", line):
            section = line
        if section != "[Service]" or re.match(
            r"(Exec(?!Paths)\w+|Type|Restart\w*|Watchdog\w+|PIDFile|KillMode|Timeout\w+|RuntimeDirectory\w*|AppArmorProfile"
            r"|LoadCredential|EnvironmentFile|MemoryMax|LogLevelMax|SyslogLevel|SendSIGKILL|WorkingDirectory)=",
            line,
        ):
            continue
        kept.append(line)
        if line.startswith("ExecPaths="):
            runs.update(line.partition("=")[2].split())
    # The copy's program is Python; the units that may not start it are let do that here, and no more.
    more = " ".join(sorted({"/usr/bin/python3", "/usr/lib"} - runs))
    probe = [
        "Type=oneshot",
        *([f"ExecPaths={more}", f"BindReadOnlyPaths={more}"] if more else []),
        "StandardInput=file:/run/hedgerow-probe.py",
        "StandardOutput=truncate:/run/hedgerow-probe.out",
        "StandardError=truncate:/run/hedgerow-probe.err",
        "ExecStart=/usr/bin/python3 -I -",
    ]
    service = "\n".join([*kept, *probe]) + "\n"
    write(host, "/run/systemd/system/hedgerow-probe.service", service)
    write(host, "/run/hedgerow-probe.py", code)
    try:
        host.root("systemctl daemon-reload")
        began = host.as_root("systemctl start hedgerow-probe.service")
        assert began.rc == 0, f"{host.name}: {began.stderr}{host.root('cat /run/hedgerow-probe.err')}"
        return host.root("cat /run/hedgerow-probe.out")
    finally:
        host.root(
            "rm -f /run/systemd/system/hedgerow-probe.service /run/hedgerow-probe.*; systemctl daemon-reload; "
            "systemctl reset-failed hedgerow-probe.service 2>/dev/null || :"
        )


# A model in a process of its own (`isolate`): forked, asked, killed, begun again and ended, all inside of the unit's
# sandbox. The graph is `y = x`, its fields as onnx.proto numbers them.
ISOLATED = r"""
import glob, json, os, signal, sys, time
from pathlib import Path

sys.path[:0] = glob.glob("/opt/hedgerow/runtime/current/lib/python3*/site-packages")
from hedgerow.server.isolation.nursery import Nursery

nursery = Nursery.fork()
ended = []
nursery.ended = lambda name, how: ended.append(how)

import numpy as np
from hedgerow.server.errors import ServingError
from hedgerow.server.isolation import backend

def number(field, value):
    return bytes([field << 3, value])

def block(field, *parts):
    data = b"".join(parts)
    return bytes([field << 3 | 2, len(data)]) + data

def value(name):
    shape = block(2, block(1, number(1, 2)))
    return block(1, name) + block(2, block(1, number(1, 1), shape))

graph = block(7, block(1, block(1, b"x"), block(2, b"y"), block(4, b"Identity")), block(2, b"g"),
              block(11, value(b"x")), block(12, value(b"y")))
folder = Path("/tmp/isolated")
folder.mkdir()
(folder / "model.onnx").write_bytes(number(1, 8) + graph + block(8, number(2, 17)))

def answer():
    return model.infer({"x": np.array([1, 2], np.float32)}, [])["y"].tolist()

model = backend.load(nursery, "probe", folder, threads=1)
first, pid = answer(), model._supervised.process().pid
os.kill(pid, signal.SIGKILL)
again, until = None, time.monotonic() + 60
while again is None and time.monotonic() < until:
    try:
        again = answer()
    except ServingError:
        time.sleep(0.1)
model.close()
json.dump({"first": first, "again": again, "ended": ended, "left": os.path.exists(f"/proc/{pid}")}, sys.stdout)
"""


def write(host, path, text):
    """Place a text as root; testinfra has no standard input."""
    quoted = text.replace("'", "'\\''")
    host.root(f"printf %s '{quoted}' >{path}")


def holds(host, unit):
    if unit in PI_MAYBE + GATEWAY_MAYBE and not host.service(unit).exists:
        pytest.skip(f"{host.name} has no {unit}")
    found = json.loads(in_copy(host, unit, PROBE))
    assert not (paths := found.pop("written and run")), paths
    allowed = {name for name, answer in found.items() if answer == "allowed"}
    if host.container:
        # Root's units write to /sys in an emulated gateway although ProtectKernelTunables= is set; whether a kernel of
        # its own ends that is for a board or virtual machine to show.
        allowed.discard("write /sys")
    assert allowed == ALLOWED[unit] & set(found), {name: found[name] for name in allowed ^ ALLOWED[unit]}


def score(host, unit):
    shown = host.root(f"systemd-analyze security {unit} --no-pager")
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1])


def test_each_unit_of_ours_is_tight(host):
    """Whatever roles have placed here, sandboxes for Debian's services too: no list to forget one in."""
    found = host.root(
        "cd /etc/systemd/system; grep -rl '^ProtectSystem=' --include=50-hedgerow.conf .; "
        "find . -maxdepth 1 -name 'hedgerow-*.service'"
    )
    units = {re.sub(r"^\./|\.d/.*$", "", line) for line in found.split()}
    assert units >= set(HOST)
    loose = {unit: score(host, unit) for unit in sorted(units) if score(host, unit) > WAIVERS.get(unit, SCORE)}
    assert loose == {}


@pytest.mark.parametrize("unit", PI + PI_MAYBE)
def test_a_pi_s_sandbox_holds(pi, unit):
    holds(pi, unit)


def test_a_model_has_a_process_of_its_own_in_the_server_s_sandbox(pi):
    found = json.loads(in_copy(pi, "hedgerow-server.service", ISOLATED))
    assert found == {"first": [1.0, 2.0], "again": [1.0, 2.0], "ended": ["SIGKILL"], "left": False}


@pytest.mark.parametrize("unit", HOST)
def test_a_host_s_sandbox_holds(host, unit):
    holds(host, unit)


@pytest.mark.parametrize("unit", GATEWAY + GATEWAY_MAYBE)
def test_a_gateway_s_sandbox_holds(gateway, unit):
    holds(gateway, unit)


def test_only_the_npu_and_the_firmware_are_open_to_the_server(pi):
    """Both names of the node, as drivers give it (F21); nothing else of /dev."""
    allowed = pi.root("systemctl show -p DevicePolicy -p DeviceAllow hedgerow-server.service")
    assert "DevicePolicy=closed" in allowed
    assert set(re.findall(r"/dev/\S+", allowed)) == {"/dev/hailo0", "/dev/h1x-0", "/dev/vcio_gencmd"}


def serving(pi):
    done = pi.run("curl --silent --fail --max-time 20 http://127.0.0.1:8000/health/report")
    return json.loads(done.stdout)["model"] if done.rc == 0 else None


def test_the_server_generates_in_its_sandbox(pi):
    model = serving(pi)
    if model is None:
        pytest.skip("no model is active on this host; rollouts bring one")
    body = {"model": model["name"], "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4}
    answer = pi.run(
        "curl --silent --fail --max-time 120 -H 'content-type: application/json' "
        f"--data '{json.dumps(body)}' http://127.0.0.1:8000/v1/chat/completions"
    )
    if answer.rc != 0:
        pytest.skip("the active model is no language model")
    assert json.loads(answer.stdout)["usage"]["completion_tokens"] >= 1


def test_the_server_loads_a_bundle_in_its_sandbox(pi):
    model = serving(pi)
    if model is None:
        pytest.skip("no model is active on this host; rollouts bring one")
    control = "curl --silent --max-time 600 --unix-socket /run/hedgerow/server.sock -H 'content-type: application/json'"
    named = json.dumps({"name": model["name"], "version": model["version"]})
    code = pi.root(f"{control} -o /dev/null -w '%{{http_code}}' --data '{named}' http://local/control/v1/prepare")
    pi.root(f"{control} --fail --data '{named}' http://local/control/v1/discard")
    assert code == "200"


def test_f34_a_server_that_hangs_is_restarted(pi):
    """A board whose processes hang still answers pings, and PID 1 goes on feeding the hardware's watchdog."""
    unit = "hedgerow-server.service"
    before = pi.root(f"systemctl show -p MainPID --value {unit}").strip()
    try:
        pi.root(f"kill -STOP {before}")
        deadline = time.monotonic() + 120
        while (now := pi.root(f"systemctl show -p MainPID --value {unit}").strip()) in {before, "0"}:
            assert time.monotonic() < deadline, "it still hangs"
            time.sleep(0.5)
        assert now != before
        assert "Watchdog timeout" in pi.root(f"journalctl -u {unit} --since=-5min --no-pager")
    finally:
        # Stopped and started, so that nobody counts this among the ends that nobody asked for.
        pi.root(f"kill -CONT {before} 2>/dev/null; systemctl stop {unit}; systemctl start {unit}")
    assert pi.service(unit).is_running


def test_f34_generating_never_starves_the_sign_of_life(pi):
    """More generations at once than the server takes turns for, for longer than the watchdog waits."""
    model = serving(pi)
    if model is None:
        pytest.skip("no model is active on this host; rollouts bring one")
    body = json.dumps(
        {
            "model": model["name"],
            "messages": [{"role": "user", "content": "Count to 500."}],
            "max_tokens": 400,
            "seed": 1,
        }
    )
    pid = pi.root("systemctl show -p MainPID --value hedgerow-server.service")
    longer = pi.var("inference_runtime_watchdog_s", 10) * 3 // 2
    request = (
        f"curl --silent --max-time {longer} -o /dev/null -H 'content-type: application/json' "
        f"--data '{body}' http://127.0.0.1:8000/v1/chat/completions"
    )
    # `wait` alone: curl ends with 28 where the time is up, which is the point.
    pi.run(" & ".join([request] * 4) + " & wait")
    assert pi.root("systemctl show -p MainPID --value hedgerow-server.service") == pid
