"""What a plan for a bridge has of its own (imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRAWS = 2  # of paired noise: the second is the first turned round
UNEXPLAINED = 0.2  # by the best linear map, of the weak side's variance; above it noise is paired and not mapped

UNRELATED = 0.5  # likewise: above it nothing was gained where it was measured, with a map or in pairs
WEAK_VIDEO = (
    "through pixels the weak side must be an image pipeline, which sees a video frame by frame: a video model would "
    "have to answer a whole still video for every picture; give the image model that it is built on, or another one"
)

# The tiny VAE of a family, by the beginning of the pipeline's class; taken unasked only for sides that are hub ids.
TINY_VAES = {
    "Flux": "madebyollin/taef1",
    "StableDiffusionXL": "madebyollin/taesdxl",
    "AnimateDiffSDXL": "madebyollin/taesdxl",
    "StableDiffusion": "madebyollin/taesd",
}


@dataclass(frozen=True)
class BridgeSettings:
    """What a plan for a bridge has beside those of other families.

    Attributes:
        noise_map: one of NOISE_MAPS, or a file; where "paired" can come of it, the reflection has `draws`.
        preset_map: the preset's fitted map, for "auto".
        reflector: the guidance of the strong side inside the reflection; None is as it samples.
        true_cfg: classifier-free guidance of a strong Flux; None has it off.
        weak_height, weak_width: pixels.
    """

    noise_map: str
    preset_map: Path | None
    codec: str
    strong_tiny_vae: str | None
    weak_tiny_vae: str | None
    tiled: bool
    force_bridge: bool
    reflector: float | None
    true_cfg: float | None
    weak_height: int
    weak_width: int

    def settings(self) -> dict[str, Any]:
        """Returns them as JSON data, for run.json."""
        names = ("true_cfg", "noise_map", "codec", "strong_tiny_vae", "weak_tiny_vae", "tiled", "force_bridge",
                 "weak_height", "weak_width")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def details(self) -> list[str]:
        """Returns what a dry run says of them."""
        true = f", true guidance {self.true_cfg:g} strong" if self.true_cfg else ""
        return [f"{self.codec} VAEs, noise map {self.noise_map}, weak side {self.weak_width}x{self.weak_height}{true}"]
