"""A pair of one latent space in memory, and what each method means in terms of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2sd_video.commands.checks import check_fetched, note_cut_texts, read_control_frames
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.measuring import frames_of, measured, part_of, sound_of
from w2sd_video.commands.method_settings import AS_THEY_SAMPLE, GAPPED, config_of, hosted_name, roles_of
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.rewards import Reward, RewardFailedError, load_reward
from w2sd_video.commands.starts import start_arguments
from w2sd_video.core import OnReflect
from w2sd_video.gaps.control_images import canny_edges
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.hosting.caches import check_cacheable, enable_caches
from w2sd_video.hosting.calls import call_signature, networks_of
from w2sd_video.loading.pairs import load_pair
from w2sd_video.loading.pipeline_families import PipelineFamily
from w2sd_video.loading.pipelines import (
    adapter_arguments,
    add_ip_adapter,
    begun_from,
    control_arguments,
    with_controlnet,
)
from w2sd_video.loading.placement import (
    can_encode,
    compile_networks,
    encoded_prompts,
    free_text_encoders,
    kept_in_fp8,
    place,
    place_encoders,
    read_to,
)
from w2sd_video.loading.streaming import keep_apart
from w2sd_video.pair import ModelSpec, gap
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import ALONE, SELECTING, Task, as_text

Texts = dict[str, dict[str, Tensor]]
"""The call arguments that stand for each prompt."""


@dataclass
class LoadedSides:
    """Both sides, placed.

    Attributes:
        strong, weak: the pipelines; `weak` is None where the strong one serves both (or no method needs it).
        texts: the encoded prompts by side, None for a pipeline that encodes them in each call.
        extra: call arguments of both sides, such as the control image.
        reward: there where w2sd-auto is to be made.
        watch: told of each reflection.
    """

    plan: Plan
    strong: Any
    weak: Any = None
    texts: dict[str, Texts | None] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    reward: Reward | None = None
    watch: OnReflect | None = None

    def make(self, tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        """Returns a video or picture for each task, or why there is none.

        `weak` and `strong` sample one side by itself; `w2sd` reflects the strong side with the weak one; `zero-gap`
        with itself; `swapped` exchanges the two. The re-sampling methods ask the sides as `w2sd` does; `w2sd-auto` and
        `autoguided` ask both as they sample by themselves. The initial noise, and all that follows, comes from a CPU
        generator seeded `task.seed`.
        """
        if len(tasks) > 1 and self._together(tasks):
            with suppress(NonFiniteLatentError):  # one's NaN is the batch's: by itself each shows whose it was
                return list(self._made(tasks, report))
        parts = [part_of(report, number, len(tasks)) for number in range(len(tasks))]
        return [made for task, part in zip(tasks, parts, strict=True) for made in self._made([task], part)]

    def again(self, plan: Plan, run: Loading) -> LoadedSides | None:
        """Returns the same models for another plan; None where that needs others, or prompts that are not encoded."""
        roles = wanted_sides(plan, run)
        there = {"strong": self.strong, "weak": self.weak}
        if plan.as_loaded() != self.plan.as_loaded() or any(there[role] is None for role in roles):
            return None
        if plan.cache is not None or (plan.reward is not None and SELECTING in run.methods):
            return None
        for role, texts in self.texts.items():
            if texts is not None and not {self._prompt(role, prompt) for prompt in run.prompts} <= texts.keys():
                return None
        return replace(self, plan=plan)

    def _together(self, tasks: Sequence[Task]) -> bool:
        """Whether one call can make several: their texts are encoded, and nothing else is of one of them alone."""
        plan = self.plan
        steered = plan.part("controlnet") or plan.part("ip_adapter")
        alone = plan.raw_prompts or plan.start or steered or plan.cache or tasks[0].method == SELECTING
        return not alone and all(texts is not None for texts in self.texts.values())

    def _made(self, tasks: Sequence[Task], report: Report) -> Sequence[Made | NotMadeError]:
        """Makes tasks of one method in one call; with several, raises `NonFiniteLatentError`."""
        plan, task = self.plan, tasks[0]
        own = "weak" if task.method in ("weak", "swapped") else "strong"
        pipe = self._pipe(own)
        if task.method in GAPPED and self._told_alike(task.prompt):
            raw = self._prompt("weak", task.prompt)
            one = "" if raw == task.prompt else " after what the text encoder cuts off"
            return [NotMadeError(f"the sides differ in their prompts alone, which are one{one}: leave out {raw!r}")]
        guided = plan.pipelines is not None and plan.pipelines.scale == "guider"  # whose sides are replayed
        if guided and (other := self._pipe("weak" if own == "strong" else "strong")) is not pipe:
            # so that it prepares as many halves as the one that samples
            other.guider = other.guider.new(guidance_scale=plan.sampling_guidance(own))
        hosted = reflected(pipe, **self._settings(tasks, own), progress=report, host="replay" if guided else "auto")
        steps = plan.steps_of(task.method)
        try:
            with self.standing(own):
                made, run = measured(
                    hosted,
                    lambda: self._call(pipe, own, tasks, steps),
                    device=plan.device,
                    dtype=plan.dtype,
                    steps=steps,
                )
        except (NonFiniteLatentError, RewardFailedError) as error:
            if len(tasks) > 1:
                raise
            return [NotMadeError(str(error))]
        if task.method == SELECTING:
            return [replace(made, choices=as_text(run.choices))]
        count = len(tasks)
        shares: dict[str, Any] = {"num_rows": made.num_rows // count, "seconds": made.seconds / count}
        return [replace(made, frames=frames, **shares) for frames in np.split(made.frames, count)]

    def _told_alike(self, prompt: str) -> bool:
        """Whether the gap of a pair of prompts is none for this one: both sides are told the same in every tensor."""
        if not self.plan.raw_prompts or gap(self.plan.pair.strong, self.plan.pair.weak):
            return False
        strong, weak = self.text("strong", prompt), self.text("weak", prompt)
        return strong.keys() == weak.keys() and all(
            torch.equal(value, weak[name]) if isinstance(value, Tensor) else value == weak[name]
            for name, value in strong.items()
        )

    def _settings(self, tasks: Sequence[Task], own: str) -> dict[str, Any]:
        """What `reflected` is told of a method that samples the side `own`."""
        plan, method = self.plan, tasks[0].method
        prompts = [task.prompt for task in tasks]
        reflector = ModelSpec(guidance=self._inside(own, plan.side(own).guidance), levels=plan.side(own).levels)
        settings: dict[str, Any] = {
            "method": hosted_name(method),
            "config": config_of(method, plan.reflection, reflector),
            "on_reflect": self.watch,
        }
        if method == "zero-gap":
            settings["weak"] = "zero-gap"
        elif method not in (*ALONE, "resample"):
            other = "weak" if own == "strong" else "strong"
            alone = plan.sampling_guidance(other) if method in AS_THEY_SAMPLE else None
            scale = plan.side(other).guidance if alone is None else alone
            weak, inputs = self.other_side(other, prompts, self._inside(own, scale))
            settings |= {"weak": weak, "weak_inputs": inputs or None}
        if method == SELECTING:
            assert plan.reward is not None and self.reward is not None
            settings["selection"] = plan.reward.selection(self.reward, prompts[0])
        return settings

    def negative(self, role: str) -> str | None:
        """The negative prompt of a side, None for the pipeline's own empty one."""
        own = self.plan.pair.weak.negative_prompt if role == "weak" else None
        return self.plan.negative_prompt if own is None else own

    def _scale(self, sampled: str, guidance: float | None) -> float | None:
        """A scale of either side as it has to be said where the sampled side's halves are exchanged, or not."""
        return 1 - guidance if guidance is not None and self.plan.exchanged(sampled) else guidance

    def _inside(self, sampled: str, guidance: float | None) -> float | None:
        """A scale inside the reflection; None where each frame has its own, which both sides sample with."""
        by_frame = self.plan.pipelines is not None and self.plan.pipelines.by_frame
        return None if by_frame else self._scale(sampled, guidance)

    def _pipe(self, role: str) -> Any:
        return self.weak if role == "weak" and self.weak is not None else self.strong

    def _prompt(self, role: str, prompt: str) -> str:
        return self.plan.raw_prompts.get(prompt, prompt) if role == "weak" else prompt

    def other_side(self, role: str, prompts: Sequence[str], guidance: float | None) -> tuple[Any, dict[str, Any]]:
        """The side that inverts, as `reflected` takes it: what differs from the sampled one, and its own inputs."""
        side, plan = self.plan.side(role), self.plan
        apart = self.weak is not None
        loras_alike = plan.loras_of("strong") == plan.loras_of("weak")  # they may act on text encoders
        plain = loras_alike and not (apart or plan.raw_prompts)
        told_alike = plain and self.negative("weak") == self.negative("strong")
        spec = ModelSpec(
            guidance=guidance,
            loras=plan.loras_of(role),
            control=side.control,
            ip_adapter=side.ip_adapter,
            levels=side.levels,
            skip_layers=() if role == "strong" and plan.pair.weak.skip_layers is not None else side.skip_layers,
            precision="full" if role == "strong" and plan.pair.weak.precision is not None else side.precision,
        )
        inputs = {} if told_alike else self.text(role, *prompts)
        return (self._pipe(role), spec) if apart else spec, inputs

    @contextmanager
    def standing(self, role: str) -> Iterator[None]:
        """Inside, the networks of a side's pipeline are as that side samples."""
        side, loras = self.plan.side(role), self.plan.loras_of(role)
        with ExitStack() as stack:
            for network in networks_of(self._pipe(role)):
                if loras:
                    from w2sd_video.gaps.loras import lora_scales

                    stack.enter_context(lora_scales(network, loras))
                if side.skip_layers is not None:
                    from w2sd_video.gaps.layer_skips import find_layer_skips

                    stack.enter_context(find_layer_skips(network).set_to(side.skip_layers))
                if side.precision is not None:
                    from w2sd_video.gaps.precision import find_precision

                    stack.enter_context(find_precision(network).set_to(side.precision))
                if side.ip_adapter is not None:
                    from w2sd_video.gaps.switches import find_ip_adapters

                    stack.enter_context(find_ip_adapters(network).set_to(side.ip_adapter))
            yield

    def _call(self, pipe: Any, role: str, tasks: Sequence[Task], steps: int) -> Any:
        """The frames [F, H, W, 3] in [0, 1] of one call, one for a picture, those of each task after the other; and
        their sound, where it is of one task.
        """
        plan, side, text = self.plan, self.plan.side(role), self.text(role, *(task.prompt for task in tasks))
        generators = [torch.Generator("cpu").manual_seed(task.seed) for task in tasks]
        arguments: dict[str, Any] = {
            **(_exchanged(text) if plan.exchanged(role) else text),
            **self.extra,
            **call_settings(plan, pipe, steps, self._scale(role, plan.sampling_guidance(role))),
            "generator": generators if len(tasks) > 1 else generators[0],
            "output_type": "np",
        }
        if side.control is not None:
            arguments["controlnet_conditioning_scale"] = side.control["scale"]
        pipe.set_progress_bar_config(disable=True)
        output = pipe(**arguments)
        return frames_of(output), sound_of(output, pipe)

    def text(self, role: str, *prompts: str) -> dict[str, Any]:
        """The call arguments that stand for a side's prompt, or for those of a batch, whose texts are encoded."""
        texts, pipe, prompt = self.texts.get(role), self._pipe(role), prompts[0]
        if texts is not None:
            told = [texts[self._prompt(role, prompt)] for prompt in prompts]
            return {name: torch.cat([each[name] for each in told]).to(self.plan.device) for name in told[0]}
        length = self.plan.max_sequence_length
        given = {
            "prompt": self._prompt(role, prompt),
            "negative_prompt": self.negative(role),
            "max_sequence_length": length,
        }
        if self.plan.pipelines is not None and self.plan.pipelines.scale == "true_cfg_scale":
            given["negative_prompt"] = given["negative_prompt"] or " "  # without one these pipelines do not guide
        taken = call_signature(type(pipe)).parameters
        return {name: value for name, value in given.items() if value is not None and name in taken}


