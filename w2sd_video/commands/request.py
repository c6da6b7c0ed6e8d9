"""What to generate: a frozen request, and the plan it becomes once every setting is known (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.commands.lora_flags import LoraFlag
from w2sd_video.commands.method_settings import SideRows, num_evaluations, num_rows, reflection_record, rows_at_most
from w2sd_video.commands.rewards import RewardSettings
from w2sd_video.pair import Loras, ModelPair, ModelSpec, ReflectionConfig
from w2sd_video.runs.tasks import ALONE, Groups, Task, task_groups
from w2sd_video.runs.video_io import suffix_of

DTYPES = ("auto", "float32", "float16", "bfloat16")
SCHEDULERS = ("ddim", "euler", "dpm-solver++")
PIPELINE_GAPS = (  # fields of a request that are about a ControlNet or an IP-Adapter
    *("controlnet", "control_image", "canny", "resize_control", "control_scale", "weak_control_scale"),
    *("ip_adapter", "ip_adapter_image", "ip_adapter_scale", "weak_ip_adapter_scale"),
)
OFFLOADS = ("none", "model", "sequential", "group")
DEFAULT_METHODS = ("weak", "strong", "w2sd")


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate; `None` means "as the preset has it", and no field needs to be given: that is the bundled demo.

    `prompts` empty: the demo's own. `preset` None: the demo, or, when `strong` and `weak` are given, the paper's
    AnimateDiff-SDXL settings (`juggernaut-vs-sdxl`) with those checkpoints. `motion_adapter` None: what the
    checkpoints bring, or the preset's. `guidance` is that of sampling, `strong_guidance` and `weak_guidance` are those
    inside the reflection. `reflections` is lambda; with `steps` changed and lambda not given, the preset's share of
    the steps is reflected; `match_evaluations` N chooses both so that W2SD costs what N steps cost, and methods without
    reflections make N. `prompt_pairs` are (refined, raw): the strong side is told the first, the weak one the second;
    `weak_prompt` is the raw one of every prompt. `loras` are those of the strong side; the weak side has them at 0
    unless `weak_loras` says otherwise. `seed`: video `index` of every prompt starts from the noise of the CPU generator
    seeded `seed + index`, for every method. `output` None: a folder under `outputs` named after pair and settings.
    `methods` None: weak, strong and w2sd; for the demo zero-gap as well. `controlnet` with its `control_image` (a
    video, a folder of pictures or one picture), and `ip_adapter` with its `ip_adapter_image`, act on the strong side at
    their scale and on the weak one at 0 unless told otherwise. `every` to `lag` are as in `ReflectionConfig`; `reward`
    and what belongs to it are of the method w2sd-auto (`rewards`).
    """

    prompts: tuple[str, ...] = ()
    preset: str | None = None
    strong: str | None = None
    weak: str | None = None
    motion_adapter: str | None = None
    config: str | None = None
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
    negative_prompt: str | None = None
    prompt_pairs: tuple[tuple[str, str], ...] = ()
    weak_prompt: str | None = None
    weak_negative_prompt: str | None = None
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
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    seed: int = 0
    num_videos: int = 1
    dtype: str = "auto"
    device: str = "auto"
    offload: str = "none"
    compile: bool = False
    allow_pickle: bool = False
    output: str | Path | None = None
    video_format: str = "mp4"


