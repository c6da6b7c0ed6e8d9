"""Makes docs/pipelines.md from runs on small random networks: `python -m tests.support.pipelines_page`.

A row of each pipeline: how it is hosted, whether plain sampling through it is the stock call, how far a reflected call
is from Algorithm 1 around a black box, what the control does, and whether the pipeline is as it was afterwards.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.support import black_box, tiny, tiny_conditioned, tiny_families, tiny_loops
from w2sd_video import UserError, reflected
from w2sd_video.latents.schedules import check_scheduler, read_schedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"
# Measured by a harness over diffusers' own tests, whose random networks are not of this repository.
DUMMIES = PAGE.parent / "results" / "pipelines.json"
STEPS, LAMBDA = 3, 2
# Of the black box:
SETTINGS: dict[str, dict[str, Any]] = {
    "ltx_condition": {"blended": True},
    "ltx_i2v": {"repeated": True},
    "ltx2": {"parts": 2},
    "ltx2_i2v": {"parts": 2, "repeated": True},
    "kandinsky5_i2v": {"repeated": True},
    "z_image_inpaint": {"blended": True, "repeated": True},
}
SECTIONS = ("framepack",)  # loops again and again, which the black box does not
OTHERS = ("Flax", "Karras", "ScoreSde")  # schedulers that no pipeline of today has
Made = tuple[Any, dict[str, Any]]
PLAIN: dict[str, Callable[[], Made]] = {
    name: lambda build=build, call=call: (build(), {"prompt": "a cat", "guidance_scale": 3.0, **call})
    for name, build, call in (
        ("sd15", tiny.sd15, tiny.IMAGE_CALL),
        ("sdxl", tiny.sdxl, tiny.IMAGE_CALL),
        ("sd3", tiny_families.sd3, tiny_families.SD3_CALL),
        ("animatediff_sd15", tiny_families.animatediff_sd15, tiny.ANIMATEDIFF_CALL),
        ("animatediff_sdxl", tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL),
        ("flux", tiny.flux, tiny.FLUX_CALL),
        ("wan", tiny.wan, tiny.WAN_CALL),
    )
}
CONDITIONED: dict[str, Callable[[], Made]] = {
    name: lambda build=build: build()[:2] for name, build in tiny_conditioned.CONDITIONED.items()
}
PIPELINES: dict[str, Callable[[], Made]] = {**PLAIN, **tiny_loops.LOOPS, **CONDITIONED}


def network_of(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


def latents(output: Any) -> Tensor:
    """All that a call sampled, sound too."""
    every = [output[0], output[1]] if hasattr(output, "audio") else [output[0]]
    parts = [part for each in every for part in (each if isinstance(each, list) else [each])]
    return torch.cat([torch.as_tensor(part).reshape(-1) for part in parts])


def with_network(pipe: Any, network: Any, call: Callable[[], Any]) -> Any:
    """What the call comes to with this network in the place of the pipeline's own."""
    own = network_of(pipe)
    name = "transformer" if getattr(pipe, "transformer", None) is own else "unet"
    pipe.register_modules(**{name: network})
    try:
        return call()
    finally:
        pipe.register_modules(**{name: own})


@torch.no_grad()
def measured(name: str) -> dict[str, Any]:
    """The row of a pipeline; differences are shares of the largest value of the stock call's latents."""
    pipe, settings = PIPELINES[name]()
    weak = tiny_loops.another(network_of(pipe))

    def call() -> Any:
        return pipe(generator=tiny.generator(), **{"num_inference_steps": STEPS, "output_type": "latent", **settings})

    stock = latents(call())
    row: dict[str, Any] = {"pipeline": type(pipe).__name__}

    def share(made: Tensor) -> float:
        return float((made - stock).abs().max() / stock.abs().max())

    try:
        with reflected(pipe, num_reflections=0) as run:
            row["lambda 0"] = share(latents(call()))
        row |= {"host": run.host, "why": "".join(run.notes[:1])}
        with reflected(pipe, weak, num_reflections=LAMBDA) as run:
            moved = latents(call())
        row |= {"evaluations": run.num_evaluations, "rows": run.num_rows, "move": share(moved)}
        if name not in SECTIONS:
            settled = SETTINGS.get(name, {})
            weakly = partial(with_network, pipe, weak, call)
            expected = latents(black_box.algorithm_1(pipe, call, weakly, LAMBDA, **settled))
            row["reference"] = float((moved - expected).abs().max() / stock.abs().max())
        with reflected(pipe, "zero-gap", num_reflections=LAMBDA, mode="fused"):
            row["zero gap"] = share(latents(call()))
    except UserError as error:
        row |= {"host": "refused", "why": str(error)}
    row["afterwards"] = bool(torch.equal(latents(call()), stock))
    return row


