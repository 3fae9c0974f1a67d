"""First contact, then stop: ``pyinfra -y @first-contact/inventory/emulated deploy/bootstrap.py``.

The connector has pinned the host key and logged in: as the admin user if there is one, else as the image's first
user. What is left is what Ansible needs to take over, and nothing more: the admin user, its key, its sudo right and
Python. This file is the one writer of these paths.
"""

from deploy.operations.sudoers import sudoers
from pyinfra import config, host
from pyinfra.facts.server import Which
from pyinfra.operations import apt, server
from pyinfra.operations.util import any_changed

from hedgerow.first_contact import ensure_admin_key

config.SUDO = True

admin = host.data.admin_user

if not host.get_fact(Which, command="python3"):
    apt.packages(name="Install Python", packages=["python3"], update=True)

user = server.user(
    name=f"Create the user {admin}",
    user=admin,
    comment="Hedgerow operators and automation",
    home=f"/home/{admin}",
    shell="/bin/bash",
    create_home=True,
)

# Without a password: the login is by key alone, and there is no person at a prompt when a fleet converges. Images since
# 2026-04-13 bring no such right themselves (F31). What older ones gave the first user is the role hardening's to take.
right = sudoers(
    name=f"Let {admin} become root",
    path="/etc/sudoers.d/50-hedgerow-admin",
    content=f"# Written by Hedgerow's deploy/bootstrap.py.\n{admin} ALL=(ALL:ALL) NOPASSWD: ALL\n",
)

# After the others: once this login works, everything above is done.
key = server.user_authorized_keys(
    name=f"Let this controller's key in, and no other, as {admin}",
    user=admin,
    public_keys=[ensure_admin_key(host.data.fleet_inventory)],
    delete_keys=True,
)

# A file that is new is written to the card half a minute later. A board that lost its power before that has come back
# with a key file full of zeros, and with an admin user that nobody can be (tests/vm/test_power_cut.py).
server.shell(
    name="Write all of it to the card now",
    commands=["sync"],
    _if=any_changed(user, right, key),
)
