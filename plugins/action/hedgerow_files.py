"""Put all files of a role in place: rendered here, compared and written there in one visit.

    - name: Place the server's configuration and unit
      hedgerow_files:
        files:
          - directory: /etc/hedgerow
          - template: etc/systemd/system/hedgerow-server.service.j2
            validate: systemd-analyze verify %s
          - template: etc/hedgerow/server.yml.j2
            group: hedgerow-server
            mode: "0640"
      register: _inference_runtime_result_files
      notify: Restart the server

Each entry has exactly one of

==================  ==============================================================================
``template``        a template of the role; ``dest`` is its own path without ``.j2`` unless given
``file``            verbatim bytes: of the role's ``files/`` or an absolute path; ``dest`` likewise
``content``         literal text, with ``dest``
``directory``       an absolute path
``link``            an absolute path, with ``to``
``absent``          an absolute path; a directory goes with all that is in it
==================  ==============================================================================

and may have ``owner`` and ``group`` (root), ``mode`` (``"0644"``, directories
``"0755"``), ``keep_attributes: true`` (leave owner and mode as they are: FAT knows
neither), ``validate`` (a command with ``%s``; run on the host before anything is
written), ``force: false`` (an existing file stays as it is) and ``when`` (false: as if
the entry were not there).

Returns ``changed`` and ``changed_paths``; a handler or task that belongs to one
file says ``when: "'/path' in _role_result_files.changed_paths"``. ``settled`` (path →
time of its last change) has what this run left alone; ``hedgerow_unit`` takes it. ``--check`` and
``--diff`` work; contents of files that are their owner's alone stay out of it, ``diff: false`` on the task keeps the
others out as well.
The host's part, and what it promises, is ``hedgerow.device.files``.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible._internal._templating import _template_vars
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

from hedgerow import remote_script
from hedgerow.errors import HedgerowError

_KINDS = ("template", "file", "content", "directory", "link", "absent")
_OPTIONS = {"dest", "to", "owner", "group", "mode", "keep_attributes", "validate", "force", "when"}


class ActionModule(ActionBase):
    """``hedgerow_files``."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = frozenset({"files"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        files = self.entries(self._task.args.get("files"), variables)
        try:
            remote_script.require_pipelining(self._connection)
            answer: dict[str, Any] = remote_script.run(
                self._low_level_execute_command,
                "hedgerow.device.files",
                "place",
                host=variables["inventory_hostname"],
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
                files=files,
                check=bool(self._task.check_mode),
                diff=bool(self._task.diff),
            )
        except HedgerowError as error:
            return result | {"failed": True, "changed_paths": [], "settled": {}, "msg": str(error)}
        return result | answer

    def entries(self, entries: Any, variables: dict[str, Any]) -> list[dict[str, Any]]:
        """Check, render and read what ``files`` lists, as ``hedgerow.device.files.place`` takes it."""
        if not isinstance(entries, list):
            raise AnsibleActionFail(f"{self._task.action}: files must be a list of entries")
        return [self._entry(entry, variables) for entry in entries if wanted(entry)]

    def _entry(self, entry: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """One entry as ``hedgerow.device.files`` wants it."""
        kind = check_entry(entry)
        named = str(entry[kind])
        wanted = {
            "owner": str(entry.get("owner", "root")),
            "group": str(entry.get("group", "root")),
            "mode": parse_mode(entry.get("mode", "0755" if kind == "directory" else "0644"), where=named),
        }
        if entry.get("keep_attributes", False):
            wanted = {"owner": None, "group": None, "mode": None}
        if kind in {"directory", "absent"}:
            return {"kind": kind, "path": absolute(named), **wanted}
        if kind == "link":
            return {"kind": kind, "path": absolute(named), "target": str(entry["to"])}
        dest = absolute(str(entry.get("dest", "/" + named.removesuffix(".j2"))))
        if kind == "template":
            data = self._render(named, dest, variables).encode()
        elif kind == "file":
            data = Path(self._find_needle("files", named)).read_bytes()
        else:
            data = named.encode()
        return {
            "kind": "file",
            "path": dest,
            "content": base64.b64encode(data).decode(),
            "validate": entry.get("validate"),
            "replace": bool(entry.get("force", True)),
            **wanted,
        }

    def _render(self, template: str, dest: str, variables: dict[str, Any]) -> str:
        """Render as the ``template`` action does: same search path, same whitespace rules, same errors."""
        source = self._find_needle("templates", template)
        folders = [*variables.get("ansible_search_path", []), self._loader.get_basedir(), str(Path(source).parent)]
        search = [path for folder in folders for path in (f"{folder}/templates", folder)]
        known = variables | _template_vars.generate_ansible_template_vars(
            path=template, fullpath=source, dest_path=dest, include_ansible_managed="ansible_managed" not in variables
        )
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=known)
        text = trust_as_template(self._loader.get_text_file_contents(source))
        rendered = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
        return "" if rendered is None else str(rendered)


def _shown(entry: Any) -> Any:
    """An entry for an error: its content may be a secret."""
    return {key: "…" if key == "content" else value for key, value in entry.items()} if isinstance(entry, dict) else "…"


def wanted(entry: dict[str, Any]) -> bool:
    """Whether the entry's ``when`` holds; text like "no" is refused rather than taken for true."""
    value = entry.get("when", True)
    if not isinstance(value, bool):
        raise AnsibleActionFail(f"hedgerow_files: when must be true or false, not {value!r}, in {_shown(entry)}")
    return value


def check_entry(entry: dict[str, Any]) -> str:
    """Return the entry's kind; refuse what would be ignored silently."""
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise AnsibleActionFail(
            f"hedgerow_files: an entry has exactly one of {', '.join(_KINDS)}; this one: {_shown(entry)}"
        )
    unknown = sorted(set(entry) - _OPTIONS - {kinds[0]})
    if unknown:
        raise AnsibleActionFail(
            f"hedgerow_files: unknown {', '.join(unknown)} in the entry for {entry[kinds[0]]}; "
            f"allowed: {', '.join(sorted(_OPTIONS))}"
        )
    needed = {"content": "dest", "link": "to"}.get(kinds[0])
    if needed is not None and needed not in entry:
        raise AnsibleActionFail(f"hedgerow_files: an entry with {kinds[0]} needs {needed}: {_shown(entry)}")
    return kinds[0]


def parse_mode(mode: object, *, where: str) -> int:
    """An octal mode in quotes; a bare YAML number would mean another mode than it reads."""
    if not isinstance(mode, str) or not mode or set(mode) - set("01234567"):
        raise AnsibleActionFail(f'hedgerow_files: write the mode of {where} as octal in quotes, for example "0644"')
    return int(mode, 8)


def absolute(path: str) -> str:
    """A device path, which is absolute and has no way up."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise AnsibleActionFail(f"hedgerow_files: {path!r} is no absolute path")
    return path
