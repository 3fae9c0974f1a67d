"""The base image: Debian trixie as Raspberry Pi OS lite would leave it, built once and cached by content.

Invariants:

- The file name is the hash of every input (recipe, guest files, the machine's apt settings and certificates), so an
  image is never out of date and never built twice.
- A build goes to a temporary name and is renamed when it is whole; an interrupted one leaves nothing that counts.
- No mirror is named here: mmdebstrap takes its default, the guest keeps what mmdebstrap wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hedgerow.emulator import standins
from hedgerow.emulator.podman import Podman
from hedgerow.errors import MachineError

SUITE = "trixie"
REPOSITORY = "localhost/hedgerow-pi"
GUEST = Path(__file__).parent / "guest" / "image"
MACHINE_CERTIFICATES = Path("/usr/local/share/ca-certificates")

# What Raspberry Pi OS lite has and roles, deploys and people count on.
PACKAGES = (
    "apparmor",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netbase",
    "nftables",
    "openssh-server",
    "openssl",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "tzdata",
    "udev",
)

# Downloaded, not installed: the roles install them, and four hosts at once need not fetch each four times.
ARCHIVES = ("mender-client", "nginx", "prometheus-node-exporter", "python3-pip-whl", "rsync", "zstd")

# A privileged systemd would reach through to the machine's devices, modules and binfmt entries; a container has
# neither a getty nor a first boot of systemd's own; and nothing may fetch packages behind a test's back.
MASKED_UNITS = (
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-modules-load.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "systemd-remount-fs.service",
    "systemd-networkd-wait-online.service",
    "getty.target",
    "console-getty.service",
    "systemd-firstboot.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-time-wait-sync.service",
)

# apt settings of the machine that a guest needs to reach the same archive in the same way.
_APT_KEYS = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http::Proxy", "Acquire::https::Proxy")

_MODES = {"etc/sudoers.d/010_pi-nopasswd": 0o440}

_SETUP = """\
set -eu
update-ca-certificates >/dev/null
# As the imager leaves it: first user, no password, sudo without one (images before April 2026).
groupadd --force --system video
useradd --create-home --shell /bin/bash --uid 1000 --groups adm,sudo,video pi
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf.dpkg-*
systemctl enable ssh.service emulated-pi.service
# An empty file, not a missing one: systemd then makes a machine id of its own at first boot.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
apt-get clean
apt-get --yes --quiet=2 --download-only --no-install-recommends install {archives}
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that goes into an image. ``overlay`` maps target paths to content; True marks a program."""

    overlay: dict[str, tuple[bytes, bool]]
    apt_options: dict[str, str]
    architecture: str

    def digest(self) -> str:
        parts = {
            "suite": SUITE,
            "packages": PACKAGES,
            "archives": ARCHIVES,
            "masked": MASKED_UNITS,
            "setup": _SETUP,
            "apt": self.apt_options,
            "architecture": self.architecture,
            "overlay": {path: [hashlib.sha256(data).hexdigest(), run] for path, (data, run) in self.overlay.items()},
            "standins": {
                variant: [[package.control(), sorted(package.files)] for package in packages]
                for variant, packages in standins.STACKS.items()
            },
            "programs": {
                file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted((GUEST.parent / "hat-stack").iterdir())
                if file.is_file()
            },
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def recipe() -> Recipe:
    """Collect the inputs: the guest files of this package, and what this machine's apt and TLS need."""
    overlay = {
        str(file.relative_to(GUEST)): (file.read_bytes(), bool(file.stat().st_mode & 0o100))
        for file in sorted(GUEST.rglob("*"))
        if file.is_file()
    }
    if MACHINE_CERTIFICATES.is_dir():
        for file in sorted(MACHINE_CERTIFICATES.rglob("*.crt")):
            relative = file.relative_to("/")
            overlay[str(relative)] = (file.read_bytes(), False)
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Recipe(overlay, _machine_apt_options(), architecture)


