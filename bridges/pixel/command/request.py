"""What to make with a bridged pair: a frozen request, and the plan it becomes once it is checked (imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.commands.plan import located
from w2sd_video.pair import ModelPair
from w2sd_video.runs.tasks import METHODS, Groups, Method, task_groups

MEMORY_PLANS = ("resident", "weak-offload", "sequential")
CODECS = ("full", "tiny")
NOISE_MAPS = ("auto", "identity", "fresh", "fixed")
# The tiny VAE of a family, by the beginning of the pipeline's class; taken unasked only for sides that are hub ids.
TINY_VAES = {
    "Flux": "madebyollin/taef1",
    "StableDiffusionXL": "madebyollin/taesdxl",
    "AnimateDiffSDXL": "madebyollin/taesdxl",
    "StableDiffusion": "madebyollin/taesd",
}
BRIDGE_METHODS: dict[str, Method] = {
    **{name: METHODS[name] for name in ("weak", "strong")},
    "w2sd": Method("W2SD", "the strong model, reflected with the weak one through pixels", True),
    "zero-gap": Method(
        "zero-gap", "control: the same reflections with the strong model on both sides, through its own VAE", True
    ),
}
VIDEO_FPS = 8.0  # AnimateDiff's own
DECODES = ENCODES = 3  # of a reflected step: D_A, 2 D_B and E_B, 2 E_A


@dataclass(frozen=True)
class BridgeRequest:
    """What to make; None means "as the preset has it", and no field needs to be given: that is the bundled demo.

    `preset` None: the demo, or, when `strong` and `weak` are given, "own-pair". `guidance` is the strong side's: of a
    UNet its classifier-free guidance, of Flux the embedded one; `true_cfg` is Flux's classifier-free guidance, with
    `negative_prompt`. `weak_guidance` is the weak side's, by itself and inside the reflection. `height` and `width` are
    the strong side's pixels, `weak_height` and `weak_width` the weak one's (None: the same). `noise_map` is one of
    NOISE_MAPS or the file of a fitted one. Picture `index` of every prompt starts from the noise of the CPU generator
    seeded `seed + index`, for every method that samples the strong side. `video`: the strong side is AnimateDiff.
    """

    prompts: tuple[str, ...] = ()
    preset: str | None = None
    strong: str | None = None
    weak: str | None = None
    config: str | None = None
    weak_config: str | None = None
    motion_adapter: str | None = None
    methods: tuple[str, ...] | None = None
    steps: int | None = None
    reflections: int | None = None
    strength: float | None = None
    guidance: float | None = None
    true_cfg: float | None = None
    weak_guidance: float | None = None
    negative_prompt: str | None = None
    noise_map: str = "auto"
    codec: str = "full"
    strong_tiny_vae: str | None = None
    weak_tiny_vae: str | None = None
    tiled: bool = False
    height: int | None = None
    width: int | None = None
    weak_height: int | None = None
    weak_width: int | None = None
    num_pictures: int = 1
    seed: int = 0
    video: bool = False
    num_frames: int | None = None
    fps: float | None = None
    memory: str = "resident"
    dtype: str = "auto"
    device: str = "auto"
    force_bridge: bool = False
    allow_pickle: bool = False
    output: str | Path | None = None


@dataclass(frozen=True)
class BridgePlan:
    """A request with every setting known and checked, but for what only the loaded pipelines tell.

    The sides' guidance (None: the pipeline's own) is in `pair`. `num_frames` and `fps` are None for pictures.
    """

    preset: str
    pair: ModelPair
    config: str | None
    weak_config: str | None
    motion_adapter: str | None
    prompts: tuple[str, ...]
    stems: tuple[str, ...]
    methods: tuple[str, ...]
    steps: int
    reflections: int
    strength: float
    true_cfg: float | None
    negative_prompt: str | None
    noise_map: str
    preset_map: Path | None
    codec: str
    strong_tiny_vae: str | None
    weak_tiny_vae: str | None
    tiled: bool
    height: int
    width: int
    weak_height: int
    weak_width: int
    max_sequence_length: int | None
    num_pictures: int
    seed: int
    num_frames: int | None
    fps: float | None
    memory: str
    dtype: str
    device: str
    force_bridge: bool
    allow_pickle: bool
    output: Path

    @property
    def video(self) -> bool:
        return self.num_frames is not None

    @property
    def noun(self) -> str:
        return "video" if self.video else "picture"

    @property
    def suffix(self) -> str:
        return ".mp4" if self.video else ".png"

    @property
    def strong(self) -> str:
        assert self.pair.strong.checkpoint is not None
        return self.pair.strong.checkpoint

    @property
    def weak(self) -> str:
        assert self.pair.weak.checkpoint is not None
        return self.pair.weak.checkpoint

    def groups(self) -> Groups:
        return task_groups(
            self.methods, self.prompts, self.stems, seed=self.seed, count=self.num_pictures, suffix=self.suffix
        )

    def evaluations(self, method: str) -> int:
        """Returns the evaluations of one picture: T, or T + 2 lambda with reflections (less where some are skipped)."""
        return self.steps + 2 * self.reflections * BRIDGE_METHODS[method].reflects

    def vae_calls(self, method: str) -> int:
        """Returns the calls of a VAE's halves inside the reflections of one picture."""
        return (DECODES + ENCODES) * self.reflections * BRIDGE_METHODS[method].reflects

    def settings(self) -> dict[str, Any]:
        """Returns what determines the pictures, beside the pair, the prompts and the machine, as JSON data."""
        sizes = {"weak_height": self.weak_height, "weak_width": self.weak_width}
        frames = {"num_frames": self.num_frames, "fps": self.fps} if self.video else {}
        names = ("strength", "true_cfg", "negative_prompt", "noise_map", "codec", "strong_tiny_vae", "weak_tiny_vae")
        return {
            "mode": "fused",  # the form of the bridge, Eq. 5
            "steps": self.steps,
            "reflections": self.reflections,
            "guidance": self.pair.strong.guidance,
            "weak_guidance": self.pair.weak.guidance,
            **{name: getattr(self, name) for name in names},
            "tiled": self.tiled,
            "force_bridge": self.force_bridge,
            "height": self.height,
            "width": self.width,
            **sizes,
            **frames,
            "max_sequence_length": self.max_sequence_length,
            "seed": self.seed,
            "num_pictures": self.num_pictures,
        }

    def pair_record(self) -> dict[str, Any]:
        """Returns the two sides and what comes with them as JSON data; local paths made absolute."""
        sides = {"strong": self.strong, "weak": self.weak, "config": self.config, "weak_config": self.weak_config}
        parts = {**sides, "motion_adapter": self.motion_adapter}
        return {"name": self.pair.name, **{name: located(given) for name, given in parts.items()}}