def schedulers() -> list[dict[str, Any]]:
    """A row of each of diffusers' schedulers at its defaults (clip_sample off): how its steps are made."""
    rows = []
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name)
        if not name.endswith("Scheduler") or name.startswith(OTHERS) or not inspect.isclass(kind):
            continue
        known = inspect.signature(kind.__init__).parameters
        options = {key: value for key, value in (("clip_sample", False), ("skip_prk_steps", True)) if key in known}
        row = {"scheduler": name, "steps": "exact", "why": ""}
        try:
            scheduler = kind(**options)
            for first_order in (False, True):
                try:
                    check_scheduler(scheduler, first_order=first_order)
                    scheduler.set_timesteps(6)
                    read_schedule(scheduler, first_order=first_order)
                except UserError as error:
                    row |= {"steps": "first order, if asked for" if not first_order else "refused", "why": str(error)}
                else:
                    break
        except (ImportError, TypeError):  # cannot be made here without more
            continue
        rows.append(row)
    return rows


def page() -> str:
    """The whole page as Markdown."""
    lines = [HEAD.strip(), "", "| pipeline | hosted | lambda 0 | against the reference | zero gap | afterwards |"]
    lines.append("|---|---|---|---|---|---|")
    rows = [measured(name) for name in PIPELINES]
    for row in rows:
        host = {"record": "recorded", "replay": "replayed"}.get(row["host"], "refused")
        numbers = [_number(row.get(key)) for key in ("lambda 0", "reference", "zero gap")]
        after = "same" if row["afterwards"] else "CHANGED"
        lines.append(f"| {' | '.join([row['pipeline'], host, *numbers, after])} |")
    lines += ["", "Why a pipeline is replayed or refused:", ""]
    lines += [f"- {row['pipeline']}: {_short(row['why'].removeprefix('replayed: '))}" for row in rows if row.get("why")]
    lines += ["", *dummies(), "", *scheduler_table()]
    return "\n".join(lines) + "\n"


def scheduler_table() -> list[str]:
    """The lines of the page's second part."""
    lines = [SCHEDULERS.strip(), "", "| scheduler | steps | why not exact | what to do |", "|---|---|---|---|"]
    for row in schedulers():
        why, *remedies = [""] if row["steps"] == "exact" else " ".join(row["why"].split()).split("; ")
        lines.append(f"| {row['scheduler']} | {row['steps']} | {why} | {''.join(remedies[:1])} |".replace("  ", " "))
    return lines


def dummies() -> list[str]:
    """The section about diffusers' own test pipelines, from what was measured."""
    rows = json.loads(DUMMIES.read_text(encoding="utf-8"))
    counts = {kind: sum(row["result"] == kind for row in rows) for kind in ("reflected", "rounding", "refused", "open")}
    lines = [DUMMY_HEAD.strip().format(sum(counts.values()), **counts), ""]
    lines += [
        "| pipeline | scheduler | hosted | lambda 0 | against the reference | zero gap |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["result"] in ("reflected", "rounding"):
            host = {"record": "recorded", "replay": "replayed"}[row["hosted"]]
            numbers = [_number(row.get(key)) for key in ("lambda 0", "reference", "zero gap")]
            mark = "" if row["result"] == "reflected" else " (1)"
            lines.append(f"| {' | '.join([row['pipeline'] + mark, row['scheduler'], host, *numbers])} |")
    for kind, title in (("refused", "Refused:"), ("open", "Not decided:")):
        told = [f"- {row['pipeline']}: {_short(row['why'])}" for row in rows if row["result"] == kind]
        lines += ["", title, "", *told] if told else []
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.0e}"


