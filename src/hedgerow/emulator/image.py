"""The image of emulated hosts: Debian trixie as Raspberry Pi OS Lite would leave it, built once and cached by content.

Invariants:

- Its name is the hash of every input (recipe, guest files, stand-in packages, the machine's apt settings and
  certificates), so an image is never out of date and never built twice. Debian's part has a name of its own.
- One image for every host: what a HAT needs is installed by a role, as on a board.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.emulator.archive import repository, suites
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

_START = ("--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3")
_MODES = {"etc/sudoers.d/010_pi-nopasswd": 0o440}

# In Debian alone, where the network is: as mmdebstrap's last step.
_DOWNLOAD = """\
set -eu
update-ca-certificates >/dev/null
apt-get clean
apt-get --yes --quiet=2 --download-only --no-install-recommends install {archives}
"""
# What makes a Pi of it: from files alone, without a network. /mnt has the files and the archive.
_SETUP = """\
set -eu
tar --extract --directory=/ --file=/mnt/files.tar
cp -r /mnt/archive/. /
# As the imager leaves it: first user, no password, sudo without one (images before April 2026).
groupadd --force --system video
useradd --create-home --shell /bin/bash --uid 1000 --groups adm,sudo,video pi
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf.dpkg-*
systemctl --quiet enable ssh.service emulated-pi.service
raspi="-o Dir::Etc::SourceList=/etc/apt/sources.list.d/raspi.sources -o Dir::Etc::SourceParts=/dev/null"
apt-get --quiet=2 $raspi -o APT::Get::List-Cleanup=0 update
DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2 --no-install-recommends install {packages} >/dev/null
# An empty file, not a missing one: systemd then makes a machine id of its own at first boot.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that goes into an image. ``overlay`` maps target paths to content; True marks a program."""

    overlay: dict[str, tuple[bytes, bool]]
    apt_options: dict[str, str]
    architecture: str

    def base_digest(self) -> str:
        """Hash of what Debian's part is made of: minutes to build, and seldom another."""
        return _hash(
            {
                "suite": SUITE,
                "packages": PACKAGES,
                "archives": ARCHIVES,
                "download": _DOWNLOAD,
                "apt": self.apt_options,
                "architecture": self.architecture,
                "certificates": _contents(self.certificates()),
            }
        )

    def digest(self) -> str:
        return _hash(
            {
                "base": self.base_digest(),
                "masked": MASKED_UNITS,
                "setup": _SETUP,
                "overlay": _contents(self.overlay),
                "archive": repository.digest(),
                "installed": suites.BASE,
            }
        )

    def certificates(self) -> dict[str, tuple[bytes, bool]]:
        """Those files that downloading needs."""
        folder = f"{MACHINE_CERTIFICATES.relative_to('/')}/"
        return {path: entry for path, entry in self.overlay.items() if path.startswith(folder)}


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
    """The image of every host: Debian's part in ``folder`` (``var/cache/images``), both in our podman's storage."""

    def __init__(self, folder: Path, podman: Podman, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._podman = podman
        self._say = say
        self.recipe = recipe()
        self._base_digest = self.recipe.base_digest()
        self._base = f"{REPOSITORY}:{self._base_digest}-base"
        self.tag = f"{REPOSITORY}:{self.recipe.digest()}"

    def ensure(self) -> bool:
        """Make the image exist; True if it was missing. Call it inside a podman session."""
        if self._exists(self.tag):
            return False
        with self._lock():
            if not self._exists(self._base):
                archive = self.build()
                self._say(f"importing {archive.name} into podman")
                self._podman.run("import", "--quiet", *_START, archive, self._base)
            if not self._exists(self.tag):
                self._make_a_pi()
            self._forget_others()
        return True

    def build(self) -> Path:
        """Return the cached archive of Debian's part, running mmdebstrap if there is none."""
        archive = self._folder / f"{self._base_digest}.tar"
        if archive.is_file():
            return archive
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial.tar")
        self._say(f"building the Debian {SUITE} image with mmdebstrap (minutes, once; then cached as {archive.name})")
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            certificates = Path(temporary) / "certificates.tar"
            certificates.write_bytes(_tar(self.recipe.certificates()))
            download = Path(temporary) / "download"
            download.write_text(_DOWNLOAD.format(archives=" ".join(ARCHIVES)), encoding="utf-8")
            command = [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                # Lists and downloaded archives stay: a guest's first apt-get install works without a fetch.
                "--skip=cleanup/apt/lists,cleanup/apt/cache",
                *(f'--aptopt={key} "{value}"' for key, value in sorted(self.recipe.apt_options.items())),
                f"--customize-hook=tar-in {shlex.quote(str(certificates))} /",
                f'--customize-hook=chroot "$1" sh < {shlex.quote(str(download))}',
                SUITE,
                str(partial),
            ]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            partial.unlink(missing_ok=True)
            raise MachineError(
                f"mmdebstrap failed with exit code {done.returncode}; its last lines above say why",
                where=f"image {self._base_digest}",
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

    def _make_a_pi(self) -> None:
        """Guest files, the archive and what Raspberry Pi OS has installed of it, as one layer on Debian's part."""
        self._say("making a Raspberry Pi of it: files, archive, kernels (seconds)")
        container = f"hedgerow-image-{self.tag.rpartition(':')[2]}"
        self._podman.run("rm", "--force", "--ignore", container)
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            folder = Path(temporary)
            (folder / "files.tar").write_bytes(overlay_archive(self.recipe))
            repository.write(folder / "archive", self.recipe.architecture)
            setup = _SETUP.format(packages=" ".join(suites.BASE))
            try:
                self._podman.run(
                    "run", "--name", container, "--network=none", "--privileged", "--systemd=false",
                    "--volume", f"{folder}:/mnt:ro", self._base, "sh", "-c", setup,
                )  # fmt: skip
                self._podman.run("commit", "--quiet", *_START, container, self.tag)
            finally:
                self._podman.run("rm", "--force", "--ignore", container, check=False)

    def _forget_others(self) -> None:
        """Remove archives and images of other recipes (some 400 MB each); one that a container uses stays."""
        for archive in self._folder.glob("*.tar"):
            if archive.stem != self._base_digest:
                archive.unlink()
        listing = self._podman.json("images", "--format=json") or []
        names = [name for image in listing for name in image.get("Names") or []]
        others = [name for name in names if name.startswith(f"{REPOSITORY}:") and name not in {self.tag, self._base}]
        # The others are layers on their base and go first.
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
    return _tar(recipe.overlay, masked=MASKED_UNITS, folders=("hardware",))


def _tar(files: dict[str, tuple[bytes, bool]], *, masked: Sequence[str] = (), folders: Sequence[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, program) in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = _MODES.get(path, 0o755 if program else 0o644)
            archive.addfile(info, io.BytesIO(data))
        for unit in masked:
            info = tarfile.TarInfo(f"etc/systemd/system/{unit}")
            info.type = tarfile.SYMTYPE
            info.linkname = "/dev/null"
            archive.addfile(info)
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            archive.addfile(info)
    return buffer.getvalue()


def _contents(files: dict[str, tuple[bytes, bool]]) -> dict[str, list[object]]:
    return {path: [hashlib.sha256(data).hexdigest(), run] for path, (data, run) in files.items()}


def _hash(parts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
