from __future__ import annotations

from pathlib import Path

from hedgerow import paths
from hedgerow.lifecycle import placed


def test_the_roles_own_tasks_are_read() -> None:
    found = placed.paths(paths.repository_root() / "roles")
    assert "/etc/apt/preferences.d/50-hedgerow.pref" in found
    assert "/etc/nftables.conf" in found  # of a guarded task
    assert not [path for path in found if "{{" in path]
    assert not [path for path in found if path.startswith(("/etc/hedgerow/", "/boot/firmware/c"))]


def test_every_way_to_name_a_place_counts(tmp_path: Path) -> None:
    tasks = tmp_path / "role/tasks"
    tasks.mkdir(parents=True)
    (tasks / "main.yml").write_text("""\
- name: One
  block:
    - name: Nested
      hedgerow_files:
        files:
          - template: etc/a.conf.j2
          - {file: x/b, dest: /etc/b}
          - {content: text, dest: /etc/c}
          - {directory: /etc/d}
          - {absent: /etc/e}
          - {link: /etc/f, target: g}
          - {template: "etc/{{ name }}.j2"}
- name: Other
  hedgerow_files: {files: "{{ computed }}"}
- name: Nothing to place
  ansible.builtin.debug: {msg: x}
""")
    assert placed.paths(tmp_path) == ["/etc/a.conf", "/etc/b", "/etc/c"]
