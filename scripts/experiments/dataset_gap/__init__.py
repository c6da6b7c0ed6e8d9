"""The dataset gap on real pictures (App. E.1): two classes, one rare in both models' data, rarer in the weak's."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
