"""New text of ``config.txt`` and ``cmdline.txt`` from the text that is there.

Rules of ``config.txt`` (facts §2.1):

- Ours is one block between two marker lines; every other line stays as it is, byte for byte.
- The block opens with ``[all]``, so that no filter before it applies, and closes with
  ``[all]``, so that none of ours applies to what follows.
- A block that is there is replaced where it stands: what follows it follows ``[all]`` then and now.

Rules of ``cmdline.txt`` (facts §2.2):

- It is one line. A file with two is refused: firmware would read the first alone, and only a
  person knows which tokens of the second were meant.
- Tokens are compared, never the string. Foreign tokens keep their order and their number.
- A token whose key may stand once (``panic=10``) replaces the one with another value; others
  (``cgroup_enable=memory``, ``console=…``) stand beside their like.
"""

from __future__ import annotations

from collections.abc import Sequence

from hedgerow.errors import DeviceError, UsageError

BEGIN = "# BEGIN hedgerow: written by the role boot_config, changes inside are overwritten"
END = "# END hedgerow"

# Keys of which the kernel takes the last value, so that a second one only confuses readers.
SINGLE_VALUED = frozenset({"panic", "psi", "lsm", "cma", "loglevel", "cfg80211.ieee80211_regdom"})
CONFIG_LINE_LIMIT = 98  # the firmware reads no more of a line (documented limit of config.txt)


def config_text(current: str, lines: Sequence[str]) -> str:
    """``current`` with our block holding ``lines``; no block where ``lines`` is empty."""
    for line in lines:
        if "\n" in line or len(line) > CONFIG_LINE_LIMIT:
            raise UsageError(
                "a line of config.txt must be one line of at most 98 characters",
                where=f"boot_config_lines: {line!r}",
                next_step="shorten or split it in the inventory",
            )
    before, block, after = _split(current)
    if not lines:
        return before + after if block else current
    ours = "\n".join([BEGIN, "[all]", *lines, "[all]", END]) + "\n"
    if not block and before and not before.endswith("\n"):
        before += "\n"
    return before + ours + after


def _split(text: str) -> tuple[str, str, str]:
    """What stands before our block, the block itself, what stands after it."""
    lines = text.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.startswith("# BEGIN hedgerow")]
    ends = [number for number, line in enumerate(lines) if line.startswith("# END hedgerow")]
    if not begins and not ends:
        return text, "", ""
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise DeviceError(
            "the markers of Hedgerow's block do not match",
            where="/boot/firmware/config.txt",
            next_step="remove the lines that begin with '# BEGIN hedgerow' and '# END hedgerow', then run again",
        )
    begin, end = begins[0], ends[0] + 1
    return "".join(lines[:begin]), "".join(lines[begin:end]), "".join(lines[end:])


def cmdline_text(current: str, present: Sequence[str], absent: Sequence[str] = ()) -> str:
    """``current`` with every token of ``present`` and none of ``absent``, as one line.

    Tokens are added at the end in the order given. Returns ``current`` itself
    when nothing is to do, so that a missing last newline is no change.
    """
    lines = [line for line in current.splitlines() if line.strip()]
    if len(lines) != 1:
        raise DeviceError(
            f"cmdline.txt has {len(lines)} lines and must have one",
            where="/boot/firmware/cmdline.txt",
            next_step="join them by hand (firmware reads the first line alone), then run again",
        )
    for token in [*present, *absent]:
        if not token or len(token.split()) != 1:
            raise UsageError(
                "a kernel token has no blanks and is not empty",
                where=f"boot_config_cmdline_present or boot_config_cmdline_absent: {token!r}",
                next_step="write one token a list item in the inventory",
            )
    old = lines[0].split()
    superseded = {token.partition("=")[0] for token in present} & SINGLE_VALUED
    kept = [token for token in old if token in present or token.partition("=")[0] not in superseded]
    kept = [token for token in kept if token not in absent]
    new = kept + [token for token in present if token not in kept]
    return current if new == old else " ".join(new) + "\n"


def missing_tokens(running: Sequence[str], present: Sequence[str]) -> list[str]:
    """Tokens that the running kernel was not started with, or that a later token overrides.

    Of ``cgroup_disable=memory`` (firmware's) and ``cgroup_enable=memory`` (ours) the later wins.
    """
    missing = []
    for token in present:
        key, _, value = token.partition("=")
        if token not in running:
            missing.append(token)
        elif key == "cgroup_enable":
            disable = f"cgroup_disable={value}"
            if disable in running and _last(running, disable) > _last(running, token):
                missing.append(token)
        elif key in SINGLE_VALUED and [other for other in running if other.partition("=")[0] == key][-1] != token:
            missing.append(token)
    return missing


def _last(tokens: Sequence[str], token: str) -> int:
    return len(tokens) - 1 - list(reversed(tokens)).index(token)
