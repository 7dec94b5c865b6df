"""Labelled video sessions between real servers and real adaptive players, in network namespaces of one machine."""
