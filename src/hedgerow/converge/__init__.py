"""What roles decide, as pure functions of the inventory and of what a host has answered.

Roles call these through ``plugins/filter/hedgerow.py``; nothing here reads a
file, runs a program or knows Ansible.
"""
