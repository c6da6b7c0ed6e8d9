"""What one scoring run is asked for: checked at once, before anything heavy is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vbench_eval.dimensions import BACKBONE_KINDS, I2V, MEASURED, OFFICIAL, SEMANTIC
from vbench_eval.errors import UserError
from vbench_eval.judges import PICTURE_REWARDS, how_to_choose, is_folder_judge
from vbench_eval.profiles import IMAGING_MODES, get_profile
from vbench_eval.proxies import PROXIES

WITH_CLIP = ("background_consistency", "aesthetic_quality", "appearance_style")
TABLE_12 = OFFICIAL[:6]  # the columns of the paper's Table 12
DTYPES = ("float32", "float16", "bfloat16")
# VBench's other dimensions judge whether the video shows what the prompt says, by detectors and captioners.
ELSEWHERE = ("object_class", "multiple_objects", "color", "spatial_relationship")
GROUPS = {
    "all": OFFICIAL,
    "table12": TABLE_12,
    "semantic": SEMANTIC,
    "vbench": (*OFFICIAL, *SEMANTIC, *ELSEWHERE),
    "i2v": I2V,
    "proxies": tuple(PROXIES),
}
_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]+)?")


def parse_dimensions(words: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the dimensions, once each, from names, comma lists and the groups: all (those of quality,
    which need no prompt), table12, semantic, vbench (all sixteen), i2v, proxies.

    Raises UserError for a name that is none of VBench's and none of the proxies.
    """
    texts = [words] if isinstance(words, str) else list(words)
    names: dict[str, None] = {}
    for name in (part.strip() for text in texts for part in text.split(",")):
        group = GROUPS.get(name, (name,) if name else ())
        names.update(dict.fromkeys(group))
    known = (*MEASURED, *PROXIES, *ELSEWHERE)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"dimension is {', '.join(map(repr, unknown))}; choose from {', '.join(MEASURED)}, the proxies "
            f"{', '.join(PROXIES)}, or the groups {', '.join(GROUPS)}"
        )
    if not names:
        raise UserError("no dimension is named; give --dimensions all, or some of " + ", ".join(OFFICIAL))
    return tuple(names)


def parse_backbones(words: Iterable[str]) -> dict[str, str]:
    """Returns {dimension: choice} from words "dimension=choice". Raises UserError for others."""
    choices: dict[str, str] = {}
    for word in words:
        dimension, equals, choice = word.partition("=")
        if not equals or not choice.strip():
            raise UserError(f"--backbone is {word!r}; write dimension=choice, such as subject_consistency=/models/dino")
        choices[dimension.strip()] = choice.strip()
    return choices


def parse_judges(words: Iterable[str]) -> dict[str, str]:
    """Returns {name: choice} from words "name=package.module:function", or a picture reward's name alone."""
    judges: dict[str, str] = {}
    for word in words:
        name, equals, choice = word.partition("=")
        judges[name.strip()] = choice.strip() if equals else name.strip()
    return judges


@dataclass(frozen=True)
class ScoringSettings:
    """How videos are scored; the same settings on the same files give the same numbers.

    Attributes:
        dimensions: official names, names of proxies, or names of VBench dimensions that are not computed here (they
            are reported as unavailable).
        profile: "vbench", "vbench-ngpus" or "fixed".
        backbones: a choice per dimension instead of its own: a path, a hub id or "package.module:factory".
        judges: a choice per judge of one's own, measured as "judge_NAME": "package.module:function" or a reward of
            pictures.
        detector: an open-vocabulary detector for the measures like VBench's object_class, multiple_objects, color and
            spatial_relationship, "judge_detected_...": "owlv2", a path, a hub id or "package.module:function".
        allow_proxy: whether a proxy's value may stand under an official name whose weights are missing, marked so.
        proxies: whether the proxies that stand next to a missing dimension, and the one that finds stills, are measured
            too, under their own names.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", "xpu".
        dtype: of the networks; None is float32.
        clip_dtype: of CLIP, in background_consistency, aesthetic_quality and appearance_style; None is `dtype`.
            VBench's own package runs it in float16 on CUDA.
        offline: never touch the network, not even for a hub id in `backbones`.
        allow_pickle: open weight files that can run code.
        cache: folder of weights to look in first.
        imaging_mode: how imaging_quality resizes, VBench's `imaging_quality_preprocessing_mode`.
        long: whether videos over five seconds are cut into clips, as VBench-Long does, in VBench's dimensions.
        chunk_bytes: of decoded frames held at a time.

    Raises UserError for what is not allowed.
    """

    dimensions: tuple[str, ...] = OFFICIAL
    profile: str = "vbench"
    backbones: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)
    detector: str | None = None
    allow_proxy: bool = False
    proxies: bool = True
    device: str = "auto"
    dtype: str | None = None
    clip_dtype: str | None = None
    offline: bool = False
    allow_pickle: bool = False
    cache: str | None = None
    imaging_mode: str = "longer"
    long: bool = False
    chunk_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", parse_dimensions(self.dimensions))
        object.__setattr__(self, "backbones", dict(self.backbones))
        object.__setattr__(self, "judges", dict(self.judges))
        for name, choice in self.judges.items():
            known = ":" in choice or choice in PICTURE_REWARDS or is_folder_judge(name, choice)
            if not known or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise UserError(f"--judge is {name}={choice}; give {how_to_choose()}")
        get_profile(self.profile)
        takers = tuple(name for name, kind in BACKBONE_KINDS.items() if kind is not None)
        for name in self.backbones:
            if name not in takers:
                raise UserError(f"--backbone is for {name!r}; only {', '.join(takers)} have a backbone")
            if name not in self.dimensions:
                raise UserError(f"--backbone is given for {name}, which is not scored; add it to --dimensions")
        for dtype in (self.dtype, self.clip_dtype):
            if dtype is not None and dtype not in DTYPES:
                raise UserError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
        if not _DEVICE.fullmatch(self.device):
            raise UserError(f"device is {self.device!r}; choose auto, cpu, cuda, cuda:1, mps or xpu")
        if self.imaging_mode not in IMAGING_MODES:
            raise UserError(f"imaging mode is {self.imaging_mode!r}; choose one of {', '.join(IMAGING_MODES)}")
        if self.chunk_bytes < 1:
            raise UserError(f"chunk_bytes is {self.chunk_bytes}; it must be at least 1")

    def on(self, device: str) -> ScoringSettings:
        """Returns the same settings for another device."""
        return replace(self, device=device)
