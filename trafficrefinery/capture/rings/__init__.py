"""Packet rings of the kernel (AF_PACKET, TPACKET_V3)."""
