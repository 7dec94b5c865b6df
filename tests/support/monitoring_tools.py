"""Debian's Prometheus and its tool, for tests."""

from __future__ import annotations

import os
import shutil

import pytest


def required(command: str) -> str:
    """The path of a command of Debian's package `prometheus`."""
    path = shutil.which(command)
    if path is None:
        reason = f"{command} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
