"""Rings hold what is received while a worker that hangs is replaced, or `config check` says by how much they are small."""

from __future__ import annotations

import json

import pytest

from trafficrefinery.cli import main as cli
from trafficrefinery.config import parse_config
from trafficrefinery.config.units import format_rate, parse_rate_bps
from trafficrefinery.daemon.workers import ring_size

SERVICE = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}


def config_of(**capture):
    return {"Services": [SERVICE], "Capture": {"Interfaces": ["lo"], **capture}, "Daemon": {"HangTimeout": "5s"}}


@pytest.mark.parametrize(
    ("text", "rate_bps"), [("10Gbit", 10**10), ("200Mbit", 2 * 10**8), ("1.5Kbit", 1500), ("7bit", 7)]
)
def test_rates_are_read_and_written(text, rate_bps):
    assert parse_rate_bps(text) == rate_bps
    assert parse_rate_bps(format_rate(rate_bps)) == rate_bps


@pytest.mark.parametrize("value", ["10G", "10GB", "fast", 10, "0.1bit", ""])
def test_what_is_no_rate_is_refused(value):
    with pytest.raises(ValueError, match=r"bit|unit"):
        parse_rate_bps(value)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("rate", ["100Mbit", "1Gbit", "10Gbit"])
def test_the_size_that_is_advised_is_enough_and_a_block_less_is_not(rate, workers):
    small = parse_config(config_of(RingSize="2MiB", Rate=rate))
    advised = ring_size.needed_ring_bytes(small, workers)
    for blocks, fits in ((0, True), (-1, False)):
        size = f"{advised + blocks * small.capture.block_bytes}B"
        config = parse_config(config_of(RingSize=size, Rate=rate))
        assert (ring_size.warning(config, workers) is None) == fits
    # 5 s and 3 s for the successor; payload alone:
    assert advised * workers >= small.capture.rate_bps / 8 * 8
    assert advised * workers <= small.capture.rate_bps / 8 * 8 * 1.2 + workers * small.capture.block_bytes


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("rate", ["100Mbit", "10Gbit"])
def test_with_af_xdp_each_frame_has_memory_of_one_size_and_rings_are_powers_of_two(rate, workers):
    small = parse_config(config_of(Source="afxdp", RingSize="2MiB", Rate=rate))
    advised = ring_size.needed_ring_bytes(small, workers)
    assert advised & (advised - 1) == 0
    for size, fits in ((advised, True), (advised - small.capture.block_bytes, False), (advised // 2, False)):
        config = parse_config(config_of(Source="afxdp", RingSize=f"{size}B", Rate=rate))
        assert (ring_size.warning(config, workers) is None) == fits
    assert advised * workers >= small.capture.rate_bps / 8 * 8 * 2048 / 700


def test_without_a_rate_nothing_is_warned_of_and_with_libpcap_neither():
    assert ring_size.warning(parse_config(config_of(RingSize="2MiB")), 1) is None
    assert ring_size.warning(parse_config(config_of(Source="pcap", Rate="10Gbit")), 1) is None


def checked(tmp_path, capsys, **capture):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(config_of(Workers=2, **capture)))
    with pytest.raises(SystemExit) as ended:
        cli.main(["config", "check", str(path)])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_config_check_says_what_the_rings_hold(tmp_path, capsys):
    out = checked(tmp_path, capsys)
    assert "note: while a worker that hangs is replaced (HangTimeout of 5s and 3 s for its successor)" in out
    assert "up to 472 Mbit/s, with 2 workers" in out


def test_config_check_warns_of_small_rings_with_numbers(tmp_path, capsys):
    out = checked(tmp_path, capsys, Rate="1Gbit")
    assert "warning: Capture.RingSize: while a worker that hangs is replaced" in out
    assert "Capture.Rate is 1Gbit, which needs rings of 543MiB (543 MiB), more Workers or a shorter" in out
    assert "warning" not in checked(tmp_path, capsys, Rate="100Mbit")
