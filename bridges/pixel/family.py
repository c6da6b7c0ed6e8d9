"""`w2sd bridge`: pairs that share no latent space and meet in pixels (imports no torch until it loads)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridges.pixel.presets import BRIDGE_PRESETS, BridgePreset
from bridges.pixel.settings import DRAWS, TINY_VAES, UNEXPLAINED, WEAK_VIDEO, BridgeSettings
from w2sd_video.commands import checks
from w2sd_video.commands.command_line import EXIT_DONE, build_parser, request_of, run_command, said
from w2sd_video.commands.families.base import Loading, Maker
from w2sd_video.commands.families.pairs import DEFAULT_METHODS, FPS, FRAMES
from w2sd_video.commands.lora_flags import plan_loras
from w2sd_video.commands.method_settings import (
    check_lag,
    check_reflection,
    check_used,
    crossing_steps,
    num_evaluations,
    plan_reflection,
    settled_steps,
)
from w2sd_video.commands.option import unknown
from w2sd_video.commands.options import check_methods
from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.prompts import both_sides
from w2sd_video.commands.request import Request
from w2sd_video.demo import PICTURE_PROMPTS
from w2sd_video.errors import UserError
from w2sd_video.latents.spaces import compare_spaces
from w2sd_video.loading.describe import Description, describe, describe_motion_adapter
from w2sd_video.loading.files import check_vae_folder, read_safetensors_header
from w2sd_video.loading.memory import Load, Machine, Sides
from w2sd_video.loading.pair_description import weights_of
from w2sd_video.loading.sizes import MOTION, Sizes, sizes_of
from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig
from w2sd_video.runs.file_names import video_stems
from w2sd_video.runs.journal import held
from w2sd_video.runs.progress import Progress, TerminalProgress, calm_libraries
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import METHODS, Method
from w2sd_video.runs.video_io import check_format

if TYPE_CHECKING:
    from bridges.pixel.choosing import Fit

NOISE_MAPS = ("auto", "paired", "identity", "fresh", "fixed")
VAE_CALLS, PAIRED_VAE_CALLS = 6, 8  # of a reflection: D_A, E_B, 2 D_B, 2 E_A; paired: 2 of each
ROOM = (
    "Try --memory weak-offload, --tiled, --codec tiny, a smaller --height and --width, or --memory sequential (slow)."
)


@dataclass(frozen=True)
class Described:
    """Both sides as far as their files tell."""

    preset: BridgePreset
    strong: str
    weak: str
    ours: Description
    theirs: Description

    @property
    def as_in_preset(self) -> bool:
        return (self.strong, self.weak) == (self.preset.pair.strong.checkpoint, self.preset.pair.weak.checkpoint)


class BridgeFamily:
    name = "bridge"
    about = "pictures or videos of a pair that shares no latent space, such as Flux over SDXL: it meets in pixels"
    examples = """\
  {program}                                  the bundled demo, on any machine: a small Flux over a small SDXL
  {program} --prompt "a red ring" --num 4 --strength 2
  {program} --preset flux-vs-sdxl --prompt "a lighthouse at dusk" --memory weak-offload --dry-run
  {program} --strong black-forest-labs/FLUX.1-dev --weak ./sdxl-finetune.safetensors \\
      --weak-config stabilityai/stable-diffusion-xl-base-1.0 --height 1024 --width 1024 --prompts prompts.txt
  {program} --video --strong stabilityai/stable-diffusion-xl-base-1.0 --motion-adapter \\
      guoyww/animatediff-motion-adapter-sdxl-beta --weak ./sd15 --height 1024 --width 1024 --weak-height 512 \\
      --weak-width 512 --prompt "a corgi runs on the beach"
  {program} fit --strong ./flux --weak ./sdxl --pictures ./photographs --output flux-to-sdxl.safetensors
"""
    details = f"""\
