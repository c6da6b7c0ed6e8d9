"""What sampling starts from beside noise and a prompt: a picture, a mask, a last frame, a video (imports no torch).

Planned and read here, for the check of a plan and for the calls themselves; the table of families
(`loading.pipeline_families`) says which pipeline takes what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from w2sd_video.commands.options import MAX_STEPS
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import read_rgb
from w2sd_video.loading.describe import Description
from w2sd_video.loading.pipeline_families import (
    FROM_IMAGE,
    FROM_MASK,
    FROM_TEXT,
    FROM_VIDEO,
    PipelineFamily,
    start_of_class,
)
from w2sd_video.runs.video_io import read_video

if TYPE_CHECKING:
    from PIL.Image import Image

DENOISE = {FROM_IMAGE: 0.6, FROM_MASK: 1.0, FROM_VIDEO: 0.7}  # of noised pictures and videos, where nothing is given
FILES = ("image", "mask", "last_image", "video")
NEEDS = {FROM_IMAGE: "--image FILE", FROM_MASK: "--image FILE and --mask FILE", FROM_VIDEO: "--video FILE"}
INPAINTING = 9  # channels of UNets that are shown a mask and what it leaves, beside the latent


@dataclass(frozen=True)
class Start:
    """What the sampling of both sides starts from.

    Attributes:
        pipeline: the class whose call takes it.
        image, mask, last_image, video: files; None for what there is none of.
        denoise: the part of the noise levels that is sampled; None where pictures are shown to the network, not noised.
        rounds_up: how the pipeline counts that part in steps (`PipelineFamily`).
        resize: whether pictures of another size are scaled and cropped to the output's.
    """

    pipeline: str
    image: str | None = None
    mask: str | None = None
    last_image: str | None = None
    video: str | None = None
    denoise: float | None = None
    rounds_up: bool = False
    resize: bool = False

    def files(self) -> dict[str, str]:
        """The files by the field of a request."""
        return {name: path for name in FILES if (path := getattr(self, name)) is not None}

    def settings(self) -> dict[str, Any]:
        """What of it determines the output beside its files, as JSON data."""
        resized = {"resize_image": True} if self.resize else {}
        return resized if self.denoise is None else {"denoise": self.denoise, **resized}

    def grid(self, steps: int) -> int:
        """Returns the steps of the whole grid, pure noise to none, of which the last `steps` are made.

        Raises:
            UserError: more than schedulers have levels.
        """
        if self.denoise is None:
            return steps
        share = self.denoise
        count = steps
        while self.made(count) < steps:
            count += 1
        while self.rounds_up and count < MAX_STEPS and self.made(count + 1) == steps:
            count += 1  # of the grids with that many, the one whose part is nearest to what is asked for
        if count > MAX_STEPS:
            raise UserError(
                f"{steps} steps of the last {share:g} of the noise levels are {count} of all, and schedulers have at "
                f"most {MAX_STEPS}; give fewer --steps, or a larger --denoise"
            )
        return count

    def made(self, count: int) -> int:
        """Returns how many steps of a grid of `count` the pipeline makes; as diffusers' `get_timesteps`."""
        part = min(count * (1.0 if self.denoise is None else self.denoise), count)
        return count - int(count - part) if self.rounds_up else int(part)


def plan_start(request: Request, files: Description, family: PipelineFamily | None) -> Start | None:
    """Returns what the strong side starts from, None for noise and a prompt alone.

    Raises:
        UserError: flags that do not go together, what this family's pipelines do not take, or a checkpoint that needs
            a picture and is given none.
    """
    given = {name: request.get(name) for name in FILES if request.asks(name)}
    for name in ("denoise", "resize_image"):
        if request.asks(name) and not given:
            raise UserError(
                f"--{name.replace('_', '-')} is given without something to start from; give --image"
                + (" or --video" if request.family == "video" else "")
            )
    for name in ("mask", "last_image"):
        if name in given and "image" not in given:
            raise UserError(f"--{name.replace('_', '-')} is given without --image; give both")
    if "video" in given and "image" in given:
        raise UserError("--image and --video are given; sampling starts from one of the two")
    word = FROM_VIDEO if "video" in given else FROM_MASK if "mask" in given else FROM_IMAGE if given else FROM_TEXT
    own = start_of_class(files.class_name)
    if given and (request.asks("controlnet") or request.asks("control_image")):
        raise UserError("--controlnet follows a picture of its own; leave it out, or start from noise")
    if word == FROM_TEXT and own in (None, FROM_TEXT):
        return None
    if family is None or word not in family.classes:
        _refuse(word, files, family)
    name = family.classes[word]
    _check_weights(word, own, files, family)
    if word == FROM_TEXT:
        return Start(name)
    noised = word in family.noised
    if request.asks("denoise") and not noised:
        raise UserError(
            f"--denoise is given, and {name} shows its picture to the network and starts from pure noise; leave it out"
        )
    if "last_image" in given and not family.last_image:
        raise UserError(f"--last-image is given, and {name} takes a first frame alone; leave it out")
    for flag, path in given.items():
        place = Path(path).expanduser()
        if not (place.exists() if flag == "video" else place.is_file()):
            what = "video, folder or picture" if flag == "video" else "picture"
            raise UserError(f"there is no {what} at {path}; give --{flag.replace('_', '-')} FILE")
    return Start(
        name,
        **given,
        denoise=(request.denoise or DENOISE[word]) if noised else None,
        rounds_up=family.rounds_up,
        resize=bool(request.get("resize_image")),
    )


