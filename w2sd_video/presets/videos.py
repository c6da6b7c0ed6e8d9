"""The paper's pair that makes videos, pairs of the same kind for other families, and the bundled one."""

from __future__ import annotations

from pathlib import Path

from w2sd_video.pair import ModelSpec
from w2sd_video.presets.pictures import DREAMSHAPER, JUGGERNAUT, SD15, SDXL
from w2sd_video.presets.preset import Preset, made
from w2sd_video.presets.tables import TABLE_12

WAN_SMALL, WAN_LARGE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"
WAN_22 = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
DEMO_WEIGHTS = Path(__file__).resolve().parents[1] / "demo" / "weights"

# App. D.1 gives the two guidance scales, App. C.1 T = 50 and lambda = T - 1 (`num_reflections` None).
_JUGGERNAUT_VS_SDXL = made(
    "juggernaut-vs-sdxl",
    "Juggernaut-XL v9 over SDXL base with AnimateDiff's SDXL motion modules (Table 12)",
    *("cumulative: weight and guidance", "AnimateDiff SDXL"),
    ModelSpec(checkpoint=JUGGERNAUT, guidance=3.0),
    ModelSpec(checkpoint=SDXL, guidance=1.0),
    motion_adapter="guoyww/animatediff-motion-adapter-sdxl-beta",
    steps=50,
    guidance=3.0,
    num_frames=16,
    size=(1024, 1024),
    fps=8,
    source="App. D.1 and C.1; Table 12",
    chosen="the paper names neither Juggernaut-XL's version nor size, frames and rate: v9 and AnimateDiff-SDXL's own",
    paper=(TABLE_12,),
)

_ANIMATEDIFF_SD15 = made(
    *("animatediff-sd15", "DreamShaper v8 over SD 1.5 with AnimateDiff's motion modules v1.5.3"),
    *("cumulative: weight and guidance", "AnimateDiff SD 1.5"),
    ModelSpec(checkpoint=DREAMSHAPER, guidance=3.0),
    ModelSpec(checkpoint=SD15, guidance=1.0),
    motion_adapter="guoyww/animatediff-motion-adapter-v1-5-3",
    steps=50,
    guidance=3.0,
    num_frames=16,
    size=(512, 512),
    fps=8,
    chosen="not in the paper: the settings of its AnimateDiff-SDXL, with the models of its Table 2",
)


def _wan(name: str, description: str, gap: str, strong: str, weak: str | None, weak_guidance: float) -> Preset:
    """A pair of Wan, which the paper does not have: sizes, frames and guidance are the checkpoints' own."""
    return made(
        *(name, description, gap, "Wan"),
        ModelSpec(checkpoint=strong, guidance=5.0),
        ModelSpec(checkpoint=weak, guidance=weak_guidance),
        steps=28,
        reflections=10,
        guidance=5.0,
        num_frames=81,
        size=(480, 832),
        fps=16,
        chosen="not in the paper: T and lambda as its Flux, the rest as Wan's own examples",
    )


_WAN = (
    _wan("wan21-size", "Wan 2.1 14B over 1.3B", "weight: size", WAN_LARGE, WAN_SMALL, 5.0),
    _wan("wan21-guidance", "Wan 2.1 1.3B at guidance 5 over 1", "condition: guidance", WAN_SMALL, None, 1.0),
    _wan(
        "wan22-guidance", "Wan 2.2 A14B, two networks, at guidance 5 over 1", "condition: guidance", WAN_22, None, 1.0
    ),
)

# Unguided, because guidance alone saturates so small a world and would hide the gain of the reflection.
_DEMO = made(
    "demo",
    "the bundled toy pair: weak and strong differ in how many captions they were trained with wrongly",
    *("weight: training", "AnimateDiff SDXL"),
    ModelSpec(checkpoint=str(DEMO_WEIGHTS), guidance=1.0),
    ModelSpec(checkpoint=str(DEMO_WEIGHTS / "weak"), guidance=1.0),
    steps=20,
    reflections=10,
    guidance=1.0,
    num_frames=8,
    size=(32, 32),
    fps=8,
    dtype="float32",
)

VIDEOS = (_DEMO, _JUGGERNAUT_VS_SDXL, _ANIMATEDIFF_SD15, *_WAN)