noise map (how the strong model's noise becomes the weak one's):
  auto          identity where both sides share one latent space; else the preset's, if it was fitted for these VAEs;
                else fitted to pictures that the strong model makes of the first prompts (saved in the output folder);
                paired where the best map leaves more than {UNEXPLAINED:.0%} of the weak side's variance unexplained
  paired        no map: both models estimate the same picture under --draws noises of their own
  FILE          what the subcommand fit saved
  fresh, fixed  seeded noise; shifts samples even without a gap, so for at most half of the steps
  identity      for one latent space
The text encoders of Flux, SDXL and SD 1.5 encode every prompt first and are dropped; others stay.
"""
    room = ROOM
    methods: Mapping[str, Method] = {
        **{name: METHODS[name] for name in ("weak", "strong")},
        "w2sd": Method("W2SD", "the strong model, reflected with the weak one through pixels", True),
        "zero-gap": Method(
            "zero-gap", "control: the same reflections with the strong model on both sides, through its own VAE", True
        ),
        "swapped": Method("swapped", "control: roles exchanged, the weak model reflected with the strong one", True),
    }
    presets: Mapping[str, Any] = BRIDGE_PRESETS
    programs: Mapping[str, Callable[[Sequence[str]], int]] = {"fit": lambda words: fit(words)}

    def listing(self) -> str:
        """Returns what --list-presets prints."""
        return "\n\n".join("\n".join(preset.lines()) for preset in BRIDGE_PRESETS.values())

    def describe(self, request: Request) -> Described:
        preset = _preset(request)
        strong, weak = request.strong or preset.pair.strong.checkpoint, request.weak or preset.pair.weak.checkpoint
        if strong is None or weak is None:
            lacking = " and ".join(flag for flag, side in (("--strong", strong), ("--weak", weak)) if side is None)
            raise UserError(
                f"{lacking} must be given for a pair of your own; or name a --preset whose sides are to be used"
            )
        ours = describe(strong, "strong", config=request.config, allow_pickle=request.allow_pickle, video=request.video)
        _check_video(request, ours)
        theirs = describe(weak, "weak", config=request.weak_config, allow_pickle=request.allow_pickle, video=None)
        if theirs.is_video:
            raise UserError(f"the weak side {weak} makes videos ({theirs.class_name}); {WEAK_VIDEO}")
        return Described(preset, strong, weak, ours, theirs)

    def complete(self, request: Request, description: Described) -> Plan:
        found, preset = description, description.preset
        counts = settled_steps(request, preset.steps, preset.reflection.num_reflections)
        loras = plan_loras(request.loras, request.weak_loras, sources={})
        guidance = preset.pair.strong.guidance if request.guidance is None else request.guidance
        outer = preset.pair.weak.guidance if request.weak_guidance is None else request.weak_guidance
        default = PICTURE_PROMPTS if preset.name == "demo" else ()
        prompts, raw = both_sides(
            request.prompts, request.prompt_pairs or (), request.weak_prompt, default, preset.name
        )
        checks.check_toy(request, {"strong": found.strong, "weak": found.weak}, prompts, raw)
        height, width = checks.check_sizes(request.height, request.width, preset.height, preset.width, found.ours)
        own = _settings(request, found, height, width)
        done = Plan(
            family=self.name,
            preset=preset.name,
            pair=ModelPair(
                ModelSpec(
                    checkpoint=found.strong,
                    guidance=guidance if own.reflector is None else own.reflector,
                    loras=loras.strong,
                ),
                ModelSpec(
                    checkpoint=found.weak,
                    guidance=outer,
                    loras=loras.weak,
                    negative_prompt=request.weak_negative_prompt,
                ),
                name=preset.pair.name
                if found.as_in_preset
                else f"{Path(found.strong).stem}-over-{Path(found.weak).stem}",
            ),
            reflection=_reflection(request, preset, counts.reflections, own),
            prompts=prompts,
            raw_prompts=raw,
            stems=video_stems(prompts),
            methods=_methods(request, outer),
            steps=counts.steps,
            plain_steps=counts.plain_steps,
            guidance=guidance,
            negative_prompt=request.negative_prompt,
            scheduler=request.scheduler,
            height=height,
            width=width,
            num_frames=(request.num_frames or FRAMES) if request.video else None,
            fps=(FPS if request.fps is None else request.fps) if request.video else None,
            video_format=request.video_format,
            max_sequence_length=preset.max_sequence_length,
            seed=request.seed,
            num=request.num,
            dtype=request.dtype if request.dtype != "auto" or preset.dtype is None else preset.dtype,
            device=request.device,
            memory=request.memory,
            machine=Machine(request.get("gpu_memory"), request.get("host_memory")),
            compile=request.compile,
            allow_pickle=request.allow_pickle,
            lora_sources=loras.sources,
            parts={
                "config": request.config,
                "weak_config": request.weak_config,
                "motion_adapter": request.motion_adapter,
            },
            own=own,
        )
        check_used(request, done.methods)
        check_reflection(done.reflection, done.methods, done.steps)
        _check(request, done, own, found)
        motion = _motion(request.motion_adapter, request.allow_pickle)
        used = {"strong": (found.ours, motion), "weak": (found.theirs,)}
        done = replace(done, weights=weights_of(*(each for role in _roles(done) for each in used[role])))
        done = replace(done, verdict=checks.verdict_on(found.ours, found.theirs))
        done = checks.with_checked_tensors(done, found.ours, found.theirs)
        return checks.with_cut_texts(done, (found.ours, found.theirs))

    def cost(self, plan: Plan) -> Mapping[str, Cost]:
        lam = len(crossing_steps(plan.reflection, plan.steps))
        calls = PAIRED_VAE_CALLS if plan.reflection.draws else VAE_CALLS
        return {
            method: Cost(
                num_evaluations(method, plan.reflection, plan.steps_of(method)),
                # Levels that the weak side does not know are skipped, one latent space needs no VAE, and a map that
                # serves needs no draws.
                at_most=self.methods[method].reflects and lam > 0,
                counts={"vae_calls": calls * lam * self.methods[method].reflects},
            )
            for method in plan.methods
        }

    def memory(self, plan: Plan) -> Sides | None:
        """Returns the sizes of both sides and what each has to do; None where a hub id is not among the known ones."""
        strong, weak = sizes_of(self.described(plan, "strong")), sizes_of(self.described(plan, "weak"))
        if strong is None or weak is None:
            return None
        motion = plan.part("motion_adapter")
        weights = _motion(motion, plan.allow_pickle)
        here = None if weights is None else weights.weights("motion_adapter")
        own, weak_rows = plan.own, 1 if plan.pair.weak.guidance in (0, 1) else 2
        return Sides(
            strong,
            weak,
            (
                Load(1 if own.true_cfg is None and _is_flux(strong) else 2, plan.height, plan.width, plan.num_frames),
                Load(weak_rows * (plan.num_frames or 1), own.weak_height, own.weak_width),
            ),
            one_vae=False,
            motion=strong.motion or (here.numel if here is not None else MOTION["SDXL"] if motion else 0),
            fits_map=own.noise_map == "auto" and not _comes_with_a_map(own),
        ).only(_roles(plan))

    def described(self, plan: Plan, role: str) -> Description:
        """Returns what the files of a plan's side are."""
        given, video = plan.side(role).checkpoint, role == "strong" and plan.num_frames is not None
        assert given is not None
        config = plan.part("config" if role == "strong" else "weak_config")
        return describe(given, role, config=config, allow_pickle=plan.allow_pickle, video=video)

    def rehearse(self, plan: Plan) -> list[str]:
        from bridges.pixel.rehearsing import rehearse

        return rehearse(plan, {role: self.described(plan, role) for role in ("strong", "weak")})

    def load(self, plan: Plan, run: Loading) -> Maker:
        from bridges.pixel.making import load_bridge

        return load_bridge(plan, run)

    def finish(self, plan: Plan, run: RunPlan, maker: Maker | None, progress: Progress) -> Mapping[str, str]:
        return {}


