"""The software of the AI HATs: Raspberry Pi's set for each chip, and Hailo's newer one for the Hailo-10H.

Names, versions, relations and paths: facts §3.2, §3.3, §3.5, §3.6; programs in ``guest/hat-stack``. Sources are those
lines alone that decide something: which devices a module claims, its parameters, what it calls. UNVERIFIED: what the
metapackage of Hailo-8 leads to beside driver, library and Python, and the name of 5.3.0's driver package (5.4.0's).
"""

from __future__ import annotations

from hedgerow.emulator.archive.build import File, Link, StandIn, guest_file, text

_PYTHON = "usr/lib/python3/dist-packages/hailo_platform/__init__.py"
_LOG = "/var/log/hailort-pcie-driver.deb.log"

# What the modules of a driver claim (modinfo of 4.23.0, 5.1.1) and take as parameters (facts §3.5).
_HAILO8_IDS = ("2864",)
_HAILO1X_IDS = ("26a2", "43a2", "45c4")
_PARAMETERS = {
    "4.23.0": ("o_dbg", "no_power_mode", "force_allocation_from_driver", "force_desc_page_size",
               "force_hailo10h_legacy_mode", "force_boot_linux_from_eemc", "support_soft_reset"),
    "5.1.1": ("o_dbg", "no_power_mode", "force_desc_page_size", "force_hailo10h_legacy_mode", "support_soft_reset"),
    "5.3.0": ("o_dbg", "no_power_mode", "force_desc_page_size", "force_hailo10h_legacy_mode", "support_soft_reset",
              "force_hailo_pcie_boot_mode_over_bars"),
}  # fmt: skip
# Of the firmware of a Hailo-10H; the real files are 90 MB (facts §3.6).
_H10_FILES = (
    "customer_certificate.bin", "scu_fw.bin", *(f"u-boot-{sku}.dtb.signed" for sku in (0, 1, 3, 4, 5, 6, "default")),
    "u-boot-spl.bin", "u-boot-tfa.itb", "fitImage", "image-fs",
)  # fmt: skip
# Headers that are missing are passed over; a source that does not build leaves the package half-configured (F6, F7).
_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && command -v dkms >/dev/null; then
	code=0
	dkms install {module}/{version} >>{log} 2>&1 || code=$?
	case $code in
	0) ;;
	21) echo "no headers for the running kernel; the module was not built" >>{log} ;;
	*) tail -n 3 {log} >&2; exit $code ;;
	esac
fi
"""
_PRERM = """\
#!/bin/sh
set -e
if command -v dkms >/dev/null && [ -d /var/lib/dkms/{module}/{version} ]; then
	dkms remove {module}/{version} --all >>{log} 2>&1
fi
"""


def _source(version: str, ids: tuple[str, ...]) -> str:
    claims = "".join(f"    {{PCI_DEVICE(0x1e60, 0x{one})}},\n" for one in ids)
    parameters = "".join(f"module_param({name}, int, S_IRUGO);\n" for name in _PARAMETERS[version])
    return f"static struct pci_device_id stand_in[] = {{\n{claims}}};\n{parameters}"


def _driver(name: str, module: str, version: str, **relations: str) -> StandIn:
    """A driver package: sources for dkms, firmware, udev's rule up to 5.2, built when it is configured."""
    ids = _HAILO1X_IDS if module == "hailo1x_pci" else _HAILO8_IDS
    conf = f"PACKAGE_NAME={module}\nPACKAGE_VERSION={version}\nBUILT_MODULE_NAME={module}\nAUTOINSTALL=yes\n"
    source = f"usr/src/{module}-{version}"
    newest = version == "5.3.0"
    monitor = "void stand_in_stop(void) { del_timer_sync(&timer); }\n" if newest else "\n"
    firmware = [f"hailo10h/{file}" for file in _H10_FILES] if module == "hailo1x_pci" else ["hailo8_fw.bin"]
    files: dict[str, File | Link] = {
        f"{source}/dkms.conf": text(conf),
        f"{source}/linux/pcie/src/pcie.c": text(_source(version, ids)),
        f"{source}/linux/vdma/monitor.c": text(monitor),
        f"etc/modprobe.d/{module}.conf": text(f"#options {module} no_power_mode=N\n"),
        **{f"usr/lib/firmware/hailo/{file}": text(f"stand-in of {file} {version}\n") for file in firmware},
    }
    if not newest:  # 5.3.0 brings none (facts §3.5)
        files["usr/lib/udev/rules.d/51-hailo-udev.rules"] = text('SUBSYSTEM=="hailo_chardev", MODE="0666"\n')
    names = {"module": module, "version": version, "log": _LOG}
    return StandIn(
        name,
        version,
        "all",
        relations=relations,
        files=files,
        scripts={"postinst": _POSTINST.format(**names), "prerm": _PRERM.format(**names)},
    )