class Images:
    """Images by HAT variant, in ``folder`` (``var/cache/images``) and in our podman's storage."""

    def __init__(self, folder: Path, podman: Podman, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._podman = podman
        self._say = say
        self.recipe = recipe()
        self.digest = self.recipe.digest()

    def tag(self, hat: str) -> str:
        """Name of the image for a host with ``hat``; it may not exist yet."""
        return f"{REPOSITORY}:{self.digest}-{standins.VARIANTS[hat]}"

    def ensure(self, hats: set[str]) -> bool:
        """Make the images for ``hats`` exist; True if any was missing. Call it inside a podman session."""
        missing = {self.tag(hat): standins.VARIANTS[hat] for hat in hats if not self._exists(self.tag(hat))}
        if not missing:
            return False
        with self._lock():
            base = f"{REPOSITORY}:{self.digest}-base"
            if not self._exists(base):
                archive = self.build()
                self._say(f"importing {archive.name} into podman")
                self._podman.run(
                    "import", "--quiet", "--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3",
                    archive, base,
                )  # fmt: skip
            for tag, variant in missing.items():
                if not self._exists(tag):
                    self._add_stack(base, tag, variant)
            self._forget_others()
        return True

    def build(self) -> Path:
        """Return the cached archive for this recipe, running mmdebstrap if there is none."""
        archive = self._folder / f"{self.digest}.tar"
        if archive.is_file():
            return archive
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial.tar")
        self._say(f"building the Debian {SUITE} image with mmdebstrap (minutes, once; then cached as {archive.name})")
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            overlay = Path(temporary) / "overlay.tar"
            overlay.write_bytes(overlay_archive(self.recipe))
            setup = Path(temporary) / "setup"
            setup.write_text(_SETUP.format(archives=" ".join(ARCHIVES)), encoding="utf-8")
            command = [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                # Lists and downloaded archives stay: a guest's first apt-get install works without a fetch.
                "--skip=cleanup/apt/lists,cleanup/apt/cache",
                *(f'--aptopt={key} "{value}"' for key, value in sorted(self.recipe.apt_options.items())),
                f"--customize-hook=tar-in {shlex.quote(str(overlay))} /",
                f'--customize-hook=chroot "$1" sh < {shlex.quote(str(setup))}',
                SUITE,
                str(partial),
            ]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            partial.unlink(missing_ok=True)
            raise MachineError(
                f"mmdebstrap failed with exit code {done.returncode}; its last lines above say why",
                where=f"image {self.digest}",
                next_step="hedgerow emulate check, and see that `apt-get update` works on this machine",
            )
        partial.replace(archive)
        return archive

    @staticmethod
    def purge_archives(folder: Path) -> list[str]:
        """Remove the cached archives; return what went."""
        archives = sorted(folder.glob("*.tar"))
        for archive in archives:
            archive.unlink()
        return [str(archive) for archive in archives]

    def _add_stack(self, base: str, tag: str, variant: str) -> None:
        """Install the stand-in packages of ``variant`` on ``base`` as one layer."""
        self._say(f"adding the stand-in packages of variant {variant}")
        container = f"hedgerow-image-{self.digest}-{variant}"
        self._podman.run("rm", "--force", "--ignore", container)
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            folder = Path(temporary)
            for package in standins.STACKS[variant]:
                standins.build(package, folder)
            try:
                self._podman.run(
                    "run", "--name", container, "--network=none", "--privileged", "--systemd=false",
                    "--volume", f"{folder}:/stack:ro", base,
                    "sh", "-c", "dpkg --install /stack/*.deb",
                )  # fmt: skip
                self._podman.run(
                    "commit", "--quiet", "--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3",
                    container, tag,
                )  # fmt: skip
            finally:
                self._podman.run("rm", "--force", "--ignore", container, check=False)

    def _forget_others(self) -> None:
        """Remove archives and images of other recipes (some 400 MB each); one that a container uses stays."""
        for archive in self._folder.glob("*.tar"):
            if archive.stem != self.digest:
                archive.unlink()
        listing = self._podman.json("images", "--format=json") or []
        names = [name for image in listing for name in image.get("Names") or []]
        ours = f"{REPOSITORY}:{self.digest}-"
        others = [name for name in names if name.startswith(f"{REPOSITORY}:") and not name.startswith(ours)]
        # Variants are layers on the base and go first.
        for name in sorted(others, key=lambda name: name.endswith("-base")):
            self._podman.run("rmi", name, check=False)

    def _exists(self, tag: str) -> bool:
        return self._podman.run("image", "exists", tag, check=False).returncode == 0

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One builder at a time: a second `up` waits for the image instead of building it again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "build.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def overlay_archive(recipe: Recipe) -> bytes:
    """The guest files and masked units as one tar archive, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, program) in recipe.overlay.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = _MODES.get(path, 0o755 if program else 0o644)
            archive.addfile(info, io.BytesIO(data))
        for unit in MASKED_UNITS:
            info = tarfile.TarInfo(f"etc/systemd/system/{unit}")
            info.type = tarfile.SYMTYPE
            info.linkname = "/dev/null"
            archive.addfile(info)
        for folder in ("hardware",):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            archive.addfile(info)
    return buffer.getvalue()


def _machine_apt_options() -> dict[str, str]:
    """Those of ``_APT_KEYS`` that this machine's apt has set."""
    options: dict[str, str] = {}
    for key in _APT_KEYS:
        done = subprocess.run(
            ["apt-config", "shell", "value", key], capture_output=True, text=True, check=True
        ).stdout.strip()
        if done:
            options[key] = shlex.split(done.partition("=")[2])[0]
    return options
