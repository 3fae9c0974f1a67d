"""Emulated Raspberry Pi 5 hosts: containers with systemd as PID 1 that present a board.

What only emulation knows stays in this package; roles, deploys and the device
side never import it. README.md beside this file tells what is real and what
stands for something.
"""
