"""Ways to compute the same dimensions: VBench's arithmetic to the letter, or with its known flaws mended."""

from __future__ import annotations

from dataclasses import dataclass

from vbench_eval.errors import UserError

# How imaging_quality shrinks frames; VBench's imaging_quality_preprocessing_mode, whatever the profile.
IMAGING_MODES = ("longer", "shorter", "shorter_centercrop", "None")


@dataclass(frozen=True)
class Profile:
    """How the dimensions are computed; the name is stamped into every report.

    Attributes:
        name: what the user writes.
        antialias: whether backbones shrink frames with an antialiasing filter. VBench does not, so that the noise and
            the fine texture of large frames alias into its features.
        score_padding: whether the padding that makes frame sides fit the flow network takes part in dynamic_degree.
        frame_weighted: the dimensions that are averaged over the frames (or pairs of frames) of all videos, so that a
            longer video weighs more, rather than over videos. In VBench they depend on the number of devices.
        last_frame: whether appearance_style is that of a video's last frame, as VBench averages on several devices.
        shared_captions: whether scene captions three frames by one of them, as VBench's search mixes them up.
        normalise_fps: whether dynamic_degree measures motion per 1/8 second whatever the frame rate. VBench keeps every
            round(fps/8)-th frame, and what is left may play at 5.3 to 12 frames per second; it believes the container,
            even of a variable rate, and takes the pictures of a folder as they are.
        least_moving_pairs: how many moving pairs dynamic_degree asks for at least. VBench's rounding makes it 0 for two
            frames, which are dynamic then whatever they show.
        summary: one line for help texts and reports.
    """

    name: str
    antialias: bool
    score_padding: bool
    frame_weighted: tuple[str, ...]
    last_frame: bool
    shared_captions: bool
    normalise_fps: bool
    least_moving_pairs: int
    summary: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "vbench",
            antialias=False,
            score_padding=True,
            frame_weighted=("subject_consistency", "background_consistency", "appearance_style", "scene"),
            last_frame=False,
            shared_captions=True,
            normalise_fps=False,
            least_moving_pairs=0,
            summary="VBench 0.1.5 on one device to the letter, quirks included; comparable with published numbers",
        ),
        Profile(
            "vbench-ngpus",
            antialias=False,
            score_padding=True,
            frame_weighted=("background_consistency", "scene"),
            last_frame=True,
            shared_captions=True,
            normalise_fps=False,
            least_moving_pairs=0,
            summary="the same as VBench averages it with --ngpus 2 or more: subject_consistency over videos, "
            "appearance_style over their last frames",
        ),
        Profile(
            "fixed",
            antialias=True,
            score_padding=False,
            frame_weighted=(),
            last_frame=False,
            shared_captions=False,
            normalise_fps=True,
            least_moving_pairs=1,
            summary="antialiased resizing, no scored padding, motion per time, every video weighs the same; "
            "not comparable with published numbers",
        ),
    )
}


def is_vbench(profile: Profile) -> bool:
    """Returns whether the profile gives VBench's own numbers, on one device or on several."""
    return profile.name.startswith("vbench")


def get_profile(name: str) -> Profile:
    """Returns the profile of that name; raises UserError if there is none."""
    if name not in PROFILES:
        raise UserError(f"profile is {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
