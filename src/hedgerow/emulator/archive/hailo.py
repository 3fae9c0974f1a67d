"""The software of the AI HATs as Raspberry Pi's archive has it (facts §3.2); programs in ``guest/hat-stack``."""

from __future__ import annotations

from hedgerow.emulator.archive.build import StandIn, guest_file, text

_PYTHON = "usr/lib/python3/dist-packages/hailo_platform/__init__.py"


def _driver(name: str, module: str, version: str, conflicts: str) -> StandIn:
    """A driver package: sources for dkms, built when it is configured, and no word if they cannot be."""
    conf = f'PACKAGE_NAME="{module}"\nPACKAGE_VERSION="{version}"\nBUILT_MODULE_NAME[0]="{module}"\nAUTOINSTALL="yes"\n'
    return StandIn(
        name,
        version,
        "all",
        relations={"Conflicts": conflicts},
        files={f"usr/src/{module}-{version}/dkms.conf": text(conf)},
        scripts={
            "postinst": f"#!/bin/sh\n[ ! -x /usr/sbin/dkms ] || dkms install {module}/{version}\nexit 0\n",
            "prerm": f"#!/bin/sh\n[ ! -x /usr/sbin/dkms ] || dkms remove {module}/{version} --all\nexit 0\n",
        },
    )


PACKAGES = (
    StandIn(
        "h10-hailort",
        "5.1.1",
        relations={"Conflicts": "hailort", "Replaces": "hailort"},
        files={"usr/bin/hailortcli": guest_file("hat-stack/hailortcli", 0o755)},
    ),
    _driver("h10-hailort-pcie-driver", "hailo1x_pci", "5.1.1", "hailort-pcie-driver"),
    StandIn(
        "python3-h10-hailort",
        "5.1.1-1",
        relations={"Depends": "h10-hailort"},
        files={_PYTHON: guest_file("hat-stack/hailo_platform.py", 0o644)},
    ),
    StandIn(
        "hailo-h10-all",
        "5.1.1",
        "all",
        relations={"Depends": "h10-hailort, h10-hailort-pcie-driver, python3-h10-hailort", "Conflicts": "hailo-all"},
    ),
    StandIn("hailort", "4.23.0", files={"usr/bin/hailortcli": guest_file("hat-stack/hailortcli", 0o755)}),
    _driver("hailort-pcie-driver", "hailo_pci", "4.23.0", "h10-hailort-pcie-driver"),
    StandIn(
        "python3-hailort",
        "4.23.0",
        relations={"Depends": "hailort", "Conflicts": "python3-h10-hailort"},
        files={_PYTHON: guest_file("hat-stack/hailo_platform.py", 0o644)},
    ),
    StandIn(
        "hailo-all",
        "5.1.1",
        "all",
        relations={"Depends": "hailort, hailort-pcie-driver, python3-hailort", "Conflicts": "hailo-h10-all"},
    ),
)
NEXT_PACKAGES: tuple[StandIn, ...] = ()
