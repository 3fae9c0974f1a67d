"""dkms as Debian trixie has it, without a compiler: the HAT's drivers are "built" on emulated hosts, too.

Debian's own package depends on gcc and make, and would want real headers: hosts are kept from it by
``guest/image/etc/apt/preferences.d/00-emulated-dkms.pref``, and by a version of its own, because apt told to install a
version takes the first archive that has it.
"""

from __future__ import annotations

from hedgerow.emulator.archive.build import StandIn, guest_file

PACKAGES = (
    StandIn(
        "dkms",
        "3.2.2-1~deb13u1+emulated1",
        "all",
        relations={"Depends": "kmod, python3"},
        files={
            "usr/sbin/dkms": guest_file("dkms/dkms", 0o755),
            "etc/kernel/postinst.d/dkms": guest_file("dkms/kernel-postinst", 0o755),
            "etc/kernel/header_postinst.d/dkms": guest_file("dkms/kernel-postinst", 0o755),
            "etc/kernel/prerm.d/dkms": guest_file("dkms/kernel-prerm", 0o755),
        },
    ),
)