def call_settings(plan: Plan, pipe: Any, steps: int, guidance: float | None) -> dict[str, Any]:
    """The arguments of a call beside text and pictures, by the names that this family's pipelines have for them.

    A pipeline that takes a picture or a video has its size from that.
    """
    family, taken = plan.pipelines or PipelineFamily(""), call_signature(type(pipe)).parameters
    sized = {"height": plan.height, "width": plan.width, family.frames_name: plan.num_frames}
    started = plan.start is not None
    found: dict[str, Any] = {n: v for n, v in sized.items() if v is not None and (n in taken or not started)}
    count = steps
    if plan.start is not None and plan.start.denoise is not None:
        count = plan.start.grid(steps)
        found["strength"] = plan.start.denoise
    scale = guidance - 1 if family.excess and guidance is not None else guidance
    if family.scale == "guider":
        pipe.guider = pipe.guider.new(guidance_scale=scale)
    else:
        found[family.scale] = scale
    if family.rate_name:
        found[family.rate_name] = plan.fps if family.rate_name != "fps" else round(plan.fps or 0)
    if "audio_guidance_scale" in taken:
        found["audio_guidance_scale"] = scale
    return {**found, **family.extra, "num_inference_steps": count}


def _exchanged(text: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the prompt and the negative prompt in each other's place."""
    told = {"negative_prompt": "", **text} if "prompt" in text else text
    both = [name for name in told if f"negative_{name}" in told]
    assert both, "the negative half has nothing to stand for it"
    turned = {name: told[f"negative_{name}"] for name in both} | {f"negative_{name}": told[name] for name in both}
    return {**told, **turned}


def load_pipelines(plan: Plan, run: Loading) -> LoadedSides:
    """Returns what the pending tasks need of whole pipelines, placed, with the prompts encoded and the text encoders of
    known families freed.

    Raises:
        UserError: a side, or something that belongs to it, cannot be used.
    """
    before = run.kept.pop() if run.kept else None
    if isinstance(before, LoadedSides) and (again := before.again(plan, run)) is not None:
        return again
    del before  # its memory is wanted
    check_fetched(plan)
    reward = None
    if plan.reward is not None and SELECTING in run.methods:
        reward = load_reward(plan.reward, device=plan.device, allow_pickle=plan.allow_pickle)
    if (before := run.record.get("batch", plan.batch)) != plan.batch:
        run.note(f"the batch was {before} before; what {plan.batch} make differs from that by rounding")
    if plan.batch > 1:
        run.amend(batch=plan.batch)
    assert plan.files is not None
    # What is added to a network needs its weights.
    steered = plan.lora_sources or plan.part("controlnet") or plan.part("ip_adapter")
    waiting: list[Callable[[], None]] | None = None if steered else []
    pipes = load_pair(
        plan.files,
        wanted=wanted_sides(plan, run),
        dtype=getattr(torch, plan.dtype),
        video=plan.num_frames is not None,
        scheduler=plan.scheduler,
        note=run.note,
        quiet=True,
        waiting=waiting,
        places={} if steered else read_to(plan.device, plan.memory),
        told=run.read,
    )
    strong, weak = (_equipped(plan, role, pipes[role], run) if role in pipes else None for role in ("strong", "weak"))
    networks = [network for pipe in (strong, weak) if pipe is not None for network in networks_of(pipe)]
    if plan.fp8:
        kept_in_fp8(networks)
    for network in networks if plan.cache is not None else ():
        check_cacheable(network)
    loaded = LoadedSides(plan, strong, weak, extra=_told(plan, strong or weak), reward=reward)
    note_cut_texts((strong, weak), plan, run.prompts, run.note)
    _place(loaded, run.prompts, waiting or [])
    if plan.compile:
        compile_networks(networks)
    if plan.cache is not None:
        enable_caches(networks, plan.cache)
    return loaded


def wanted_sides(plan: Plan, run: Loading) -> list[str]:
    """Returns which sides have to be in memory for what a run has still to make."""
    return roles_of(run.methods) if plan.pair.weak.checkpoint is not None else ["strong"]


def _equipped(plan: Plan, role: str, pipe: Any, run: Loading) -> Any:
    """A side's pipeline with its LoRAs at their scales, the ControlNet and the IP-Adapter."""
    if sources := {name: plan.lora_sources[name] for name, _ in plan.loras_of(role)}:
        from w2sd_video.loading.loras import load_loras, use_loras

        loras = load_loras(pipe, sources)
        for note in loras.notes:
            run.note(note)
        use_loras(pipe, plan.loras_of(role))  # text encoders too, for the prompts
        if loras.with_text and plan.pair.weak.checkpoint is None:
            run.note(f"LoRA {', '.join(loras.with_text)} acts on text encoders too: each side's prompts have its scale")
    if plan.part("controlnet") is not None:  # on both sides: at scale 0 it is not evaluated
        pipe = with_controlnet(pipe, plan.part("controlnet"), pipe.dtype, allow_pickle=plan.allow_pickle)
    if plan.part("ip_adapter") is not None:
        add_ip_adapter(pipe, plan.part("ip_adapter"))
    if plan.start is not None:
        given = plan.side(role).checkpoint or plan.pair.strong.checkpoint
        pipe = begun_from(pipe, plan.start.pipeline, str(given))
    return pipe


def _told(plan: Plan, pipe: Any) -> dict[str, Any]:
    """The pictures that both sides are told."""
    told: dict[str, Any] = {}
    if plan.start is not None:
        told |= start_arguments(plan.start, plan.height, plan.width, plan.num_frames)
    if plan.part("control_image") is not None and plan.num_frames is not None:
        frames = read_control_frames(
            plan.part("control_image"), plan.width, plan.height, plan.num_frames, resize=plan.part("resize_control")
        )
        told["conditioning_frames"] = [canny_edges(frame) for frame in frames] if plan.part("canny") else frames
    elif plan.part("control_image") is not None:
        told |= control_arguments(
            pipe,
            plan.part("control_image"),
            plan.height,
            plan.width,
            canny=plan.part("canny"),
            resize=plan.part("resize_control"),
        )
    if plan.part("ip_adapter_image") is not None:
        told |= adapter_arguments(plan.part("ip_adapter_image"))
    return told


def _place(loaded: LoadedSides, prompts: list[str], waiting: list[Callable[[], None]]) -> None:
    """Encode the prompts with the text encoders alone and free them, give the networks their weights, and put the
    pipelines where the memory plan wants them.
    """
    plan = loaded.plan
    for pipe in (loaded.strong, loaded.weak):
        if pipe is not None and can_encode(pipe):
            place_encoders(pipe, plan.device, plan.memory)
    _encode(loaded, prompts)
    for read in waiting:
        read()
    place(loaded.strong, loaded.weak, plan.device, plan.memory)
    if plan.fp8 and plan.device == "cpu":
        keep_apart()


def _encode(loaded: LoadedSides, prompts: list[str]) -> None:
    plan = loaded.plan
    raw = [plan.raw_prompts.get(prompt, prompt) for prompt in prompts]
    if loaded.weak is None:
        loras = plan.lora_sources  # whose scales in the text encoders are each side's
        with _as_weak(loaded) if loras else nullcontext():
            loaded.texts["weak"] = _texts(plan, loaded.strong, raw, loaded.negative("weak"))
        told_alike = raw == prompts and loaded.negative("weak") == plan.negative_prompt
        loaded.texts["strong"] = (
            loaded.texts["weak"]
            if told_alike and not loras
            else _texts(plan, loaded.strong, prompts, plan.negative_prompt)
        )
        pipes = [loaded.strong]
    else:
        loaded.texts["weak"] = _texts(plan, loaded.weak, raw, loaded.negative("weak"))
        if can_encode(loaded.weak):
            free_text_encoders(loaded.weak)
        told_alike = raw == prompts and loaded.negative("weak") == plan.negative_prompt
        if told_alike and _one_text(loaded):
            loaded.texts["strong"] = loaded.texts["weak"]
        elif loaded.strong is not None:
            loaded.texts["strong"] = _texts(plan, loaded.strong, prompts, plan.negative_prompt)
        pipes = [pipe for pipe in (loaded.strong, loaded.weak) if pipe is not None]
    for pipe in pipes:
        if can_encode(pipe):
            free_text_encoders(pipe)


def _one_text(loaded: LoadedSides) -> bool:
    """Whether the weak side has its text encoders from the strong one, and no LoRA tells them apart."""
    tokenizers = [getattr(pipe, "tokenizer", None) for pipe in (loaded.strong, loaded.weak)]
    return tokenizers[0] is tokenizers[1] and not loaded.plan.lora_sources


@contextmanager
def _as_weak(loaded: LoadedSides) -> Iterator[None]:
    """Inside, LoRAs of the one pipeline's text encoders have the weak side's scales."""
    from w2sd_video.loading.loras import use_loras

    use_loras(loaded.strong, loaded.plan.loras_of("weak"))
    try:
        yield
    finally:
        use_loras(loaded.strong, loaded.plan.loras_of("strong"))


def _texts(plan: Plan, pipe: Any, prompts: list[str], negative: str | None) -> Texts | None:
    if not can_encode(pipe):
        return None
    unused = type(pipe).__name__.startswith("Flux")  # it runs no true guidance here
    return encoded_prompts(
        pipe,
        dict.fromkeys(prompts),
        None if unused else negative,
        device=plan.device,
        max_sequence_length=plan.max_sequence_length,
    )