FAMILY = BridgeFamily()


def _is_flux(side: Sizes) -> bool:
    return str(side.config.get("_class_name")).startswith("Flux")


def _roles(plan: Plan) -> list[str]:
    """The sides that are loaded."""
    return [role for role, other in (("strong", "weak"), ("weak", "strong")) if plan.methods != (other,)]


def _motion(given: str | None, allow_pickle: bool) -> Description | None:
    return None if given is None else describe_motion_adapter(given, allow_pickle=allow_pickle)


def _preset(request: Request) -> BridgePreset:
    if request.preset is not None and request.preset not in BRIDGE_PRESETS:
        unknown("preset", request.preset, BRIDGE_PRESETS)
    nothing = request.strong is None and request.weak is None
    return BRIDGE_PRESETS[request.preset or ("demo" if nothing else "own-pair")]


def _check_video(request: Request, ours: Description) -> None:
    if request.motion_adapter is not None:
        if not request.video:
            raise UserError(
                "--motion-adapter makes a video pipeline of the strong side; give --video too, or leave it out"
            )
        describe_motion_adapter(request.motion_adapter, allow_pickle=request.allow_pickle)
    elif request.video and ours.class_name is not None and not ours.class_name.startswith("AnimateDiff"):
        raise UserError(
            f"the strong side {ours.given} is a {ours.class_name}, which makes pictures; for --video give "
            "AnimateDiff's folder or an SDXL checkpoint with --motion-adapter"
        )