@dataclass(frozen=True)
class Plan:
    """A request with every setting known and checked.

    `guidance` is that of sampling; the guidances inside the reflection are `pair.strong.guidance` and
    `pair.weak.guidance`. `plain_steps` are the steps of methods without reflections.
    `raw_prompts` has the weak side's prompt for those that differ, `lora_sources` the place of every LoRA in `pair`,
    `reward` is None without w2sd-auto.
    """

    preset: str
    pair: ModelPair
    motion_adapter: str | None
    config: str | None
    reflection: ReflectionConfig
    reward: RewardSettings | None
    prompts: tuple[str, ...]
    raw_prompts: Mapping[str, str]
    lora_sources: Mapping[str, str]
    stems: tuple[str, ...]
    methods: tuple[str, ...]
    steps: int
    plain_steps: int
    guidance: float
    negative_prompt: str | None
    scheduler: str | None
    num_frames: int
    height: int
    width: int
    fps: float
    seed: int
    num_videos: int
    dtype: str
    device: str
    offload: str
    compile: bool
    allow_pickle: bool
    output: Path
    video_format: str

    @property
    def num_reflections(self) -> int:
        assert self.reflection.num_reflections is not None
        return self.reflection.num_reflections

    @property
    def strong_guidance(self) -> float:
        assert self.pair.strong.guidance is not None
        return self.pair.strong.guidance

    @property
    def weak_guidance(self) -> float:
        assert self.pair.weak.guidance is not None
        return self.pair.weak.guidance

    def loras_of(self, role: str) -> Loras:
        """Returns the LoRA scales of a side's own network, which has no need of those at 0."""
        side = self.pair.weak if role == "weak" else self.pair.strong
        return tuple((name, scale) for name, scale in side.loras if scale != 0)

    def groups(self) -> Groups:
        """Returns the videos in the order they are made, in groups: all methods of one prompt and index."""
        return task_groups(
            self.methods,
            self.prompts,
            self.stems,
            seed=self.seed,
            count=self.num_videos,
            suffix=suffix_of(self.video_format),
        )

    def tasks(self) -> tuple[Task, ...]:
        """Returns all videos in the order they are made."""
        return tuple(task for group in self.groups() for task in group)

    def steps_of(self, method: str) -> int:
        """Returns the sampling steps of one video."""
        return self.plain_steps if method in ALONE else self.steps

    def evaluations(self, method: str) -> int:
        """Returns the evaluations of one video: T, T + 2 lambda of W2SD, and so on (`adapters.method`)."""
        return num_evaluations(method, self.reflection, self.steps_of(method))

    def rows(self, method: str) -> int:
        """Returns the batch rows of one video: two for a guided evaluation, one for an evaluation at scale 0 or 1."""
        return num_rows(method, self.reflection, self.steps_of(method), self._side_rows())

    def at_most(self, method: str) -> bool:
        """Whether a video may cost less."""
        return rows_at_most(method, self.reflection, self._side_rows())

    def _side_rows(self) -> SideRows:
        own = _rows(self.guidance)
        return SideRows(own, own, _rows(self.strong_guidance), _rows(self.weak_guidance))

    def settings(self) -> dict[str, Any]:
        """Returns what determines the videos, beside the pair, the prompts and the machine, as JSON data."""
        return {
            "mode": self.reflection.mode,
            "strength": self.reflection.strength,
            **reflection_record(self.reflection),
            "steps": self.steps,
            **({} if self.plain_steps == self.steps else {"plain_steps": self.plain_steps}),
            "reflections": self.num_reflections,
            "guidance": self.guidance,
            "strong_guidance": self.strong_guidance,
            "weak_guidance": self.weak_guidance,
            "negative_prompt": self.negative_prompt,
            **({} if self.scheduler is None else {"scheduler": self.scheduler}),
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "fps": self.fps,
            "seed": self.seed,
            "num_videos": self.num_videos,
            "compile": self.compile,
            "video_format": self.video_format,
        }

    def pair_record(self) -> dict[str, Any]:
        """Returns the two sides, the motion adapter and the config folder as JSON data; local paths made absolute."""
        sides = {
            role: located(spec.checkpoint) for role, spec in (("strong", self.pair.strong), ("weak", self.pair.weak))
        }
        both = {"strong": self.pair.strong, "weak": self.pair.weak}
        gaps = {
            "loras": {name: {"from": at, **lora_scales_of(both, name)} for name, at in self.lora_sources.items()},
            "weak_negative_prompt": self.pair.weak.negative_prompt,
            "raw_prompts": dict(self.raw_prompts),
        }
        return {
            "name": self.pair.name,
            **sides,
            "motion_adapter": located(self.motion_adapter),
            "config": located(self.config),
            **{name: value for name, value in gaps.items() if value not in (None, {})},
        }


def _rows(guidance: float) -> int:
    return 1 if guidance in (0, 1) else 2


def lora_scales_of(sides: Mapping[str, ModelSpec], name: str) -> dict[str, float]:
    """Returns the scale of one LoRA on each side that names it."""
    return {role: float(scale) for role, side in sides.items() for n, scale in side.loras if n == name}  # type: ignore


def located(checkpoint: str | None) -> str | None:
    """Returns a local path made absolute; a hub id, or None, as it is."""
    if checkpoint is None:
        return None
    path = Path(checkpoint).expanduser()
    return str(path.resolve()) if path.exists() else checkpoint
