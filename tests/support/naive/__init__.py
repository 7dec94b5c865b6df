"""Naive implementations: obviously right, unbounded, slow."""
