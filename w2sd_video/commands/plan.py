"""A request completed: everything known and checked but what only loaded models tell (imports no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from w2sd_video.commands.method_settings import SideRows, num_evaluations, num_rows, reflection_record, rows_at_most
from w2sd_video.commands.rewards import RewardSettings
from w2sd_video.commands.starts import FILES, Start
from w2sd_video.hosting.caches import StepCache
from w2sd_video.loading.describe import Weights
from w2sd_video.loading.memory import Machine
from w2sd_video.loading.pair_description import PairDescription
from w2sd_video.loading.pipeline_families import PipelineFamily
from w2sd_video.pair import Loras, ModelPair, ModelSpec, ReflectionConfig
from w2sd_video.runs.tasks import ALONE, Groups, class_groups, task_groups

NOTHING: Mapping[str, Any] = {}
PARTS = (  # files of a pair beside its two sides, made absolute in the record
    *("config", "weak_config", "motion_adapter", "controlnet", "control_image", "ip_adapter", "ip_adapter_image"),
    *FILES,
)


@dataclass(frozen=True)
class Cost:
    """What one video or picture costs by one method, or the most it can cost.

    Attributes:
        evaluations: of either network.
        rows: batch rows of these: two for a guided evaluation. None where the family does not count them.
        at_most: whether it may be less.
        counts: what else is counted ("vae_calls").
    """

    evaluations: int
    rows: int | None = None
    at_most: bool = False
    counts: Mapping[str, int] = field(default_factory=lambda: NOTHING)

    def record(self) -> dict[str, Any]:
        """Returns the cost as JSON data."""
        rows = {} if self.rows is None else {"rows": self.rows}
        return {"evaluations": self.evaluations, **rows, **self.counts, **({"at_most": True} if self.at_most else {})}


@dataclass(frozen=True)
class Plan:
    """A request with every setting known, whichever family it is for.

    Attributes:
        family: the program that makes it.
        preset: where its defaults come from; None where the family has none.
        pair: both sides as they are inside the reflection. A weak checkpoint of None is the strong one's network.
        reflection: how the methods reflect.
        reward: of w2sd-auto; None without it.
        prompts, stems: what to show, and the names of its files.
        raw_prompts: the weak side's prompt, for those that differ.
        methods: in order.
        steps, plain_steps: T, and the steps of methods without reflections.
        guidance: the scale that sampling uses. None is the pipeline's own.
        height, width: pixels.
        num, total: how many per prompt; or how many in all, prompts in turn.
        num_frames, fps: None for pictures.
        video_format: of videos ("mp4", "gif", "webp", "png").
        embedded: guidance is an input of the network, so that it costs no rows.
        files: what the files of a pair of pipelines are, for `loading.pairs`.
        weights: what is read, as far as it is files here.
        lora_sources: where each LoRA of `pair` comes from.
        pipelines: the family of both sides' pipelines; None for one that is not in the table.
        start: what sampling starts from beside noise and prompts; None for nothing.
        parts: files that belong to the pair, by field (PARTS), and how they are used ("canny").
        memory, machine: the memory plan, and what the flags say of the machine that it is for.
        batch, shown: how many are made together; how many of each method the page shows (None: all).
        notes: what the user should know before anything is made.
        verdict: whether the two sides share a latent space, a word of `w2sd diagnose` and why.
        texts_read: whether the notes say what text encoders cut off, which tokenizers' files tell.
        checked: of which networks and LoRAs the tensors' names and sizes are known to fit.
        own: what only the family knows; `settings()` and `pair_record()` of it go into the record where it has them,
            `details()` into the dry run.
    """

    family: str
    preset: str | None
    pair: ModelPair
    reflection: ReflectionConfig
    prompts: tuple[str, ...]
    stems: tuple[str, ...]
    methods: tuple[str, ...]
    steps: int
    plain_steps: int
    guidance: float | None
    height: int
    width: int
    seed: int
    device: str
    dtype: str
    output: Path = Path()
    num: int = 1
    total: int | None = None
    reward: RewardSettings | None = None
    raw_prompts: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    negative_prompt: str | None = None
    scheduler: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    video_format: str = "mp4"
    max_sequence_length: int | None = None
    memory: str = "resident"
    machine: Machine = field(default_factory=Machine)
    batch: int = 1
    shown: int | None = None
    compile: bool = False
    fp8: bool = False
    cache: StepCache | None = None
    allow_pickle: bool = False
    embedded: bool = False
    files: PairDescription | None = None
    weights: tuple[Weights, ...] = ()
    lora_sources: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    pipelines: PipelineFamily | None = None
    start: Start | None = None
    parts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    notes: tuple[str, ...] = ()
    verdict: str = "share: one network is both sides"
    texts_read: bool = False
    checked: tuple[str, ...] = ()
    own: Any = None

    def part(self, name: str) -> Any:
        """Returns what belongs to the pair under this name; None where nothing does."""
        return self.parts.get(name)

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

    @property
    def noun(self) -> str:
        return "picture" if self.num_frames is None else "video"

    @property
    def suffix(self) -> str:
        """What file names end in; a folder of png frames has no suffix."""
        if self.num_frames is None:
            return ".png"
        return "" if self.video_format == "png" else f".{self.video_format}"

    def side(self, role: str) -> ModelSpec:
        """Returns the side called "strong" or "weak"."""
        return self.pair.weak if role == "weak" else self.pair.strong

    @property
    def only_guidance_differs(self) -> bool:
        """Whether the pair is one network at two guidances and nothing else."""
        ours, theirs = self.pair.strong.settings(), self.pair.weak.settings()
        differing = {name for name, value in theirs.items() if ours.get(name) != value}
        return differing <= {"guidance"} and not self.raw_prompts

    def sampling_guidance(self, role: str) -> float:
        """Returns the scale that a side samples with by itself: the weak one its own where only guidance differs."""
        scale = self.weak_guidance if role == "weak" and self.only_guidance_differs else self.guidance
        assert scale is not None
        return scale

    def exchanged(self, role: str) -> bool:
        """Whether a side samples by itself with the halves of its guidance exchanged: diffusers takes scales from 1 on,
        and a scale g of 0 or less is 1 - g with the prompt and the negative one in each other's place.
        """
        return not self.embedded and self.sampling_guidance(role) <= 0

    def loras_of(self, role: str) -> Loras:
        """Returns the LoRA scales of a side; with a network of its own it has no need of those at 0."""
        apart = self.pair.weak.checkpoint is not None
        return tuple((name, scale) for name, scale in self.side(role).loras if scale != 0 or not apart)

    def texts(self, prompts: Iterable[str]) -> list[str]:
        """Returns all that the text encoders of either side are told for some of the prompts."""
        asked = list(prompts)
        raw = [self.raw_prompts.get(prompt, prompt) for prompt in asked] if self.raw_prompts else []
        return [*asked, *raw, *filter(None, (self.negative_prompt, self.pair.weak.negative_prompt))]

    def steps_of(self, method: str) -> int:
        """Returns the sampling steps of one video or picture."""
        return self.plain_steps if method in ALONE else self.steps

    def costs(self, sides: SideRows) -> dict[str, Cost]:
        """Returns what one video or picture costs by each method: T, T + 2 lambda of W2SD, and so on."""
        return {
            method: Cost(
                num_evaluations(method, self.reflection, self.steps_of(method)),
                num_rows(method, self.reflection, self.steps_of(method), sides),
                rows_at_most(method, self.reflection, sides),
            )
            for method in self.methods
        }

    def as_loaded(self) -> Plan:
        """Returns the plan without what is of its calls alone: plans that are equal then have the same models."""
        unguided = ModelPair(replace(self.pair.strong, guidance=None), replace(self.pair.weak, guidance=None))
        return replace(
            self,
            pair=unguided,
            reflection=ReflectionConfig(),
            prompts=(),
            stems=(),
            methods=(),
            steps=1,
            plain_steps=1,
            guidance=None,
            seed=0,
            output=Path(),
            num=1,
            total=None,
            reward=None,
            batch=1,
            shown=None,
            notes=(),
        )

    def groups(self) -> Groups:
        """Returns what is made in the order it is made, in groups: all methods of one prompt and index."""
        if self.total is None:
            return task_groups(
                self.methods, self.prompts, self.stems, seed=self.seed, count=self.num, suffix=self.suffix
            )
        return class_groups(
            self.methods, self.prompts, self.stems, seed=self.seed, count=self.total, suffix=self.suffix
        )

    @property
    def per_method(self) -> int:
        """How many are made by each method."""
        return len(self.prompts) * self.num if self.total is None else self.total

    def seeds(self) -> list[int] | dict[str, int]:
        """Returns the seeds as JSON data."""
        if self.total is not None:
            return {"first": self.seed, "count": self.total}
        return list(range(self.seed, self.seed + self.num))

    def settings(self) -> dict[str, Any]:
        """Returns what determines the files, beside the pair, the prompts and the machine, as JSON data."""
        video = self.num_frames is not None
        frames = {"num_frames": self.num_frames, "fps": self.fps, "video_format": self.video_format} if video else {}
        own = self.own.settings() if hasattr(self.own, "settings") else {}
        return {
            "mode": self.reflection.mode,
            "strength": self.reflection.strength,
            **reflection_record(self.reflection),
            "steps": self.steps,
            **({} if self.plain_steps == self.steps else {"plain_steps": self.plain_steps}),
            "reflections": self.num_reflections,
            "guidance": self.guidance,
            "strong_guidance": self.pair.strong.guidance,
            "weak_guidance": self.pair.weak.guidance,
            "negative_prompt": self.negative_prompt,
            "scheduler": self.scheduler,
            "height": self.height,
            "width": self.width,
            **frames,
            **({"compile": True} if self.compile else {}),
            **({"fp8": True} if self.fp8 else {}),
            **({} if self.cache is None else {"cache": str(self.cache)}),
            "max_sequence_length": self.max_sequence_length,
            **({} if self.start is None else self.start.settings()),
            "seed": self.seed,
            "num_videos" if video else "num_pictures": self.num if self.total is None else self.total,
            **own,
        }

    def pair_record(self) -> dict[str, Any]:
        """Returns the two sides and what they have as JSON data; local paths made absolute, nothing of what is not."""
        sides = {"strong": self.pair.strong, "weak": self.pair.weak}
        scales = {name: lora_scales_of(sides, name) for name in self.lora_sources}
        parts: dict[str, Any] = {
            "loras": {name: {"from": source, **scales[name]} for name, source in self.lora_sources.items()},
            **{name: located(value) if name in PARTS else value for name, value in self.parts.items()},
            **({} if self.start is None else {name: located(path) for name, path in self.start.files().items()}),
            "control": {role: side.control["scale"] for role, side in sides.items() if side.control},
            "ip_adapter_scale": {role: side.ip_adapter for role, side in sides.items() if side.ip_adapter is not None},
            "weak_skip_layers": list(self.pair.weak.skip_layers or ()),
            "strong_levels": self.pair.strong.levels,
            "weak_levels": self.pair.weak.levels,
            "weak_precision": self.pair.weak.precision,
            "weak_negative_prompt": self.pair.weak.negative_prompt,
            "raw_prompts": dict(self.raw_prompts),
            **(self.own.pair_record() if hasattr(self.own, "pair_record") else {}),
        }
        return {
            "name": self.pair.name,
            "strong": located(self.pair.strong.checkpoint),
            "weak": located(self.pair.weak.checkpoint),
            **{name: value for name, value in parts.items() if value not in (None, False, {}, [])},
        }


def lora_scales_of(sides: Mapping[str, ModelSpec], name: str) -> dict[str, float]:
    """Returns the scale of one LoRA on each side that names it."""
    return {role: float(scale) for role, side in sides.items() for n, scale in side.loras if n == name}  # type: ignore


def located(checkpoint: str | None) -> str | None:
    """Returns a local path made absolute; a hub id, or None, as it is."""
    if checkpoint is None:
        return None
    path = Path(checkpoint).expanduser()
    return str(path.resolve()) if path.exists() else checkpoint
