"""Headers that always have the same length."""

from __future__ import annotations

from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import ETHERNET, IP_BY_VERSION, LLC, MPLS, PPP, PPPOE

LINK_TYPES = (
    LinkType(1, "Ethernet", then=ETHERNET),
    LinkType(240, "netANALYZER", 4, ETHERNET),
    LinkType(241, "netANALYZER with preamble", 12, ETHERNET),
    LinkType(282, "Broadcom switch tag in front", 4, ETHERNET),
    # A switch's tag between the addresses and the type
    LinkType(281, "Broadcom switch tag", 18, type_at=16),
    LinkType(284, "Marvell DSA", 18, type_at=16),
    LinkType(285, "Marvell EDSA", 22, type_at=20),
    LinkType(113, "Linux cooked v1", 16, type_at=14),
    LinkType(276, "Linux cooked v2", 20, type_at=0),
    LinkType(138, "IP over IEEE 1394", 18, type_at=16),
    # The IP version tells; addresses families have other numbers on each system.
    LinkType(0, "BSD loopback", 4, IP_BY_VERSION),
    LinkType(108, "OpenBSD loopback", 4, IP_BY_VERSION),
    LinkType(12, "raw IP", then=IP_BY_VERSION),
    LinkType(14, "raw IP", then=IP_BY_VERSION),
    LinkType(101, "raw IP", then=IP_BY_VERSION, dlt=12),
    LinkType(228, "raw IPv4", then=IP_BY_VERSION),
    LinkType(229, "raw IPv6", then=IP_BY_VERSION),
    LinkType(109, "OpenBSD IPsec", 12, IP_BY_VERSION),
    LinkType(226, "Solaris ipnet", 24, IP_BY_VERSION),
    LinkType(51, "PPPoE", then=PPPOE),
    LinkType(166, "PPP of pppd", 1, PPP),
    LinkType(204, "PPP with direction", 1, PPP),
    LinkType(100, "ATM (RFC 1483)", then=LLC, dlt=11),
    LinkType(104, "Cisco HDLC", 4, type_at=2),
    LinkType(205, "Cisco HDLC with direction", 5, type_at=3),
    LinkType(219, "MPLS", then=MPLS),
)
