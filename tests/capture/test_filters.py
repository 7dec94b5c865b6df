"""Filter expressions: what they let through, and what is said of wrong ones."""

from __future__ import annotations

import ctypes.util

import pytest

from support import bpf_machine
from support.traces import ethernet, ip, tcp, udp
from trafficrefinery.capture.bpf import filters
from trafficrefinery.capture.bpf.filters import compile_filter
from trafficrefinery.errors import UsageError

PACKETS = {
    "web": ip("10.0.0.1", "192.0.2.1", 6, tcp(5000, 443, 1, 1, 16)),
    "ssh": ip("10.0.0.1", "192.0.2.1", 6, tcp(5000, 22, 1, 1, 16)),
    "dns": ip("10.0.0.1", "10.0.0.53", 17, udp(5000, 53, b"")),
    "six": ip("2001:db8::1", "2001:db8::2", 17, udp(5000, 443, b"")),
}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("port 443", {"web", "six"}),
        ("not port 22", {"web", "dns", "six"}),
        ("udp and not ip6", {"dns"}),
        ("net 192.0.2.0/24", {"web", "ssh"}),
    ],
)
@pytest.mark.parametrize("link_type", [1, 101])
def test_an_expression_lets_through_what_it_says(expression, wanted, link_type):
    program = compile_filter(expression, link_type)
    through = set()
    for name, packet in PACKETS.items():
        frame = ethernet(packet) if link_type == 1 else packet
        if bpf_machine.run(program, frame):
            through.add(name)
    assert through == wanted


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("prot 22", "can't parse filter expression: syntax error"),
        ("port webserver", "unknown port 'webserver'"),
        ("net 10.0.0.0/99", "invalid netmask"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_words_of_libpcap(expression, words):
    with pytest.raises(UsageError) as caught:
        compile_filter(expression)
    message = str(caught.value)
    assert message.startswith(f'Capture.Filter: "{expression}" is not a filter expression: ')
    assert message.endswith("; see pcap-filter(7)")
    assert "\n" not in message


def test_tags_are_asked_for_at_the_interface():
    with pytest.raises(UsageError, match=r'^Capture.Filter: "vlan" cannot be compiled for absent0 \(.*\); is it up\?'):
        compile_filter("vlan 7", interface="absent0")


def test_without_libpcap_it_is_said_what_to_install(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    filters._libpcap.cache_clear()
    with pytest.raises(UsageError, match=r"Capture\.Filter: libpcap is missing.*Debian: libpcap0\.8"):
        compile_filter("port 1")
    filters._libpcap.cache_clear()
