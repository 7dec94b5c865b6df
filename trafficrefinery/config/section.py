"""What all sections of the configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys that are not known are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
