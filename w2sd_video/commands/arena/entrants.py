"""The methods that are compared, each with the settings tried for it (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from w2sd_video.commands.method_settings import without_unused
from w2sd_video.commands.option import unknown
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.runs.tasks import SELECTING

PLAIN, GUIDANCE, REFLECTED, ASKING = "plain", "guidance", "w2sd", "asks the reward"
KINDS = (PLAIN, GUIDANCE, REFLECTED, ASKING)
"""What a method is: sampling alone, guidance (or noise) in every step, a form of W2SD, or one that asks what scores."""

Settings = Mapping[str, Any]
"""Fields of a request, by name."""


@dataclass(frozen=True)
class Entrant:
    """A method of the program with a grid of settings, of which the best on some seeds is scored on others.

    Attributes:
        name: what tables call it.
        kind: one of KINDS; a method that asks the reward while it samples is shown, and is no candidate.
        method: of the program.
        grid: settings of the request, tried one after the other; of equals the first is kept.
        one_network: both sides are the strong network, whatever the pair is.
        skips: what the weak side leaves out of a block in the middle of the network: "" all of it, "pag" or "seg" of
            its self-attention; None nothing.
        source: where it is from.
    """

    name: str
    kind: str
    method: str
    grid: tuple[Settings, ...] = ({},)
    one_network: bool = False
    skips: str | None = None
    source: str = ""

    @property
    def controlled(self) -> bool:
        """Whether the same with the strong side on both sides stands beside it."""
        return self.method == "w2sd"


def _grid(**values: Sequence[Any]) -> tuple[Settings, ...]:
    """All combinations of the values given for each field, the last one fastest."""
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


SCALES = (1.5, 2.0, 3.0, 5.0)  # of guidance
STRENGTHS = (1.0, 2.0, 3.0)
UNGUIDED = {"strong_guidance": 1.0, "weak_guidance": 1.0}


def _zigzag(scale: float, **settings: Any) -> Settings:
    """Sampling at a scale of guidance, reflected between that scale and none."""
    return {"guidance": scale, "strong_guidance": scale, "weak_guidance": 0.0, **settings}


def _scaled(scale: float, **settings: Any) -> Settings:
    """Classifier-free guidance at a scale as auto-guidance by the unconditional prediction."""
    return {"guidance": 1.0, "strong_guidance": 1.0, "weak_guidance": 0.0, "strength": scale - 1, **settings}


UNET_MIDDLE = "mid_block.attentions.0.transformer_blocks.0"  # PAG's own default is the middle block
WINDOWS = ((0.0, 0.5), (0.2, 0.8))

ENTRANTS: tuple[Entrant, ...] = (
    Entrant("weak", PLAIN, "weak"),
    Entrant("plain", PLAIN, "strong", source="more steps"),
    Entrant("CFG", GUIDANCE, "strong", _grid(guidance=SCALES), source="arXiv 2207.12598"),
    Entrant(
        "limited CFG", GUIDANCE, "autoguided",
        tuple(_scaled(scale, window=window) for window in WINDOWS for scale in (3.0, 5.0)), one_network=True,
        source="arXiv 2404.07724: in a part of the steps",
    ),
    *(
        Entrant(
            name, GUIDANCE, "autoguided", tuple(_scaled(scale, guider=guider) for scale in SCALES), one_network=True,
            source=f"{source}, by diffusers' guider",
        )
        for name, guider, source in (
            ("CFG-Zero*", "cfg-zero", "arXiv 2503.18886"),
            ("APG", "apg", "arXiv 2410.02416"),
            ("TCFG", "tcfg", "arXiv 2503.18137"),
            ("FDG", "fdg", "arXiv 2506.19713"),
        )
    ),
    *(
        Entrant(
            name, GUIDANCE, "autoguided", _grid(strength=STRENGTHS), one_network=True, skips=skips,
            source=f"{source}; the block in the middle of the network",
        )
        for name, skips, source in (
            ("SLG", "", "a block skipped, as in arXiv 2411.18664 and 2508.12880"),
            ("PAG", "pag", "arXiv 2403.17377, by diffusers' hooks"),
            ("SEG", "seg", "arXiv 2408.00760, by diffusers' hooks"),
        )
    ),
    Entrant("auto-guidance", GUIDANCE, "autoguided", _grid(strength=(0.5, *STRENGTHS)), source="arXiv 2406.02507"),
    Entrant(
        "limited auto-guidance", GUIDANCE, "autoguided", _grid(window=WINDOWS, strength=STRENGTHS[:2]),
        source="in a part of the steps",
    ),
    Entrant("Re-Sampling", GUIDANCE, "resample", source="Algorithm 3; predict and perturb, as in arXiv 2601.18577"),
    Entrant(
        "Z-Sampling", GUIDANCE, "w2sd", tuple(_zigzag(scale, mode="paper") for scale in SCALES), one_network=True,
        source="arXiv 2412.10891: a gap of guidance, zigzag",
    ),
    Entrant(
        "cached zigzag", GUIDANCE, "w2sd", tuple(_zigzag(scale, gap_every=1) for scale in SCALES), one_network=True,
        source="a cached gap of guidance: the idea of Z2-Sampling (arXiv 2604.23536), not its code",
    ),
    Entrant("W2SD paper", REFLECTED, "w2sd", _grid(mode=("paper",), strength=(0.5, *STRENGTHS[:2]))),
    Entrant("W2SD fused", REFLECTED, "w2sd", _grid(mode=("fused",), strength=STRENGTHS)),
    Entrant("W2SD cached", REFLECTED, "w2sd", _grid(gap_every=(1, 2), strength=STRENGTHS)),
    Entrant(
        "W2SD fused over CFG", REFLECTED, "w2sd",
        tuple({**UNGUIDED, **each} for each in _grid(mode=("fused",), guidance=(1.5, 3.0), strength=(1.0, 2.0))),
    ),
    Entrant(
        "W2SD cached over CFG", REFLECTED, "w2sd",
        tuple({**UNGUIDED, **each} for each in _grid(gap_every=(2,), guidance=(1.5, 3.0), strength=(1.0, 2.0))),
    ),
    Entrant("W2SD auto", ASKING, SELECTING, _grid(mode=("fused",), strength=STRENGTHS[:2])),
)  # fmt: skip

NAMES = tuple(entrant.name for entrant in ENTRANTS)
LEFT_OUT = {
    "SGG": "segments of levels with weak sides of their own (arXiv 2603.20584); a run here has one weak side",
    "FreeU": "a change of UNets that costs nothing and goes with every method: pipe.enable_freeu() before `reflected`",
    "FreeInit": "it samples anew from a sample's low frequencies, a loop of its own, which `reflected` refuses",
}
"""Methods that are not compared, and why."""


def chosen(names: Sequence[str] | None) -> tuple[Entrant, ...]:
    """Returns the entrants of these names (None: all), with plain sampling, which every other is compared with.

    Raises:
        UserError: there is none of a name.
    """
    if names is None:
        return ENTRANTS
    for name in names:
        if name not in NAMES:
            unknown("entrant", name, NAMES)
    return tuple(entrant for entrant in ENTRANTS if entrant.name in (*names, "plain"))


def asked(entrant: Entrant, settings: Settings, request: Request, base: Plan) -> Request:
    """Returns the request of an entrant with some settings; `base` is the plan of the request as it is.

    Raises:
        UserError: the family, or the pair, has no such setting.
    """
    changes: dict[str, Any] = {**settings, "methods": (entrant.method,)}
    if entrant.one_network:
        changes |= _one_network(request, base)
    if entrant.skips is not None:
        changes |= _skipping(entrant.skips, base)
    missing = [name for name in changes if not request.has(name)]
    if missing:
        raise UserError(f"{base.family} has no --{missing[0].replace('_', '-')}")
    return without_unused(request, (entrant.method,)).changed(**changes)


def _skipping(way: str, base: Plan) -> Settings:
    """One network whose weak side leaves out a block in the middle, and which samples at one guidance."""
    network = None if base.files is None else base.files.strong.network
    count = (network or {}).get("num_layers") or (network or {}).get("depth")
    block = str(count // 2) if isinstance(count, int) else UNET_MIDDLE
    return {
        "weak_skip_layers": (f"{block}:{way}" if way else block,),
        "strong_guidance": base.guidance,
        "weak_guidance": base.guidance,
    }


def _one_network(request: Request, base: Plan) -> Settings:
    """What makes both sides the strong network, as far as checkpoints go."""
    if base.family == "moe":
        return {"weak_experts": "top", "k": None}
    if base.family not in ("image", "video") or base.pair.strong.loras or base.raw_prompts:
        raise UserError("its weak side is the strong one itself, which this pair (of LoRAs or prompts) cannot be")
    changes: dict[str, Any] = {"weak_skip_layers": None}
    if base.pair.weak.checkpoint is not None:
        changes |= {"preset": base.preset if request.strong is None else None, "weak": base.pair.strong.checkpoint}
    return changes
