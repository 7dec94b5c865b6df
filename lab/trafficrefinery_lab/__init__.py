"""Labelled video sessions between real servers and real adaptive players, in network namespaces of one machine."""

__version__ = "0.2.0.dev0"
