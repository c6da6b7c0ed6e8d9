"""What must hold between the settings of a plan and the sides it is for (imports no torch)."""

from __future__ import annotations

from pathlib import Path

from w2sd_video.commands.checked_values import MAX_SEED
from w2sd_video.commands.method_settings import GAPPED, check_lag, check_reflection, check_sides_alone
from w2sd_video.commands.pictures.request import ImagePlan, ImageRequest
from w2sd_video.commands.prompt_pairs import check_gap
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import read_control_image, read_rgb
from w2sd_video.loading.describe import VIDEO_VAES, Description
from w2sd_video.pair import gap
from w2sd_video.presets import get_preset
from w2sd_video.runs.tasks import SELECTING

SPACE = ("scaling_factor", "shift_factor", "latent_channels")  # of a VAE's config: where these differ, so do the spaces


def check_image_plan(request: ImageRequest, done: ImagePlan, ours: Description, theirs: Description | None) -> None:
    """Raises `UserError` for settings that do not go together, or not with what the sides are."""
    check_reflection(done.reflection, done.methods, done.steps)
    if SELECTING in done.methods:
        _check_decoded(done, ours)
    if set(GAPPED) & set(done.methods):
        in_prompts = "--prompt-pairs FILE" in get_preset(done.preset).needs
        if in_prompts and not done.raw_prompts and not gap(done.pair.strong, done.pair.weak):
            raise UserError(f"{done.preset} has its gap in the prompts; give --prompt-pairs FILE or --weak-prompt TEXT")
        check_gap(done.pair, done.raw_prompts)
    alone = {role: done.sampling_guidance(role) for role in ("strong", "weak")}
    check_sides_alone(done.methods, done.pair, alone, done.raw_prompts)
    scales = (alone["strong"], done.strong_guidance), (alone["weak"], done.weak_guidance)
    check_lag(done.reflection, done.methods, strong=scales[0], weak=scales[1])
    if not done.embedded:
        _check_sampling(done)
    elif done.pair.weak.negative_prompt is not None:
        raise UserError(
            "--weak-negative-prompt is given, and guidance that is the network's input has no negative half to tell "
            "it; leave it out"
        )
    if done.seed + done.num_pictures - 1 > MAX_SEED:
        raise UserError(f"seed {done.seed} + {done.num_pictures} pictures goes beyond {MAX_SEED}; use a smaller seed")
    if theirs is not None:
        _check_one_space(ours, theirs)
    check_parts(request, done)
    if done.control_image is not None and done.num_frames is not None:
        from w2sd_video.commands.pictures.control_frames import read_control_frames

        read_control_frames(done.control_image, done.width, done.height, done.num_frames, resize=done.resize_control)
    elif done.control_image is not None:
        place = Path(done.control_image).expanduser()
        read_control_image(place, done.width, done.height, resize=bool(done.resize_control))
    if done.ip_adapter_image is not None:
        read_rgb(Path(done.ip_adapter_image).expanduser(), "picture for the IP-Adapter")


def _check_decoded(done: ImagePlan, ours: Description) -> None:
    """What a reward is shown must be decoded frame by frame; of files that are not here the preset says what it is."""
    own = str((ours.part("vae") or {}).get("_class_name"))
    if own in VIDEO_VAES or (ours.class_name is None and get_preset(done.preset).family == "Wan"):
        raise UserError(
            f"{SELECTING} shows the reward single frames of clean estimates, and the VAE of Wan mixes several frames "
            "in each latent; leave the method out"
        )


def _check_sampling(done: ImagePlan) -> None:
    if done.guidance < 1:  # diffusers takes any scale up to 1 to mean "unguided": what was asked for would not be done
        raise UserError(
            f"guidance is {done.guidance:g}; sampling takes 1 (unguided) or more; inside the reflection, "
            "--strong-guidance and --weak-guidance may be any number"
        )
    alone = done.sampling_guidance("weak")
    for method in [name for name in ("weak", "swapped") if name in done.methods]:
        if 0 < alone < 1 or (alone <= 0 and done.ip_adapter is not None):
            raise UserError(
                f"weak guidance is {alone:g} and all that differs; inside the reflection it may be any number, but by "
                "itself the weak side samples with 1 (unguided) or more, or without an IP-Adapter with 0 or less: "
                f"leave the method {method} out, or give another --weak-guidance"
            )


def _check_one_space(ours: Description, theirs: Description) -> None:
    """What the configs alone say against one latent space."""
    flows = (ours.is_flow, theirs.is_flow)
    vaes = [files.part("vae") for files in (ours, theirs)]
    differing = [] if None in vaes else [k for k in SPACE if (vaes[0] or {}).get(k) != (vaes[1] or {}).get(k)]
    if None not in flows and flows[0] != flows[1]:
        differing.append("the path of noise (one is a flow)")
    networks = [(files.network or {}).get("_class_name") for files in (ours, theirs)]
    if None not in networks and networks[0] != networks[1]:
        differing.append(f"the network ({networks[0]} and {networks[1]})")
    if differing:
        raise UserError(
            f"the checkpoints are of different families ({ours.class_name} and {theirs.class_name}): they differ in "
            f"{', '.join(differing)}, and a reflection needs one latent space; bridge_image.py lets them meet in pixels"
        )


def check_parts(request: ImageRequest, done: ImagePlan | ImageRequest) -> None:
    """Raises `UserError` for a ControlNet or an IP-Adapter without its picture, or flags of either without it."""
    for flag, part, picture, extras in (
        (
            "--controlnet",
            done.controlnet,
            ("--control-image", done.control_image),
            {
                "--control-scale": request.control_scale,
                "--weak-control-scale": request.weak_control_scale,
                "--canny": request.canny or None,
                "--resize-control": request.resize_control or None,
            },
        ),
        (
            "--ip-adapter",
            done.ip_adapter,
            ("--ip-adapter-image", done.ip_adapter_image),
            {
                "--ip-adapter-scale": request.ip_adapter_scale,
                "--weak-ip-adapter-scale": request.weak_ip_adapter_scale,
            },
        ),
    ):
        for name, value in {**extras, picture[0]: picture[1]}.items():
            if value is not None and part is None:
                raise UserError(f"{name} is given without {flag}; give both, or a --preset that has one")
        if part is not None and picture[1] is None:
            raise UserError(f"{flag} {part} needs a picture; give {picture[0]} FILE")
        if picture[1] is None:
            continue
        place = Path(picture[1]).expanduser()
        frames = request.video and flag == "--controlnet"
        if not (place.exists() if frames else place.is_file()):
            what = "video, folder or picture" if frames else "picture"
            raise UserError(f"there is no {what} at {picture[1]}; give {picture[0]} FILE")
