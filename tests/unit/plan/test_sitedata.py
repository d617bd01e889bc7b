"""Site data: what may stand in it, which source counts, and what of it may lie on a disk."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from skerry.lib import pki
from skerry.model.problems import Problem
from skerry.plan.sitedata import (
    MAX_SITE_BYTES,
    After,
    DiskRule,
    NetworkData,
    NicData,
    Prefer,
    SiteData,
    merge,
    render,
    to_keep,
)
from skerry.plan.sitetext import read_command_line, read_yaml

PEM = pki.new_authority("centre", now=datetime(2026, 1, 1, tzinfo=UTC)).certificate_pem
PRINT = "sha256:" + "0a" * 32

WHOLE = f"""
manager: https://centre.example:8443
trust: {PRINT}
token: skt-Tr0ub4dor
keepSecrets: true
site: harbour-north
labels: {{tier: shop, rack: "4"}}
hostName: till-7
ntp: [time.example, 192.0.2.123]
proxy: http://user:pass@proxy.example:3128
network:
  dns: [192.0.2.53]
  search: [shop.example]
  nics:
  - {{mac: "52-54-00-AA-BB-CC", addresses: [192.0.2.5/24, "2001:db8::5/64"], gateway: 192.0.2.1}}
  - {{name: "en*", vlan: 12, mtu: 9000}}
install:
  disk: {{minSize: 20GiB, prefer: smallest}}
  wipe: [/dev/vda]
  after: reboot
  unattended: true
