"""The targets that the package comes with, which its bundled models answer."""

from __future__ import annotations

from .target import ORDINAL, QUANTITY, Target
from .units import SECONDS, When

RESOLUTION = Target(
    "resolution", ORDINAL, measured_in="p", groups=("video_id",), column="resolution", sizes_vary=True
)  # fmt: skip
"""Lines of the video that is played."""
STARTUP = Target(
    "startup", QUANTITY, measured_in="s", groups=("video_id",), when=When(SECONDS, 10.0), column="startup_s", least=0.0
)  # fmt: skip
"""From the start of a session to its first picture."""
BUILT_IN = {target.name: target for target in (RESOLUTION, STARTUP)}
