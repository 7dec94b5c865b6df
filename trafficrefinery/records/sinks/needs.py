"""What sinks need that may not be there, to be known before anything starts."""

from __future__ import annotations

import importlib.util
import os

from trafficrefinery.config import Config


def check_nats(config: Config) -> None:
    """What NATS needs has to be there.

    Raises:
        ConfigError: it names the key.
    """
    settings = config.sinks.nats
    if not settings.enabled:
        return
    if importlib.util.find_spec("nats") is None:
        message = "needs the package nats-py, which is not installed; install the extra nats of this program"
        raise config.error("Sinks.NATS.Enabled", message)
    if settings.credentials is not None and not os.access(settings.credentials, os.R_OK):
        raise config.error("Sinks.NATS.CredentialsFile", f"{settings.credentials} cannot be read, or is not there")
