"""The bundled demo: a small AnimateDiff-SDXL pair, the toy world it was trained on and the oracle that scores it.

A second pair makes single pictures of the same world: a small Flux pipeline and a small SDXL pipeline, two spaces.
"""

from pathlib import Path

from w2sd_video.demo.captions import CAPTIONS, DEMO_PROMPTS, parse_caption
from w2sd_video.demo.pictures import PICTURE_CAPTIONS, PICTURE_PROMPTS, PICTURE_TOKENS, parse_picture_caption

WEIGHTS = Path(__file__).parent / "weights"
PICTURE_WEIGHTS = Path(__file__).parent / "picture_weights"  # two pipeline folders, "strong" and "weak"
LORA_WEIGHTS = Path(__file__).parent / "lora_weights"  # a LoRA for the SDXL among them

__all__ = [
    "CAPTIONS",
    "DEMO_PROMPTS",
    "LORA_WEIGHTS",
    "PICTURE_CAPTIONS",
    "PICTURE_PROMPTS",
    "PICTURE_TOKENS",
    "PICTURE_WEIGHTS",
    "WEIGHTS",
    "parse_caption",
    "parse_picture_caption",
]
