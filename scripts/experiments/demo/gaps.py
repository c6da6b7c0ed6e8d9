"""The gaps that the picture pair's SDXL can express, each scored with the controls that it is read beside."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.demo.lora import load_pipeline
from experiments.demo.time_gap import told_noisier
from experiments.engine import (
    Curve,
    Progress,
    Score,
    Scores,
    check_counts,
    chosen,
    fingerprint,
    make_folders,
    markdown,
    set_threads,
)
from w2sd_video.demo import LORA_WEIGHTS, PICTURE_CAPTIONS, PICTURE_WEIGHTS, oracle, parse_picture_caption, world
from w2sd_video.demo.captions import COLOURS
from w2sd_video.hosting import reflected
from w2sd_video.loading.loras import load_loras, use_loras
from w2sd_video.pair import ModelSpec, ReflectionConfig

STEPS, REFLECTIONS, BATCH = 28, 10, 48
FIRST_SEED = 400_000
ADAPTER, AUTOGUIDED = "captions", "autoguided"
# What a call of the SDXL pipeline hands its callback, in rows: the unconditional half first.
HALVED = ("prompt_embeds", "add_text_embeds", "add_time_ids")


@dataclass(frozen=True)
class Setting:
    """What one side is: its guidance, the scale of the LoRA (0 is no LoRA), whether it is told the raw prompt, the
    blocks that its network leaves out, and by how many timesteps the level that it is told is too noisy."""

    guidance: float = 1.0
    lora: float = 0.0
    raw: bool = False
    skip: tuple[str, ...] = ()
    noisier: int = dataclasses.field(default=0, repr=False)

    def spec(self, caption: str, against: Setting) -> ModelSpec:
        """The setting as what differs from `against` for a picture of `caption`."""
        return ModelSpec(
            guidance=self.guidance if self.guidance != against.guidance else None,
            loras=((ADAPTER, self.lora),) if self.lora != against.lora else (),
            prompt=self.prompt(caption) if self.raw != against.raw else None,
            skip_layers=self.skip if self.skip != against.skip else None,
        )

    def prompt(self, caption: str) -> str:
        """The caption, or the raw prompt: the caption without its colour."""
        return " ".join(word for word in caption.split() if word not in COLOURS) if self.raw else caption


def _said(value: Any) -> Any:
    """A side as its settings, of which those that came later are said only where there are some."""
    if not isinstance(value, Setting):
        return value
    return dataclasses.astuple(value)[: None if value.noisier else -1 if value.skip else -2]


@dataclass(frozen=True)
class Sampling:
    """One way of making pictures, by what it computes and nothing else: equal ones are made once.

    Attributes:
        sampled: the side whose steps make the sample.
        reflector, weak: the two sides of the reflections; None for neither.
        mode: of the reflections; AUTOGUIDED is auto-guidance by the weak side in their place.
        guided_steps: of plain sampling, the noisiest steps that `sampled.guidance` is for; the others have `then`. Of
            auto-guidance those that are guided.
        strength, gap_every: of the reflections, as in `ReflectionConfig`.
    """

    sampled: Setting
    reflector: Setting | None = None
    weak: Setting | None = None
    mode: str = "paper"
    steps: int = STEPS
    guided_steps: int | None = None
    then: float = 1.0
    strength: float = 1.0
    gap_every: int | None = None

    @property
    def sides(self) -> tuple[Setting, ...]:
        """All settings that evaluations are made with."""
        return tuple(side for side in (self.sampled, self.reflector, self.weak) if side is not None)

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        said = tuple(_said(getattr(self, field.name)) for field in dataclasses.fields(self))
        said = said if (self.strength, self.gap_every) != (1.0, None) else said[:-2]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Gap:
    """A row group of the table: the two sides, and the guidance (if any) that is this gap to first order."""

    label: str
    strong: Setting
    weak: Setting

    def methods(self) -> dict[str, Sampling]:
        """Every method of the gap by its label, the strong side first."""
        strong, weak = self.strong, self.weak
        found = {"strong": Sampling(strong)}
        if weak.guidance == strong.guidance:  # no stock call samples at a guidance of 0
            found["weak"] = Sampling(weak)
        found |= {
            f"strong, equal evaluations (T {STEPS + 2 * REFLECTIONS})": Sampling(strong, steps=STEPS + 2 * REFLECTIONS),
            "W2SD, paper mode": Sampling(strong, strong, weak),
            "zero-gap, paper mode": Sampling(strong, strong, strong),
            "W2SD, fused": Sampling(strong, strong, weak, mode="fused"),
            "swapped roles": Sampling(strong, weak, strong),
        }
        if weak.guidance != strong.guidance:
            matched = dataclasses.replace(strong, guidance=2 * strong.guidance - weak.guidance)
            found[f"matched guidance {matched.guidance:g}, all steps"] = Sampling(matched)
            found[f"matched guidance {matched.guidance:g}, first {REFLECTIONS} steps"] = Sampling(
                matched, guided_steps=REFLECTIONS, then=strong.guidance
            )
        return found


GAPS: Mapping[str, Gap] = {
    "guidance": Gap("guidance 1 over 0", Setting(1.0), Setting(0.0)),
    "guidance-2": Gap("guidance 2 over 0", Setting(2.0), Setting(0.0)),
    "guidance-5.5": Gap("guidance 5.5 over 0 (the paper's)", Setting(5.5), Setting(0.0)),
    "prompt": Gap("prompt: refined over raw", Setting(), Setting(raw=True)),
    "lora": Gap("LoRA 0.8 over -1.5", Setting(lora=0.8), Setting(lora=-1.5)),
    "lora-base": Gap("LoRA 0.8 over no LoRA", Setting(lora=0.8), Setting()),
    "lora-guidance": Gap("guidance 1 over 0, LoRA 0.8 on both", Setting(1.0, 0.8), Setting(0.0, 0.8)),
    "cumulative": Gap("cumulative: LoRA 0.8, guidance 1 over no LoRA, guidance 0", Setting(1.0, 0.8), Setting(0.0)),
}

GUIDANCES = (-3.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SCALES = (-3.0, -1.5, 0.0, 0.4, 0.8, 1.2, 2.0)


def _magnitudes(strong: Setting, weak: tuple[Setting, ...]) -> dict[str, tuple[Sampling, ...]]:
    fused = tuple(Sampling(strong, strong, side, mode="fused") if side != strong else Sampling(strong) for side in weak)
    return {"w2sd": tuple(Sampling(strong, strong, side) for side in weak), "w2sd, fused": fused}


# The magnitude of a gap (Figure 12). The gap is none where the weak side's value is the strong side's.
CURVES: Mapping[str, Curve] = {
    "guidance": Curve(
        "guidance of the weak side; of the strong side 1",
        GUIDANCES,
        _magnitudes(Setting(1.0), tuple(Setting(guidance) for guidance in GUIDANCES)),
    ),
    "lora": Curve(
        "LoRA scale of the weak side; of the strong side 0.8",
        SCALES,
        _magnitudes(Setting(lora=0.8), tuple(Setting(lora=scale) for scale in SCALES)),
    ),
}


# --- making and reading ---------------------------------------------------------------------------------------------


def load(weights: Path, lora: Path) -> Any:
    """The SDXL pipeline with the LoRA loaded and, so far, not in use.

    Raises:
        UserError: a folder without a pipeline; a LoRA that does not fit it.
    """
    pipe = load_pipeline(weights)
    load_loras(pipe, {ADAPTER: lora})
    return pipe


def generate(pipe: Any, method: Sampling, captions: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Any]:
    """Pictures [B, 3, H, W] in [0, 1], and the run that made them; the captions are one where the prompt differs."""
    sampled, caption = method.sampled, captions[0]
    options: dict[str, Any] = {}
    use_loras(pipe, ((ADAPTER, sampled.lora),) if any(side.lora for side in method.sides) else ())
    if method.reflector is None or method.weak is None:
        hosted = reflected(pipe, num_reflections=0)
        if method.guided_steps is not None:
            last = method.guided_steps - 1
            ending = {"callback_on_step_end": _guidance_after(last, method.then)}
            options = {**ending, "callback_on_step_end_tensor_inputs": list(HALVED)}
    else:
        reflector = method.reflector.spec(caption, sampled)
        weak: Any = "zero-gap" if method.weak == method.reflector else method.weak.spec(caption, method.reflector)
        if method.weak.noisier:
            weak = told_noisier(pipe.unet, method.weak.noisier), weak
        if method.mode == AUTOGUIDED:
            window = (0.0, (method.guided_steps or method.steps) / method.steps)
            config = ReflectionConfig(strength=method.strength, window=window)
            hosted = reflected(pipe, weak, config=config, method=AUTOGUIDED)
        else:
            config = ReflectionConfig(
                REFLECTIONS, method.mode, method.strength, reflector=reflector, gap_every=method.gap_every
            )
            hosted = reflected(pipe, weak, config=config)
    with hosted as run:
        pictures = pipe(
            [sampled.prompt(each) for each in captions],
            height=world.SIZE,
            width=world.SIZE,
            num_inference_steps=method.steps,
            guidance_scale=sampled.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            **options,
        ).images
    return pictures.float().clamp(0, 1), run


def _guidance_after(last: int, then: float) -> Callable[..., dict[str, Tensor]]:
    """A step callback that sets another guidance after step `last`, counted from 0."""

    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step != last:
            return {}
        guided = pipe.do_classifier_free_guidance
        pipe._guidance_scale = then
        if not guided or pipe.do_classifier_free_guidance:
            return {}
        return {name: tensors[name].chunk(2)[-1] for name in HALVED}  # the conditional half goes on alone

    return change


def prompts_and_seeds(count: int, first: int = FIRST_SEED) -> tuple[list[str], list[int]]:
    """The test set: the 24 captions in order, again and again; picture i starts from noise seed `first` + i."""
    return [PICTURE_CAPTIONS[i % len(PICTURE_CAPTIONS)] for i in range(count)], [first + i for i in range(count)]


def score(
    pipe: Any,
    method: Sampling,
    count: int,
    progress: Progress = lambda finished: None,
    *,
    first: int = FIRST_SEED,
) -> Score:
    """What the oracle reads in `count` pictures of one method."""
    prompts, seeds = prompts_and_seeds(count, first)
    wanted = torch.tensor([parse_picture_caption(prompt) for prompt in prompts])
    made = torch.zeros(count, 3, world.SIZE, world.SIZE, dtype=torch.uint8)
    start = time.perf_counter()
    for part in _batches(prompts, one_caption=len({side.raw for side in method.sides}) > 1):
        pictures, run = generate(pipe, method, [prompts[i] for i in part], [seeds[i] for i in part])
        made[part] = (pictures * 255).round().to(torch.uint8)  # as a file would hold it: 8 bits
        progress(len(part))
    seconds = (time.perf_counter() - start) / count
    correct = oracle.read(made[:, None] / 255)[:, :2] == wanted  # a single picture has no motion
    return Score(correct, run.num_evaluations, run.num_rows // len(part), seconds)


def _batches(prompts: Sequence[str], one_caption: bool) -> list[list[int]]:
    """The pictures that are made together, by number; `one_caption` where a side's own prompt is one sentence."""
    if one_caption:
        return [[i for i, each in enumerate(prompts) if each == caption] for caption in dict.fromkeys(prompts)]
    return [list(range(len(prompts)))[first : first + BATCH] for first in range(0, len(prompts), BATCH)]


