"""Certificates a second: with the durable issuance log, beside bare `cryptography` that keeps no log.

    .venv/bin/python bench/identity_issue.py [--requests 300] [--wave 30] [--runs 5] [--folder DIR] [--json]

Requests of as many boards, each with a key of its own, made before the clock starts. Every way decodes a request,
checks its signature, computes the names and signs a P-256 certificate with the same extensions:

- `bare`: `cryptography` alone; what the processor allows.
- `a wave at once`: `sign_many`, one write and one fsync a wave. What is held to the bar, for one tier and two.
- `threads`: as many threads as a wave has boards, each asking for itself, through `Gathering`.
- `one by one`: `sign_csr`, a write and an fsync each, as enrolment over Ansible does it.

The CA lies in a new folder below DIR (default: here), which is to be on the disk that a CA would be on: a file system
in memory has no fsync to speak of. The bar is wall time; CPU time says what a busy machine would have done.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hedgerow.identity import certificates, csr, issued
from hedgerow.identity.authority import making, opening
from hedgerow.identity.authority.gathering import Gathering
from hedgerow.identity.authority.opening import Authority
from hedgerow.identity.authority.root import RootCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.issuer import Request
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.passphrases import Passphrases

BAR_PER_S = 200
FLEET = "meadow"


@dataclass(frozen=True)
class Way:
    """How certificates were made: medians over runs. ``held`` says whether the bar is for it."""

    what: str
    per_s: float
    least_per_s: float
    cpu_ms: float
    held: bool

    @property
    def ok(self) -> bool:
        return not self.held or self.per_s >= BAR_PER_S


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--wave", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".hedgerow-bench-", dir=options.folder) as scratch:
        ways = measure(Path(scratch), options.requests, options.wave, options.runs)
        disk = _file_system(Path(scratch))
    ok = all(way.ok for way in ways)
    if options.json:
        rows = [vars(way) | {"ok": way.ok} for way in ways]
        print(json.dumps({"bar_per_s": BAR_PER_S, "file_system": disk, "ways": rows, "ok": ok}, indent=2))
        return 0 if ok else 1
    print(f"{options.requests} requests, waves of {options.wave}, {os.cpu_count()} cores, log on {disk}, ", end="")
    print(f"median of {options.runs} runs (least)\n")
    for way in ways:
        verdict = "" if not way.held else "  ok" if way.ok else "  SHORT"
        print(f"{way.what:34} {way.per_s:8.0f} /s ({way.least_per_s:.0f})  CPU {way.cpu_ms:6.2f} ms each{verdict}")
    print(f"\nbar: {BAR_PER_S} certificates/s, logged and on disk before they leave: {'ok' if ok else 'SHORT'}")
    return 0 if ok else 1


def measure(folder: Path, count: int, wave: int, runs: int) -> list[Way]:
    requests = [_request(number) for number in range(count)]
    secret = folder / "passphrase"
    secret.write_text("a passphrase of the benchmark\n")
    secret.chmod(0o600)
    secrets = Passphrases({None: secret})
    single, _ = FleetCA.init(folder / "single", FLEET)
    root, _ = RootCA.init(folder / "double", FLEET, secrets)
    assert root is not None
    making.add(root, "fleet", secrets, by="bench")
    double = opening.for_clients(folder / "double", secrets)
    ways: list[tuple[str, Callable[[], None], Authority | None, bool]] = [
        ("bare cryptography, no log", lambda: _bare(single, requests), None, False),
        ("a wave at once, one tier", lambda: _waves(single, requests, wave), single, True),
        ("a wave at once, two tiers", lambda: _waves(double, requests, wave), double, True),
        (f"{wave} threads, two tiers", lambda: _threads(double, requests, wave), double, False),
        ("one by one, two tiers", lambda: _each(double, requests), double, False),
    ]
    return [_timed(what, work, authority, count, runs, held=held) for what, work, authority, held in ways]


def _timed(
    what: str, work: Callable[[], None], authority: Authority | None, count: int, runs: int, *, held: bool
) -> Way:
    rates, processor = [], []
    for _ in range(runs):
        before = 0 if authority is None else sum(1 for _ in issued.read(authority.log))
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        rates.append(count / (time.perf_counter() - wall))
        processor.append((time.process_time() - cpu) / count * 1000)
        if authority is not None:
            logged = sum(1 for _ in issued.read(authority.log)) - before
            assert logged == count, f"{what}: {count} certificates left, {logged} are in the log"
    return Way(what, statistics.median(rates), min(rates), statistics.median(processor), held)


def _bare(ca: FleetCA, requests: list[Request]) -> None:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    for request in requests:
        public = csr.public_key(csr.parse_csr(request.csr_pem, where="bench"))
        certificates.pem(
            certificates.build_leaf(
                ca=ca.certificate,
                ca_key=ca.key,
                public_key=public,
                profile=request.profile,
                name=certificates.subject(FLEET, request.profile, request.names.serial),
                sans=certificates.device_sans(request.names, request.profile),
                not_before=now - certificates.BACKDATE,
                not_after=now + dt.timedelta(days=30),
            )
        )


def _waves(authority: Authority, requests: list[Request], wave: int) -> None:
    for start in range(0, len(requests), wave):
        answers = authority.sign_many(requests[start : start + wave])
        assert all(isinstance(answer, str) for answer in answers), answers


def _threads(authority: Authority, requests: list[Request], wave: int) -> None:
    gathering = Gathering(authority)
    with ThreadPoolExecutor(wave) as pool:
        assert all("BEGIN CERTIFICATE" in chain for chain in pool.map(gathering.sign, requests))


def _each(authority: Authority, requests: list[Request]) -> None:
    for request in requests:
        authority.sign_csr(request.csr_pem, request.profile, request.names)


def _request(number: int) -> Request:
    serial = f"10000000{number:08x}"
    names = DeviceNames(fleet=FLEET, site="orchard", host=f"pi-orchard-{number}", serial=serial)
    return Request(certificates.request(certificates.new_key(), serial), Profile.DEVICE, names)


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
