"""Measure the thresholds of diagnose.py, and how often they are wrong: python scripts/calibrate_diagnosis.py

On pairs whose truth is known: Gaussian mixtures (healthy, too similar, in conflict) on three schedules, and the bundled
networks with gaps that help, gaps of next to nothing, and partners that have nothing to do with the strong side.
Finished families are kept in --output and not measured again; from all of them thresholds and rates are written to the
file that diagnose.py reads. About 3 minutes on one idle CPU core.
"""

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries

STEPS = 12
SCHEDULES = ("ddpm", "sdxl", "flow")
KEPT = ("clean_gap", "gap", "move", "error", "cosine", "displacement", "drift", "growth")
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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="analytic pairs per family and schedule (default: 100)")
    parser.add_argument("--pictures", type=int, default=48, help="per bundled gap, 4 to a diagnosis (default: 48)")
    parser.add_argument("--videos", type=int, default=24, help="of the bundled videos, likewise (default: 24)")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/diagnosis-calibration"), help="where results are kept"
    )
    parser.add_argument("--write", type=Path, help="the thresholds' file (default: the one that diagnose.py reads)")
    parser.add_argument("--only", help="measure these families only, comma-separated, and write no thresholds")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    import torch
    from experiments.diagnosis.analytic import FAMILIES
    from experiments.diagnosis.calibrating import calibration, table

    from w2sd_video.diagnosis.thresholds import CALIBRATION

    for name in ("pairs", "pictures", "videos"):
        if getattr(options, name) < 8:
            raise UserError(f"--{name} is {getattr(options, name)}; it must be at least 8")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = None if options.only is None else options.only.split(",")
    families: dict[str, dict[str, Any]] = {}
    pictures, videos = _Pictures(options.pictures), _Videos(options.videos)
    makers: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {}
    for name, family in FAMILIES.items():
        for at in SCHEDULES:
            makers[f"{name}-{at}"] = (family.kind, "analytic", partial(_analytic, name, at, options.pairs))
    for name, (kind, *_) in GAPS.items():
        makers[name] = (kind, "bundled", partial(pictures.measured, name))
    for name, (kind, share) in VIDEOS.items():
        makers[name] = (kind, "bundled", partial(videos.measured, share))
    for name, (kind, bed, make) in makers.items():
        if chosen is not None and name not in chosen:
            continue
        path = options.output / f"{name}.json"
        if not path.is_file():
            path.with_suffix(".part").write_text(json.dumps(make()))
            os.replace(path.with_suffix(".part"), path)
            print(f"{name}: measured", file=sys.stderr, flush=True)
        families[name] = {**json.loads(path.read_text()), "kind": kind, "bed": bed}
    if chosen is None:
        found = {**calibration(families), "strength": _strength(options), "steps": STEPS}
        target = options.write or CALIBRATION
        target.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found))
        print(f"\nwritten to {target}")
    return 0


