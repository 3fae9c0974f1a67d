"""The gateway's web server for tests: nginx itself on loopback, with the role's own template, below a test's folder.

``NGINX`` is Debian's, or what ``HEDGEROW_NGINX`` names; None where there is none, and ``needs_nginx`` then skips.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLE = Path(__file__).parents[2] / "roles/registry_mirror"
NGINX = os.environ.get("HEDGEROW_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx here: apt install nginx")


def rendered(folder: Path, port: int, *, fleet: str, site: str, host: str = "gw-1", **variables: Any) -> str:
    """The role's template as Ansible renders it, with every path below ``folder`` and no word to syslog.

    What the role's ``vars`` make by a template of their own is handed in; without an origin that is nothing.
    """
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    given = yaml.safe_load((ROLE / "defaults/main.yml").read_text()) | yaml.safe_load(
        (ROLE / "vars/main.yml").read_text()
    )
    given |= {"fleet": fleet, "site": site, "inventory_hostname": host, "registry_mirror_port": port}
    given |= {"_registry_mirror_caches": [], "_registry_mirror_origin": None}
    # What these follow from by default: a CA with one tier, and no renewal service.
    given |= {"registry_mirror_verify_depth": 1, "registry_mirror_revocation": False}
    text = environment.from_string((ROLE / "templates/etc/nginx/nginx.conf.j2").read_text()).render(given | variables)
    for old, new in {
        # As root its workers would be somebody who may not read a test's folder.
        "user www-data;": "daemon off;" + (" user root;" if os.geteuid() == 0 else ""),
        "worker_processes auto;": "worker_processes 1;",
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "syslog:server=unix:/dev/log,nohostname,tag=nginx warn": f"{folder}/error.log warn",
        "syslog:server=unix:/dev/log,nohostname,tag=registry": f"{folder}/access.log",
        "/var/lib/hedgerow/identity": f"{folder}/server",
        "/var/lib/hedgerow/revocation": f"{folder}/revocation",
        "/srv/hedgerow/registry": f"{folder}/registry",
        f"listen [::]:{port} ssl;": "",
        "http {\n": "http {\n" + "".join(
            f"    {kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
    }.items():  # fmt: skip
        assert old in text or "revocation" in old or "/srv" in old, old
        text = text.replace(old, new)
    return text