def _library(name: str, version: str, **relations: str) -> StandIn:
    return StandIn(
        name,
        version,
        relations=relations,
        files={
            "usr/bin/hailortcli": guest_file("hat-stack/hailortcli", 0o755),
            f"usr/lib/libhailort.so.{version}": text(f"stand-in of libhailort {version}\n"),
            "usr/lib/libhailort.so": Link(f"libhailort.so.{version}"),
        },
    )


def _python(name: str, version: str, library: str, other: str) -> StandIn:
    return StandIn(
        name,
        version,
        relations={"Depends": library, "Conflicts": other},
        files={_PYTHON: guest_file("hat-stack/hailo_platform.py", 0o644)},
    )


_H10 = (
    _library("h10-hailort", "5.1.1", Conflicts="hailort", Replaces="hailort"),
    _driver("h10-hailort-pcie-driver", "hailo1x_pci", "5.1.1", Conflicts="hailort-pcie-driver"),
    _python("python3-h10-hailort", "5.1.1-1", "h10-hailort", "python3-hailort"),
    StandIn("hailo-tappas-core", "5.1.0"),
    StandIn("python3-hailo-tappas", "5.1.0", relations={"Depends": "hailo-tappas-core"}),
    StandIn(
        "hailo-models",
        "1.0.0-2",
        "all",
        files={"usr/share/hailo-models/yolov8m_h10.hef": text("stand-in of a model for HAILO10H\n")},
    ),
    StandIn("rpicam-apps-hailo-postprocess", "1.13.0-1"),
    StandIn(
        "hailo-h10-all",
        "5.1.1",
        "all",
        relations={
            "Depends": "h10-hailort, h10-hailort-pcie-driver, python3-h10-hailort, hailo-tappas-core, "
            "python3-hailo-tappas, rpicam-apps-hailo-postprocess, hailo-models",
            "Conflicts": "hailo-all",
        },
    ),
)
_H8 = (
    _library("hailort", "4.23.0"),
    _driver("hailort-pcie-driver", "hailo_pci", "4.23.0", Conflicts="h10-hailort-pcie-driver"),
    _python("python3-hailort", "4.23.0", "hailort", "python3-h10-hailort"),
    StandIn(
        "hailo-all",
        "5.1.1",
        "all",
        relations={"Depends": "hailort, hailort-pcie-driver, python3-hailort", "Conflicts": "hailo-h10-all"},
    ),
)
PACKAGES = (*_H10, *_H8)
# Hailo's own, from a mirror of the fleet: another runtime package, a node and class renamed, and a driver that does
# not build on kernels from 6.15 on (F7, F21).
NEXT_PACKAGES = (
    _library("hailort", "5.3.0", Conflicts="h10-hailort", Replaces="h10-hailort"),
    _driver(
        "h10-hailort-pcie-driver",
        "hailo1x_pci",
        "5.3.0",
        Conflicts="hailort-pcie-driver",
        Replaces="hailort-pcie-driver",
    ),
)
