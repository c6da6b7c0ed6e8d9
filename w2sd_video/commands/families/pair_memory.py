"""What a pair of one latent space takes of memory, from its files (no torch)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from w2sd_video.commands.method_settings import roles_of
from w2sd_video.commands.plan import Plan
from w2sd_video.loading.describe import TEXT_ENCODERS, Weights
from w2sd_video.loading.files import found_lora, weight_files
from w2sd_video.loading.memory import Load, Sides
from w2sd_video.loading.pipeline_families import PipelineFamily, family_called
from w2sd_video.loading.sizes import MOTION, held_twice, sizes_of
from w2sd_video.presets import PRESETS

# Bytes that a weight takes beside itself, scales included, at each precision of `gaps.precision`.
CODES = {"fp8": 1.0, "int8": 1.0, "int4": 0.5 + 4 / 64, "nf4": 0.5 + 4 / 64, "int2": 0.25 + 4 / 64}


def _weak_family(plan: Plan) -> PipelineFamily | None:
    """The family of a weak side of its own: of its files, or as the preset says before they are here."""
    files, preset = plan.files and plan.files.weak, PRESETS.get(plan.preset or "")
    named = preset is not None and plan.pair.name == plan.preset
    return (files and files.pipelines) or (family_called(preset.weak_family) if named and preset else None)


def rows_of(plan: Plan, role: str, *guidances: float) -> int:
    """Returns the batch rows of a side's evaluation that serves these scales."""
    family = plan.pipelines if role == "strong" else _weak_family(plan) or plan.pipelines
    if plan.embedded if family is None else family.embedded:
        return 1
    return 1 if set(guidances) in ({0}, {1}) and not (family and family.both) else 2


def memory_of(plan: Plan) -> Sides | None:
    """Returns the sizes of both sides and what each has to do; None where a hub id is not among the known ones."""
    pair = plan.files
    assert pair is not None
    preset = None if plan.preset is None else PRESETS.get(plan.preset)
    named = preset is not None and plan.pair.name == plan.preset
    family = preset.family.removeprefix("AnimateDiff ") if preset is not None and (named or pair.put_together) else None
    strong = sizes_of(pair.strong, family)
    same = pair.weak is None or pair.weak.given == pair.strong.given
    weak = None if same or pair.weak is None else sizes_of(pair.weak, family)
    if strong is None or (weak is None and not same):
        return None
    adapter = None if pair.motion_adapter is None else pair.motion_adapter.weights("motion_adapter")
    motion = max(strong.motion, 0 if weak is None else weak.motion)
    if adapter is not None:
        motion = adapter.numel
    elif plan.part("motion_adapter") is not None:
        motion = MOTION["SDXL" if family is None else family]
    whole = strong if strong.vae or weak is None else weak
    strong = replace(strong, vae=whole.vae, vae_config=whole.vae_config, config=strong.config or whole.config)
    twice = frozenset() if weak is None or pair.weak is None else held_twice(pair.strong, pair.weak)
    rows = {
        role: max(
            rows_of(plan, role, plan.sampling_guidance(role)), rows_of(plan, role, plan.side(role).guidance or 1.0)
        )
        for role in ("strong", "weak")
    }
    if weak is None:  # both sides may be rows of one call
        joint = plan.reflection.mode == "fused" and plan.loras_of("strong") != plan.loras_of("weak")
        rows["strong"] = sum(rows.values()) if joint else max(rows.values())
    size = (plan.height, plan.width, plan.num_frames, min(plan.batch, plan.per_method))
    loads = (Load(rows["strong"], *size), None if weak is None else Load(rows["weak"], *size))
    one_vae = weak is None or not weak.vae or pair.put_together or "vae" in twice
    texts = {part for part in TEXT_ENCODERS if pair.weak is not None and pair.weak.weights(part) is not None}
    steered = bool(plan.lora_sources or plan.part("controlnet") or plan.part("ip_adapter"))
    precision = plan.pair.weak.precision
    found = Sides(
        strong,
        weak,
        loads,
        one_vae=one_vae,
        motion=motion,
        more=_more(plan),
        at_once=steered,
        shared=sum(size for part, size in strong.networks.items() if part in twice),
        one_text=weak is not None and texts <= twice,
        stored=1 if plan.fp8 else None,
        codes=CODES[precision] if precision in CODES and plan.pair.weak.checkpoint is None else 0.0,
    )
    return found if weak is None else found.only(roles_of(plan.methods))


def _more(plan: Plan) -> int:
    """The numbers of LoRAs and a ControlNet that are files here."""
    count = 0
    for name, source in plan.lora_sources.items():
        path = found_lora(name, source)
        count += 0 if path is None else Weights((path,)).numel
    net = Path(str(plan.part("controlnet") or "")).expanduser()
    if plan.part("controlnet") and net.is_dir():
        count += Weights(tuple(weight_files(net))).numel
    return count
