"""A pair of one latent space, from a request to a plan: what the families of pictures and videos share (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from w2sd_video.commands import checks
from w2sd_video.commands.families.base import Loading, Maker
from w2sd_video.commands.families.pair_memory import memory_of, rows_of
from w2sd_video.commands.lora_flags import LoraPlan, plan_loras
from w2sd_video.commands.method_settings import (
    GAPPED,
    SideRows,
    check_lag,
    check_levels,
    check_reflection,
    check_sides_alone,
    check_used,
    chosen_mode,
    plan_reflection,
    roles_of,
    settled_steps,
)
from w2sd_video.commands.option import unknown
from w2sd_video.commands.options import check_methods
from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.prompts import both_sides
from w2sd_video.commands.rehearsing import rehearse_pair
from w2sd_video.commands.request import Request
from w2sd_video.commands.rewards import plan_reward
from w2sd_video.commands.starts import plan_start, rate_of_start, size_of_start, start_arguments
from w2sd_video.errors import UserError
from w2sd_video.loading.attachments import check_controlnet, check_ip_adapter
from w2sd_video.loading.describe import Description, check_frames, describe, describe_motion_adapter
from w2sd_video.loading.files import FAMILIES, class_on_hub
from w2sd_video.loading.memory import Machine, Sides
from w2sd_video.loading.pair_description import PairDescription, describe_pair, weights_of
from w2sd_video.loading.pipeline_families import PipelineFamily, family_called, family_of_class
from w2sd_video.pair import ModelPair, ModelSpec, gap
from w2sd_video.presets import PICTURE_PRESETS, PRESETS, VIDEO_PRESETS, Preset, get_preset
from w2sd_video.runs.file_names import video_stems
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import METHODS, Method
from w2sd_video.runs.video_io import check_format

DEFAULT_METHODS = ("weak", "strong", "w2sd", "zero-gap")
DEMOS = {"image": "picture-demo", "video": "demo"}
FRAMES, FPS = 16, 8.0  # AnimateDiff's own
STEPS, REFLECTIONS = 28, 10  # of a pair of one's own of newer families: App. E.6, for Flux


@dataclass(frozen=True)
class Described:
    """What files tell of a pair of one latent space.

    Attributes:
        preset: where defaults come from; with `own` (a pair of the user's) only its settings are taken.
        strong, weak: both checkpoints; a weak one of None is the strong one's network.
        sides: what their files are.
        sdxl_video: the strong side is SDXL and makes videos, so that a pair of one's own has the paper's settings.
        pipelines: the family of their pipelines, None for one that is not in the table.
    """

    preset: Preset
    own: bool
    strong: str
    weak: str | None
    sides: PairDescription
    motion_adapter: str | None = None
    sdxl_video: bool = False
    pipelines: PipelineFamily | None = None


@dataclass(frozen=True)
class PairFamily:
    """A family (see `base`) of pairs in one latent space; `prompts` are those of the bundled pair."""

    name: str
    about: str
    examples: str
    room: str
    presets: Mapping[str, Any]
    prompts: Sequence[str]
    describe: Callable[[Request], Described]
    details: str = ""
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)
    programs: Mapping[str, Callable[[Sequence[str]], int]] = field(default_factory=dict)

    def complete(self, request: Request, description: Described) -> Plan:
        return complete_pair(request, description, self.prompts)

    def cost(self, plan: Plan) -> Mapping[str, Cost]:
        return pair_costs(plan)

    def memory(self, plan: Plan) -> Sides | None:
        return memory_of(plan)

    def rehearse(self, plan: Plan) -> None:
        rehearse_pair(plan)

    def load(self, plan: Plan, run: Loading) -> Maker:
        from w2sd_video.commands.making import load_pipelines

        return load_pipelines(plan, run)

    def finish(self, plan: Plan, run: RunPlan, maker: Maker | None, progress: Progress) -> Mapping[str, str]:
        return {}


def chosen_preset(request: Request, own_pair: str) -> tuple[Preset, bool]:
    """Returns the preset, and whether the pair is the user's own, which has the settings of `own_pair`.

    Raises:
        UserError: no such preset, or one of another family.
    """
    videos = request.family == "video"
    theirs = VIDEO_PRESETS if videos else PICTURE_PRESETS
    if request.preset is not None:
        if request.preset not in PRESETS:
            unknown("preset", request.preset, theirs)
        if request.preset not in theirs:
            makes, other = ("pictures", "image") if videos else ("videos", "video")
            raise UserError(
                f"the preset {request.preset} makes {makes}: use it with `w2sd {other}`; presets of this command: "
                f"{', '.join(theirs)}"
            )
        return get_preset(request.preset), False
    if request.strong is None and request.weak is None:
        return get_preset(DEMOS[request.family]), False
    if request.strong is None:
        raise UserError("--weak is given without --strong; give both, or a --preset whose strong side is to be used")
    return get_preset(own_pair), True


def describe_pipelines(
    request: Request, preset: Preset, own: bool, *, sdxl_video: bool = False, lending: bool = False
) -> Described:
    """Returns what the files of the two sides tell; raises `UserError` for a side that cannot be used.

    `lending`: each lends the other what it lacks, as the sides of AnimateDiff on SDXL do.
    """
    strong = request.strong or preset.pair.strong.checkpoint
    weak = request.weak or (None if own else preset.pair.weak.checkpoint)
    assert strong is not None
    if "--strong FILE" in preset.needs and request.strong is None:
        raise UserError(
            f"the strong side of {preset.name} is one file, {strong} of the hub: fetch it, give --strong FILE"
        )
    adapter = request.get("motion_adapter")
    # Local checkpoints without a preset bring their own motion modules or are refused: nothing is fetched unless a hub
    # id is given.
    local = all(Path(side).expanduser().exists() for side in (strong, weak) if side is not None)
    if adapter is None and (not own or (sdxl_video and not local)):
        adapter = preset.motion_adapter
    pickles, other, weak_config = request.allow_pickle, None, weak_config_of(request, weak)
    if lending:
        assert weak is not None
        frames = request.num_frames or preset.num_frames
        sides = describe_pair(strong, weak, adapter, config=request.config, allow_pickle=pickles, num_frames=frames)
        return Described(preset, own, strong, weak, sides, adapter, sdxl_video, family_called("AnimateDiff SDXL"))
    reading: dict[str, Any] = {"allow_pickle": pickles, "video": request.family == "video", "from_text": False}
    files = describe(strong, "strong", config=request.config, **reading)
    if weak is not None:
        other = describe(weak, "weak", config=weak_config, lent=True, **reading)
    elif weak_config is not None:
        raise UserError("--weak-config is for a --weak that is a single file; leave it out")
    motion = None if adapter is None else describe_motion_adapter(adapter, allow_pickle=pickles)
    sides = PairDescription(files, other, motion, pickles)
    family = _family_of(files, preset, own=own, motion=request.family == "video")
    if own and family is not None and family.guidance is not None:
        preset = _as_family(preset, family)
    return Described(preset, own, strong, weak, sides, adapter, sdxl_video, family)


def _family_of(files: Description, preset: Preset, *, own: bool, motion: bool) -> PipelineFamily | None:
    """The family of pipelines of a strong side; of one that is not here the hub's cache or a preset says it."""
    if files.class_name is None:
        known = [each for each in PRESETS.values() if each.pair.strong.checkpoint == files.given]
        names = [each.family for each in (known if own else [preset])]
        return family_of_class(class_on_hub(files.given)) or next(map(family_called, names), None)
    with_motion = {FAMILIES["sdxl"]: "AnimateDiff SDXL", FAMILIES["sd15"]: "AnimateDiff SD 1.5"} if motion else {}
    return family_called(with_motion.get(files.class_name)) or family_of_class(files.class_name)


def _as_family(preset: Preset, family: PipelineFamily) -> Preset:
    """A preset with the defaults of a family, for a pair of one's own."""
    assert family.guidance is not None
    height, width = family.size or (preset.height, preset.width)
    return replace(
        preset,
        family=family.name,
        steps=STEPS,
        reflection=replace(preset.reflection, num_reflections=REFLECTIONS, mode=family.mode),
        guidance=family.guidance,
        height=height,
        width=width,
        num_frames=family.num_frames,
        fps=family.fps,
    )


def weak_config_of(request: Request, weak: str | None) -> str | None:
    """Returns where a weak single file has its configs from: of videos from the same place as the strong one."""
    if request.has("weak_config"):
        return request.weak_config
    return request.config if weak is not None and Path(weak).expanduser().is_file() else None


def complete_pair(request: Request, described: Described, bundled: Sequence[str]) -> Plan:
    """Returns the plan of a pair of one latent space; `bundled` are the prompts of the demo's preset.

    Raises:
        UserError: settings that do not go together, or not with what the sides are.
    """
    preset, own, files = described.preset, described.own, described.sides.strong
    video = request.family == "video"
    mode = chosen_mode(request, preset.reflection.mode)
    # Only in mode release it is known that the last step cannot be inverted.
    counts = settled_steps(request, preset.steps, preset.reflection.num_reflections, spare=int(mode == "release"))
    loras = plan_loras(
        request.loras,
        request.weak_loras,
        sources=preset.loras,
        strong_scales=preset.pair.strong.loras,
        weak_scales=preset.pair.weak.loras,
    )
    guidance, inside, outer = _guidances(request, described)
    default = bundled if preset.name == DEMOS[request.family] else ()
    prompts, raw = both_sides(request.prompts, request.prompt_pairs or (), request.weak_prompt, default, preset.name)
    checks.check_toy(request, {"strong": described.strong, "weak": described.weak}, prompts, raw)
    told = _sides(request, described, loras)
    start = plan_start(request, files, described.pipelines)
    if described.sides.weak is not None and described.sides.weak.kind == "folder":
        plan_start(request, described.sides.weak, described.pipelines)  # its network, too, must be one for this
    height, width = _sizes(request, described, size_of_start(start))
    weak_told = {"negative_prompt": request.weak_negative_prompt, "checkpoint": described.weak, "guidance": outer}
    done = Plan(
        family=request.family,
        preset=preset.name,
        pair=ModelPair(
            ModelSpec(checkpoint=described.strong, guidance=inside, **told["strong"]),
            ModelSpec(**weak_told, **told["weak"]),
            name=_name(described),
        ),
        reflection=plan_reflection(request, preset.reflection, num_reflections=counts.reflections, mode=mode),
        prompts=prompts,
        raw_prompts=raw,
        stems=video_stems(prompts),
        methods=(),
        steps=counts.steps,
        plain_steps=counts.plain_steps,
        guidance=guidance,
        negative_prompt=preset.negative_prompt if request.negative_prompt is None else request.negative_prompt,
        scheduler=request.scheduler or (None if own else preset.scheduler),
        height=height,
        width=width,
        num_frames=(request.num_frames or preset.num_frames or FRAMES) if video else None,
        fps=(rate_of_start(start) or preset.fps or FPS if request.fps is None else request.fps) if video else None,
        video_format=request.get("video_format") or "mp4",
        seed=request.seed,
        num=request.num,
        batch=request.batch or 1,
        dtype=request.dtype if request.dtype != "auto" or preset.dtype is None else preset.dtype,
        device=request.device,
        memory=request.memory,
        machine=Machine(request.get("gpu_memory"), request.get("host_memory")),
        **{name: request.get(name) for name in ("compile", "fp8", "cache")},
        allow_pickle=request.allow_pickle,
        embedded=bool(files.is_flux) if described.pipelines is None else described.pipelines.embedded,
        files=described.sides,
        pipelines=described.pipelines,
        start=start,
        lora_sources=loras.sources,
        parts=_parts(request, described),
    )
    done = replace(done, methods=_methods(request, done))
    check_used(request, done.methods)
    pair = described.sides
    used = [getattr(pair, role) for role in (roles_of(done.methods) if pair.weak is not None else ["strong"])]
    done = replace(done, weights=weights_of(*used, pair.motion_adapter))
    _check(request, done, described)
    reward = plan_reward(
        request, done.methods, preset=preset.name, prompts=prompts, size=(height, width), video=video
    )  # after the rest: a function of the user's is imported
    sides = described.sides
    verdict = checks.verdict_on(sides.strong, sides.weak, own_levels=_own_levels(done.pair, sides))
    done = checks.with_checked_tensors(done, sides.strong, sides.weak)
    return replace(checks.with_cut_texts(done, (sides.strong, sides.weak)), reward=reward, verdict=verdict)


def pair_costs(plan: Plan) -> dict[str, Cost]:
    """Returns what one video or picture costs by each method."""
    sides = SideRows(
        strong=rows_of(plan, "strong", plan.sampling_guidance("strong")),
        weak=rows_of(plan, "weak", plan.sampling_guidance("weak")),
        strong_inside=rows_of(plan, "strong", plan.strong_guidance),
        weak_inside=rows_of(plan, "weak", plan.weak_guidance),
        # Both sides of a gap that is in guidance alone come from the two rows of one call.
        together=plan.only_guidance_differs and not plan.embedded and plan.pair.weak.checkpoint is None,
        strong_visit=rows_of(plan, "strong", plan.sampling_guidance("strong"), plan.strong_guidance),
        weak_visit=rows_of(plan, "weak", plan.sampling_guidance("weak"), plan.weak_guidance),
    )
    return plan.costs(sides)


def _guidances(request: Request, described: Described) -> tuple[float, float, float]:
    """Of sampling, and of the strong and the weak side inside the reflection."""
    preset = described.preset
    if _distilled(described):
        return _no_guidance(request, described)
    guidance = preset.guidance if request.guidance is None else request.guidance
    ours, theirs = preset.pair.strong.guidance, preset.pair.weak.guidance
    if described.own:  # one guidance for all unless it is the gap; of SDXL's videos it is part of the paper's
        ours = None
        theirs = theirs if described.sdxl_video and request.weak is not None else None
    elif request.guidance is not None and ours == preset.guidance:
        ours = None  # sampling and reflecting agree in the preset, so they go on to
    inside = request.strong_guidance
    if inside is None:
        inside = guidance if ours is None else ours
    outer = request.weak_guidance
    if outer is None:
        outer = inside if theirs is None else theirs
    return guidance, inside, outer


def _distilled(described: Described) -> bool:
    """Whether guidance is an input of this family's networks, and this one was distilled without it (schnell)."""
    files = described.sides.strong
    embedded = files.is_flux if described.pipelines is None else described.pipelines.embedded
    return bool(embedded) and files.network is not None and files.network.get("guidance_embeds") is False


def _no_guidance(request: Request, described: Described) -> tuple[float, float, float]:
    """Those of a network that was distilled without one."""
    for name in ("guidance", "strong_guidance", "weak_guidance"):
        given = getattr(request, name)
        if given not in (None, 1):
            raise UserError(
                f"--{name.replace('_', '-')} is {given:g}, and {described.strong} has no guidance to set "
                "(guidance_embeds is false in its network's config), so it would change nothing; leave it out"
            )
    return 1.0, 1.0, 1.0


def _parts(request: Request, described: Described) -> Mapping[str, Any]:
    preset = None if described.own else described.preset
    return {
        "config": request.config,
        "weak_config": weak_config_of(request, described.weak) if not described.sides.put_together else None,
        "motion_adapter": described.motion_adapter,
        "controlnet": request.controlnet or (preset and preset.controlnet),
        "control_image": request.control_image,
        "canny": request.canny,
        "resize_control": request.resize_control,
        "ip_adapter": request.ip_adapter or (preset and preset.ip_adapter),
        "ip_adapter_image": request.ip_adapter_image,
    }


def _sides(request: Request, described: Described, loras: LoraPlan) -> dict[str, dict[str, Any]]:
    """What the two sides are told beside guidance and prompt."""
    sides: dict[str, dict[str, Any]] = {"strong": {"loras": loras.strong}, "weak": {"loras": loras.weak}}
    sides["weak"]["skip_layers"] = request.get("weak_skip_layers")
    for role, preset in (("strong", described.preset.pair.strong), ("weak", described.preset.pair.weak)):
        given = request.get(f"{role}_levels")
        sides[role]["levels"] = given if given is not None or described.own else preset.levels
    sides["weak"]["precision"] = request.get("weak_precision")
    parts = _parts(request, described)
    for role, scale, adapted, default in (
        ("strong", request.control_scale, request.ip_adapter_scale, 1.0),
        ("weak", request.weak_control_scale, request.weak_ip_adapter_scale, 0.0),
    ):
        if parts["controlnet"] is not None:
            sides[role]["control"] = {"scale": default if scale is None else scale}
        if parts["ip_adapter"] is not None:
            sides[role]["ip_adapter"] = default if adapted is None else adapted
    return sides


def _name(described: Described) -> str:
    pair, strong, weak = described.preset.pair, described.strong, described.weak
    if not described.own and (strong, weak) == (pair.strong.checkpoint, pair.weak.checkpoint):
        return pair.name
    return Path(strong).stem if weak is None else f"{Path(strong).stem}-vs-{Path(weak).stem}"


def _sizes(request: Request, described: Described, started: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width: what is given, else of a picture that sampling starts from, else the model's or preset's."""
    preset, files, family = described.preset, described.sides.whole, described.pipelines
    theirs = described.own and not described.sdxl_video
    own: tuple[int | None, int | None] = (preset.height, preset.width)
    if theirs and (family is None or family.size is None or (files.own_size is not None and not family.makes_videos)):
        own = (files.own_size, files.own_size)
    return checks.check_sizes(request.height, request.width, *(started or own), files)


def _methods(request: Request, done: Plan) -> tuple[str, ...]:
    given = check_methods(request.methods)
    if given is not None:
        return given
    alone = done.embedded or done.sampling_guidance("weak") >= 1  # by itself a side samples with 1 or more
    alone = alone and done.pair.weak.levels is None
    return tuple(name for name in DEFAULT_METHODS if name != "weak" or alone)


def _check(request: Request, done: Plan, described: Described) -> None:
    """Raises `UserError` for settings that do not go together, or not with what the sides are."""
    sides, files = described.sides, described.sides.strong
    check_reflection(done.reflection, done.methods, done.steps)
    if set(GAPPED) & set(done.methods):
        in_prompts = "--prompt-pairs FILE" in described.preset.needs
        if in_prompts and not done.raw_prompts and not gap(done.pair.strong, done.pair.weak):
            raise UserError(f"{done.preset} has its gap in the prompts; give --prompt-pairs FILE or --weak-prompt TEXT")
        checks.check_gap(done.pair, done.raw_prompts)
    alone = {role: done.sampling_guidance(role) for role in ("strong", "weak")}
    checks.check_sampling(done)
    check_sides_alone(done.methods, done.pair, alone, done.raw_prompts)
    scales = (alone["strong"], done.strong_guidance), (alone["weak"], done.weak_guidance)
    check_lag(done.reflection, done.methods, strong=scales[0], weak=scales[1], embedded=done.embedded)
    schedules = [(side or files).part("scheduler") for side in (files, sides.weak)]
    check_levels(done.pair, done.reflection, done.methods, strong=schedules[0], weak=schedules[1])
    checks.check_seeds(done.seed, done.num, done.noun)
    if sides.weak is not None and not sides.put_together:
        checks.check_one_space(files, sides.weak, own_levels=_own_levels(done.pair, sides))
    motion = sides.motion_adapter or files
    if (found := motion.part("motion_adapter")) is not None:
        check_frames(found, motion.given, done.num_frames)
    checks.check_parts(request, done.parts, video=done.num_frames is not None)
    checks.check_steered(done)
    checks.check_cached(done)
    _check_attached(done, sides.whole)
    family = described.pipelines
    if family is not None:
        checks.check_family(done, request, family, files)
    if done.start is not None:
        done.start.grid(done.steps)
        start_arguments(done.start, done.height, done.width, done.num_frames)
    if done.num_frames is not None and done.fps is not None:
        check_format(done.video_format, done.height, done.width, done.fps)


def _own_levels(pair: ModelPair, sides: PairDescription) -> bool:
    """Whether the two sides have to be of one noise schedule for their files' sake."""
    return sides.motion_adapter is None and pair.weak.levels is None


def _check_attached(done: Plan, files: Description) -> None:
    """What files tell of a ControlNet or an IP-Adapter: that it is one, and fits the strong side where that is here."""
    if files.class_name is None:
        return
    name, network = files.class_name, files.network
    if done.part("motion_adapter") is not None and name in (FAMILIES["sd15"], FAMILIES["sdxl"]):
        name = "AnimateDiffPipeline" if name == FAMILIES["sd15"] else "AnimateDiffSDXLPipeline"
    if done.part("controlnet") is not None:
        check_controlnet(done.part("controlnet"), name, network, allow_pickle=done.allow_pickle)
    if done.part("ip_adapter") is not None:
        check_ip_adapter(done.part("ip_adapter"), name, network)
