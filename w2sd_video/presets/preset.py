"""What a preset is (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig
from w2sd_video.presets.tables import PaperTable

NOTHING: Mapping[str, str | None] = MappingProxyType({})


@dataclass(frozen=True)
class Preset:
    """A pair with everything needed to sample it.

    Attributes:
        gap: what differs, in the words of the paper's Table 1.
        family: of the models ("SDXL"), as people say it; `weak_family` where the weak side's is another one.
        pair: both sides as they are inside the reflection. What a side leaves out (None) is as on the strong side; a
            weak side without a checkpoint is the strong one's network.
        guidance: the scale that the strong side samples with.
        height, width: pixels. `num_frames` and `fps` are of videos, None for pictures.
        negative_prompt: None is the pipeline's own empty one.
        motion_adapter: AnimateDiff's modules, for checkpoints that make pictures.
        loras: where each LoRA named in `pair` comes from; None has to be given by the user.
        controlnet, ip_adapter: a hub id, None where there is none.
        scheduler: a name of `--scheduler`; None is the checkpoint's own.
        dtype: None leaves the choice to the device.
        memory: what both sides' networks take, in words.
        needs: flags that have to be given, as the preset cannot bring what they name.
        source: where the paper has the settings.
        chosen: what the paper leaves open, and what stands here for it.
        paper: what the paper reports.
    """

    name: str
    description: str
    gap: str
    family: str
    pair: ModelPair
    reflection: ReflectionConfig
    steps: int
    guidance: float
    height: int
    width: int
    num_frames: int | None = None
    fps: int | None = None
    negative_prompt: str | None = None
    motion_adapter: str | None = None
    loras: Mapping[str, str | None] = field(default_factory=lambda: NOTHING)
    controlnet: str | None = None
    ip_adapter: str | None = None
    scheduler: str | None = None
    dtype: str | None = None
    memory: str = ""
    needs: tuple[str, ...] = ()
    source: str = ""
    chosen: str = ""
    weak_family: str | None = None
    paper: tuple[PaperTable, ...] = ()

    @property
    def is_video(self) -> bool:
        return self.num_frames is not None

    @property
    def num_reflections(self) -> int:
        """Lambda; None in `reflection` is the paper's T - 1."""
        lam = self.reflection.num_reflections
        return self.steps - 1 if lam is None else lam


def made(
    name: str,
    description: str,
    gap: str,
    family: str,
    strong: ModelSpec,
    weak: ModelSpec,
    *,
    size: tuple[int, int],
    reflections: int | None = None,
    mode: str = "paper",
    **rest: Any,
) -> Preset:
    """Returns a preset whose pair has its name; `size` is its height and width, `rest` its fields."""
    pair, reflection = ModelPair(strong, weak, name=name), ReflectionConfig(num_reflections=reflections, mode=mode)
    height, width = size
    return Preset(name, description, gap, family, pair, reflection, height=height, width=width, **rest)
