"""What must hold between the settings of a plan and the two sides it is for (imports no torch)."""

from __future__ import annotations

from bridges.pixel.command.request import TINY_VAES, VIDEO_FPS, BridgePlan, BridgeRequest
from w2sd_video.commands.checks import MAX_SEED
from w2sd_video.errors import UserError
from w2sd_video.latents.spaces import compare_spaces
from w2sd_video.loading.describe import Description
from w2sd_video.loading.files import check_vae_folder
from w2sd_video.runs.video_io import check_format


def check_settings(request: BridgeRequest, done: BridgePlan, ours: Description, theirs: Description) -> None:
    """Raises `UserError` for settings that do not go together, or not with what the two sides are."""
    if done.true_cfg is not None:
        if ours.is_flux is False:
            raise UserError(f"--true-cfg is for Flux; the strong side is a {ours.class_name}: use --guidance")
        if done.true_cfg <= 1:
            raise UserError(
                f"--true-cfg is {done.true_cfg:g}; it takes more than 1 (leave it out for no true guidance)"
            )
        if done.negative_prompt is None:
            raise UserError(
                "--true-cfg steers away from a negative prompt; give --negative-prompt TEXT too ('' will do)"
            )
    if ours.is_flux is False and (done.pair.strong.guidance or 1) < 1:
        raise UserError(
            f"guidance is {done.pair.strong.guidance:g}; a {ours.class_name} samples with 1 (unguided) or more"
        )
    if "weak" in done.methods and done.pair.weak.guidance is not None and done.pair.weak.guidance < 1:
        raise UserError(
            f"weak guidance is {done.pair.weak.guidance:g}; inside the reflection it may be any number, but by itself "
            "the weak model takes 1 (unguided) or more: leave the method weak out, or raise it"
        )
    if done.video and "weak" in done.methods:
        raise UserError(
            "with --video the weak model makes pictures, so it has no video of its own; leave the method weak out"
        )
    for flag, given in (("--num-frames", request.num_frames), ("--fps", request.fps)):
        if given is not None and not done.video:
            raise UserError(f"{flag} is for --video; leave it out for pictures")
    if done.video:
        check_format("mp4", done.height, done.width, done.fps or VIDEO_FPS)
    if done.seed + done.num_pictures - 1 > MAX_SEED:
        raise UserError(f"seed {done.seed} + {done.num_pictures} pictures goes beyond {MAX_SEED}; use a smaller seed")
    _check_tiny(done, ours, theirs)
    if {"w2sd", "zero-gap"} & set(done.methods):
        _check_spaces(done, ours, theirs)


def _check_tiny(done: BridgePlan, ours: Description, theirs: Description) -> None:
    for role, given, side in (("strong", done.strong_tiny_vae, ours), ("weak", done.weak_tiny_vae, theirs)):
        if given is not None and done.codec != "tiny":
            raise UserError(f"--{role}-tiny-vae is for --codec tiny; give that too, or leave it out")
        if given is not None:
            check_vae_folder(given, f"the {role} side's tiny VAE", ("AutoencoderTiny",))
        elif done.codec == "tiny" and side.kind != "hub":
            raise UserError(
                f"--codec tiny needs a tiny VAE for the {role} side, and nothing is fetched for a local one unasked; "
                f"give --{role}-tiny-vae: a folder, or a hub id ({', '.join(dict.fromkeys(TINY_VAES.values()))})"
            )


def _check_spaces(done: BridgePlan, ours: Description, theirs: Description) -> None:
    """What two configs alone say against the noise map: equal ones may still be of different weights."""
    if ours.cell is None or theirs.cell is None or done.noise_map in ("fresh", "fixed"):
        return
    height, width = done.height // ours.cell, done.width // ours.cell
    weak_height, weak_width = done.weak_height // theirs.cell, done.weak_width // theirs.cell
    grids = f"{height} x {width} cells on the strong side and {weak_height} x {weak_width} on the weak"
    if done.noise_map == "identity":
        found = compare_spaces(ours.space, theirs.space)
        apart = found.name not in ("share", "undecided")
        if apart or (height, width) != (weak_height, weak_width):
            why = found.reason if apart else grids
            raise UserError(f"the noise map is identity, but the sides share no latent space ({why}); use auto")
    in_blocks = [
        large[0] % small[0] == 0 and large[1] == large[0] // small[0] * small[1]
        for large, small in (
            ((height, width), (weak_height, weak_width)),
            ((weak_height, weak_width), (height, width)),
        )
    ]
    if not any(in_blocks):
        raise UserError(
            f"there are {grids}; a noise map needs one to be a whole multiple of the other, alike in height and width: "
            "choose such sizes, or --noise-map fresh"
        )
