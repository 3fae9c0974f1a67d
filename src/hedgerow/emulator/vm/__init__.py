"""Emulated Raspberry Pi 5 hosts with a kernel of their own: arm64 virtual machines by software emulation.

Containers (the parent package) answer most questions in a second. These answer the ones that only a kernel of one's
own answers: AppArmor, sysctl, nftables, reboot, power cut, panic, boot trials, disk encryption, the architecture.

``firmware`` and ``qemu`` are pure; ``supervisor`` plays the board around the guest; ``fleet`` is what callers use.
"""
