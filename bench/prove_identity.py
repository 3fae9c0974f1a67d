"""Prove identity and secrets: every claim with its bar and what was measured, non-zero where one falls short.

    make prove-identity                                          everything: about an hour on two cores
    .venv/bin/python -m bench.prove_identity --only backup

The parts: `authority` (root, issuing CAs, lists, rotation), `devices` (keys, swap, renewal), `servers` (who may do
what), `ssh`, `audit`, `backup` (with the drill), `secrets` (canaries), `figures` (certificates a second, the cost of a
handshake), `scenario` (certificates of an emulated fleet exchanged, stolen, cloned, broken, out of time: a quarter of
an hour) and `fleet` (every certificate of thirty emulated Pis rotated, made and removed for it; where
HEDGEROW_TEST_INVENTORY names a converged fleet, those of that one, with canaries on its hosts). `figures` and `fleet`
measure: run them on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import sys

from bench.proof import Proof, bench, pytest

IDENTITY, SERVER, DEVICE = "tests/unit/identity", "tests/unit/server", "tests/unit/device/identity"
ROTATION_HOSTS = 30
INVENTORY = "HEDGEROW_TEST_INVENTORY"

SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "authority": {
        "an offline root and issuing CAs of sites, each held to its names": (f"{IDENTITY}/test_two_tiers.py",),
        "the root's key in a PKCS#11 token signs (SoftHSM2)": (f"{IDENTITY}/test_token_root.py",),
        "what was revoked is on a list that OpenSSL enforces": (f"{IDENTITY}/test_crl.py",),
        "a CA is rotated with overlap, each step safe to cut off": (f"{IDENTITY}/test_rotation.py",),
        "another CA signs through the same interface (EST)": (f"{IDENTITY}/test_est.py",),
    },
    "devices": {
        "a request counts for a serial of the inventory and its own key alone": (f"{IDENTITY}/test_enrolment.py",),
        "cloned serials are found out": (f"{IDENTITY}/test_holders.py",),
        "a device renews against its gateway; the old pair stays where anything fails": (f"{DEVICE}/test_renewal.py",),
        "revocation lists reach a device and never go back": (f"{DEVICE}/test_revocation.py",),
        "the gateway's renewal service": (f"{IDENTITY}/test_renewal.py",),
    },
    "servers": {
        "every profile does what the contract says on every route, and nothing else": (f"{SERVER}/test_tls_matrix.py",),
        "a revoked certificate is refused, its connections closed": (f"{SERVER}/test_tls_revoked.py",),
    },
    "ssh": {
        "a real sshd takes certificates by role, and refuses the rest": (f"{IDENTITY}/ssh/test_real_sshd.py",),
        "certificates are signed for operators who prove who they are": (f"{IDENTITY}/ssh/test_proof.py",),
    },
    "audit": {
        "a changed, cut or rewritten log shows; a full disk refuses": ("tests/unit/chainlog/test_log.py",),
        "signings, approvals and activations are in one log that seals the others": (
            "tests/unit/audit/test_sealing.py",
            "tests/unit/audit/test_commands.py",
        ),
        "playbook runs are in it without their variables, or refused": ("tests/unit/audit/test_callback.py",),
    },
    "backup": {
        "a lost controller comes back: same root, known hosts, releases go on": ("tests/unit/backup/test_drill.py",),
        "cut off, altered, wrong key, full disk: said, and nothing half-done": ("tests/unit/backup/test_faults.py",),
        "backups are age files, for age itself as well": ("tests/unit/backup/test_age.py",),
    },
    "secrets": {
        "planted canaries turn up in no output, log, argument or environment": ("tests/unit/secrets/test_canaries.py",),
        "tasks that handle secrets say no_log": ("tests/policy/test_no_log.py", "tests/policy/test_secrets.py"),
    },
}
SCENARIO = "rotation, offline, stolen, cloned, board's key, wrong clock, full disk, controller lost: no request fails"
FLEET: dict[str, tuple[str, ...]] = {
    "canaries turn up on no host: processes, journal, files": ("tests/fleet/test_canaries.py",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = (*SHOWN, "figures", "scenario", "fleet")
    parser.add_argument("--only", choices=parts, action="append", help="this part; may be given several times")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    for part in arguments.only or parts:
        if part in SHOWN:
            proof.add_tests(SHOWN[part], pytest(sorted({test for tests in SHOWN[part].values() for test in tests})))
        elif part == "figures":
            figures(proof)
        elif part == "scenario":
            proof.add_scenario("identity", SCENARIO)
        else:
            fleet(proof)
    return proof.finish("Identity and secrets", as_json=arguments.as_json)


def figures(proof: Proof) -> None:
    """Wall time: on a busy machine the first falls short and says nothing; its CPU time stands beside it."""
    found = bench("identity_issue")
    bar = f"≥ {found['bar_per_s']}/s"
    for way in found["ways"]:
        said = f"{way['per_s']:.0f}/s (least {way['least_per_s']:.0f}), CPU {way['cpu_ms']:.2f} ms each"
        if way["held"]:
            proof.add(f"certificates, logged on {found['file_system']}: {way['what']}", bar, said, ok=way["ok"])
        else:
            proof.note(f"certificates: {way['what']}", said)
    handshake = bench("identity_handshake")
    for kind in ("ours", "openssl"):
        one = handshake[kind]
        cpu, median, p95 = one["server_cpu_ms"], one["median_ms"], one["p95_ms"]
        said = f"{cpu:.2f} ms CPU of the server, {median:.2f} ms (p95 {p95:.2f} ms)"
        proof.note(f"mutual-TLS handshake: {kind}", said)


def fleet(proof: Proof) -> None:
    """Every host gets a new certificate by the playbook, as an operator would do it."""
    named = os.environ.get(INVENTORY)
    found = bench("identity_rotation", *(("-i", named) if named else ("--hosts", str(ROTATION_HOSTS))))
    said, ok = f"{found['seconds']:.1f} s for {found['hosts']} hosts", found["ok"]
    if found["not_rotated"]:
        said, ok = f"{said}; {found['not_rotated']} show what they showed before", False
    elif ok is None:
        said = f"{said}: too few for the claim"
    bar = f"≤ {found['bar_s']:g} s for {found['bar_hosts']} hosts"
    proof.add("certificates of a whole fleet rotated", bar, said, ok=ok)
    if named:
        proof.add_tests(FLEET, pytest(sorted({test for tests in FLEET.values() for test in tests})))


if __name__ == "__main__":
    sys.exit(main())
