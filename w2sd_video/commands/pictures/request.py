"""What pictures to make: a frozen request, and the plan it becomes once every setting is known (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.commands.lora_flags import LoraFlag
from w2sd_video.commands.method_settings import SideRows, num_evaluations, num_rows, reflection_record, rows_at_most
from w2sd_video.commands.request import located, lora_scales_of
from w2sd_video.commands.rewards import RewardSettings
from w2sd_video.pair import Loras, ModelPair, ReflectionConfig
from w2sd_video.runs.tasks import ALONE, Groups, task_groups

MEMORY_PLANS = ("resident", "weak-offload", "sequential")
DEFAULT_METHODS = ("weak", "strong", "w2sd", "zero-gap")


@dataclass(frozen=True)
class ImageRequest:
    """What to make; None means "as the preset has it", and no field needs to be given: that is the bundled demo.

    `preset` None: the demo, or, when `strong` is given, the paper's settings with that checkpoint. `weak` None: the
    strong side's network. `guidance` is that of sampling, `strong_guidance` and `weak_guidance` are those inside the
    reflection (any numbers). `prompt_pairs` are (refined, raw): the strong side is told the first, the weak one the
    second; `weak_prompt` is the raw one of every prompt. `loras` are those of the strong side; the weak side has them
    at 0 unless `weak_loras` says otherwise. `controlnet` with its `control_image`, and `ip_adapter` with its
    `ip_adapter_image`, act on the strong side at their scale and on the weak one at 0 unless told otherwise. Picture
    `index` of every prompt starts from the noise of the CPU generator seeded `seed + index`, for every method.
    `video`: the pipelines make videos (or do with a `motion_adapter`), and each picture is one. `every` to `lag` are as
    in `ReflectionConfig`; `reward` and what belongs to it are of the method w2sd-auto (`rewards`).
    """

    prompts: tuple[str, ...] = ()
    prompt_pairs: tuple[tuple[str, str], ...] = ()
    weak_prompt: str | None = None
    negative_prompt: str | None = None
    weak_negative_prompt: str | None = None
    preset: str | None = None
    strong: str | None = None
    weak: str | None = None
    config: str | None = None
    weak_config: str | None = None
    methods: tuple[str, ...] | None = None
    mode: str | None = None
    strength: float | None = None
    every: int | None = None
    window: tuple[float, float] | None = None
    fixed_point: int | None = None
    noise: float | None = None
    cap: float | None = None
    lag: bool = False
    reward: str | None = None
    reward_weights: tuple[str, ...] = ()
    reward_threshold: float | None = None
    reward_frames: int | None = None
    steps: int | None = None
    reflections: int | None = None
    match_evaluations: int | None = None
    guidance: float | None = None
    strong_guidance: float | None = None
    weak_guidance: float | None = None
    loras: tuple[LoraFlag, ...] = ()
    weak_loras: tuple[LoraFlag, ...] = ()
    controlnet: str | None = None
    control_image: str | None = None
    control_scale: float | None = None
    weak_control_scale: float | None = None
    canny: bool = False
    resize_control: bool = False
    ip_adapter: str | None = None
    ip_adapter_image: str | None = None
    ip_adapter_scale: float | None = None
    weak_ip_adapter_scale: float | None = None
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    video: bool = False
    motion_adapter: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_pictures: int = 1
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    memory: str = "resident"
    allow_pickle: bool = False
    output: str | Path | None = None


@dataclass(frozen=True)
class ImagePlan:
    """A request with every setting known and checked, but for what only the loaded pipelines tell.

    `guidance` is that of sampling; the guidances inside the reflection are those of `pair`, whose weak checkpoint is
    None where one network serves both sides. `raw_prompts` has the weak side's prompt for those that differ.
    `lora_sources` says where every adapter of `pair` comes from. `plain_steps` are the steps of methods without
    reflections. `embedded`: guidance is an input of the network, so that it costs no rows. `num_frames`
    and `fps` are None for pictures, `reward` is None without w2sd-auto.
    """

    preset: str
    pair: ModelPair
    config: str | None
    weak_config: str | None
    reflection: ReflectionConfig
    reward: RewardSettings | None
    prompts: tuple[str, ...]
    raw_prompts: Mapping[str, str]
    stems: tuple[str, ...]
    methods: tuple[str, ...]
    steps: int
    plain_steps: int
    guidance: float
    negative_prompt: str | None
    lora_sources: Mapping[str, str]
    controlnet: str | None
    control_image: str | None
    canny: bool
    resize_control: bool
    ip_adapter: str | None
    ip_adapter_image: str | None
    scheduler: str | None
    height: int
    width: int
    motion_adapter: str | None
    num_frames: int | None
    fps: float | None
    max_sequence_length: int | None
    embedded: bool
    num_pictures: int
    seed: int
    dtype: str
    device: str
    memory: str
    allow_pickle: bool
    output: Path

    @property
    def num_reflections(self) -> int:
        assert self.reflection.num_reflections is not None
        return self.reflection.num_reflections

    @property
    def strong_guidance(self) -> float:
        return _known(self.pair.strong.guidance)

    @property
    def weak_guidance(self) -> float:
        return _known(self.pair.weak.guidance)

    @property
    def noun(self) -> str:
        return "picture" if self.num_frames is None else "video"

    @property
    def suffix(self) -> str:
        return ".png" if self.num_frames is None else ".mp4"

    def sampling_guidance(self, role: str) -> float:
        """Returns the scale that a side samples with by itself: the weak one its own where only guidance differs."""
        alone = role == "weak" and self.only_guidance_differs
        return self.weak_guidance if alone else self.guidance

    def exchanged(self, role: str) -> bool:
        """Whether a side samples by itself with the halves of its guidance exchanged: diffusers takes scales from 1 on,
        and a scale g of 0 or less is 1 - g with the prompt and the negative one in each other's place.
        """
        return not self.embedded and self.sampling_guidance(role) <= 0

    @property
    def only_guidance_differs(self) -> bool:
        """Whether the pair is one network at two guidances and nothing else."""
        ours, theirs = self.pair.strong.settings(), self.pair.weak.settings()
        differing = {name for name, value in theirs.items() if ours.get(name) != value}
        return differing <= {"guidance"} and not self.raw_prompts

    def loras_of(self, role: str) -> Loras:
        """Returns the LoRA scales of a side; with a network of its own it has no need of those at 0."""
        side = self.pair.weak if role == "weak" else self.pair.strong
        apart = self.pair.weak.checkpoint is not None
        return tuple((name, scale) for name, scale in side.loras if scale != 0 or not apart)

    def groups(self) -> Groups:
        """Returns the pictures in the order they are made, in groups: all methods of one prompt and index."""
        return task_groups(
            self.methods, self.prompts, self.stems, seed=self.seed, count=self.num_pictures, suffix=self.suffix
        )

    def steps_of(self, method: str) -> int:
        """Returns the sampling steps of one picture."""
        return self.plain_steps if method in ALONE else self.steps

    def evaluations(self, method: str) -> int:
        """Returns the evaluations of one picture: T, T + 2 lambda of W2SD, and so on (`adapters.method`)."""
        return num_evaluations(method, self.reflection, self.steps_of(method))

    def rows(self, method: str) -> int:
        """Returns the batch rows of one picture: two for a guided evaluation, one at scale 0 or 1; both sides of a gap
        that is in guidance alone come from the two rows of one call where they are asked at one latent.
        """
        return num_rows(method, self.reflection, self.steps_of(method), self._side_rows())

    def at_most(self, method: str) -> bool:
        """Whether a picture may cost less."""
        return rows_at_most(method, self.reflection, self._side_rows())

    def _side_rows(self) -> SideRows:
        return SideRows(
            strong=self._rows(self.guidance),
            weak=self._rows(self.sampling_guidance("weak")),
            strong_inside=self._rows(self.strong_guidance),
            weak_inside=self._rows(self.weak_guidance),
            together=self.only_guidance_differs and not self.embedded,
        )

    def _rows(self, guidance: float) -> int:
        return 1 if self.embedded or guidance in (0, 1) else 2

    def settings(self) -> dict[str, Any]:
        """Returns what determines the pictures, beside the pair, the prompts and the machine, as JSON data."""
        plain = {} if self.plain_steps == self.steps else {"plain_steps": self.plain_steps}
        frames = {} if self.num_frames is None else {"num_frames": self.num_frames, "fps": self.fps}
        return {
            "mode": self.reflection.mode,
            "strength": self.reflection.strength,
            **reflection_record(self.reflection),
            "steps": self.steps,
            **plain,
            "reflections": self.num_reflections,
            "guidance": self.guidance,
            "strong_guidance": self.pair.strong.guidance,
            "weak_guidance": self.pair.weak.guidance,
            "negative_prompt": self.negative_prompt,
            "scheduler": self.scheduler,
            "height": self.height,
            "width": self.width,
            **frames,
            "max_sequence_length": self.max_sequence_length,
            "seed": self.seed,
            "num_pictures": self.num_pictures,
        }

    def pair_record(self) -> dict[str, Any]:
        """Returns the two sides and what they have as JSON data; local paths made absolute."""
        sides = {"strong": self.pair.strong, "weak": self.pair.weak}
        parts: dict[str, Any] = {
            "loras": {
                name: {"from": source, **lora_scales_of(sides, name)} for name, source in self.lora_sources.items()
            },
            "controlnet": located(self.controlnet),
            "control_image": located(self.control_image),
            "canny": self.canny or None,
            "resize_control": self.resize_control or None,
            "control": {role: side.control["scale"] for role, side in sides.items() if side.control},
            "ip_adapter": located(self.ip_adapter),
            "ip_adapter_image": located(self.ip_adapter_image),
            "ip_adapter_scale": {role: side.ip_adapter for role, side in sides.items() if side.ip_adapter is not None},
            "motion_adapter": located(self.motion_adapter),
            "weak_negative_prompt": self.pair.weak.negative_prompt,
            "raw_prompts": dict(self.raw_prompts),
        }
        return {
            "name": self.pair.name,
            "strong": located(self.pair.strong.checkpoint),
            "weak": located(self.pair.weak.checkpoint),
            "config": located(self.config),
            "weak_config": located(self.weak_config),
            **{name: value for name, value in parts.items() if value not in (None, {})},
        }


def _known(guidance: float | None) -> float:
    assert guidance is not None
    return guidance