def _settings(request: Request, found: Described, height: int, width: int) -> BridgeSettings:
    weak_height = request.weak_height or height
    weak_width = request.weak_width or width
    for name, size in (("height", weak_height), ("width", weak_width)):
        checks.check_multiple(f"weak {name}", size, found.theirs.multiple, f" (give --weak-{name})")
    return BridgeSettings(
        noise_map=_noise_map(request.noise_map),
        preset_map=found.preset.noise_map if found.as_in_preset else None,
        reflector=request.strong_guidance,
        weak_height=weak_height,
        weak_width=weak_width,
        **{
            name: getattr(request, name)
            for name in ("codec", "strong_tiny_vae", "weak_tiny_vae", "tiled", "force_bridge", "true_cfg")
        },
    )


def _reflection(request: Request, preset: BridgePreset, num_reflections: int, own: BridgeSettings) -> ReflectionConfig:
    """How the plan reflects; with the draws of paired noise where that is asked for or may come of "auto"."""
    reflection = plan_reflection(request, preset.reflection, num_reflections=num_reflections, mode="fused")
    mapped = own.noise_map not in ("auto", "paired") or (own.noise_map == "auto" and _comes_with_a_map(own))
    if mapped and reflection.draws:
        raise UserError(
            f"--draws is {reflection.draws}, of paired noise, and the noise map is {own.noise_map}"
            f"{' (the one that the preset has)' if own.noise_map == 'auto' else ''}; give --noise-map paired, or leave "
            "--draws out"
        )
    return replace(reflection, draws=0 if mapped else reflection.draws or DRAWS)


def _comes_with_a_map(own: BridgeSettings) -> bool:
    """Whether the preset's own map will be taken: that of full VAEs, at any size that it is not refused for."""
    return own.preset_map is not None and own.preset_map.is_file() and own.codec == "full"


def _noise_map(given: str) -> str:
    if given in NOISE_MAPS:
        return given
    if not given.endswith(".safetensors"):
        if "/" not in given:
            unknown("noise map", given, (*NOISE_MAPS, "FILE.safetensors"))
        raise UserError(f"the noise map {given} is no .safetensors file; fit one with the subcommand fit")
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"there is no noise map at {given}; fit one with the subcommand fit, or use --noise-map auto")
    try:
        tensors = read_safetensors_header(path)
    except UserError as error:
        raise UserError(f"the noise map {given} is damaged or no safetensors file; fit it again") from error
    if "matrix" not in tensors:
        raise UserError(f"{given} is no noise map; fit one with the subcommand fit, or use --noise-map auto")
    return str(path.resolve())


