"""Kernels and boot firmware as Raspberry Pi packages them; a few hundred bytes that boot nothing.

Names: facts §1.4. Versions, with their epoch: field captures of 2026 (``uname -v`` says ``Debian 1:6.18.34-1+rpt1``;
package lists of the images of 2026-09 and 2026-10). Files and hooks: Debian's kernel packaging, which Raspberry Pi's
follows. Left out of the dependencies: compiler, linux-base, initramfs-tools.
"""

from __future__ import annotations

from hedgerow.emulator.archive.build import File, Link, StandIn, guest_file, text

# Flavour → page size in KiB (facts §2.4).
FLAVOURS = {"rpi-2712": 16, "rpi-v8": 4}
VERSIONS = ("6.18.34", "6.18.50")  # images of 2026-06 and of 2026-09
NEXT_VERSIONS = ("6.18.55",)  # made up: no such package is known
BASE_VERSION = "6.18.50"

BASE_FIRMWARE = "1:1.20260915-1"
# As kernel releases begin: what a stand-in of a kernel holds, and the power-on of a guest reads.
_MAGIC = "emulated kernel"


def deb_version(version: str) -> str:
    return f"1:{version}-1+rpt1"


def release(version: str, flavour: str) -> str:
    """``uname -r``: ``6.18.50+rpt-rpi-2712``."""
    return f"{version}+rpt-{flavour}"


def packages(version: str) -> tuple[StandIn, ...]:
    """Everything of one kernel version: versioned packages and metapackages of both flavours."""
    deb = deb_version(version)
    common = StandIn(
        f"linux-headers-{version}+rpt-common-rpi",
        deb,
        "all",
        files={f"usr/src/linux-headers-{version}+rpt-common-rpi/Makefile": text(f"# headers of {version}\n")},
    )
    kbuild = StandIn(
        f"linux-kbuild-{version}+rpt",
        deb,
        files={f"usr/lib/linux-kbuild-{version}+rpt/scripts/Makefile.build": text(f"# kbuild of {version}\n")},
    )
    return (
        common,
        kbuild,
        *(
            package
            for flavour in FLAVOURS
            for package in (
                _image(version, flavour),
                _headers(version, flavour),
                _meta("image", version, flavour),
                _meta("headers", version, flavour),
            )
        ),
    )


def _meta(kind: str, version: str, flavour: str) -> StandIn:
    deb = deb_version(version)
    target = f"linux-{kind}-{release(version, flavour)}"
    return StandIn(f"linux-{kind}-{flavour}", deb, relations={"Depends": f"{target} (= {deb})"})


def _image(version: str, flavour: str) -> StandIn:
    name = release(version, flavour)
    modules = f"usr/lib/modules/{name}"
    # Of the defconfig (facts §2.5): what roles and people look up.
    config = (
        f"CONFIG_ARM64_{FLAVOURS[flavour]}K_PAGES=y\n"
        'CONFIG_SECURITY_APPARMOR=y\nCONFIG_LSM=""\n'
        "CONFIG_PSI=y\nCONFIG_PSI_DEFAULT_DISABLED=y\nCONFIG_MEMCG=y\nCONFIG_BCM2835_WDT=y\n"
        # Kconfig's own defaults (usr/Kconfig); initramfs-tools makes no initramfs for a kernel that can read none.
        "CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"
    )  # fmt: skip
    return StandIn(
        f"linux-image-{name}",
        deb_version(version),
        relations={"Depends": "kmod"},
        files={
            f"boot/vmlinuz-{name}": text(f"{_MAGIC} {name}\n"),
            f"boot/config-{name}": text(config),
            f"boot/System.map-{name}": File(),
            f"{modules}/modules.builtin": File(),
            f"{modules}/modules.builtin.modinfo": File(),
            f"{modules}/modules.order": File(),
        },
        scripts={kind: _script(f"kernel/image.{kind}", name) for kind in ("postinst", "prerm", "postrm")},
    )


def _headers(version: str, flavour: str) -> StandIn:
    name, deb = release(version, flavour), deb_version(version)
    source = f"usr/src/linux-headers-{name}"
    return StandIn(
        f"linux-headers-{name}",
        deb,
        relations={"Depends": f"linux-headers-{version}+rpt-common-rpi (= {deb}), linux-kbuild-{version}+rpt"},
        files={
            f"{source}/Makefile": text(f"include /usr/src/linux-headers-{version}+rpt-common-rpi/Makefile\n"),
            f"{source}/include/config/kernel.release": text(f"{name}\n"),
            f"usr/lib/modules/{name}/build": Link(f"/{source}"),
        },
        scripts={"postinst": _script("kernel/headers.postinst", name)},
    )


def _script(relative: str, name: str) -> str:
    return guest_file(relative).data.decode().replace("@RELEASE@", name)


def _firmware(version: str) -> StandIn:
    """The package that copies the newest kernel of each flavour to the boot partition."""
    hook = guest_file("raspi-firmware/z50-raspi-firmware", 0o755)
    return StandIn(
        "raspi-firmware",
        version,
        "all",
        files={
            "etc/default/raspi-firmware": File(),
            "etc/kernel/postinst.d/z50-raspi-firmware": hook,
            "etc/kernel/postrm.d/z50-raspi-firmware": hook,
            "etc/initramfs/post-update.d/z50-raspi-firmware": hook,
        },
        scripts={"postinst": guest_file("raspi-firmware/postinst").data.decode()},
    )


FIRMWARE = tuple(_firmware(version) for version in ("1:1.20260521-2", BASE_FIRMWARE))
NEXT_FIRMWARE = (_firmware("1:1.20261101-1"),)  # made up