def _short(text: str) -> str:
    return " ".join(text.split("; ", 1)[0].split())


HEAD = """
# Which pipelines and schedulers can be reflected

Made by `make pipelines` from runs on small random networks; not written by hand. Each pipeline is called with 3 steps,
of which 2 are reflected with another network as the weak side.

- **hosted**: "recorded" repeats the arguments of each step at other latents (the fast way); "replayed" has the
  pipeline's own loop make every evaluation. `reflected(..., host="auto")` chooses, and `run.host` says which it was.
- **lambda 0**: how far plain sampling through W2SD is from the stock call, as a share of the largest latent value.
- **against the reference**: how far the reflected call is from Algorithm 1 around a black box, which knows nothing of
  the pipeline but its scheduler's step.
- **zero gap**: how far the control of mode "fused" (the weak side is the strong one) is from the stock call.
- **afterwards**: whether the stock call is bit for bit what it was before.

The guidance of a side is always `uncond + guidance * (cond - uncond)`, so 1 is none. Pipelines that write
`cond + scale * (cond - uncond)` (Krea 2, Z-Image, Kandinsky 3) have the guidance `1 + guidance_scale`; where a pipeline
rescales its guided prediction, that is done at the side's guidance too. What a pipeline blends into the latent between
its steps (fixed first frames, inpainting) is blended in again after every step, so that the known part is the stock
call's. Inside a reflection a replayed pipeline blends it into every latent that is evaluated, with the noise of that
step's timestep; a recorded one evaluates the reflected latent as it is.

- **Three branches** (text, picture, none: InstructPix2Pix, DreamLite) and pipelines with a guider: a side's guidance is
  the pipeline's own rule at that scale, all else unchanged, by the scale that it reads in its loop. Where the scale is
  read once, before the loop (SDXL InstructPix2Pix), sides must have one guidance. LTX2's skipped blocks and modalities
  keep their own scales, and sound is guided in proportion.
- **Guiders with a memory** (the momentum of APG) remember the sampling steps alone: each visit begins from what was
  remembered before the step. A guider, or perturbed attention, that changes the network for one of its predictions is
  refused beside another network.
- **FramePack** makes a video section by section: each section is a schedule of its own, with lambda reflections.
- **Wan 2.2 5B** puts a clean first frame into the latents and tells its tokens timestep 0, in reflections too.
- **Callbacks**, functions or objects of diffusers, see each step once.
"""
DUMMY_HEAD = """
## Diffusers' own test pipelines

The small random pipelines of diffusers' own tests that can be built here and denoise, each called with 4 steps of which
2 are reflected, with another network and, where the pipeline is guided, guidance 1 as the weak side. Measured by a
harness outside of this repository (docs/results/pipelines.json); where a pipeline's default scheduler cannot be
reflected, the one named is used. Of {} pipelines {reflected} are reflected within 1e-5 (lambda 0 and zero gap, shares
of the largest value) and 1e-4 (against the reference), {rounding} only as far as their decoder enlarges rounding (1),
{refused} are refused before the first evaluation, and {open} are not decided. "-" is no reference: calls of a black box
do not carry on a guider's momentum, and one (HiDream) was too slow; VisualClozePipeline has two loops, of which the
second makes 2 steps here, so that 1 step of each is reflected.
"""
SCHEDULERS = """
## Schedulers

"exact": the scheduler's own steps, on its own levels. "first order, if asked for": its grid with steps of first order,
by `reflected(..., first_order=True)`. Everything else is refused before a model is evaluated.
"""

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
