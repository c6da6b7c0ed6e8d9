"""A pair of one latent space in memory, and what each method means in terms of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from w2sd_video.commands.measured_calls import frames_of, measured
from w2sd_video.commands.method_settings import AS_THEY_SAMPLE, config_of, hosted_name
from w2sd_video.commands.pictures.request import ImagePlan
from w2sd_video.commands.rewards import Reward, RewardFailedError
from w2sd_video.hosting import reflected
from w2sd_video.hosting.finite import NonFiniteLatentError
from w2sd_video.hosting.settings import call_signature, networks_of
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.choices import as_text
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import ALONE, SELECTING, Task

Texts = dict[str, dict[str, Tensor]]
"""The call arguments that stand for each prompt."""


@dataclass
class LoadedImages:
    """The pipelines, placed: `weak` is None where the strong side's network serves both (or no method needs it).

    `texts` holds the encoded prompts by side, None for a pipeline that encodes them in each call. `extra` are call
    arguments of both sides, such as the control image; `reward` is there where w2sd-auto is to be made.
    """

    plan: ImagePlan
    strong: Any
    weak: Any = None
    texts: dict[str, Texts | None] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    reward: Reward | None = None

    def make(self, task: Task, report: Report) -> Made:
        """Returns one picture by one method.

        `weak` and `strong` sample one side by itself; `w2sd` reflects the strong side with the weak one; `zero-gap`
        with itself; `swapped` exchanges the two. The re-sampling methods ask the sides as `w2sd` does; `w2sd-auto` and
        `autoguided` ask both as they sample by themselves. The initial noise, and all that follows, comes from a CPU
        generator seeded `task.seed`.

        Raises:
            NotMadeError: a latent or the picture is not finite, or the reward failed.
        """
        plan = self.plan
        own = "weak" if task.method in ("weak", "swapped") else "strong"
        pipe = self._pipe(own)
        hosted = reflected(pipe, **self._settings(task, own), progress=report)
        steps = plan.steps_of(task.method)
        try:
            with self.standing(own):
                made, run = measured(
                    hosted,
                    lambda: self._call(pipe, own, task, steps),
                    device=plan.device,
                    dtype=plan.dtype,
                    steps=steps,
                )
        except (NonFiniteLatentError, RewardFailedError) as error:
            raise NotMadeError(str(error)) from error
        return replace(made, choices=as_text(run.choices)) if task.method == SELECTING else made

    def _settings(self, task: Task, own: str) -> dict[str, Any]:
        """What `reflected` is told of a method that samples the side `own`."""
        plan, method = self.plan, task.method
        reflector = ModelSpec(guidance=self._scale(own, self._side(own).guidance))
        settings: dict[str, Any] = {
            "method": hosted_name(method),
            "config": config_of(method, plan.reflection, reflector),
        }
        if method == "zero-gap":
            settings["weak"] = "zero-gap"
        elif method not in (*ALONE, "resample"):
            other = "weak" if own == "strong" else "strong"
            alone = plan.sampling_guidance(other) if method in AS_THEY_SAMPLE else None
            scale = self._side(other).guidance if alone is None else alone
            weak, inputs = self.other_side(other, task.prompt, self._scale(own, scale))
            settings |= {"weak": weak, "weak_inputs": inputs or None}
        if method == SELECTING:
            assert plan.reward is not None and self.reward is not None
            settings["selection"] = plan.reward.selection(self.reward, task.prompt)
        return settings

    def negative(self, role: str) -> str | None:
        """The negative prompt of a side, None for the pipeline's own empty one."""
        own = self.plan.pair.weak.negative_prompt if role == "weak" else None
        return self.plan.negative_prompt if own is None else own

    def _scale(self, sampled: str, guidance: float | None) -> float | None:
        """A scale of either side as it has to be said where the sampled side's halves are exchanged, or not."""
        return 1 - guidance if guidance is not None and self.plan.exchanged(sampled) else guidance

    def _side(self, role: str) -> ModelSpec:
        return self.plan.pair.weak if role == "weak" else self.plan.pair.strong

    def _pipe(self, role: str) -> Any:
        return self.weak if role == "weak" and self.weak is not None else self.strong

    def _prompt(self, role: str, prompt: str) -> str:
        return self.plan.raw_prompts.get(prompt, prompt) if role == "weak" else prompt

    def other_side(self, role: str, prompt: str, guidance: float | None) -> tuple[Any, dict[str, Any]]:
        """The side that inverts, as `reflected` takes it: what differs from the sampled one, and its own inputs."""
        side, plan = self._side(role), self.plan
        pipe = self._pipe(role)
        apart = self.weak is not None
        loras_alike = plan.loras_of("strong") == plan.loras_of("weak")  # they may act on text encoders
        plain = loras_alike and not (apart or plan.raw_prompts)
        told_alike = plain and self.negative("weak") == self.negative("strong")
        spec = ModelSpec(
            guidance=guidance,
            loras=self.plan.loras_of(role),
            control=side.control,
            ip_adapter=side.ip_adapter,
        )
        inputs = {} if told_alike else self.text(role, prompt)
        return (pipe, spec) if apart else spec, inputs

    @contextmanager
    def standing(self, role: str) -> Iterator[None]:
        """Inside, the networks of a side's pipeline are as that side samples."""
        side, loras = self._side(role), self.plan.loras_of(role)
        with ExitStack() as stack:
            for network in networks_of(self._pipe(role)):
                if loras:
                    from w2sd_video.gaps.loras import lora_scales

                    stack.enter_context(lora_scales(network, loras))
                if side.ip_adapter is not None:
                    from w2sd_video.gaps.switches import find_ip_adapters

                    stack.enter_context(find_ip_adapters(network).set_to(side.ip_adapter))
            yield

    def _call(self, pipe: Any, role: str, task: Task, steps: int) -> Any:
        """The frames [F, H, W, 3] in [0, 1] of one call, one for a picture."""
        plan, side, text = self.plan, self._side(role), self.text(role, task.prompt)
        arguments: dict[str, Any] = {
            **(_exchanged(text) if plan.exchanged(role) else text),
            **self.extra,
            "height": plan.height,
            "width": plan.width,
            "num_inference_steps": steps,
            "guidance_scale": self._scale(role, plan.sampling_guidance(role)),
            "generator": torch.Generator("cpu").manual_seed(task.seed),
            "output_type": "np",
        }
        if plan.num_frames is not None:
            arguments["num_frames"] = plan.num_frames
        if side.control is not None:
            arguments["controlnet_conditioning_scale"] = side.control["scale"]
        pipe.set_progress_bar_config(disable=True)
        return frames_of(pipe(**arguments))

    def text(self, role: str, prompt: str) -> dict[str, Any]:
        """The call arguments that stand for a side's prompt."""
        texts, pipe, prompt = self.texts.get(role), self._pipe(role), self._prompt(role, prompt)
        if texts is not None:
            return {name: tensor.to(self.plan.device) for name, tensor in texts[prompt].items()}
        length = self.plan.max_sequence_length
        given = {"prompt": prompt, "negative_prompt": self.negative(role), "max_sequence_length": length}
        taken = call_signature(type(pipe)).parameters
        return {name: value for name, value in given.items() if value is not None and name in taken}


def _exchanged(text: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the prompt and the negative prompt in each other's place."""
    told = {"negative_prompt": "", **text} if "prompt" in text else text
    both = [name for name in told if f"negative_{name}" in told]
    assert both, "the negative half has nothing to stand for it"
    turned = {name: told[f"negative_{name}"] for name in both} | {f"negative_{name}": told[name] for name in both}
    return {**told, **turned}
