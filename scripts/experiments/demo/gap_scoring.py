"""Pictures of the bundled SDXL by every method of a gap, and what the oracle reads in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.demo.gap_methods import ADAPTER, REFLECTIONS, Sampling
from experiments.demo.lora import load_pipeline
from experiments.demo.scoring import Score
from w2sd_video.demo import PICTURE_CAPTIONS, oracle, parse_picture_caption, world
from w2sd_video.hosting.hosting import reflected
from w2sd_video.loading.lora_files import load_loras, use_loras

FIRST_SEED = 400_000
BATCH = 48
# What a call of the SDXL pipeline hands its callback, in rows: the unconditional half first.
HALVED = ("prompt_embeds", "add_text_embeds", "add_time_ids")


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
        zero_gap = method.weak == method.reflector
        hosted = reflected(
            pipe,
            "zero-gap" if zero_gap else method.weak.spec(caption, method.reflector),
            num_reflections=REFLECTIONS,
            mode=method.mode,
            reflector=reflector,
        )
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


def prompts_and_seeds(count: int) -> tuple[list[str], list[int]]:
    """The test set: the 24 captions in order, again and again; picture i starts from noise seed 400 000 + i."""
    return [PICTURE_CAPTIONS[i % len(PICTURE_CAPTIONS)] for i in range(count)], [FIRST_SEED + i for i in range(count)]


def score(
    pipe: Any, method: Sampling, count: int, progress: Callable[[int], object] = lambda finished: None
) -> tuple[Score, Tensor]:
    """Generate `count` pictures with one method and read them; also the pictures as [N, 3, H, W] uint8.

    Args:
        progress: called after each batch with the number of pictures in it.
    """
    prompts, seeds = prompts_and_seeds(count)
    wanted = torch.tensor([parse_picture_caption(prompt) for prompt in prompts])
    made = torch.zeros(count, 3, world.SIZE, world.SIZE, dtype=torch.uint8)
    start = time.perf_counter()
    for chosen in _batches(prompts, one_caption=len({side.raw for side in method.sides}) > 1):
        pictures, run = generate(pipe, method, [prompts[i] for i in chosen], [seeds[i] for i in chosen])
        made[chosen] = (pictures * 255).round().to(torch.uint8)  # as a file would hold it: 8 bits
        progress(len(chosen))
    seconds = (time.perf_counter() - start) / count
    correct = oracle.read(made[:, None] / 255)[:, :2] == wanted  # a single picture has no motion
    return Score(correct, run.num_evaluations, run.num_rows // len(chosen), seconds), made


def _batches(prompts: Sequence[str], one_caption: bool) -> list[list[int]]:
    """The pictures that are made together, by number; `one_caption` where a side's own prompt is one sentence."""
    if one_caption:
        return [[i for i, each in enumerate(prompts) if each == caption] for caption in dict.fromkeys(prompts)]
    return [list(range(len(prompts)))[first : first + BATCH] for first in range(0, len(prompts), BATCH)]