# --- tables ---------------------------------------------------------------------------------------------------------

REFLECTED = ("W2SD, paper mode", "W2SD, fused", "swapped roles")


def table(scores: Mapping[str, Score]) -> str:
    """A row per finished method, gap after gap; differences are to the gap's strong side. Scores by methods' keys."""
    head = ["gap", "method", "evaluations", "rows", "colour", "shape", "both", "both, minus strong", "s / picture"]
    rows = []
    for gap in GAPS.values():
        methods = gap.methods()
        for label, method in methods.items():
            if (mine := scores.get(method.key)) is not None:
                against = mine.minus(scores.get(methods["strong"].key))
                cost = [mine.num_evaluations, mine.num_rows]
                rows.append([gap.label, label, *cost, *mine.shares(), against, f"{mine.seconds:.2f}"])
    return markdown(head, rows)


def differences(scores: Mapping[str, Score]) -> str:
    """What each gap's reflections gain over each of its controls, paired."""
    head = ["gap", "reflections", "minus strong", "minus zero-gap", "minus equal evaluations"]
    head += ["minus matched, all steps", "minus matched, first steps"]
    rows = []
    for gap in GAPS.values():
        methods = gap.methods()
        equal = next(label for label in methods if label.startswith("strong, equal"))
        matched = [label for label in methods if label.startswith("matched")]
        for label in REFLECTED:
            mine = scores.get(methods[label].key) if label in methods else None
            if mine is None:
                continue
            # The fused mode's reflection without a gap moves nothing: its zero-gap is the strong side.
            zero_gap = "strong" if label == "W2SD, fused" else "zero-gap, paper mode"
            controls = [scores.get(methods[name].key) for name in ("strong", zero_gap, equal, *matched)]
            cells = [mine.minus(control) for control in controls] + ["-"] * (2 - len(matched))
            rows.append([gap.label, label.removeprefix("W2SD, "), *cells])
    return markdown(head, rows)


