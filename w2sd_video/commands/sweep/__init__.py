"""A grid over one setting of a pair, scored and drawn as a curve with intervals: `scripts/sweep.py`."""
