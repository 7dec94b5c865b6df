"""Stamps of a network card are used where it stamps every frame and its clock tells the time of day."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import pytest

from trafficrefinery.capture.rings import card_clocks

ALL_ABILITIES, SOFTWARE, RX_ALL = 0x5F, 0x18, 1 << 1
SECOND = 1_000_000_000


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Card:
    """A driver's answers."""

    def __init__(self, abilities=ALL_ABILITIES, filters=RX_ALL, clock=0, ahead_ns=0, receiving=0, refuses=()):
        self.abilities, self.filters, self.clock, self.ahead_ns = abilities, filters, clock, ahead_ns
        self.settings, self.refuses = (0, 1, receiving), refuses

    def ethtool(self, control, name, request):
        assert struct.unpack_from("I", request)[0] == 0x41
        if "ethtool" in self.refuses:
            raise OSError(95, "Operation not supported")
        return struct.pack("IIiI12xI12x", 0x41, self.abilities, self.clock, 0, self.filters)

    def ioctl(self, control, request, name, settings):
        if request in self.refuses:
            raise PermissionError(1, "Operation not permitted")
        if request == card_clocks._SIOCSHWTSTAMP:
            self.settings = struct.unpack("iii", settings)
        return struct.pack("iii", *self.settings)

    def time_ns(self, number):
        if "clock" in self.refuses:
            raise FileNotFoundError(f"/dev/ptp{number}")
        return time.time_ns() + self.ahead_ns


def starts(monkeypatch, card: Card) -> bool:
    monkeypatch.setattr(card_clocks, "ethtool", card.ethtool)
    monkeypatch.setattr(card_clocks, "_ioctl", card.ioctl)
    monkeypatch.setattr(card_clocks, "_card_time_ns", card.time_ns)
    return card_clocks.start_card_clock(None, "eth0")


@pytest.mark.parametrize("receiving", [0, 1, 12])
def test_a_card_that_can_stamps_everything_and_goes_on_stamping_what_it_sends(monkeypatch, receiving):
    card = Card(receiving=receiving)
    assert starts(monkeypatch, card)
    assert card.settings == (0, 1, 1)


@pytest.mark.parametrize(
    "card",
    [
        Card(abilities=SOFTWARE),
        Card(filters=0x7000),
        Card(clock=-1),
        Card(ahead_ns=37 * SECOND),
        Card(ahead_ns=-55 * 365 * 86_400 * SECOND),
        Card(refuses=("ethtool",)),
        Card(refuses=("clock",)),
        Card(refuses=(card_clocks._SIOCGHWTSTAMP,)),
        Card(refuses=(card_clocks._SIOCSHWTSTAMP,)),
    ],
)
def test_else_the_kernel_stamps(monkeypatch, card):
    assert not starts(monkeypatch, card)
    assert card.settings == (0, 1, 0)


def test_loopback_has_no_clock():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        before = open_files()
        assert not card_clocks.start_card_clock(control, "lo")
        assert open_files() == before
