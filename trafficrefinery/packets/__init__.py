"""Frames to packets: link layers, tunnels, IP, TCP and UDP headers."""
