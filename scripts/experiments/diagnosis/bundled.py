"""Gaps of the bundled networks whose truth is known, measured as the doctor measures a pair."""

from __future__ import annotations

import copy
from typing import Any

import torch

from experiments.demo import gaps, videos
from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS, WEIGHTS, world
from w2sd_video.diagnosis.asking import STEPS
from w2sd_video.diagnosis.measuring import Measured, baseline, measure
from w2sd_video.hosting import reflected
from w2sd_video.latents.schedules import read_schedule
from w2sd_video.loading.loras import use_loras
from w2sd_video.pair import ModelSpec

# Of the bundled pictures: what is known of a gap (docs/results.md has the gains of those called healthy), and what the
# strong and the weak side are (guidance, LoRA scale, raw prompt, another network).
GAPS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "guidance": ("healthy", {}, {"guidance": 0.0}),
    "guidance-2": ("healthy", {"guidance": 2.0}, {"guidance": 0.0}),
    "prompt": ("healthy", {}, {"raw": True}),
    "lora": ("healthy", {"lora": 0.8}, {"lora": -1.5}),
    "lora-base": ("healthy", {"lora": 0.8}, {}),
    "guidance-near": ("similar", {}, {"guidance": 0.95}),
    "lora-near": ("similar", {"lora": 0.8}, {"lora": 0.75}),
    "rounded": ("similar", {}, {"network": "rounded"}),
    "noisy": ("similar", {}, {"network": "noisy"}),
    "random": ("conflict", {}, {"network": "random"}),
    "permuted": ("conflict", {}, {"network": "permuted"}),
    "other-caption": ("healthy", {}, {"other": True}),  # +0.258 of 120 pictures right, T 20, lambda 10, fused
}
VIDEOS = {"video": ("healthy", 1.0), "video-near": ("similar", 0.1)}  # how far towards the weak side's weights


class Pictures:
    """The bundled SDXL, loaded when it is needed; a control is measured once for each strong side."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pipe: Any = None
        self._known: dict[Any, Any] = {}

    def measured(self, name: str) -> Measured:
        self._pipe = self._pipe or gaps.load(PICTURE_WEIGHTS / "weak", LORA_WEIGHTS)
        _, ours, theirs = GAPS[name]
        strong = gaps.Setting(**ours)
        network = theirs.get("network")
        weak = gaps.Setting(
            **{**ours, **{key: value for key, value in theirs.items() if key in ("guidance", "lora", "raw")}}
        )
        if name == "lora-base":
            weak = gaps.Setting(lora=0.0)
        pair = _BundledGap(self._pipe, strong, weak, self._count, bool(theirs.get("other")))
        if strong not in self._known:
            self._known[strong] = baseline(pair)
        if network is not None:
            use_loras(self._pipe, ())  # which a copy would take along
            pair.network = _network(self._pipe.unet, network)
        return measure(pair, self._known[strong])


class _BundledGap:
    """A gap of the bundled pictures as something to measure, in one batch."""

    def __init__(self, pipe: Any, strong: Any, weak: Any, count: int, other: bool) -> None:

        self.pipe, self.strong, self.weak, self.network = pipe, strong, weak, None
        self.captions, self.seeds = gaps.prompts_and_seeds(count)
        told = [weak.prompt(caption) for caption in self.captions]
        self.told = told[7:] + told[:7] if other else told

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: Any) -> Any:

        strong, weak = self.strong, self.weak
        loras = bool(strong.lora or weak.lora)
        use_loras(self.pipe, ((gaps.ADAPTER, strong.lora),) if loras else ())
        spec = ModelSpec(guidance=weak.guidance, loras=((gaps.ADAPTER, weak.lora),) if loras else ())
        other: Any = "zero-gap" if partner == "zero-gap" else spec if self.network is None else (self.network, spec)
        inputs = {"prompt": self.told} if partner == "weak" and self.told != self.captions else None
        with reflected(
            self.pipe,
            None if partner is None else other,
            num_reflections=num_reflections,
            mode=mode,
            reflector=ModelSpec(guidance=strong.guidance),
            weak_inputs=inputs,
            on_reflect=watch,
            first_order=True,
        ):
            return self.pipe(
                self.captions,
                height=world.SIZE,
                width=world.SIZE,
                num_inference_steps=STEPS,
                guidance_scale=strong.guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in self.seeds],
                output_type="latent",
            ).images

    def grid(self) -> Any:

        return read_schedule(self.pipe.scheduler, first_order=True)


class Videos:
    """The bundled pair of videos; `share` is how far the partner's weights are towards the weak side's."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sides: Any = None
        self._known: Any = None

    def measured(self, share: float) -> Measured:
        self._sides = self._sides or videos.load(WEIGHTS)
        partner = copy.deepcopy(self._sides["strong"].unet)
        for ours, theirs in zip(partner.parameters(), self._sides["weak"].unet.parameters(), strict=True):
            ours.data.lerp_(theirs.data, share)
        pair = _BundledVideos(self._sides["strong"], partner, self._count)
        self._known = self._known or baseline(pair)
        return measure(pair, self._known)


class _BundledVideos:
    def __init__(self, pipe: Any, partner: Any, count: int) -> None:

        self.pipe, self.partner = pipe, partner
        prompts, seeds = videos.prompts_and_seeds(120)
        step = max(1, 120 // count)  # so that all attributes vary
        self.prompts, self.seeds = prompts[::step][:count], seeds[::step][:count]

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: Any) -> Any:

        self.pipe.set_progress_bar_config(disable=True)
        weak = self.partner if partner == "weak" else partner
        with reflected(self.pipe, weak, num_reflections=num_reflections, mode=mode, on_reflect=watch, first_order=True):
            return self.pipe(
                self.prompts,
                num_frames=world.NUM_FRAMES,
                height=world.SIZE,
                width=world.SIZE,
                num_inference_steps=STEPS,
                guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in self.seeds],
                output_type="latent",
            ).frames

    def grid(self) -> Any:

        return read_schedule(self.pipe.scheduler, first_order=True)


def _network(own: Any, name: str) -> Any:
    """A partner made of the strong network: "rounded" to bfloat16, "noisy" by 1 percent, "permuted" or "random"."""

    made = copy.deepcopy(own)
    draws = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        value = parameter.data
        if name == "rounded":
            value = value.bfloat16().to(value.dtype)
        elif name == "noisy":
            value = value + 0.01 * value.square().mean().sqrt() * torch.randn(value.shape, generator=draws)
        elif name == "permuted":
            value = value.flatten()[torch.randperm(value.numel(), generator=draws)].view_as(value)
        elif value.dim() > 1:
            value = value.square().mean().sqrt() * torch.randn(value.shape, generator=draws)
        parameter.data = value
    return made