def _methods(request: Request, weak_guidance: float | None) -> tuple[str, ...]:
    """Those asked for, else of the usual ones all that can be made."""
    given = check_methods(request.methods, BridgeFamily.methods)
    if given is not None:
        return given
    alone = not request.video and (weak_guidance is None or weak_guidance >= 1)
    return tuple(name for name in DEFAULT_METHODS if name != "weak" or alone)


def _check(request: Request, done: Plan, own: BridgeSettings, found: Described) -> None:
    """Raises `UserError` for settings that do not go together, or not with what the two sides are."""
    ours, theirs = found.ours, found.theirs
    _check_guidance(done, own, ours)
    embedded = ours.is_flux is not False and own.true_cfg is None
    if embedded and done.guidance is not None and own.reflector is not None:
        scales = (done.guidance, own.reflector)
        check_lag(done.reflection, done.methods, strong=scales, weak=(1.0, 1.0), embedded=True)
    if done.num_frames is not None and (asked := [name for name in ("weak", "swapped") if name in done.methods]):
        raise UserError(
            "with --video the weak model makes pictures, so it has no video of its own; leave the method "
            f"{asked[0]} out"
        )
    for flag, given in (
        ("--num-frames", request.num_frames),
        ("--fps", request.fps),
        ("--motion-strength", request.motion_strength),
    ):
        if given is not None and done.num_frames is None:
            raise UserError(f"{flag} is for --video; leave it out for pictures")
    if done.num_frames is not None and done.fps is not None:
        check_format(done.video_format, done.height, done.width, done.fps)
    checks.check_seeds(done.seed, done.num, done.noun)
    _check_tiny(own, ours, theirs)
    if any(BridgeFamily.methods[method].reflects for method in done.methods):
        _check_spaces(done, own, ours, theirs)


def _check_guidance(done: Plan, own: BridgeSettings, ours: Description) -> None:
    guidance, theirs = done.guidance, done.pair.weak.guidance
    if own.true_cfg is not None:
        if ours.is_flux is False:
            raise UserError(f"--true-cfg is for Flux; the strong side is a {ours.class_name}: use --guidance")
        if own.true_cfg <= 1:
            raise UserError(f"--true-cfg is {own.true_cfg:g}; it takes more than 1 (leave it out for no true guidance)")
        if done.negative_prompt is None:
            raise UserError(
                "--true-cfg steers away from a negative prompt; give --negative-prompt TEXT too ('' will do)"
            )
    if guidance is not None and guidance < (1 if ours.is_flux is False else 0):
        name = ours.class_name or "the pipeline"
        raise UserError(f"guidance is {guidance:g}; a {name} samples with 1 (unguided) or more, Flux with 0 or more")
    if theirs == 1 and done.pair.weak.negative_prompt is not None:
        raise UserError(checks.NO_USE)
    asked = [name for name in ("weak", "swapped") if name in done.methods]
    if asked and theirs is not None and theirs < 1:
        raise UserError(
            f"weak guidance is {theirs:g}; inside the reflection it may be any number, but by itself the weak model "
            f"takes 1 (unguided) or more: leave the method {asked[0]} out, or raise it"
        )


def _check_tiny(own: BridgeSettings, ours: Description, theirs: Description) -> None:
    for role, given, side in (("strong", own.strong_tiny_vae, ours), ("weak", own.weak_tiny_vae, theirs)):
        if given is not None and own.codec != "tiny":
            raise UserError(f"--{role}-tiny-vae is for --codec tiny; give that too, or leave it out")
        if given is not None:
            check_vae_folder(given, f"the {role} side's tiny VAE", ("AutoencoderTiny",))
        elif own.codec == "tiny" and side.kind != "hub":
            raise UserError(
                f"--codec tiny needs a tiny VAE for the {role} side, and nothing is fetched for a local one unasked; "
                f"give --{role}-tiny-vae: a folder, or a hub id ({', '.join(dict.fromkeys(TINY_VAES.values()))})"
            )


