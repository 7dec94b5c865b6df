"""Pages in a real browser, headless Chromium, that can reach nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def opened(browser: str, page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What Chromium prints and logs."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
        f"--log-net-log={folder / 'net.json'}", "--virtual-time-budget=5000", "--window-size=1100,1400", *options,
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def asked_for(folder: Path) -> list[str]:
    """What pages asked the network for. The browser itself asks too, for its time and its updates; it has no origin."""
    events = json.loads((folder / "net.json").read_text())["events"]
    found = (event.get("params", {}) for event in events)
    return [params["url"] for params in found if params.get("initiator", "not an origin") != "not an origin"]
