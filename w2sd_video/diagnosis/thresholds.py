"""The thresholds of the failure modes, read from what `scripts/calibrate_diagnosis.py` measured (imports no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

CALIBRATION = Path(__file__).with_name("calibration.json")


@cache
def calibration(path: Path = CALIBRATION) -> Mapping[str, Any]:
    """Returns thresholds and rates."""
    return json.loads(path.read_text(encoding="utf-8"))
