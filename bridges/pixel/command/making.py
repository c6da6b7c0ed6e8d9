"""A bridged pair in memory, and what each method means in terms of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bridges.pixel.bridged import bridged, needs_no_bridge
from bridges.pixel.command.latent_spaces import ChosenMap
from bridges.pixel.command.request import BridgePlan
from bridges.pixel.mapped import Mapped
from w2sd_video.commands.making import frames_of, measured
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.hosting.calls import call_signature
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import Task

Texts = dict[str, dict[str, Tensor]]
"""The call arguments that stand for each prompt."""


@dataclass
class LoadedBridge:
    """Both pipelines, placed (`weak` is None where no method needs it), and the prompts encoded for those that can.

    `tiny` holds the tiny VAEs of the strong and the weak side, None for full ones; `texts` the encoded prompts by side,
    None for a pipeline that encodes them in each call.
    """

    plan: BridgePlan
    strong: Any
    weak: Any
    tiny: tuple[Any, Any] = (None, None)
    texts: dict[str, Texts | None] = field(default_factory=dict)
    chosen: ChosenMap | None = None
    note: Callable[[str], None] = lambda message: None

    def make(self, task: Task, report: Report) -> Made:
        """Returns one picture (or video) by one method.

        `weak` and `strong` sample one pipeline by itself, `w2sd` reflects the strong one with the weak one, `zero-gap`
        with itself in the same way: through its own VAE, or directly where the pair needs no bridge. The initial noise
        comes from a CPU generator seeded `task.seed`.

        Raises:
            NotMadeError: a latent or the picture is not finite.
        """
        plan = self.plan
        settings: dict[str, Any] = {
            "num_reflections": plan.reflections,
            "strength": plan.strength,
            "vae": self.tiny[0],
            "tiled": plan.tiled,
            "seed": task.seed,
            "progress": report,
        }
        if task.method in ("w2sd", "zero-gap"):
            settings["noise_map"] = self._noise_map(task.seed)
        pipe = self.weak if task.method == "weak" else self.strong
        if task.method in ("weak", "strong"):
            hosted: Any = reflected(pipe, num_reflections=0, progress=report)
        elif task.method == "w2sd":
            hosted = bridged(
                pipe,
                (self.weak, ModelSpec(guidance=plan.pair.weak.guidance)),
                weak_inputs={**self._text("weak", task.prompt), **self._weak_size()},
                weak_vae=self.tiny[1],
                force=plan.force_bridge,
                **settings,
            )
        elif self._reflects_directly():
            same = {name: settings[name] for name in ("num_reflections", "strength", "progress")}
            hosted = reflected(pipe, weak="zero-gap", mode="fused", **same)
        else:
            assert task.method == "zero-gap", task.method
            hosted = bridged(pipe, "zero-gap", **settings)
        try:
            return self._made(pipe, hosted, task)
        except NonFiniteLatentError as error:
            raise NotMadeError(str(error)) from error

    def pictures(self, count: int) -> Iterator[Tensor]:
        """Returns batches of at least `count` pictures [N, 3, H, W] in [-1, 1] of the strong model in all, of the run's
        first prompts, each from noise of its own that no picture of the run has.
        """
        made = 0
        while made < count:
            prompt = self.plan.prompts[made % len(self.plan.prompts)]
            digest = hashlib.sha256(f"picture for the noise map {self.plan.seed} {made}".encode()).digest()
            frames = self._call(self.strong, "strong", prompt, int.from_bytes(digest[:7], "big"))
            yield torch.from_numpy(frames).permute(0, 3, 1, 2).float() * 2 - 1
            made += len(frames)

    def _made(self, pipe: Any, hosted: Any, task: Task) -> Made:
        made, run = measured(
            hosted,
            lambda: self._call(pipe, "weak" if task.method == "weak" else "strong", task.prompt, task.seed),
            device=self.plan.device,
            dtype=self.plan.dtype,
            steps=self.plan.steps,
            counts=("num_reflections", "num_skipped", "num_encodes", "num_decodes"),
        )
        for message in run.notes:
            self.note(message)
        return made

    def _call(self, pipe: Any, side: str, prompt: str, seed: int) -> Any:
        """The frames [F, H, W, 3] in [0, 1] of one call."""
        plan, weak = self.plan, side == "weak"
        guidance = (plan.pair.weak if weak else plan.pair.strong).guidance
        arguments: dict[str, Any] = {
            **self._text(side, prompt),
            "height": plan.weak_height if weak else plan.height,
            "width": plan.weak_width if weak else plan.width,
            "num_inference_steps": plan.steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "np",
        }
        if guidance is not None:
            arguments["guidance_scale"] = guidance
        if plan.true_cfg is not None and not weak:
            arguments["true_cfg_scale"] = plan.true_cfg
        if plan.video and not weak:
            arguments["num_frames"] = plan.num_frames
        pipe.set_progress_bar_config(disable=True)
        return frames_of(pipe(**arguments))

    def _text(self, side: str, prompt: str) -> dict[str, Any]:
        """The call arguments that stand for a prompt."""
        texts, pipe = self.texts.get(side), self.weak if side == "weak" else self.strong
        if texts is not None:
            return {name: tensor.to(self.plan.device) for name, tensor in texts[prompt].items()}
        negative = self.plan.negative_prompt
        given = {"prompt": prompt, "negative_prompt": negative, "max_sequence_length": self.plan.max_sequence_length}
        taken = call_signature(type(pipe)).parameters
        return {name: value for name, value in given.items() if value is not None and name in taken}

    def _weak_size(self) -> dict[str, int]:
        """The weak side's own size; none where it is the strong side's, so that a pair of one space needs no bridge."""
        plan = self.plan
        if (plan.height, plan.width) == (plan.weak_height, plan.weak_width):
            return {}
        return {"height": plan.weak_height, "width": plan.weak_width}

    def _reflects_directly(self) -> bool:
        """Whether "w2sd" goes without a bridge, so that its control does, too."""
        bridge_asked_for = self.plan.force_bridge or self.tiny != (None, None) or self._weak_size()
        return not bridge_asked_for and needs_no_bridge(self.strong, self.weak)

    def _noise_map(self, seed: int) -> Any:
        """The map, or the name of one; what is drawn is of the picture's seed, whichever run the picture is made in."""
        if self.plan.noise_map in ("fresh", "fixed"):
            return self.plan.noise_map
        found = None if self.chosen is None else self.chosen.noise_map
        return replace(found, seed=seed) if isinstance(found, Mapped) else found