# --- scripts/score_gaps.py ------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    names = chosen(options.gaps, GAPS, "gap")
    curves = chosen(options.curves, [*CURVES, "none"], "curve")
    set_threads(options.threads)
    weights, lora = options.weights or PICTURE_WEIGHTS / "weak", options.lora or LORA_WEIGHTS
    pipe = load(weights, lora)
    make_folders(options.output)
    prints = (fingerprint(weights), fingerprint(lora))
    kept = Scores(options.output, Score, lambda method: (options.count, prints, method))

    def make(key: str, method: Sampling, progress: Progress) -> Score:
        return score(pipe, method, options.count, progress)

    wanted = [method for name in names for method in GAPS[name].methods().values()]
    wanted += [m for name in curves if name != "none" for line in CURVES[name].lines.values() for m in line]
    kept.fill({method.key: method for method in wanted}, make, count=options.count, quiet=options.quiet)
    everything = [method for gap in GAPS.values() for method in gap.methods().values()]
    everything += [method for curve in CURVES.values() for line in curve.lines.values() for method in line]
    scores = kept.finished({method.key: method for method in everything})
    print(table(scores), "", differences(scores), sep="\n")
    for name, curve in CURVES.items():
        print("", curve.table(scores), sep="\n")
        if curve.draw(scores, "share right in colour and shape", options.output / f"{name}.png"):
            print(f"drawn: {options.output / name}.png")
    return 0
