"""Checks that families share: got, allowed, remedy (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video.commands.option import unknown
from w2sd_video.commands.options import MAX_SEED
from w2sd_video.demo.bundled import check_captions, check_toy_size, is_bundled
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import BLACK, check_size
from w2sd_video.latents.spaces import REMEDIES, LatentSpace, compare_spaces, frames_of
from w2sd_video.loading.pipeline_families import PipelineFamily, family_of_class, layouts_apart, makes_videos
from w2sd_video.loading.tensor_checks import check_names
from w2sd_video.loading.tokenizing import cut_notes, read_alike, readers_of, readers_of_pipeline
from w2sd_video.pair import ModelPair, check_pair, gap
from w2sd_video.presets import PRESETS
from w2sd_video.runs.tasks import SELECTING
from w2sd_video.runs.video_io import read_video

if TYPE_CHECKING:
    from PIL.Image import Image

    from w2sd_video.commands.plan import Plan
    from w2sd_video.commands.request import Request
    from w2sd_video.loading.describe import Description


SIZE_FACTOR = 8  # what diffusers' pipelines ask of heights and widths; more where files say so
NO_USE = "--weak-negative-prompt is given, and guidance 1 of the weak side uses none; give another --weak-guidance"
OF_UNETS = ("SDXL", "SD 1.5", "AnimateDiff SDXL", "AnimateDiff SD 1.5", "SVD")  # families of pipelines
ON_SDXL = ("AnimateDiffSDXL", "StableDiffusionXL")


def whole(given: int | None, default: int, name: str, low: int, high: int) -> int:
    """Returns the number given, or the default for None; raises UserError unless it is whole and within the bounds."""
    value = default if given is None else given
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def one_of(value: str, allowed: Iterable[str], name: str) -> str:
    """Returns the value; raises UserError naming those allowed if it is none of them."""
    if value not in allowed:
        unknown(name, value, allowed)
    return value


def check_sizes(
    height: int | None, width: int | None, default_height: int | None, default_width: int | None, files: Description
) -> tuple[int, int]:
    """Returns height and width in pixels: what is given, else the preset's, else the pipeline's own, else what a preset
    of the same repository has.

    Raises:
        UserError: not known and not given, or no multiple of what the pipeline makes.
    """
    known = next((preset for preset in PRESETS.values() if _is_of(preset.pair, files.given)), None)
    own = (known.height, known.width) if known is not None and files.own_size is None else (files.own_size,) * 2
    found = []
    for name, *sizes in (("height", height, default_height, own[0]), ("width", width, default_width, own[1])):
        value = next((size for size in sizes if size is not None), None)
        if value is None:
            raise UserError(
                f"how large pictures of {files.given} are is not known before it is fetched; give --height and "
                "--width, such as 1024 for Flux and SDXL, 512 for SD 1.5"
            )
        check_multiple(name, value, files.multiple or SIZE_FACTOR)
        found.append(value)
    return found[0], found[1]


def _is_of(pair: ModelPair, repository: str) -> bool:
    return repository in (pair.strong.checkpoint, pair.weak.checkpoint)


def check_toy(
    request: Request, checkpoints: Mapping[str, str | None], prompts: Iterable[str], raw: Mapping[str, str]
) -> None:
    """Raises `UserError` for what a bundled toy among the sides cannot show: of a side's prompts, and of sizes.

    `raw` are the weak side's prompts where they differ; a weak checkpoint of None is the strong one's network.
    """
    strong, weak = (is_bundled(checkpoints[role] or checkpoints["strong"]) for role in ("strong", "weak"))
    video = request.family == "video"
    if strong:
        check_captions(prompts, video=video)
        check_toy_size(request.height, request.width)
    if weak:
        check_captions((raw.get(prompt, prompt) for prompt in prompts), video=video)
        check_toy_size(request.get("weak_height"), request.get("weak_width"))


def with_cut_texts(plan: Plan, sides: Iterable[Description | None]) -> Plan:
    """Returns the plan with notes of what the text encoders of the sides (the strong one first) do not read, as far as
    their tokenizers are here.
    """
    found = [
        readers_of(side, plan.max_sequence_length) for side in sides if side is not None and side.kind != "network"
    ]
    known = [readers for readers in found if readers]
    notes = cut_notes(known, plan.texts(plan.prompts)) if known else []
    if plan.raw_prompts and known and not gap(plan.pair.strong, plan.pair.weak):
        alike = read_alike(known[0], known[-1], plan.raw_prompts.items())
        notes += [
            f"{ours!r} and {theirs!r} are one prompt to the text encoder: no gap can be made of them"
            for ours, theirs in alike[:10]
        ]
    return replace(plan, notes=(*plan.notes, *notes), texts_read=bool(known) and None not in found)


def with_checked_tensors(plan: Plan, strong: Description, weak: Description | None) -> Plan:
    """Returns the plan with what of its files' tensors is known to fit, by name and shape, without building anything.

    Raises:
        UserError: as `check_names` of loading.
    """
    given = {"strong": strong, **({} if weak is None else {"weak": weak})}
    sides = {role: side for role, side in given.items() if not is_bundled(side.given)}
    loras = {role: [(name, plan.lora_sources[name]) for name, _ in plan.loras_of(role)] for role in ("strong", "weak")}
    if weak is None:
        loras = {"strong": [*loras["strong"], *loras["weak"]]}
    return replace(plan, checked=check_names(sides, loras))


def note_cut_texts(pipes: Iterable[Any], plan: Plan, prompts: Iterable[str], note: Callable[[str], None]) -> None:
    """Notes what the text encoders of pipelines in memory do not read of some prompts, unless the plan knew."""
    if not plan.texts_read:
        readers = [readers_of_pipeline(pipe, plan.max_sequence_length) for pipe in pipes if pipe is not None]
        for message in cut_notes(readers, plan.texts(prompts)):
            note(message)


def check_multiple(name: str, size: int, multiple: int | None, remedy: str = "") -> None:
    """Raises `UserError` unless the size is a multiple (None: not known yet), naming the nearest two that are."""
    if multiple is not None and size % multiple:
        near = max(multiple, size // multiple * multiple)
        raise UserError(
            f"{name} is {size}; it must be a multiple of {multiple}: use {near} or {near + multiple}{remedy}"
        )


def check_frames(count: int, factor: int) -> None:
    """Raises `UserError` for a number of frames that a VAE which packs `factor` of them in a latent cannot make."""
    if (count - 1) % factor:
        near = (count - 1) // factor * factor + 1
        raise UserError(
            f"number of frames is {count}; this model makes {factor} times a number, and one more: use {near} or "
            f"{near + factor}"
        )


def check_family(plan: Plan, request: Request, family: PipelineFamily, files: Description) -> None:
    """Raises `UserError` for what pipelines of this family cannot make."""
    made = (plan.height, plan.width)
    if family.sizes and made not in family.sizes:
        allowed = ", ".join(f"{height} x {width}" for height, width in family.sizes)
        raise UserError(
            f"height x width is {made[0]} x {made[1]}, and pipelines of {family.name} make {allowed}; give one of "
            "these by --height and --width"
        )
    if plan.num_frames is not None and family.group > 1:
        check_frames(plan.num_frames, frames_of(files.part("vae") or {}) or family.group)
    if plan.start is not None and plan.start.image is not None and (plan.num_frames or 1) < family.fewest_frames:
        raise UserError(
            f"number of frames is {plan.num_frames}; from a first frame {family.name} makes {family.fewest_frames} or "
            f"more: use {family.fewest_frames}"
        )
    if family.by_frame and (request.asks("weak_guidance") or request.asks("strong_guidance")):
        raise UserError(
            f"{family.name} guides each frame by a scale of its own, up to --guidance, so that neither side can have "
            "another; leave --strong-guidance and --weak-guidance out"
        )
    if SELECTING in plan.methods and family.makes_videos and not family.name.startswith("AnimateDiff"):
        raise UserError(
            f"{SELECTING} shows the reward single frames of clean estimates, and the VAE of {family.name} mixes "
            "several frames in each latent; leave the method out"
        )


def check_seeds(seed: int, count: int, noun: str) -> None:
    """Raises `UserError` for seeds that go beyond what a generator takes."""
    if seed + count - 1 > MAX_SEED:
        raise UserError(f"seed {seed} + {count} {noun}s goes beyond {MAX_SEED}; use a smaller seed")


def check_gap(pair: ModelPair, raw_prompts: Mapping[str, str]) -> None:
    """Raises `UserError` for a pair whose sides differ in nothing, prompts included."""
    if not raw_prompts:
        check_pair(pair)


def check_parts(request: Request, parts: Mapping[str, Any], *, video: bool) -> None:
    """Raises `UserError` for a ControlNet or an IP-Adapter without its picture, or flags of either without it."""
    for name, picture, extras in (
        ("controlnet", "control_image", ("control_scale", "weak_control_scale", "canny", "resize_control")),
        ("ip_adapter", "ip_adapter_image", ("ip_adapter_scale", "weak_ip_adapter_scale")),
    ):
        part, flag = parts.get(name), f"--{name.replace('_', '-')}"
        for given in (*extras, picture):
            if request.asks(given) and part is None:
                raise UserError(
                    f"--{given.replace('_', '-')} is given without {flag}; give both, or a --preset that has one"
                )
        shown, ask = request.get(picture), f"--{picture.replace('_', '-')} FILE"
        if part is not None and shown is None:
            raise UserError(f"{flag} {part} needs a picture; give {ask}")
        if shown is None:
            continue
        place = Path(shown).expanduser()
        frames = video and name == "controlnet"
        if not (place.exists() if frames else place.is_file()):
            what = "video, folder or picture" if frames else "picture"
            raise UserError(f"there is no {what} at {shown}; give {ask}")


def check_steered(plan: Plan) -> None:
    """Raises `UserError` for pictures of a ControlNet or an IP-Adapter that cannot be read, or of another size."""
    shown, resize = plan.part("control_image"), bool(plan.part("resize_control"))
    if shown is not None and plan.num_frames is not None:
        read_control_frames(shown, plan.width, plan.height, plan.num_frames, resize=resize)
    elif shown is not None:
        from w2sd_video.gaps.control_images import read_control_image

        read_control_image(Path(shown).expanduser(), plan.width, plan.height, resize=resize)
    if plan.part("ip_adapter_image") is not None:
        from w2sd_video.gaps.control_images import WHITE, read_rgb

        read_rgb(Path(plan.part("ip_adapter_image")).expanduser(), "picture for the IP-Adapter", WHITE)


def check_cached(plan: Plan) -> None:
    """Raises `UserError` for a step cache with networks that can have none, as far as files tell."""
    if plan.cache is None:
        return
    family = None if plan.pipelines is None else plan.pipelines.name
    name = str(((plan.files and plan.files.strong.network) or {}).get("_class_name", ""))
    if "UNet" in name or family in OF_UNETS:
        raise UserError(
            f"--cache is {plan.cache}, and {name or f'the UNet of {family}'} can have no step cache of diffusers, "
            "which takes transformers; leave it out"
        )
    if plan.pair.weak.skip_layers:
        raise UserError(f"--cache is {plan.cache}, and goes by blocks that --weak-skip-layers leaves out; give one")


def check_sampling(plan: Plan) -> None:
    """Raises `UserError` for guidance that diffusers would not do as it is asked for."""
    family, negative = plan.pipelines, plan.pair.weak.negative_prompt
    for flag, given in (("--negative-prompt", plan.negative_prompt), ("--weak-negative-prompt", negative)):
        if given is not None and family is not None and not family.negative:
            raise UserError(f"{flag} is given, and {family.name} takes none; leave it out")
    if plan.embedded:
        theirs = plan.files and plan.files.weak and plan.files.weak.pipelines
        flag = "" if negative is None else "--weak-negative-prompt"
        if plan.negative_prompt and not (theirs and not theirs.embedded):
            flag = "--negative-prompt"
        if flag:
            raise UserError(
                f"{flag} is given, and guidance that is the network's input has no negative half to tell it; leave it "
                "out"
            )
        return
    if plan.pair.weak.negative_prompt is not None and plan.weak_guidance == 1:
        raise UserError(NO_USE)
    if plan.guidance is not None and plan.guidance < 1:  # diffusers takes any scale up to 1 to mean "unguided"
        raise UserError(
            f"guidance is {plan.guidance:g}; sampling takes 1 (unguided) or more; inside the reflection, "
            "--strong-guidance and --weak-guidance may be any number"
        )
    alone = plan.sampling_guidance("weak")
    for method in [name for name in ("weak", "swapped") if name in plan.methods]:
        if 0 < alone < 1 or (alone <= 0 and plan.part("ip_adapter") is not None):
            raise UserError(
                f"weak guidance is {alone:g} and all that differs; inside the reflection it may be any number, but by "
                "itself the weak side samples with 1 (unguided) or more, or without an IP-Adapter with 0 or less: "
                f"leave the method {method} out, or give another --weak-guidance"
            )
        if alone <= 0 and family is not None and not family.negative:
            raise UserError(
                f"weak guidance is {alone:g}, so that by itself the weak side samples with the prompt and a negative "
                f"one in each other's place, and {family.name} takes none; leave the method {method} out"
            )


def verdict_on(ours: Description, theirs: Description | None, *, own_levels: bool = True) -> str:
    """Returns whether two sides share a latent space, in one of the words of `w2sd diagnose`, and why."""
    if theirs is None or theirs.kind == "network" or ours.kind == "network":
        return "share: one autoencoder and one schedule serve both sides"
    levels = [side.part("scheduler") if own_levels else ours.part("scheduler") for side in (ours, theirs)]
    sides = zip((ours, theirs), levels, strict=True)
    found = compare_spaces(*(LatentSpace(side.part("vae"), level, partial(_vae_of, side)) for side, level in sides))
    return f"{found.name}: {found.reason}"


def _vae_of(side: Description) -> Any:
    from w2sd_video.loading.fingerprints import fingerprint

    weights = side.weights("vae")
    return None if weights is None else fingerprint(weights)


def check_one_space(ours: Description, theirs: Description, *, own_levels: bool = True) -> None:
    """Raises `UserError` for two sides whose configs alone say that they share no latent space.

    `own_levels`: whether each side samples on the noise levels of its own files, which motion modules replace.
    """
    spaces = [LatentSpace(side.part("vae"), side.part("scheduler") if own_levels else None) for side in (ours, theirs)]
    found = compare_spaces(*spaces)
    reason = None if found.name in ("share", "undecided") else found.message
    networks = [(files.network or {}).get("_class_name") for files in (ours, theirs)]
    apart = None not in networks and networks[0] != networks[1]
    if apart and reason is None and ours.kind == theirs.kind == "folder":
        own = [
            replace(space, weights=partial(_vae_of, side)) for space, side in zip(spaces, (ours, theirs), strict=True)
        ]
        found = compare_spaces(*own)
        apart, reason = found.name != "share", None if found.name == "share" else found.message
    if reason is None and (kept := layouts_apart(ours.class_name, theirs.class_name)) is not None:
        reason = f"{kept}; {REMEDIES['bridge']}"
    if reason is None and apart:
        reason = f"their networks are a {networks[0]} and a {networks[1]}; {REMEDIES['bridge']}"
    if reason is not None:
        kinds = f"({ours.class_name} and {theirs.class_name})"
        raise UserError(f"the checkpoints are of different families {kinds} and share no latent space: {reason}")


def check_steerable(controlnet: str | None, ip_adapter: str | None, name: str | None) -> None:
    """Raises `UserError` for a ControlNet or an IP-Adapter where diffusers has none for videos of the strong side's
    class of pipelines (None: not known yet).
    """
    name = name or ""
    others = makes_videos(name) and not name.startswith("AnimateDiff")
    row = family_of_class(name) if others else None
    family = "AnimateDiff on SDXL" if name.startswith(ON_SDXL) else None if row is None else row.name
    if controlnet is not None and family is not None:
        raise UserError(
            f"--controlnet: diffusers has no ControlNet for videos of {family} ({name}); AnimateDiff on SD 1.5 has "
            "one: give an SD 1.5 checkpoint with its --motion-adapter, or --preset animatediff-sd15"
        )
    if ip_adapter is not None and row is not None:
        raise UserError(
            f"--ip-adapter: diffusers has no IP-Adapter for {name}; AnimateDiff on SD 1.5 and on SDXL have one: give "
            "such a checkpoint with its --motion-adapter, or --preset animatediff-sd15"
        )


def check_fetched(plan: Plan) -> None:
    """Raises `UserError` as `check_steerable` does, for a hub id, from the one file that says what it is."""
    given = plan.pair.strong.checkpoint
    assert given is not None
    steered = plan.part("controlnet") or plan.part("ip_adapter")
    if plan.num_frames is not None and steered and not Path(given).expanduser().exists():
        import torch

        from w2sd_video.loading.describe import Description
        from w2sd_video.loading.parts import Source

        index = Source(Description(given, "hub"), torch.float32).config("model_index") or {}
        check_steerable(plan.part("controlnet"), plan.part("ip_adapter"), index.get("_class_name"))


def read_control_frames(path: str | Path, width: int, height: int, count: int, *, resize: bool = False) -> list[Image]:
    """Returns `count` pictures, RGB and of the output's size in pixels, from what is at `path`.

    A video (or animation) has as many frames as the output, and so has a folder of pictures, which are taken in the
    order of their names (2 before 10); one picture stands for all frames. `resize` is as of `read_control_image`.

    Raises:
        UserError: nothing that can be read, another number of frames, or frames of another size.
    """
    from PIL import Image, ImageOps

    try:  # of more than asked for, one more: a long video is not read to its end
        read = read_video(Path(path).expanduser(), most=count + 1, background=BLACK)
    except UserError as error:
        raise UserError(
            f"cannot read the control video: {error}; give a video, a folder of pictures or one picture"
        ) from None
    frames = [Image.fromarray(frame) for frame in read.frames]
    if len(frames) == 1:
        frames = frames * count
    if len(frames) != count:
        has = f"more than {count}" if len(frames) > count else f"{len(frames)}"
        raise UserError(
            f"{path} has {has} frames and the output {count}; give --num-frames the same number, a control video of "
            f"{count} frames, or one picture for all of them"
        )
    if resize:
        return [ImageOps.fit(frame, (width, height), Image.Resampling.LANCZOS) for frame in frames]
    for number, frame in enumerate(frames):
        check_size(frame, width, height, f"frame {number} of {path}")
    return frames
