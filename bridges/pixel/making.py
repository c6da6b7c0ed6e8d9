"""A bridged pair in memory: its noise map, taken, read or fitted, and what each method means in terms of it."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridges.pixel.bridged import bridged, needs_no_bridge
from bridges.pixel.choosing import Fit, Spaces, fitted_map, known_map, spaces_of
from bridges.pixel.mapped import Mapped
from bridges.pixel.noise_maps import FRESH_HARMS
from bridges.pixel.pictures import load_pictures
from bridges.pixel.presets import NOISE_MAP
from bridges.pixel.settings import TINY_VAES, BridgeSettings
from bridges.pixel.side import BridgeWarning
from w2sd_video.commands.checks import note_cut_texts
from w2sd_video.commands.engine import on_device
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.making import Texts
from w2sd_video.commands.measuring import frames_of, measured
from w2sd_video.commands.method_settings import crossing_steps
from w2sd_video.commands.plan import Plan
from w2sd_video.core import OnReflect
from w2sd_video.errors import UserError
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.hosting.calls import call_signature, networks_of
from w2sd_video.loading.loras import load_loras, use_loras
from w2sd_video.loading.parts import ON_HOST
from w2sd_video.loading.pipelines import load_reflectable, load_tiny_vae, load_vae
from w2sd_video.loading.placement import (
    can_encode,
    compile_networks,
    encoded_prompts,
    free_text_encoders,
    place,
    place_encoders,
    read_to,
)
from w2sd_video.pair import ModelSpec, ReflectionConfig
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import ALONE, Task

CROSSING = {"w2sd", "swapped"}


# -- the noise map ---------------------------------------------------------------------------------------------------


def fit_map(plan: Plan, pictures: str | None, target: Path, *, say: Callable[[str], None], bars: bool = False) -> Fit:
    """Fits the noise map of a plan's pair, to the pictures of a folder or to some that the strong model makes, and
    saves it at `target`.

    Raises:
        UserError: pictures that cannot be read, too few of them, or sides that cannot be used.
    """
    plan, _ = on_device(plan)
    batches = None if pictures is None else load_pictures(pictures, plan.height, plan.width)  # refused before loading
    spaces = load_spaces(plan)
    if spaces.one:
        raise UserError("both sides share one latent space, so no noise map is needed: they use identity")
    if batches is not None:
        return fitted_map(spaces, batches, target, f"fitted to {{count}} pictures of {pictures}")
    count = max(spaces.pictures_to_fit, plan.num)
    waiting: list[Callable[[], None]] = []
    strong = _pipeline(plan, "strong", Loading((), note=say, say=say, bars=bars), waiting)
    bridge = LoadedBridge(plan, strong, None)
    _place(bridge, list(plan.prompts[:count]), waiting)
    say(_making(plan, count))
    return fitted_map(spaces, bridge.pictures(count), target, "fitted to {count} pictures that the strong model made")


def _making(plan: Plan, count: int) -> str:
    calls = math.ceil(count / (plan.num_frames or 1))
    return f"making {calls} {plan.noun}s of the strong model to fit the noise map ({calls * plan.steps} evaluations)"


# -- loading ---------------------------------------------------------------------------------------------------------


def load_bridge(plan: Plan, run: Loading) -> LoadedBridge:
    """Returns what the methods need, placed, with the prompts encoded and the text encoders of known families freed.

    For methods that reflect across the bridge that includes the noise map, which is fitted (and saved in the run's
    folder) if there is none yet. A map of a file is checked against the two VAEs before anything else is loaded.

    Raises:
        UserError: a side cannot be used, or the noise map named does not serve the pair.
    """
    own, methods, wanted = plan.own, run.methods, run.prompts
    _note_what_is_odd(plan, run.note)
    # The control is that of the pair's noise: with "auto" that has to be known for it, too.
    needing = CROSSING | ({"zero-gap"} if plan.reflection.draws else set())
    crossing = bool(methods & needing) and bool(plan.num_reflections)
    if own.noise_map.endswith(".safetensors") and crossing:
        known_map(plan, load_spaces(plan))
    waiting: list[Callable[[], None]] = []
    strong: Any = None if methods == {"weak"} else _pipeline(plan, "strong", run, waiting)
    weak: Any = _pipeline(plan, "weak", run, waiting, sharing=strong) if methods != {"strong"} else None
    note_cut_texts((strong, weak), plan, run.prompts, run.note)
    tiny = _tiny_vaes(plan, strong, weak)
    chosen, missing = None, 0
    if crossing:
        spaces = spaces_of(plan, tiny[0] or strong.vae, tiny[1] or weak.vae)
        chosen = known_map(plan, spaces)
        missing = 0 if chosen is not None else spaces.pictures_to_fit
        wanted += plan.prompts[:missing]
    bridge = LoadedBridge(plan, strong, weak, tiny, chosen=chosen, note=run.note)
    _place(bridge, list(dict.fromkeys(wanted)), waiting)
    if plan.compile:
        compile_networks(network for pipe in (strong, weak) if pipe is not None for network in networks_of(pipe))
    if missing:
        run.say(_making(plan, missing))
        origin = "fitted to {count} pictures that the strong model made for it"
        found = fitted_map(spaces, bridge.pictures(missing), run.folder / NOISE_MAP, origin)
        bridge.chosen = found.chosen(plan.reflection.draws)
    if bridge.chosen is not None and "noise_map" not in run.record:
        run.note(bridge.chosen.sentence())
        spaces = spaces_of(plan, bridge.tiny[0] or bridge.strong.vae, bridge.tiny[1] or bridge.weak.vae)
        run.amend(noise_map=bridge.chosen.description(), codecs=spaces.description())
    return bridge


def _note_what_is_odd(plan: Plan, note: Callable[[str], None]) -> None:
    own, lam = plan.own, len(crossing_steps(plan.reflection, plan.steps))
    if own.noise_map in ("fresh", "fixed"):
        note(f"noise map {own.noise_map}: {FRESH_HARMS}")
        if own.noise_map == "fresh" and 2 * lam > plan.steps:
            note(f"fresh noise is for at most half of the steps (got {lam} of {plan.steps}): lower --reflections")
    if (plan.height, plan.width) != (own.weak_height, own.weak_width):
        note(
            f"pictures are resized between the sides, antialiased: {plan.width}x{plan.height} strong, "
            f"{own.weak_width}x{own.weak_height} weak"
        )


def _pipeline(plan: Plan, role: str, run: Loading, waiting: list[Callable[[], None]], sharing: Any = None) -> Any:
    strong, spec = role == "strong", plan.side(role)
    assert spec.checkpoint is not None
    pipe = load_reflectable(
        spec.checkpoint,
        role=role,
        dtype=getattr(torch, plan.dtype),
        note=run.note,
        scheduler=plan.scheduler if strong else None,
        config=plan.part("config" if strong else "weak_config"),
        motion_adapter=plan.part("motion_adapter") if strong else None,
        video=strong and plan.num_frames is not None,
        allow_pickle=plan.allow_pickle,
        quiet=True,
        sharing=sharing,
        waiting=None if plan.loras_of(role) else waiting,
        places=ON_HOST if plan.loras_of(role) else read_to(plan.device, plan.memory).get(role, ON_HOST),
        told=run.read,
    )
    if loras := plan.loras_of(role):
        for note in load_loras(pipe, {name: plan.lora_sources[name] for name, _ in loras}).notes:
            run.note(note)
        use_loras(pipe, loras)
    return pipe


def _tiny_vaes(plan: Plan, strong: Any, weak: Any) -> tuple[Any, Any]:
    def tiny(role: str, pipe: Any, given: str | None) -> Any:
        if pipe is None or plan.own.codec != "tiny":
            return None
        name = type(pipe).__name__
        known = next((found for start, found in TINY_VAES.items() if name.startswith(start)), None)
        if given is None and known is None:
            raise UserError(f"no tiny VAE is known for the {role} side, a {name}; give --{role}-tiny-vae")
        return load_tiny_vae(given or str(known), getattr(torch, plan.dtype)).to(plan.device)

    return tiny("strong", strong, plan.own.strong_tiny_vae), tiny("weak", weak, plan.own.weak_tiny_vae)


def load_spaces(plan: Plan) -> Spaces:
    """Returns the two latent spaces with only the VAEs loaded."""
    dtype, own, vaes = getattr(torch, plan.dtype), plan.own, []
    for role, tiny in (("strong", own.strong_tiny_vae), ("weak", own.weak_tiny_vae)):
        if own.codec == "tiny":
            if tiny is None:
                raise UserError(f"give --{role}-tiny-vae: which one fits is not known before the {role} side is loaded")
            vaes.append(load_tiny_vae(tiny, dtype))
            continue
        given = plan.side(role).checkpoint
        assert given is not None
        vaes.append(
            load_vae(
                given,
                role=role,
                dtype=dtype,
                config=plan.part("config" if role == "strong" else "weak_config"),
                allow_pickle=plan.allow_pickle,
                video=role == "strong" and plan.num_frames is not None,
            )
        )
    return spaces_of(plan, *(vae.to(plan.device) for vae in vaes))


def _place(bridge: LoadedBridge, prompts: list[str], waiting: list[Callable[[], None]]) -> None:
    """Encode the prompts with the text encoders alone and free them, give the networks their weights, and put both
    sides where the memory plan wants them.
    """
    plan = bridge.plan
    for role, pipe in (("strong", bridge.strong), ("weak", bridge.weak)):
        if pipe is None or not can_encode(pipe):
            continue
        place_encoders(pipe, plan.device, plan.memory)
        # Without true guidance Flux has no use for a negative prompt.
        unused = type(pipe).__name__ == "FluxPipeline" and (role == "weak" or plan.own.true_cfg is None)
        bridge.texts[role] = encoded_prompts(
            pipe,
            dict.fromkeys(bridge.prompt(role, prompt) for prompt in prompts),
            None if unused else bridge.negative(role),
            device=plan.device,
            max_sequence_length=plan.max_sequence_length,
        )
        free_text_encoders(pipe)
    for read in waiting:
        read()
    place(bridge.strong, bridge.weak, plan.device, plan.memory)


# -- making ----------------------------------------------------------------------------------------------------------


@dataclass
class LoadedBridge:
    """Both pipelines, placed (None where no method needs them), and the prompts encoded for those that can.

    `tiny` holds the tiny VAEs of the strong and the weak side, None for full ones; `texts` the encoded prompts by side.
    `watch` is told of each reflection.
    """

    plan: Plan
    strong: Any
    weak: Any
    tiny: tuple[Any, Any] = (None, None)
    texts: dict[str, Texts] = field(default_factory=dict)
    chosen: Fit | None = None
    note: Callable[[str], None] = lambda message: None
    watch: OnReflect | None = None

    def make(self, tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        """Returns one picture (or video) for each task, or why there is none.

        `weak` and `strong` sample one pipeline by itself, `w2sd` reflects the strong one with the weak one, `swapped`
        the weak one with the strong one, `zero-gap` the strong one with itself in the same way: through its own VAE, or
        directly where the pair needs no bridge. The initial noise comes from a CPU generator seeded `task.seed`.
        """
        return [self._made(task, report) for task in tasks]

    def _made(self, task: Task, report: Report) -> Made | NotMadeError:
        plan, role = self.plan, "weak" if task.method in ("weak", "swapped") else "strong"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BridgeWarning)  # the same is among the notes
                made, run = measured(
                    self._hosted(task, report),
                    lambda: self._call(role, task.prompt, task.seed, plan.steps_of(task.method)),
                    device=plan.device,
                    dtype=plan.dtype,
                    steps=plan.steps_of(task.method),
                    counts=("num_reflections", "num_skipped", "num_encodes", "num_decodes"),
                )
        except NonFiniteLatentError as error:
            return NotMadeError(str(error))
        for message in run.notes:
            self.note(message)
        return made

    def _hosted(self, task: Task, report: Report) -> Any:
        plan, own = self.plan, self.plan.own
        if task.method in ALONE:
            return reflected(getattr(self, task.method), num_reflections=0, progress=report)
        swapped = task.method == "swapped"
        sampled, other = ("weak", "strong") if swapped else ("strong", "weak")
        config = self._config(swapped)
        if task.method == "zero-gap" and self._reflects_directly():
            return reflected(self.strong, weak="zero-gap", config=config, progress=report)
        vaes = dict(zip(("strong", "weak"), self.tiny, strict=True))
        settings: dict[str, Any] = {
            "config": config,
            **self._noise(task.seed, swapped),
            "vae": vaes[sampled],
            "tiled": own.tiled,
            "seed": task.seed,
            "on_reflect": self.watch,
            "progress": report,
        }
        if task.method == "zero-gap":
            return bridged(self.strong, "zero-gap", **settings)
        guidance = plan.pair.weak.guidance if other == "weak" else own.reflector
        if other == "strong" and guidance is None and own.true_cfg is None:
            guidance = plan.guidance
        return bridged(
            getattr(self, sampled),
            (getattr(self, other), ModelSpec(guidance=guidance)),
            weak_inputs={**self.text(other, task.prompt), **self._own_size(other), **self._true_cfg(other)},
            weak_vae=vaes[other],
            force=own.force_bridge,
            **settings,
        )

    def _config(self, swapped: bool) -> ReflectionConfig:
        inside = None if swapped else self.plan.own.reflector
        draws = self.plan.reflection.draws if self._paired else 0
        reflector = None if inside is None else ModelSpec(guidance=inside)
        return replace(self.plan.reflection, reflector=reflector, draws=draws)

    @property
    def _paired(self) -> bool:
        return self.chosen is not None and self.chosen.paired

    def pictures(self, count: int) -> Iterator[Tensor]:
        """Returns batches of at least `count` pictures [N, 3, H, W] in [-1, 1] of the strong model in all, of the run's
        first prompts, each from noise of its own that no picture of the run has.
        """
        made, plan = 0, self.plan
        while made < count:
            prompt = plan.prompts[made % len(plan.prompts)]
            digest = hashlib.sha256(f"picture for the noise map {plan.seed} {made}".encode()).digest()
            frames = self._call("strong", prompt, int.from_bytes(digest[:7], "big"), plan.steps)
            yield torch.from_numpy(frames).permute(0, 3, 1, 2).float() * 2 - 1
            made += len(frames)

    def _call(self, role: str, prompt: str, seed: int, steps: int) -> Any:
        """The frames [F, H, W, 3] in [0, 1] of one call."""
        plan, pipe = self.plan, getattr(self, role)
        height, width = self._size(role)
        guidance = plan.pair.weak.guidance if role == "weak" else plan.guidance
        arguments: dict[str, Any] = {
            **self.text(role, prompt),
            **self._true_cfg(role),
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "np",
        }
        if guidance is not None:
            arguments["guidance_scale"] = guidance
        if plan.num_frames is not None and role == "strong":
            arguments["num_frames"] = plan.num_frames
        pipe.set_progress_bar_config(disable=True)
        return frames_of(pipe(**arguments))

    def prompt(self, role: str, prompt: str) -> str:
        """Returns what a side is told of a prompt."""
        return self.plan.raw_prompts.get(prompt, prompt) if role == "weak" else prompt

    def negative(self, role: str) -> str | None:
        """Returns a side's negative prompt."""
        own = self.plan.pair.weak.negative_prompt if role == "weak" else None
        return self.plan.negative_prompt if own is None else own

    def text(self, role: str, prompt: str) -> dict[str, Any]:
        """Returns the call arguments that stand for a side's prompt."""
        told = self.prompt(role, prompt)
        if role in self.texts:
            return {name: tensor.to(self.plan.device) for name, tensor in self.texts[role][told].items()}
        taken = call_signature(type(getattr(self, role))).parameters
        given = {
            "prompt": told,
            "negative_prompt": self.negative(role),
            "max_sequence_length": self.plan.max_sequence_length,
        }
        return {name: value for name, value in given.items() if value is not None and name in taken}

    def _true_cfg(self, role: str) -> dict[str, float]:
        scale = self.plan.own.true_cfg
        return {} if scale is None or role == "weak" else {"true_cfg_scale": scale}

    def _size(self, role: str) -> tuple[int, int]:
        plan, own = self.plan, self.plan.own
        return (own.weak_height, own.weak_width) if role == "weak" else (plan.height, plan.width)

    def _own_size(self, role: str) -> dict[str, int]:
        """The size of the side that is not sampled; none where it is the other's, so that a pair of one space needs no
        bridge.
        """
        if self._size("strong") == self._size("weak"):
            return {}
        return dict(zip(("height", "width"), self._size(role), strict=True))

    def _reflects_directly(self) -> bool:
        """Whether "w2sd" goes without a bridge, so that its control does, too."""
        asked_for = self.plan.own.force_bridge or self.tiny != (None, None) or self._own_size("weak")
        return not asked_for and needs_no_bridge(self.strong, self.weak)

    def _noise(self, seed: int, swapped: bool) -> dict[str, Any]:
        """Where the noise comes from, for `bridged`; what is drawn is of the picture's seed, whichever run the picture
        is made in.
        """
        own: BridgeSettings = self.plan.own
        if own.noise_map in ("fresh", "fixed"):
            return {"noise_map": own.noise_map}
        found = None if self.chosen is None else self.chosen.noise_map
        if isinstance(found, Mapped):
            found = replace(found.reversed() if swapped else found, seed=seed)
        return {"noise": "paired" if self._paired else None, "noise_map": found}
