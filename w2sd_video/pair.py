"""What a weak/strong pair is: frozen settings, known before any model is loaded (imports no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.core.options import MODES, ReflectionConfig, is_finite, is_whole
from w2sd_video.core.trained_timesteps import Timesteps, checked_timesteps
from w2sd_video.errors import UserError

__all__ = [
    "MODES",
    "Loras",
    "ModelPair",
    "ModelSpec",
    "ReflectionConfig",
    "Routing",
    "Selection",
    "check_pair",
    "gap",
]

RANKS = ("top", "bottom")
PRECISIONS = {  # of the weights of linear and convolution layers, rounded to nearest
    "full": "as loaded",
    "int8": "8 bits, a scale for each output channel",
    "fp8": "float8_e4m3fn",
    "int4": "4 bits, a scale for every 64 weights",
    "nf4": "4 bits, the values of QLoRA's NF4",
    "int2": "2 bits (-1, 0, 1), a scale for every 64 weights",
}

Loras = tuple[tuple[str, float | tuple[float, ...]], ...]
"""LoRA adapters in force, each with its scale, or with one scale per sample of the batch."""


@dataclass(frozen=True)
class Routing:
    """Which experts of a mixture each token goes to.

    Attributes:
        rank: "top" takes the `k` experts the router scores highest, "bottom" the `k` it scores lowest.
        k: experts per token.
        renormalize: whether the weights of the picked experts are made to sum to 1; else they are the router's scores
            (softmax over all experts), which for the lowest are small.
        experts: these experts for every token, whatever their scores, in the place of `rank` and `k`.

    Raises:
        UserError: another rank, no expert, or one named twice.
    """

    rank: str = "top"
    k: int = 2
    renormalize: bool = False
    experts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank not in RANKS:
            raise UserError(f"the rank of a routing is {self.rank!r}; choose one of {', '.join(RANKS)}")
        if not isinstance(self.renormalize, bool):
            raise UserError(f"renormalize is {self.renormalize!r}; it must be True or False")
        if self.experts is not None:
            self._name_experts(self.experts)
        elif isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"k is {self.k!r}; a token goes to a whole number of experts, at least 1")

    def check(self, num_experts: int) -> None:
        """Raises `UserError` where a network with `num_experts` experts (0, 1 ...) has not what is asked for."""
        if self.k > num_experts:
            raise UserError(
                f"the routing takes {self.k} experts per token and this network has {num_experts}; "
                f"choose a k from 1 to {num_experts}"
            )
        if self.experts is not None and self.experts[-1] >= num_experts:
            raise UserError(
                f"the routing names expert {self.experts[-1]}, and this network has experts 0 to {num_experts - 1}"
            )

    def _name_experts(self, experts: Any) -> None:
        """One form for one meaning (the ids in order, and `k` their number), so that equal routings compare equal."""
        ids = list(experts) if isinstance(experts, tuple | list) else []
        whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids)
        if not ids or not whole or len(set(ids)) < len(ids):
            raise UserError(f"experts is {experts!r}; name one or more experts by number, from 0 on, each once")
        if self.rank != "top":
            raise UserError(f"the routing names experts and a rank ({self.rank!r}); give one of the two")
        object.__setattr__(self, "experts", tuple(sorted(ids)))
        object.__setattr__(self, "k", len(ids))


@dataclass(frozen=True)
class ModelSpec:
    """What differs on one side of a pair; `None` (or an empty tuple) means "as the strong side".

    `guidance` is the scale of classifier-free guidance, `uncond + guidance * (cond - uncond)`: any finite number, 0
    (the unconditional prediction), 1 (the conditional one) and negative numbers included. On a network whose guidance
    is an input (Flux and other guidance-distilled networks) it is that embedded guidance, unless the call itself runs
    real guidance (`true_cfg_scale` above 1), in which case it is the scale of the real one.

    `routing` says which experts the tokens of a network with a mixture of experts go to. `loras` are (adapter name,
    scale) pairs, or a mapping {name: scale}, of LoRAs that the network already has, all that are to act: those not
    named are at 0, which is as if there were none. A scale may be negative, and may be a tuple of one scale per sample
    of the batch. `control` is {"scale": number, or one per ControlNet}: 0 is as if there were none. `ip_adapter` is the
    scale of the IP-Adapter, likewise. `skip_layers` names the blocks of the network that are left out: numbers in its
    main stack of transformer blocks, or full names ("mid_block.attentions.0.transformer_blocks.0"); () is none.

    `levels` are those that this side's network was trained at, where these are not all: the timesteps of its own
    scheduler, such as (999, 749, 499, 249); a word for those of a kind of few-step checkpoint ("lcm", "turbo", "dmd",
    "lightning-4", "hyper-8"; of a flow with the shift that it was distilled with, "lightning-4:5"); or "own", all that
    its own scheduler was trained at, which is for a weak pipeline of another noise schedule or path. At other levels it
    is asked at the nearest one, as `core.TrainedLevels` says exactly. Both sides of a gap may be asked there: a side
    that leaves it out is asked at the levels of the strong side as it reflects. How a side samples by itself does not
    depend on it: a few-step strong side is sampled in as many steps, by its scheduler.
    `precision` is that of the network's weights, one of `PRECISIONS`: "int4" is the same network rounded to 4 bits.
    """

    checkpoint: str | None = None
    guidance: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    loras: Loras = ()
    routing: Routing | None = None
    control: Mapping[str, Any] | None = None
    ip_adapter: float | None = None
    skip_layers: tuple[str | int, ...] | None = None
    levels: Timesteps | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UserError(
                f"guidance is {self.guidance}; it must be a finite number (0, 1 and negative ones are allowed)"
            )
        if self.routing is not None and not isinstance(self.routing, Routing):
            raise UserError(f'routing is {self.routing!r}; give a Routing, such as Routing("bottom", k=2)')
        object.__setattr__(self, "loras", _checked_loras(self.loras))
        if self.control is not None:
            object.__setattr__(self, "control", _checked_control(self.control))
        if self.ip_adapter is not None and not is_finite(self.ip_adapter):
            raise UserError(
                f"ip_adapter is {self.ip_adapter!r}; it must be a finite number (0 is as if there were none)"
            )
        if self.skip_layers is not None:
            object.__setattr__(self, "skip_layers", _checked_layers(self.skip_layers))
        if self.levels is not None:
            object.__setattr__(self, "levels", checked_timesteps(self.levels))
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")

    def settings(self) -> dict[str, Any]:
        """The fields that say something, by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in fields.items()
            if value is not None and (value != () or name == "skip_layers")
        }


