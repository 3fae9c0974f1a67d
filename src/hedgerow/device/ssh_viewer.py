"""What a viewer gets on a host in place of a shell: a few words that read, nothing else. Standard library only.

Role ``ssh_access`` places it as ``/usr/local/lib/hedgerow/ssh_viewer.py``; sshd runs it whatever the client asks for,
and tells it what that was. Invariants:

- What the client said is split into words and compared with a table; no part of it reaches a shell, and a program gets
  it as one argument that a pattern has let through.
- No program that it starts pages, edits or asks: there is no way from one of them to another.
- It writes nothing. It ends with 0, or 2 for what it does not know, or with the program's own code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

PATHS = {"report": "/health/report", "health": "/health/ready", "metrics": "/metrics"}
SERVER = "http://127.0.0.1:8000"
EVENTS = (Path("/var/lib/hedgerow/activation/events.1.jsonl"), Path("/var/lib/hedgerow/activation/events.jsonl"))
UNITS = re.compile(
    r"hedgerow-[a-z0-9][a-z0-9@-]*(\.(service|timer|path|socket))?"
    r"|(nginx|ssh|nftables|prometheus-node-exporter|systemd-timesyncd)(\.service)?"
)
COUNT = re.compile(r"[1-9][0-9]{0,4}")
SINCE = re.compile(
    r"-[1-9][0-9]{0,4}(s|min|h|d)|[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}(:[0-9]{2})?)?|today|yesterday"
)
_DEFAULT_LINES = "200"
_ANSWER_BYTES = 4 << 20
_TIMEOUT_S = 15
UNKNOWN = 2

HELP = """\
You may read this host, and change nothing on it:

  report                              health report of the server (JSON)
  health                              whether it takes requests
  metrics                             its metrics
  events                              what was activated, confirmed and reverted, oldest first
  journal [UNIT] [-n LINES] [--since WHEN]
                                      journal of our units, or of one; WHEN is -2h, today, "2026-11-22 08:00"
  kernel [-n LINES]                   the kernel's messages
  status UNIT                         what systemd says of a unit
  units                               our units and their states
  help                                this
"""

Runner = Callable[[Sequence[str]], int]


def main(words: Sequence[str], run: Runner) -> int:
    """Do what ``words`` say; ``run`` starts a program (an argument list) and returns its exit code."""
    if not words or words[0] == "help":
        sys.stdout.write(HELP)
        return 0
    verb, rest = words[0], list(words[1:])
    command: list[str] | None = None
    if verb in PATHS and not rest:
        return _get(SERVER + PATHS[verb])
    if verb == "events" and not rest:
        return _events()
    if verb == "units" and not rest:
        command = ["/usr/bin/systemctl", "--no-pager", "list-units", "--all", "hedgerow-*"]
    elif verb == "status" and len(rest) == 1 and UNITS.fullmatch(rest[0]):
        command = ["/usr/bin/systemctl", "--no-pager", "--lines=0", "status", rest[0]]
    elif verb in {"journal", "kernel"}:
        command = _journal(rest, kernel=verb == "kernel")
    if command is not None:
        return run(command)
    sys.stderr.write(f"not for viewers: {shlex.join(words)}\n\n{HELP}")
    return UNKNOWN


def _journal(words: list[str], *, kernel: bool) -> list[str] | None:
    """The command of ``journal`` or ``kernel``; None for what they do not take."""
    options = {"-n": (COUNT, _DEFAULT_LINES), "--since": (SINCE, None)}
    chosen = {name: default for name, (_, default) in options.items()}
    units: list[str] = []
    while words:
        word = words.pop(0)
        if word in options and words and options[word][0].fullmatch(words[0]):
            chosen[word] = words.pop(0)
        elif not kernel and not units and UNITS.fullmatch(word):
            units.append(word)
        else:
            return None
    command = ["/usr/bin/journalctl", "--no-pager", "--quiet", "--output=short-iso"]
    command += [f"--since={chosen['--since']}"] if chosen["--since"] else []
    command += [f"--lines={chosen['-n']}"]
    return command + (["--dmesg"] if kernel else [f"--unit={unit}" for unit in units or ["hedgerow-*"]])


def _get(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as answer:
            body, code = answer.read(_ANSWER_BYTES), 0
    except urllib.error.HTTPError as error:
        body, code = error.read(_ANSWER_BYTES), 1
    except OSError as error:
        sys.stderr.write(f"the server on this host does not answer: {error}\nsee: status hedgerow-server.service\n")
        return 1
    sys.stdout.write(body.decode("utf-8", "replace"))
    if not body.endswith(b"\n"):
        sys.stdout.write("\n")
    return code


def _events() -> int:
    lines = [line for path in EVENTS if path.exists() for line in path.read_text("utf-8", "replace").splitlines()]
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:  # torn by a power cut
            continue
        shown = [str(found.get(key) or "") for key in ("at", "event", "model", "reason")]
        sys.stdout.write("  ".join(shown).rstrip() + "\n")
    return 0


def _run(command: Sequence[str]) -> int:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def entry(said: str | None) -> int:
    """What sshd starts: ``said`` is the client's command; None is a login, which is answered line by line."""
    if said is not None:
        return main(_words(said), _run)
    sys.stdout.write(HELP)
    sys.stdout.flush()
    code = 0
    for line in sys.stdin:
        if line.strip() in {"exit", "quit"}:
            break
        if line.strip():
            code = main(_words(line), _run)
        sys.stdout.flush()
    return code


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text) or ["help"]
    except ValueError:
        return [text]


if __name__ == "__main__":
    try:
        sys.exit(entry(os.environ.get("SSH_ORIGINAL_COMMAND")))
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(130)
