from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.device import egress

DAY = egress.KEEP_S


def answers(mapping: dict[str, list[str]]):
    return lambda name: mapping.get(name, [])


def test_what_resolves_counts_from_now() -> None:
    found, silent = egress.resolve(["a", "b"], {}, now=100.0 * DAY, ask=answers({"a": ["192.0.2.1"]}))
    assert found["a"] == {"192.0.2.1": 100.0 * DAY}
    assert silent == ["b"]


def test_a_rotating_name_keeps_what_it_answered_today() -> None:
    known = {"a": {"192.0.2.1": 99.5 * DAY, "192.0.2.2": 98.0 * DAY}}
    found, _ = egress.resolve(["a"], known, now=100.0 * DAY, ask=answers({"a": ["192.0.2.3"]}))
    assert set(found["a"]) == {"192.0.2.1", "192.0.2.3"}


def test_a_name_server_that_is_away_closes_nothing() -> None:
    known = {"a": {"192.0.2.1": 99.5 * DAY}}
    assert egress.resolve(["a"], known, now=100.0 * DAY, ask=answers({})) == (known, [])


def test_a_clock_that_was_wrong_keeps_nothing_for_ever() -> None:
    known = {"a": {"192.0.2.1": 200.0 * DAY}}
    assert egress.resolve(["a"], known, now=100.0 * DAY, ask=answers({}))[0] == {"a": {}}


def test_the_card_is_not_written_to_at_every_run(tmp_path: Path) -> None:
    known = {"a": {"192.0.2.1": 100.0 * DAY}}
    soon, _ = egress.resolve(["a"], known, now=100.0 * DAY + 300, ask=answers({"a": ["192.0.2.1"]}))
    assert soon == known
    file = tmp_path / "deep/answers.json"
    egress.remember(file, soon, known)
    assert not file.exists()
    egress.remember(file, soon, {})
    assert egress.remembered(file) == known


def test_a_name_without_end_is_bounded() -> None:
    many = [f"192.0.{n // 256}.{n % 256}" for n in range(500)]
    found, _ = egress.resolve(["a"], {}, now=1e9, ask=answers({"a": many}))
    assert len(found["a"]) == 64


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1%eth0", "224.0.0.1"])
def test_an_answer_that_names_this_host_or_link_opens_nothing(address: str) -> None:
    assert not egress.counts(address)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"no address": 1}}', '{"a": {"192.0.2.1": "x"}}', ""])
def test_a_torn_memory_is_an_empty_one(tmp_path: Path, text: str) -> None:
    file = tmp_path / "answers.json"
    file.write_text(text)
    assert egress.remembered(file) == {}


def test_name_servers_are_the_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nonsense\n"
    assert egress.parse_resolv_conf(text) == ["192.0.2.1", "fe80::1"]
    stub, upstream = tmp_path / "stub", tmp_path / "upstream"
    stub.write_text("nameserver 127.0.0.53\n")
    upstream.write_text("nameserver 192.0.2.2\n")
    monkeypatch.setattr(egress, "RESOLV_CONF", stub)
    monkeypatch.setattr(egress, "RESOLVED_UPSTREAM", upstream)
    assert egress.nameservers() == ["192.0.2.2"]


def test_one_transaction_empties_and_fills_both_families() -> None:
    text = egress.transaction(
        {"to_apt_80_4": ["a", "b"]}, {"a": {"192.0.2.1": 1, "2001:db8::1": 1}, "b": {"192.0.2.1": 1}}, ["192.0.2.53"]
    )
    assert text.splitlines() == [
        "flush set inet hedgerow to_apt_80_4",
        "add element inet hedgerow to_apt_80_4 { 192.0.2.1 }",
        "flush set inet hedgerow to_apt_80_6",
        "add element inet hedgerow to_apt_80_6 { 2001:db8::1 }",
        "flush set inet hedgerow resolvers_4",
        "add element inet hedgerow resolvers_4 { 192.0.2.53 }",
        "flush set inet hedgerow resolvers_6",
    ]


@given(st.lists(st.ip_addresses().map(str), max_size=20))
def test_nothing_but_addresses_reaches_nft(found: list[str]) -> None:
    text = egress.transaction({"to_x_4": ["n"]}, {"n": dict.fromkeys(found, 1.0)}, [])
    for line in text.splitlines():
        if line.startswith("add element"):
            for word in line[line.index("{") + 1 : line.index("}")].split(","):
                ipaddress.ip_address(word.strip())
