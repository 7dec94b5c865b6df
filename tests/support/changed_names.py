"""Ways to damage a message with a name."""

from __future__ import annotations

from hypothesis import strategies as st

DNS = bytes.fromhex(
    "000181800001000300000000"  # header
    "0377777705766964656f076578616d706c650000010001"  # www.video.example, A
    "c00c000500010000007800060363646ec010c02f000100010000003c0004c0000201c02f001c00010000003c0010"
    "20010db8000000000000000000000001"
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 1300), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x3F, 0xC0, 0xFF]))),
    max_size=6,
)