def _refuse(word: str, files: Description, family: PipelineFamily | None) -> NoReturn:
    what = files.given if files.class_name is None else f"{files.given} ({files.class_name})"
    if word == FROM_TEXT:
        own = start_of_class(files.class_name)
        assert own is not None
        raise UserError(f"{what} does not start from a prompt alone; give {NEEDS[own]}")
    flags = {FROM_IMAGE: "--image", FROM_MASK: "--mask", FROM_VIDEO: "--video"}
    takes = [flags[each] for each in ({} if family is None else family.classes) if each in flags]
    if family is None and files.class_name is None:
        raise UserError(
            f"{flags[word]} is given, and what {files.given} is is not known before it is fetched; give its folder"
        )
    remedy = f"it takes {', '.join(takes)}" if takes else "leave it out"
    raise UserError(f"{flags[word]} is given, and diffusers has no pipeline of {what} that takes it; {remedy}")


def _check_weights(word: str, own: str | None, files: Description, family: PipelineFamily) -> None:
    """Raises `UserError` for a checkpoint that was not trained to start from this."""
    if own is None or word == own:
        return
    if word == FROM_VIDEO and (files.index or {}).get("transformer_2", [None, None])[-1] is not None:
        raise UserError(
            f"{files.given} has a second network for low noise, which {family.video} does not have; give a checkpoint "
            "with one"
        )
    apart = {word, own} & set(family.own_weights)
    if FROM_IMAGE in apart and (files.index or {}).get("expand_timesteps") is True:
        return  # Wan 2.2's 5B: one network for both
    if apart:
        remedy = f"give {NEEDS[own]}" if own in NEEDS else f"give a checkpoint for {family.classes[word]}"
        raise UserError(
            f"{files.given} is a {files.class_name}, whose network was not trained for {family.classes[word]}; {remedy}"
        )
    if (files.network or {}).get("in_channels") == INPAINTING and word != FROM_MASK:
        raise UserError(
            f"the network of {files.given} was trained to fill in a mask ({files.class_name}); give --image and --mask"
        )


def size_of_start(start: Start | None) -> tuple[int, int] | None:
    """Returns the height and width of what a noised picture's output has where nothing else says: its own."""
    if start is None or start.image is None or start.denoise is None or start.resize:
        return None
    picture = _picture(start.image, "picture to start from")
    return picture.height, picture.width


def start_arguments(start: Start, height: int, width: int, num_frames: int | None) -> dict[str, Any]:
    """Returns the call arguments of what sampling starts from: pictures, RGB and of the output's size, a mask in grey.

    Raises:
        UserError: a file that cannot be read, of another size, a mask that leaves nothing or everything, a video of
            fewer frames.
    """
    found: dict[str, Any] = {}
    for name, what in (("image", "picture to start from"), ("last_image", "last frame")):
        if (path := getattr(start, name)) is not None:
            found[name] = _fitted(_picture(path, what), start, height, width, f"the {what} {path}", name)
    if start.mask is not None:
        mask = _fitted(_picture(start.mask, "mask"), start, height, width, f"the mask {start.mask}", "mask").convert(
            "L"
        )
        if not np.asarray(mask).max() >= 128:
            raise UserError(
                f"the mask {start.mask} has nothing to make anew: white is made anew, black is kept; paint some white"
            )
        found["mask_image"] = mask
    if start.video is not None:
        assert num_frames is not None
        found["video"] = _frames(start, height, width, num_frames)
    return found


def rate_of_start(start: Start | None) -> float | None:
    """Returns the frames per second of a video that sampling starts from, None where there is none."""
    if start is None or start.video is None:
        return None
    fps = read_video(Path(start.video).expanduser(), most=1).fps
    return float(fps) if fps and math.isfinite(fps) else None


def _frames(start: Start, height: int, width: int, num_frames: int) -> list[Image]:
    from PIL import Image

    assert start.video is not None
    read = read_video(Path(start.video).expanduser(), most=num_frames)
    if len(read.frames) < num_frames:
        raise UserError(
            f"{start.video} has {len(read.frames)} frames and the output {num_frames}; give --num-frames "
            f"{len(read.frames)} or fewer, or a longer video"
        )
    return [
        _fitted(Image.fromarray(frame), start, height, width, f"frame {number} of {start.video}", "video")
        for number, frame in enumerate(read.frames)
    ]


def _picture(path: str, what: str) -> Image:
    return read_rgb(Path(path).expanduser(), what)


def _fitted(picture: Image, start: Start, height: int, width: int, name: str, flag: str) -> Image:
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture
    if start.resize:
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    other = "the picture's size" if flag == "mask" else "the output's size"
    raise UserError(
        f"{name} is {picture.width} x {picture.height} pixels and the output {width} x {height}; give one of {other}, "
        "--resize-image to have it scaled and cropped, or another --height and --width"
    )