"""


def good(text: str) -> SiteData:
    data, problems = read_yaml(text.encode())
    assert problems == []
    return data


def wrong(text: str) -> list[Problem]:
    data, problems = read_yaml(text.encode())
    assert problems
    assert data == SiteData(), "a text with a problem is not used at all"
    return problems


def test_a_whole_document_is_read() -> None:
    data = good(WHOLE)

    assert data.manager == ("https://centre.example:8443",)
    assert data.trust == PRINT
    assert (data.site, data.host_name) == ("harbour-north", "till-7")
    assert data.disk == DiskRule(min_bytes=20 << 30, prefer=Prefer.SMALLEST)
    assert (data.wipe, data.after, data.unattended) == (("/dev/vda",), After.REBOOT, True)
    assert data.network == NetworkData(
        dns=("192.0.2.53",),
        search=("shop.example",),
        nics=(
            NicData(
                mac="52:54:00:aa:bb:cc",
                dhcp=False,
                addresses=("192.0.2.5/24", "2001:db8::5/64"),
                gateway="192.0.2.1",
            ),
            NicData(name="en*", vlan=12, mtu=9000),
        ),
    )


def test_what_is_rendered_reads_back() -> None:
    data = good(WHOLE)

    assert good(render(data)) == data
    assert good(render(SiteData())) == SiteData()


def test_trust_is_a_certificate_or_a_fingerprint_however_it_is_written() -> None:
    spaced = ":".join(["0A"] * 32)
    indented = "\n".join("  " + line for line in PEM.splitlines())

    assert good(f"trust: '{spaced}'").trust == PRINT
    assert good(f"trust: |\n{indented}\n").trust == PEM
    for text in ("trust: abc", "trust: '-----BEGIN CERTIFICATE-----'", "trust: sha256:12"):
        assert "neither a certificate nor a fingerprint" in wrong(text)[0].message


def test_every_problem_is_told_at_once() -> None:
    problems = wrong(
        """
        manager: [http://plain.example, "https://ok.example", "https://u:pw@h.example"]
        tokn: abc
        site: Harbour North
        labels: {skerry.dev/x: y, tier: [a]}
        hostName: -till
        ntp: "no such/name"
        network:
          nics:
          - {name: eno1, dhcp: false}
          - {mac: nonsense, addresses: [192.0.2.5], gateway: here, vlan: 5000}
          - {addresses: [192.0.2.5/24], gateway: 198.51.100.1}
        install: {disk: {path: ../vda, minSize: 3 potatoes, prefer: fastest}, after: halt}
        """
    )

    assert {problem.path for problem in problems} == {
        "tokn",
        "manager[0]",
        "manager[2]",
        "site",
        "labels.skerry.dev/x",
        "labels.tier",
        "hostName",
        "ntp[0]",
        "network.nics[0]",
        "network.nics[1].mac",
        "network.nics[1].addresses[0]",
        "network.nics[1].gateway",
        "network.nics[1].vlan",
        "network.nics[2].gateway",
        "install.disk.path",
        "install.disk.minSize",
        "install.disk.prefer",
        "install.after",
    }
    assert next(p.hint for p in problems if p.path == "tokn") == "did you mean 'token'?"


@pytest.mark.parametrize(
    "text",
    [
        "token: 'hunter2 with spaces'",
        "pairingKey: [hunter2]",
        "proxy: http://u:hunter2@proxy.example:99999",
        "manager: https://u:hunter2@centre.example",
    ],
)
def test_a_secret_stands_in_no_message(text: str) -> None:
    assert "hunter2" not in repr(wrong(text))


def test_a_secret_is_not_shown_by_accident() -> None:
    assert "Tr0ub4dor" not in repr(good(WHOLE)) + str(good(WHOLE))
    assert "pass@" not in repr(good(WHOLE))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * (MAX_SITE_BYTES + 1), "larger than"),
        (b"\xff\xfe", "UTF-8"),
        (b"a: [1", "not YAML"),
        (b"site: a\nsite: b\n", "stands twice"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"- site", "must be a mapping"),
        (b"[" * 5000, "not YAML"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes, message: str) -> None:
    _, problems = read_yaml(data)

    assert message in problems[0].message


def test_user_data_of_cloud_init_carries_it_beside_other_things() -> None:
    text = b"#cloud-config\nusers: [{name: root}]\nskerry: {site: harbour}\n"

    assert read_yaml(text, key="skerry") == (SiteData(site="harbour"), [])
    assert read_yaml(b"#cloud-config\nusers: []\n", key="skerry") == (SiteData(), [])
    assert read_yaml(b"#!/bin/sh\necho: [", key="skerry")[1]


def test_later_sources_win_lists_replace_and_labels_merge() -> None:
    image = good("manager: https://a.example\nlabels: {a: '1', b: '1'}\nntp: [one, two]")
    stick = good("labels: {b: '2', c: '2'}\nntp: [three]\ninstall: {wipe: true, after: reboot}")
    line = good("manager: [https://b.example, https://c.example]\ninstall: {after: poweroff}")

    merged = merge([image, stick, line])

    assert merged.manager == ("https://b.example", "https://c.example")
    assert merged.labels == {"a": "1", "b": "2", "c": "2"}
    assert merged.ntp == ("three",)
    assert (merged.wipe, merged.after) == (True, After.POWEROFF)
    assert merge([]) == SiteData()


def test_a_later_source_can_take_something_away() -> None:
    assert merge([good("proxy: http://p:1\nntp: [a]"), good("proxy: ''\nntp: []")]) == SiteData(
        proxy="", ntp=()
    )


def test_secrets_are_kept_only_when_the_data_says_so() -> None:
    volatile = good("token: abc\npairingKey: def\nsite: harbour")
    kept = merge([volatile, good("keepSecrets: true")])

    assert to_keep(volatile) == SiteData(site="harbour")
    assert "abc" not in render(to_keep(volatile))
    assert "def" not in render(to_keep(volatile))
    assert (to_keep(kept).token, to_keep(kept).pairing_key) == ("abc", "def")


def test_a_permission_to_wipe_does_not_outlive_the_installation() -> None:
    data = to_keep(good(WHOLE))

    assert (data.wipe, data.disk, data.unattended) == (None, None, None)


def test_the_kernels_command_line_tells_the_same() -> None:
    data, problems = read_command_line(
        "root=/dev/vda ro skerry.install quiet skerry.manager=https://a.example:8443,"
        "https://b.example "
        f"skerry.trust={PRINT} skerry.token=abc skerry.site=harbour skerry.label=tier=shop "
        "skerry.label=rack=4 skerry.hostname=till-7 skerry.ntp=one,two skerry.nic=eno1 "
        "skerry.address=192.0.2.5/24 skerry.gateway=192.0.2.1 skerry.vlan=12 skerry.dns=192.0.2.53 "
        'skerry.disk=serial:WD-1 "skerry.disk=model:Fast Disk" skerry.disk=smallest '
        "skerry.disk-min=20GiB skerry.wipe=yes skerry.after=poweroff skerry.unattended"
    )

    assert problems == []
    assert data == good(
        f"""
        manager: [https://a.example:8443, https://b.example]
        trust: {PRINT}
        token: abc
        site: harbour
        labels: {{tier: shop, rack: "4"}}
        hostName: till-7
        ntp: [one, two]
        network:
          dns: [192.0.2.53]
          nics: [{{name: eno1, addresses: [192.0.2.5/24], gateway: 192.0.2.1, vlan: 12}}]
        install:
          disk: {{serial: WD-1, model: Fast Disk, prefer: smallest, minSize: 20GiB}}
          wipe: true
          after: poweroff
          unattended: true
        """
    )


def test_problems_of_the_command_line_come_together() -> None:
    data, problems = read_command_line("skerry.managr=x skerry.label=x skerry.vlan=x skerry.site=X")

    assert data == SiteData()
    assert [problem.path for problem in problems] == [
        "skerry.managr",
        "skerry.label",
        "skerry.vlan",
        "site",
    ]


def test_an_open_quote_on_the_command_line_is_no_reason_to_read_nothing() -> None:
    assert read_command_line('dyndbg="file skerry.site=harbour skerry.hostname=a') == (
        SiteData(site="harbour", host_name="a"),
        [],
    )
