"""A block for diffusers' modular pipelines that reflects each step before the loop's own blocks make it.

It knows no architecture: a side is evaluated by the loop's own blocks, on a copy of the loop's state and with that
side's networks and guidance in the place of the pipeline's, so that whatever a family's blocks do, they do for both.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks, ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam
from torch import Tensor, nn

from w2sd_video.core.algorithms import W2SD
from w2sd_video.core.denoisers import Denoiser, with_gap
from w2sd_video.core.levels import Level
from w2sd_video.core.options import ReflectionConfig
from w2sd_video.core.variations import CachedGap
from w2sd_video.errors import UserError
from w2sd_video.hosting.loop_state import (
    check_sound,
    guidance_beside,
    latents_of,
    picture_of,
    prediction_of,
    put_latents,
)
from w2sd_video.latents.schedules import REMEDY, SECOND_ORDER, UNIPC, Schedule, read_schedule, to_native

AFTER, MEASURE = "after_denoiser", "measure_gap"
SETTINGS: Mapping[str, tuple[Any, str]] = {
    "num_reflections": (None, "lambda: how many of the noisiest steps are reflected; None is all but the last."),
    "reflection_mode": ("paper", '"paper" (Algorithm 1), "fused" (Theorem 1) or "release".'),
    "reflection_strength": (1.0, "Multiplies the move of each reflection."),
    "reflect_every": (1, "Reflect each k-th of these steps."),
    "reflection_cap": (None, "The most a reflection may move a sample, root mean square in latent units."),
    "reflection_gap_every": (
        None,
        "Cached gaps, in mode fused: measured at every k-th step, 0 once; or at a tuple of steps.",
    ),
    "motion_strength": (1.0, "Of videos: multiplies what a move has beside its mean over the frames."),
    "weak_guidance_scale": (None, "Guidance of the weak side; None: as the strong side reflects."),
    "reflect_guidance_scale": (None, "Guidance of the strong side inside reflections; None: as it samples."),
    "weak_inputs": (None, "Values of the loop's state in place of its own for the weak side, as prompt_embeds."),
}


class ReflectionBlock(ModularPipelineBlocks):
    """x~ = M_inv^w(M^s(x)) before each of the first lambda steps (arXiv 2502.00473, Alg. 1 line 7).

        block = ReflectionBlock.from_pretrained("someone/w2sd-wan", trust_remote_code=True)
        pipe = block.install(blocks).init_pipeline(...)
        pipe.update_components(weak_transformer=weak)
        pipe(prompt, num_inference_steps=50, num_reflections=10, weak_guidance_scale=1.0)

    The scheduler must step in a way that an inversion can take back (flow Euler, Euler, DDIM, DPM-Solver++(2M)); others
    are refused. A weak network that is left out is the pipeline's own: what differs is then guidance or inputs.

    Attributes:
        weak_networks, given, scales: in place of components and inputs, where `reflected` installs it: the networks by
            the pipeline's own names, the settings, and the guidance of the reflecting and of the weak side.
        home, stages: of a family's subclass, the module and the classes of the loop's blocks that lead to a prediction.
    """

    home: str = ""
    stages: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        module: Any = importlib.import_module(self.home) if self.home else None
        self._blocks: list[Any] = [getattr(module, name)() for name in self.stages]
        self.weak_networks: dict[str, Any] = {}
        self.given: ReflectionConfig | None = None
        self.scales: tuple[float | None, float | None] = None, None
        self.on_reflect: Callable[[int, Tensor, Tensor], None] | None = None
        self.on_evaluation: Callable[[], None] | None = None
        self.on_begin: Callable[[int], None] | None = None
        self._schedule: Schedule | None = None
        self._reflection: W2SD | CachedGap | None = None
        self._now: tuple[Any, Any, int, Any] | None = None

    @property
    def description(self) -> str:
        return "step within the denoising loop that reflects the latents with a weak model (W2SD), before the denoiser"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """The family's own components of these stages, and a weak network beside each network."""
        specs = [spec for block in self._blocks for spec in block.expected_components]
        return [*specs, *(ComponentSpec(f"weak_{name}", kind) for name, kind in self._networks().items())]

    @property
    def inputs(self) -> list[InputParam]:
        own = [InputParam(name, default=default, description=about) for name, (default, about) in SETTINGS.items()]
        return [InputParam("latents", required=True, type_hint=Tensor), InputParam("timesteps", required=True), *own]

    def install(self, blocks: Any) -> Any:
        """Returns ``blocks`` with this block first in every denoising loop; they themselves stay as they are.

        Raises:
            UserError: there is no such loop, or one is reflected already.
        """
        blocks = copy.deepcopy(blocks)  # some families' blocks share their loops with all others of their class
        self.insert(blocks)
        return blocks

    def insert(self, blocks: Any) -> None:
        """Puts this block into ``blocks`` themselves; raises as `install`."""
        loops = loops_of(blocks)
        if not loops:
            raise UserError(
                f"{type(blocks).__name__} has no denoising loop with a denoiser and an {AFTER} block; give the blocks "
                "of a whole pipeline, or of its denoising"
            )
        for loop in loops:
            if "reflect" in loop.sub_blocks:
                raise UserError(f"{type(loop).__name__} is reflected already; take the older block out first")
            own = copy.copy(self)
            own._blocks = stages_of(loop)
            loop.sub_blocks.insert("reflect", own, 0)
            loop.sub_blocks.insert(MEASURE, GapBlock(own), list(loop.sub_blocks).index(AFTER))

    def remove(self, loop: Any) -> None:
        """Takes this block out of a loop that it was put into."""
        for name in ("reflect", MEASURE):
            loop.sub_blocks.pop(name, None)

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: Any) -> tuple[Any, Any]:
        if i == 0:
            self._begin(components, block_state)
        assert self._schedule is not None
        step = self._schedule.steps[i]
        if self._reflection is None or step is None:
            return components, block_state
        self._now = components, block_state, i, t
        scale = self._schedule.scales[step]
        x = latents_of(block_state) / scale
        tilde = self._reflection.reflect(step, x)
        self._now = None
        if tilde is not None:
            if self.on_reflect is not None:
                self.on_reflect(step, picture_of(block_state, x), picture_of(block_state, tilde))
            put_latents(block_state, tilde * scale)
        return components, block_state

    def measure(self, components: Any, block_state: Any, i: int, t: Any) -> None:
        """Keeps the gap at this sampling step, if it is wanted; the loop's own blocks have just made its prediction."""
        step = None if self._schedule is None else self._schedule.steps[i]
        if not isinstance(self._reflection, CachedGap) or step is None:
            return
        assert self._schedule is not None
        self._now = components, block_state, i, t
        scale = self._schedule.scales[step]
        x = latents_of(block_state) / scale
        self._reflection.strong(x, self._schedule.levels[step])
        self._now = None

    def _sampled(self, x: Tensor, level: Level) -> Tensor:
        """The prediction that the loop's own blocks made at this step."""
        assert self._now is not None and self._schedule is not None
        components, state, i, _ = self._now
        made = prediction_of(state, components.scheduler, i)
        return to_native(self._schedule.prediction, made.to(x.dtype), x, level)

    def _begin(self, components: Any, state: Any) -> None:
        """Reads the grid and the settings of this call, and refuses what cannot be reflected."""
        scheduler = components.scheduler
        if type(scheduler).__name__ == UNIPC:  # its own steps follow, whose corrector would take a reflection back
            raise UserError(
                f"{UNIPC} keeps a history that does not hold for a reflected latent; {SECOND_ORDER}; or {REMEDY}"
            )
        first = torch.as_tensor(state.timesteps)[0].to(scheduler.timesteps)
        start = int((scheduler.timesteps == first).nonzero()[0, 0])
        self._schedule = read_schedule(scheduler, start=start, count=len(state.timesteps))
        told = {name: getattr(state, name, default) for name, (default, _) in SETTINGS.items()}
        config = self.given or ReflectionConfig(
            told["num_reflections"],
            told["reflection_mode"],
            told["reflection_strength"],
            every=told["reflect_every"],
            cap=told["reflection_cap"],
            gap_every=told["reflection_gap_every"],
            motion_strength=told["motion_strength"],
        )
        if config.lag:
            raise UserError("a reflection block keeps no predictions of sampling steps; leave lag out")
        if self.on_begin is not None:
            self.on_begin(self._schedule.num_steps)
        self._reflection = None
        if config.plain():
            return
        check_sound(state, scheduler, config)
        networks = {name: self._weak_network(components, name) for name in self._networks()}
        networks = {name: network for name, network in networks.items() if network is not None}
        scales = told["reflect_guidance_scale"], told["weak_guidance_scale"]
        reflect_scale, weak_scale = scales if self.given is None else self.scales
        weak_scale = reflect_scale if weak_scale is None else weak_scale
        strong = self._side(self._changes(components, state, reflect_scale), {})
        inputs = dict(told["weak_inputs"] or {})
        if unknown := [name for name in inputs if not hasattr(state, name)]:
            raise UserError(f"weak_inputs has {', '.join(unknown)}, which this loop's state has not")
        components_of_weak, fields = self._changes(components, state, weak_scale)
        weak = self._side(({**components_of_weak, **networks}, fields), inputs)
        levels, path = self._schedule.levels, self._schedule.path
        if config.gap_every is None:
            self._reflection = W2SD(levels, strong, weak, path, config)
            return
        measured = with_gap(self._sampled, weak, reflector=None if reflect_scale is None else strong)
        self._reflection = CachedGap(levels, self._sampled, measured, path, config)

    def _side(self, changes: tuple[Mapping[str, Any], Mapping[str, Any]], inputs: Mapping[str, Any]) -> Denoiser:
        """A side as one of core's denoisers, by the loop's own blocks."""
        replaced, fields = changes

        def predict(x: Tensor, level: Level) -> Tensor:
            assert self._now is not None and self._schedule is not None
            components, state, i, t = self._now
            step = self._schedule.steps[i]
            assert step is not None
            ours, side = copy.copy(state), _Components(components, replaced)
            for name, value in {**fields, **inputs}.items():
                setattr(ours, name, value)
            put_latents(ours, x * self._schedule.scales[step])
            for block in self._blocks:
                block(side, ours, i=i, t=t)
            if self.on_evaluation is not None:
                self.on_evaluation()
            made = prediction_of(ours, components.scheduler, i)
            return to_native(self._schedule.prediction, made.to(x.dtype), x, level)

        return predict

    def _changes(self, components: Any, state: Any, scale: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """A side's guiders at this guidance, or its field of the state where guidance is the network's input."""
        if scale is None:
            return {}, {}
        guiders = {name: getattr(components, name) for name in self._guiders()}
        if not guiders:
            guidance = getattr(state, "guidance", None)
            if guidance is None:
                raise UserError("this pipeline's network has no guidance to change; leave the guidance scales out")
            return {}, {"guidance": torch.full_like(guidance, scale)}
        changed = {}
        for name, guider in guiders.items():
            if "guidance_scale" not in guider.config:
                raise UserError(f"the pipeline's {type(guider).__name__} has no guidance_scale; leave the scales out")
            main = next(iter(guiders.values()))
            changed[name] = guider.new(guidance_scale=guidance_beside(name, guider, main, scale))
            if not guider._enabled:
                changed[name].disable()
        if scale != 1 and hasattr(state, "negative_prompt_embeds") and state.negative_prompt_embeds is None:
            raise UserError(
                f"a side has guidance {scale}, but the pipeline made no negative embeddings as its own guidance is "
                "off; give negative_prompt_embeds, or have the pipeline's guider at another scale than 1"
            )
        return changed, {}

    def _networks(self) -> dict[str, type]:
        """The classes of the networks that these stages expect, by their names."""
        return {
            spec.name: spec.type_hint
            for block in self._blocks
            for spec in block.expected_components
            if isinstance(spec.type_hint, type) and issubclass(spec.type_hint, nn.Module)
        }

    def networks_of(self, blocks: Any) -> list[str]:
        """The names of the networks that the loops of ``blocks`` evaluate."""
        found: dict[str, None] = {}
        for loop in loops_of(blocks):
            whole = copy.copy(self)
            whole._blocks = [stage for stage in stages_of(loop) if not isinstance(stage, ReflectionBlock | GapBlock)]
            found |= dict.fromkeys(whole._networks())
        return list(found)

    def _guiders(self) -> list[str]:
        specs = [spec for block in self._blocks for spec in block.expected_components]
        return list(dict.fromkeys(spec.name for spec in specs if "guider" in spec.name))

    def _weak_network(self, components: Any, name: str) -> Any:
        given = self.weak_networks.get(name)
        return getattr(components, f"weak_{name}", None) if given is None else given


class GapBlock(ModularPipelineBlocks):
    """Of cached gaps: the weak side asked where a sampling step has asked the strong one."""

    def __init__(self, reflection: ReflectionBlock) -> None:
        super().__init__()
        self._reflection_block = reflection

    @property
    def description(self) -> str:
        return "step within the denoising loop that measures the gap of a W2SD reflection, after the denoiser"

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: Any) -> tuple[Any, Any]:
        self._reflection_block.measure(components, block_state, i, t)
        return components, block_state


class _Components:
    """A pipeline's components, some of them replaced."""

    def __init__(self, components: Any, replaced: Mapping[str, Any]) -> None:
        self._components, self._replaced = components, replaced

    def __getattr__(self, name: str) -> Any:
        replaced = self.__dict__["_replaced"]
        return replaced[name] if name in replaced else getattr(self.__dict__["_components"], name)


def loops_of(blocks: Any) -> list[Any]:
    """Returns the denoising loops among blocks and their sub-blocks, at any depth."""
    if isinstance(blocks, LoopSequentialPipelineBlocks):
        names = list(blocks.sub_blocks)
        return [blocks] if "denoiser" in names and AFTER in names else []
    return [loop for block in dict(blocks.sub_blocks or {}).values() for loop in loops_of(block)]


def stages_of(loop: Any) -> list[Any]:
    """Returns the blocks of a loop that come before the scheduler's step."""
    names = list(loop.sub_blocks)
    return [loop.sub_blocks[name] for name in names[: names.index(AFTER)]]
