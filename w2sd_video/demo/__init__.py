"""The bundled demo: a small AnimateDiff-SDXL pair, the toy world it was trained on and the oracle that scores it."""

from pathlib import Path

from w2sd_video.demo.captions import CAPTIONS, DEMO_PROMPTS, parse_caption

WEIGHTS = Path(__file__).parent / "weights"

__all__ = ["CAPTIONS", "DEMO_PROMPTS", "WEIGHTS", "parse_caption"]