@dataclass(frozen=True)
class ModelPair:
    """A strong and a weak side; the gap is whatever differs between them."""

    strong: ModelSpec
    weak: ModelSpec
    name: str = ""


@dataclass(frozen=True)
class Selection:
    """How the stronger of two models is picked, for method "w2sd-auto" (Algorithm 2).

    Attributes:
        reward: a number, higher is better, of decoded frames uint8 [F, H, W, 3] (a numpy array, RGB) and the prompt
            (None where the call has none as text). F is 1 for a picture.
        threshold: eps_r: rewards no further apart are a tie, which keeps the choice made before. 0 or more.
        frames: of a video at most so many frames are decoded and rewarded, evenly spread.

    Raises:
        UserError: a reward that cannot be called, or a number outside these ranges.
    """

    reward: Callable[[Any, str | None], float]
    threshold: float = 0.0
    frames: int = 4

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise UserError(
                f"the reward is a {type(self.reward).__name__}; give a function of (frames uint8 [F, H, W, 3], prompt) "
                "that returns a number, higher is better"
            )
        if not (is_finite(self.threshold) and self.threshold >= 0):
            raise UserError(f"the reward's threshold is {self.threshold!r}; it must be a finite number, 0 or more")
        if not (is_whole(self.frames) and self.frames >= 1):
            raise UserError(f"frames is {self.frames!r}; a reward needs a whole number of frames, 1 or more")


def gap(strong: ModelSpec, weak: ModelSpec) -> dict[str, tuple[Any, Any]]:
    """Returns what differs between the two sides, as {field: (strong value, weak value)}; empty when nothing does.

    A field the weak side leaves out is as on the strong side, so it is no difference.
    """
    ours, theirs = strong.settings(), weak.settings()
    return {name: (ours.get(name), value) for name, value in theirs.items() if ours.get(name) != value}


def check_pair(pair: ModelPair) -> None:
    """Raises `UserError` for a pair whose two sides are the same: that is a control, to be asked for by its name."""
    if not gap(pair.strong, pair.weak):
        raise UserError(
            f"the weak side of pair {pair.name!r} differs in nothing from the strong side; "
            'name what differs, or ask for the control with weak="zero-gap"'
        )


def _checked_loras(loras: Any) -> Loras:
    """The adapters in order of name, so that equal settings compare equal."""
    if isinstance(loras, Mapping):
        loras = tuple(loras.items())
    if not isinstance(loras, tuple | list) or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in loras
    ):
        raise UserError(f'loras is {loras!r}; give (adapter name, scale) pairs or a mapping: {{"style": 0.8}}')
    checked: dict[str, float | tuple[float, ...]] = {}
    for name, scale in loras:
        if not isinstance(name, str) or not name:
            raise UserError(f"loras names an adapter {name!r}; give the name it was loaded under")
        if name in checked:
            raise UserError(f"loras names the adapter {name!r} twice; give it one scale")
        samples = scale if isinstance(scale, tuple | list) else (scale,)
        finite = [is_finite(s) for s in samples]
        if not samples or not all(finite):
            raise UserError(
                f"the scale of LoRA {name!r} is {scale!r}; give a finite number (negative ones are allowed), or a "
                "tuple of one for each sample of the batch"
            )
        checked[name] = tuple(float(s) for s in samples) if isinstance(scale, tuple | list) else float(scale)
    counts = {len(scale) for scale in checked.values() if isinstance(scale, tuple)}
    if len(counts) > 1:
        raise UserError(
            f"loras gives scales for {' and '.join(map(str, sorted(counts)))} samples; give as many to each"
        )
    return tuple(sorted(checked.items()))


def _checked_layers(layers: Any) -> tuple[str, ...]:
    """The names in order, so that equal settings compare equal; a number as text."""
    names: list[Any] = list(layers) if isinstance(layers, tuple | list) else [None]
    if not all((is_whole(each) and each >= 0) or (isinstance(each, str) and each) for each in names):
        raise UserError(
            f"skip_layers is {layers!r}; give blocks of the network, by number (3, 7) or by name "
            '("mid_block.attentions.0.transformer_blocks.0"), or () for none'
        )
    return tuple(sorted({str(each) for each in names}))


def _checked_control(control: Any) -> dict[str, Any]:
    """What `ModelSpec.control` says, a scale per ControlNet as a tuple."""
    if not isinstance(control, Mapping) or set(control) != {"scale"}:
        raise UserError(f'control is {control!r}; give {{"scale": a number, or one for each ControlNet}}')
    scale = control["scale"]
    several = isinstance(scale, list | tuple)
    if not all(is_finite(each) for each in (scale if several else [scale])) or (several and not scale):
        raise UserError(f"the scale of control is {scale!r}; it must be a finite number, or a list of them")
    return {"scale": tuple(scale) if several else scale}