def _strength(options: argparse.Namespace) -> dict[str, Any]:
    """The rule for the strength; its pairs' rows are kept like the families."""
    from experiments.diagnosis.strengths import healthy, measured_pair, strength_rule

    path = options.output / "strengths.json"
    if not path.is_file():
        count = max(8, options.pairs // 4)
        rows = [measured_pair(name, seed, at, STEPS) for at in SCHEDULES for name in healthy() for seed in range(count)]
        path.write_text(json.dumps([(gap, alone, list(moved.items())) for gap, alone, moved in rows]))
    return strength_rule([(gap, alone, dict(moved)) for gap, alone, moved in json.loads(path.read_text())])


def _analytic(name: str, schedule: str, count: int) -> dict[str, Any]:
    from experiments.diagnosis.analytic import pair_of

    from w2sd_video.diagnosis.measuring import measure, together

    pairs = [pair_of(name, seed, schedule, STEPS) for seed in range(count)]
    harms = [moved > alone for alone, moved in (pair.distances(STEPS - 1, 1.0) for pair in pairs)]
    return {**_numbers(together([measure(pair) for pair in pairs])), "harmful": sum(harms) / count}


def _numbers(measured: Any) -> dict[str, Any]:
    """Rounded to what means something; NaN as null."""
    import numpy as np

    return {
        name: json.loads(json.dumps(np.round(getattr(measured, name), 6).tolist()).replace("NaN", "null"))
        for name in KEPT
    }


class _Pictures:
    """The bundled SDXL, loaded when it is needed; a control is measured once for each strong side."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pipe: Any = None
        self._known: dict[Any, Any] = {}

    def measured(self, name: str) -> dict[str, Any]:
        from experiments.demo import gaps
        from experiments.demo.gaps import Setting

        from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS
        from w2sd_video.diagnosis.measuring import baseline, measure
        from w2sd_video.loading.loras import use_loras

        self._pipe = self._pipe or gaps.load(PICTURE_WEIGHTS / "weak", LORA_WEIGHTS)
        _, ours, theirs = GAPS[name]
        strong = Setting(**ours)
        network = theirs.get("network")
        weak = Setting(
            **{**ours, **{key: value for key, value in theirs.items() if key in ("guidance", "lora", "raw")}}
        )
        if name == "lora-base":
            weak = Setting(lora=0.0)
        pair = _BundledGap(self._pipe, strong, weak, self._count, bool(theirs.get("other")))
        if strong not in self._known:
            self._known[strong] = baseline(pair)
        if network is not None:
            use_loras(self._pipe, ())  # which a copy would take along
            pair.network = _network(self._pipe.unet, network)
        return _numbers(measure(pair, self._known[strong]))


class _BundledGap:
    """A gap of the bundled pictures as something to measure, in one batch."""

    def __init__(self, pipe: Any, strong: Any, weak: Any, count: int, other: bool) -> None:
        from experiments.demo.gaps import prompts_and_seeds

        self.pipe, self.strong, self.weak, self.network = pipe, strong, weak, None
        self.captions, self.seeds = prompts_and_seeds(count)
        told = [weak.prompt(caption) for caption in self.captions]
        self.told = told[7:] + told[:7] if other else told

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: Any) -> Any:
        import torch
        from experiments.demo.gaps import ADAPTER

        from w2sd_video.demo import world
        from w2sd_video.hosting.hosting import reflected
        from w2sd_video.loading.loras import use_loras
        from w2sd_video.pair import ModelSpec

        strong, weak = self.strong, self.weak
        loras = bool(strong.lora or weak.lora)
        use_loras(self.pipe, ((ADAPTER, strong.lora),) if loras else ())
        spec = ModelSpec(guidance=weak.guidance, loras=((ADAPTER, weak.lora),) if loras else ())
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
        from w2sd_video.diagnosis.in_memory import grid_of

        return grid_of(self.pipe)


class _Videos:
    """The bundled pair of videos; `share` is how far the partner's weights are towards the weak side's."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sides: Any = None
        self._known: Any = None

    def measured(self, share: float) -> dict[str, Any]:
        from experiments.demo import videos

        from w2sd_video.demo import WEIGHTS
        from w2sd_video.diagnosis.measuring import baseline, measure

        self._sides = self._sides or videos.load(WEIGHTS)
        partner = copy.deepcopy(self._sides["strong"].unet)
        for ours, theirs in zip(partner.parameters(), self._sides["weak"].unet.parameters(), strict=True):
            ours.data.lerp_(theirs.data, share)
        pair = _BundledVideos(self._sides["strong"], partner, self._count)
        self._known = self._known or baseline(pair)
        return _numbers(measure(pair, self._known))


class _BundledVideos:
    def __init__(self, pipe: Any, partner: Any, count: int) -> None:
        from experiments.demo.videos import prompts_and_seeds

        self.pipe, self.partner = pipe, partner
        prompts, seeds = prompts_and_seeds(120)
        step = max(1, 120 // count)  # so that all attributes vary
        self.prompts, self.seeds = prompts[::step][:count], seeds[::step][:count]

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: Any) -> Any:
        import torch

        from w2sd_video.demo import world
        from w2sd_video.hosting.hosting import reflected

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
        from w2sd_video.diagnosis.in_memory import grid_of

        return grid_of(self.pipe)


def _network(own: Any, name: str) -> Any:
    """A partner made of the strong network: "rounded" to bfloat16, "noisy" by 1 percent, "permuted" or "random"."""
    import torch

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


if __name__ == "__main__":
    raise SystemExit(main())
