"""What a running daemon says through its listener, as `top` reads it."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from trafficrefinery.errors import TrafficRefineryError, UsageError

_TIMEOUT_S = 5.0
_PREFIX = "trafficrefinery_"
Labels = frozenset[tuple[str, str]]


class Scrape(NamedTuple):
    """The answers of one moment.

    Args:
        values: metric without its prefix → labels → value.
        devices: of `/api/v1/devices`.
        sessions: of `/api/v1/inferences`.
        at_s: monotonic.
    """

    values: dict[str, dict[Labels, float]]
    devices: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    at_s: float

    def of(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's values with these labels; None when there is none."""
        wanted = labels.items()
        found = [value for own, value in self.values.get(name, {}).items() if wanted <= own]
        return sum(found) if found else None

    def known(self, name: str, label: str) -> list[str]:
        """The values of a label, in the order in which they stand."""
        return list(dict.fromkeys(dict(own)[label] for own in self.values.get(name, {}) if label in dict(own)))


class RunningDaemon:
    """A running daemon, by the address of its listener."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f'--url: "{url}" is not the URL of a listener; write it as in "http://127.0.0.1:9464"')
        self.url = url.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the daemon is near

    def scrape(self, items: int) -> Scrape:
        """Ask for all metrics, for the devices with the most bytes, and for sessions; so many of each.

        Raises:
            TrafficRefineryError: no answer, or not that of a daemon.
        """
        at_s = time.monotonic()
        values: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(self._get("/metrics").decode()):
                for sample in family.samples:
                    labels = frozenset(sample.labels.items())
                    values.setdefault(sample.name.removeprefix(_PREFIX), {})[labels] = sample.value
            devices, sessions = (
                json.loads(self._get(f"/api/v1/{what}?limit={items}"))["items"] for what in ("devices", "inferences")
            )
        except (ValueError, KeyError, TypeError):
            values = {}
        if "build_info" not in values:
            raise TrafficRefineryError(f"{self.url}: not a Traffic Refinery daemon")
        return Scrape(values, devices, sessions, at_s)

    def _get(self, path: str) -> bytes:
        try:
            with self._opener.open(self.url + path, timeout=_TIMEOUT_S) as answer:
                body: bytes = answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise ValueError(path) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise TrafficRefineryError(
                f"{self.url}: no answer ({why}); is the daemon running, and is this its Metrics.Listen?"
            ) from error
        return body
