"""A pipeline's own latents as a grid [N, C, h, w], which is what a VAE takes, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from w2sd_video.errors import UserError

KINDS = ("image", "packed", "video")


@dataclass(frozen=True)
class Layout:
    """How a pipeline keeps its latents.

    "image" is the grid itself. "packed" is Flux's [B, h/2 * w/2, 4C]: each token is a block of 2 x 2 cells, channels
    outermost. "video" is [B, C, F, h, w]; its grid has the frames of a video one after the other, N = B * F.
    """

    kind: str
    channels: int
    height: int  # of the grid, in cells
    width: int
    num_frames: int | None = None  # of "video"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"the layout of the latents is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if self.kind == "video" and not self.num_frames:
            raise UserError(f"num_frames is {self.num_frames}; a video layout needs at least 1")
        if self.kind == "packed" and (self.height % 2 or self.width % 2):
            raise UserError(f"the grid is {self.height} x {self.width}; packed latents need even sides")

    def grid(self, latents: Tensor) -> Tensor:
        """Returns the pipeline's own latents as [N, C, h, w].

        Raises:
            UserError: latents of another shape.
        """
        if self.latents_shape(latents.shape[0]) != latents.shape:
            raise UserError(
                f"the latents are {list(latents.shape)}; this layout holds {list(self.latents_shape('B'))} "
                "(made for one size: make the codec again for another)"
            )
        if self.kind == "image":
            return latents
        if self.kind == "video":
            return latents.transpose(1, 2).flatten(0, 1)  # [B, C, F, h, w] -> [B * F, C, h, w]
        blocks = latents.unflatten(1, (self.height // 2, self.width // 2)).unflatten(3, (self.channels, 2, 2))
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, self.height, self.width)

    def latents(self, grid: Tensor) -> Tensor:
        """Returns a grid [N, C, h, w] as the pipeline's own latents: the inverse of `grid`.

        Raises:
            UserError: a grid of another shape, or one that is no whole number of videos.
        """
        cells = (self.channels, self.height, self.width)
        if tuple(grid.shape[1:]) != cells:
            raise UserError(f"the grid is {list(grid.shape)}; this layout holds {['N', *cells]}")
        if self.kind == "image":
            return grid
        if self.kind == "video":
            if grid.shape[0] % (self.num_frames or 1):
                raise UserError(
                    f"the grid has {grid.shape[0]} frames, not a whole number of videos of {self.num_frames}"
                )
            return grid.unflatten(0, (-1, self.num_frames)).transpose(1, 2).contiguous()
        blocks = grid.unflatten(3, (self.width // 2, 2)).unflatten(2, (self.height // 2, 2))
        return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def latents_shape(self, batch: Any) -> tuple:
        """The shape of the pipeline's latents for `batch` pictures or videos."""
        if self.kind == "image":
            return (batch, self.channels, self.height, self.width)
        if self.kind == "video":
            return (batch, self.channels, self.num_frames, self.height, self.width)
        return (batch, self.height // 2 * (self.width // 2), 4 * self.channels)


def layout_of(pipe: Any, latents_shape: Sequence[int], height: int, width: int, num_frames: int | None) -> Layout:
    """Returns the layout of latents of `latents_shape` that `pipe` makes for pictures of height x width pixels.

    Raises:
        UserError: latents that are neither images, video frames, nor packed as Flux packs them.
    """
    shape, name = tuple(latents_shape), type(pipe).__name__
    if len(shape) == 4:
        return Layout("image", shape[1], shape[2], shape[3])
    if len(shape) == 5:
        if num_frames is not None and num_frames != shape[2]:
            raise UserError(
                f"the latents {list(shape)} of {name} hold {shape[2]} frames for a video of {num_frames}; its "
                "frames can be had one by one only from one latent frame each: give a pipeline with an image VAE "
                "(AnimateDiff)"
            )
        return Layout("video", shape[1], shape[3], shape[4], shape[2])
    if len(shape) == 3 and hasattr(pipe, "_unpack_latents") and shape[2] % 4 == 0:
        # As FluxPipeline.prepare_latents: sides are rounded down to whole blocks of 2 x 2 cells.
        factor = 2 * pipe.vae_scale_factor
        layout = Layout("packed", shape[2] // 4, 2 * (height // factor), 2 * (width // factor))
        if layout.latents_shape(shape[0]) != shape:
            raise UserError(
                f"the latents of {name} are {list(shape)}; {height} x {width} pixels make "
                f"{list(layout.latents_shape(shape[0]))}: give the height and width the pipeline was called with"
            )
        if _unpacks_alike(pipe, layout, height, width):
            return layout
    raise UserError(
        f"the latents of {name} are {list(shape)}, in a layout that is not known; known are [B, C, h, w], "
        "[B, C, F, h, w] and Flux's [B, tokens, 4C] packed 2 x 2"
    )


def _unpacks_alike(pipe: Any, layout: Layout, height: int, width: int) -> bool:
    """Whether the pipeline's own `_unpack_latents` does what `layout.grid` does (other families pack in other ways)."""
    shape = layout.latents_shape(1)
    probe = torch.arange(shape[1] * shape[2], dtype=torch.float64).reshape(shape)
    try:
        theirs = pipe._unpack_latents(probe, height, width, pipe.vae_scale_factor)
    except (TypeError, ValueError, RuntimeError):
        return False
    return isinstance(theirs, Tensor) and torch.equal(theirs, layout.grid(probe))


# Video pipelines whose latents are not [B, C, F, h, w], by the start of their name: the dimension of the frames.
FRAMES_AT = {"CogVideoX": 1, "ConsisID": 1, "Kandinsky5": 1}


def mean_over_latent_frames(name: str, shape: Sequence[int], num_frames: Any = None) -> Callable[[Tensor], Tensor]:
    """Returns the function that gives the mean over the frames of latents, of a shape that broadcasts to them.

    Args:
        name: of the pipeline's class.
        shape: of its latents.
        num_frames: of latents packed as tokens [B, F * n, C], the frames one after the other (LTX): F.

    Raises:
        UserError: the latents are a picture's, or their frames cannot be told apart.
    """
    if len(shape) == 5:
        frames = next((at for start, at in FRAMES_AT.items() if name.startswith(start)), 2)
        if shape[frames] > 1:
            return lambda latents: latents.mean(dim=frames, keepdim=True)
    elif len(shape) == 3 and isinstance(num_frames, int) and num_frames > 1 and shape[1] % num_frames == 0:
        return lambda latents: latents.unflatten(1, (num_frames, -1)).mean(1).repeat(1, num_frames, 1)
    raise UserError(
        f"motion_strength is given, and the latents {list(shape)} of {name} hold no video whose frames can be told "
        "apart: it is for latents of 2 frames or more; leave it out"
    )


def picture_size(pipe: Any, given: Mapping[str, Any]) -> tuple[int, int]:
    """The height and width of the pictures that a call makes; Flux rounds down to blocks of 2 x 2 cells.

    Raises:
        UserError: the call gives none, and the pipeline has no default.
    """
    block = 2 * pipe.vae_scale_factor if hasattr(type(pipe), "_pack_latents") else 1
    height, width = (int(given.get(name) or _default_size(pipe)) // block * block for name in ("height", "width"))
    return height, width


def _default_size(pipe: Any) -> int:
    """The height and width a pipeline takes where its call gives none."""
    size = getattr(pipe, "default_sample_size", None) or getattr(pipe.unet.config, "sample_size", None)
    if not isinstance(size, int):
        raise UserError(f"{type(pipe).__name__} has no default size; give height and width")
    return size * pipe.vae_scale_factor