def _check_spaces(done: Plan, own: BridgeSettings, ours: Description, theirs: Description) -> None:
    """What two configs alone say against the noise map: equal ones may still be of different weights."""
    if ours.cell is None or theirs.cell is None or own.noise_map in ("auto", "paired", "fresh", "fixed"):
        return
    cells = (done.height // ours.cell, done.width // ours.cell)
    weak_cells = (own.weak_height // theirs.cell, own.weak_width // theirs.cell)
    grids = f"{cells[0]} x {cells[1]} cells on the strong side and {weak_cells[0]} x {weak_cells[1]} on the weak"
    if own.noise_map == "identity":
        spaces = compare_spaces(ours.space, theirs.space)
        apart = spaces.name not in ("share", "undecided")
        if apart or cells != weak_cells:
            why = spaces.reason if apart else grids
            raise UserError(f"the noise map is identity, but the sides share no latent space ({why}); use auto")
    if not any(
        large[0] % small[0] == 0 and large[1] == large[0] // small[0] * small[1]
        for large, small in ((cells, weak_cells), (weak_cells, cells))
    ):
        raise UserError(
            f"there are {grids}; a noise map needs one to be a whole multiple of the other, alike in height and width: "
            "choose such sizes, or --noise-map paired"
        )


# -- w2sd bridge fit -------------------------------------------------------------------------------------------------

FIT = "bridge fit"  # its rows in the table of options


def fit(words: Sequence[str]) -> int:
    """Runs the subcommand that fits a noise map, and returns its exit code."""
    parser = build_parser(
        f"w2sd {FIT}",
        FIT,
        description="Fit the noise map of a pair to latents of the same pictures on both sides, and save it for "
        "--noise-map FILE. The pictures are those of a folder, of any kind and size, or made by the strong model (give "
        "--prompt or --prompts).",
    )
    return run_command(parser, words, _fit, room=ROOM)


def _fit(arguments: argparse.Namespace, words: list[str]) -> tuple[int, dict[str, Any]]:
    progress = TerminalProgress(quiet=bool(arguments.quiet), noun="picture")
    calm_libraries(bars=progress.bars)
    request = request_of(FIT, arguments, progress.note)
    target, pictures = _target(request.output), request.pictures
    if pictures is not None and not Path(pictures).is_dir():
        raise UserError(f"there is no folder {pictures}; give one with pictures, or leave --pictures out")
    given = {name: value for name, value in request.given.items() if name not in ("pictures", "output")}
    if pictures is not None and not request.prompts:
        given["prompts"] = PICTURE_PROMPTS[:1]  # the plan wants one, and no picture is made
    whole = Request("bridge", **{**given, "methods": ("strong",)})
    plan = FAMILY.complete(whole, FAMILY.describe(whole))
    if arguments.rehearse or not arguments.dry_run:
        FAMILY.rehearse(plan)
    if arguments.dry_run:
        report = {"status": "planned", "output": str(target), "pair": plan.pair_record(), "pictures": pictures}
        strong, weak = (side.checkpoint for side in (plan.pair.strong, plan.pair.weak))
        text = f"a noise map of {strong} and {weak} into {target}, fitted to "
        text += f"the pictures of {pictures}" if pictures else "pictures that the strong model makes"
        return EXIT_DONE, said(arguments, report, text)
    from bridges.pixel.making import fit_map

    with held(target.parent):  # before anything is fitted
        chosen: Fit = fit_map(plan, pictures, target, say=progress.note, bars=progress.bars)
    report = {"status": "done", "output": str(target), "noise_map": chosen.description()}
    return EXIT_DONE, said(arguments, report, f"{chosen.sentence()}\nuse it: --noise-map {target}", str(target))


def _target(output: str | None) -> Path:
    example = "give the noise map's file, such as flux-to-sdxl.safetensors"
    if output is None or Path(output).suffix != ".safetensors":
        raise UserError(f"--output is {'missing' if output is None else output}; {example}")
    if Path(output).is_dir():  # said before an hour of fitting, not after it
        raise UserError(f"--output {output} is a folder; {example}")
    return Path(output)
