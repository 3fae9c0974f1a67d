"""New text of ``config.txt`` and ``cmdline.txt`` from the text that is there.

Rules of ``config.txt`` (facts §2.1):

- Ours is one block between two marker lines; every other line stays as it is, byte for byte.
- The block opens with ``[all]``, so that no filter before it applies, and closes with
  ``[all]``, so that none of ours applies to what follows.
- A block that is there is replaced where it stands: what follows it follows ``[all]`` then and now.
- Lists of fleet, group and host are joined; a filter that one leaves open is closed before the next.
- Our ``dtparam`` lines are the base tree's: where an overlay was loaded before, ``dtoverlay=`` ends its scope first.
  Only there: as the very first directive it would keep the HAT's own overlay from being loaded.

Rules of ``cmdline.txt`` (facts §2.2):

- It is one line. A file with two is refused: firmware would read the first alone, and only a
  person knows which tokens of the second were meant.
- Tokens are compared, never the string. Foreign tokens keep their order and their number.
- A token whose key may stand once (``panic=10``) replaces the one with another value; others
  (``cgroup_enable=memory``, ``console=…``) stand beside their like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.converge import config_txt
from hedgerow.converge.config_txt import LINE_LIMIT, Board
from hedgerow.errors import DeviceError, UsageError

BEGIN = "# BEGIN hedgerow: written by the role boot_config, changes inside are overwritten"
END = "# END hedgerow"

# Keys of which the kernel takes the last value, so that a second one only confuses readers.
SINGLE_VALUED = frozenset({"panic", "psi", "lsm", "cma", "loglevel", "cfg80211.ieee80211_regdom"})
CONFIG_TXT = "/boot/firmware/config.txt"
CMDLINE_TXT = "/boot/firmware/cmdline.txt"
# Names and mark that hedgerow.device.boot_trial goes by; it is sent to hosts alone and can import nothing of ours.
# Of a boot partition, for two kernels with their initramfs (facts §2.10). 256 MiB are asked of the partition; its file
# system, which is what a host tells of, has 252 at least: two FATs of 4 bytes a cluster, clusters of 512 bytes or more.
ROOM_MB = 252
TRYBOOT_CMDLINE = "tryboot-cmdline.txt"
TRIAL_MARK = "# hedgerow trial"


def config_lines(
    lists: Sequence[Sequence[str]], *, pcie_gen: int | None = None, kernel_watchdog_s: int = 0
) -> list[str]:
    """Our lines: what roles ask for by name, then the lists of fleet, group and host.

    ``pcie_gen`` 2 is the way out of a link that drops at Gen 3 (F13); whether it overrides what a HAT+ EEPROM asks
    for is UNVERIFIED (facts §2.3). ``kernel_watchdog_s`` covers the time before systemd opens the watchdog (F36).
    """
    if pcie_gen not in {None, 1, 2, 3}:
        raise UsageError(
            f"there is no PCIe generation {pcie_gen}", where="boot_config_pcie_gen", next_step="write 1, 2 or 3"
        )
    found = [] if pcie_gen is None else [f"dtparam=pciex1_gen={pcie_gen}"]
    if kernel_watchdog_s:
        # Bootloaders since 2025-07-17 look for the device tree's early-watchdog, which this parameter sets.
        found += ["dtparam=watchdog=on", f"kernel_watchdog_timeout={kernel_watchdog_s}"]
    for lines in lists:
        if not config_txt.closes(found):
            found.append("[all]")
        filtered = any(line.strip().startswith("[") for line in [*found, *lines])
        found += [line for line in lines if filtered or line not in found]
    return found


def cmdline_tokens(lists: Sequence[Sequence[str]], *, lsm: Sequence[str] = (), regdom: str | None = None) -> list[str]:
    """The tokens to have: of the lists, without repeats, and those that have a variable of their own.

    ``lsm`` must be one token: the kernel takes the last, and ``security=`` beside it is not read (facts §7.1).
    Without a regulatory country Wi-Fi stays blocked (F17).
    """
    found = list(dict.fromkeys(token for tokens in lists for token in tokens))
    if lsm:
        found.append(f"lsm={','.join(lsm)}")
    if regdom is not None:
        found.append(f"cfg80211.ieee80211_regdom={regdom}")
    return found


def config_text(current: str, lines: Sequence[str]) -> str:
    """``current`` with our block holding ``lines``; no block where ``lines`` is empty."""
    for line in lines:
        if "\n" in line or len(line) > LINE_LIMIT:
            raise UsageError(
                "a line of config.txt must be one line of at most 98 characters",
                where=f"boot_config_lines: {line!r}",
                next_step="shorten or split it in the inventory",
            )
        if config_txt.filters(line):
            raise UsageError(
                "this is no filter that config.txt has",
                where=f"boot_config_lines: {line!r}",
                next_step="write for example [pi5], [0x12345678], [gpio4=1] or [all]",
            )
    before, block, after = _split(current)
    if not lines:
        return before + after if block else current
    scope = ["dtoverlay="] if any(map(_is_parameter, lines)) and config_txt.open_overlay(before) else []
    ours = "\n".join([BEGIN, "[all]", *scope, *lines, "[all]", END]) + "\n"
    if not block and before and not before.endswith("\n"):
        before += "\n"
    return before + ours + after


def _is_parameter(line: str) -> bool:
    return line.startswith(("dtparam=", "device_tree_param="))


def findings(text: str, board: Board, *, hat: str, flavour: str | None = None) -> dict[str, list[str]]:
    """What of ``config.txt`` contradicts ours or the fleet: ``problems`` stop the role, ``remarks`` are told.

    ``text`` is the new text, with our block in it; ``flavour`` the kernel flavour of the version lock.
    """
    before, block, after = _split(text)
    counts = config_txt.effective(text, board)
    problems: list[str] = []
    remarks: list[str] = []
    first = before.count("\n") + 1
    last = first + block.count("\n")
    ours = [setting for setting in config_txt.settings(before + block, board) if setting.line >= first]
    problems += [
        f"line {winner.line} sets {_shown(winner)} after Hedgerow's block and wins over {_shown(setting)}"
        for setting in ours
        if (winner := counts.get(setting.key)) is not None and winner.line >= last and winner.value != setting.value
    ]
    foreign = {key: found for key, found in counts.items() if not first <= found.line < last}
    for key in ("cmdline", "os_prefix"):
        if key in foreign:
            problems.append(
                f"line {foreign[key].line} sets {_shown(foreign[key])}: the kernel is not started from cmdline.txt, so "
                "what is written there has no effect"
            )
    if hat != "none" and (found := counts.get("force_eeprom_read")) is not None and found.value == "0":
        problems.append(
            f"line {found.line} sets force_eeprom_read=0: firmware reads no HAT's EEPROM then, so {hat} gets neither "
            "its PCIe lane nor Gen 3"
        )
    if (found := foreign.get("kernel")) is not None:
        wanted = f"; the lock says flavour {flavour}" if flavour else ""
        remarks.append(f"line {found.line} chooses {found.value}, and with it the page size{wanted} (F12)")
    if hat != "none" and (found := foreign.get("dtparam:pciex1_gen")) is not None:
        remarks.append(f"line {found.line} sets PCIe Gen {found.value} for a HAT that asks for Gen 3 itself (F13)")
    remarks += [
        f"line {found.line} includes {found.value}, which is not read here"
        for key, found in foreign.items()
        if key.startswith("include=")
    ]
    remarks += [
        f"{line} is no filter that is documented: what stands below it is counted as hidden"
        for line in dict.fromkeys(config_txt.filters(before + after))
    ]
    remarks += [
        f"line {number} is longer than {LINE_LIMIT} characters, of which firmware reads no more"
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > LINE_LIMIT and not line.startswith("#")
    ]
    return {"problems": problems, "remarks": remarks}


def _shown(setting: config_txt.Setting) -> str:
    return f"{setting.key.replace('dtparam:', 'dtparam=')}={setting.value}"


def board(facts: Mapping[str, Any]) -> Board:
    """The board that ``hedgerow_facts.hardware`` describes."""
    code = facts["board"]["revision"]
    kind = int(code, 16) >> 4 & 0xFF if code else 0x17
    return Board(serial=facts["board"]["serial"], type=kind, partition=facts["boot"]["partition"])


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
            where=CONFIG_TXT,
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
            where=CMDLINE_TXT,
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


def remarks(facts: Mapping[str, Any], tokens: Sequence[str], *, watchdog_s: int | None) -> list[str]:
    """What of ``hedgerow_facts`` an operator should know and nobody must act on; a sentence each.

    ``tokens`` are those of the command line, ``watchdog_s`` the time asked of systemd's watchdog, None or 0: none.
    """
    state, boot, found = facts["state"], facts["hardware"]["boot"], []
    if (size := state["boot"]["size_mb"]) is not None and size < ROOM_MB:
        found.append(
            f"its boot partition has room for {size} MiB, kernels want {ROOM_MB}: write a newer image at leisure (F40)"
        )
    result = state["boot"]["trial"]["result"] or {}
    if result.get("outcome") == "fell_back":
        found.append(f"its last trial of a boot configuration came back: {result['reason']}")
    if state["container"]:
        return found  # limits and watchdog are its machine's
    running = facts["hardware"]["kernel"]["cmdline"] or []
    asked = "cgroup_enable=memory" in tokens and not missing_tokens(running, ["cgroup_enable=memory"])
    if asked and "memory" not in state["cgroup_controllers"]:
        found.append("its kernel was asked for memory cgroups and has none: limits of services do nothing (F16)")
    if watchdog_s and boot["watchdog"]["state"] != "active":
        device = boot["watchdog"]["identity"] or "/dev/watchdog0, which is not there"
        found.append(f"nobody feeds its hardware watchdog ({device}): a hung board stays hung (F33)")
    return found


def trial_of(config: str, cmdline: str, *, kernel_watchdog_s: int) -> dict[str, Any]:
    """``trial`` named after what it tries: the same change is the same trial."""
    identity = hashlib.sha256(f"{config}\0{cmdline}".encode()).hexdigest()[:12]
    return trial(config, cmdline, identity=identity, kernel_watchdog_s=kernel_watchdog_s)


def trial(config: str, cmdline: str, *, identity: str, kernel_watchdog_s: int) -> dict[str, Any]:
    """What ``hedgerow.device.boot_trial`` stages: the wanted texts, and the two files that firmware reads once.

    The trial's own files say more than the wanted ones, all of it to end a boot that hangs (F36): the kernel's
    watchdog runs from firmware on, the initramfs leaves it armed (``watchdog_disarm=0``: the stored version of
    Raspberry Pi's script, UNVERIFIED on newer images), and a panic reboots. ``hedgerow.trial`` is a token that means
    nothing to the kernel; found in ``/proc/cmdline`` it proves which file was read.
    """
    proof = f"hedgerow.trial={identity}"
    words = cmdline.split()
    words += [] if any(word.startswith("panic=") for word in words) else ["panic=10"]
    ours = [*config_lines([], kernel_watchdog_s=kernel_watchdog_s), f"cmdline={TRYBOOT_CMDLINE}"]
    scope = ["dtoverlay="] if config_txt.open_overlay(config) else []
    above = config if config.endswith("\n") or not config else config + "\n"
    return {
        "id": identity,
        "config": config,
        "cmdline": cmdline,
        "tryboot": "\n".join([f"{TRIAL_MARK}: firmware reads this once", above + "[all]", *scope, *ours, "[all]", ""]),
        "tryboot_cmdline": " ".join([*words, "watchdog_disarm=0", proof]) + "\n",
        "tokens": [proof],
    }


def trial_problems(facts: Mapping[str, Any], config: str) -> list[str]:
    """Why this device cannot try a boot configuration; empty where it can.

    ``facts`` are ``hedgerow_facts``; ``config`` the present config.txt.
    """
    boot, found = facts["hardware"]["boot"], []
    counts = config_txt.effective(config, board(facts["hardware"]))
    if boot["tryboot"] is None:
        found.append("firmware does not tell whether a boot is a trial (chosen/bootloader/tryboot is missing)")
    kept = (facts["state"]["boot"]["trial"]["result"] or {}).get("boot_id")
    if boot["tryboot"] and kept != boot["boot_id"]:
        found.append("this boot is itself a trial: wait until it is confirmed or over")
    if (boot["partition"] or 0) > 1 or facts["state"]["boot"]["autoboot"] is not None:
        found.append(
            f"it booted from partition {boot['partition']} of an A/B layout (autoboot.txt): there firmware switches "
            "partitions and reads no tryboot.txt. Let the updater that owns the layout try the change"
        )
    found += [
        f"config.txt sets {_shown(counts[key])}, which decides the command line"
        for key in ("cmdline", "os_prefix", "boot_ramdisk")
        if key in counts
    ]
    return found


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
