"""Pictures as frames: a folder of them is a video, a single one is a video of one frame, a gif or webp holds its own.

All through Pillow, as VBench reads them; alpha is dropped, not blended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.video_info import CHUNK_BYTES, VideoError, VideoInfo, check_size, in_chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANIMATIONS = (".gif", ".webp")


def pictures_in(folder: Path) -> list[Path]:
    """Returns the pictures of a folder in the order of their names, numbers in them counted as numbers: VBench sorts by
    letters, which puts frame 10 before frame 2 unless they are written with equally many digits.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    return sorted(files, key=lambda file: _reading_order(file.name))


def _reading_order(name: str) -> tuple[Any, ...]:
    parts = re.split(r"([0-9]+)", name)
    return (*((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)), (0, name))


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """Returns a Pillow image as `[H, W, 3]`, uint8 RGB; of 16 bits the upper 8 are kept."""
    import numpy as np

    if image.mode.startswith("I"):
        grey = np.asarray(image)
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


class PictureFolder:
    """The pictures of a folder, or one picture file, as a video; each is opened when it is its turn."""

    def __init__(self, path: str | Path) -> None:
        import PIL

        path = Path(path)
        self._files = pictures_in(path) if path.is_dir() else [path]
        if not self._files:
            raise VideoError(f"the folder holds no picture ({', '.join(PICTURES)})")
        with _opened(self._files[0]) as image:
            width, height = image.size
            kind = str(image.format).lower()
            fps = _rate(image.info.get("fps"))
        self.info = VideoInfo(
            path=str(path),
            fps=fps,
            width=width,
            height=height,
            declared_frames=len(self._files),
            container="folder" if path.is_dir() else kind,
            codec=kind,
            decoder=f"pillow {PIL.__version__}",
            directory=path.is_dir(),
            average_fps=fps,
        )

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(self._frames(), info.height, info.width, max_bytes=max_bytes, expected=len(self._files))

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        for file in self._files:
            with _opened(file) as image:
                frame = as_rgb(image)
            yield frame


class Animation:
    """A gif or webp: each stored frame once, however long it is shown, as VBench counts them. Many writers store equal
    neighbours as one frame, so that a still clip may hold a single one.
    """

    def __init__(self, path: str | Path) -> None:
        import PIL

        self._path = Path(path)
        times: list[float] = []
        with _opened(self._path) as image:
            width, height = image.size
            kind, count = str(image.format).lower(), int(getattr(image, "n_frames", 1))
            for index in range(count):
                image.seek(index)
                image.load()  # a webp tells the time of a frame only then
                times.append(float(image.info.get("duration", 0)) / 1000)
        rate = count / sum(times) if sum(times) > 0 else 0.0
        self.info = VideoInfo(
            path=str(path),
            fps=rate,
            width=width,
            height=height,
            declared_frames=count,
            container=kind,
            codec=kind,
            decoder=f"pillow {PIL.__version__}",
            # Times are hundredths of a second in a gif: 0.12 and 0.13 are one rate (8 per second).
            variable_rate=max(times) - min(times) > 0.0101,
            average_fps=rate,
        )

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(
            self._frames(), info.height, info.width, max_bytes=max_bytes, expected=info.declared_frames
        )

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        with _opened(self._path) as image:
            for index in range(self.info.declared_frames or 1):
                image.seek(index)
                yield as_rgb(image)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An open picture, upright and of a readable size; whatever goes wrong while it is read becomes a VideoError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            check_size(image.height, image.width)
            if getattr(image, "n_frames", 1) > 1:
                yield image
                return
            upright = ImageOps.exif_transpose(image)
            upright.format = image.format  # a turned copy has forgotten it
            yield upright
    except VideoError:
        raise
    # Pillow reports damaged files as any of these; too large ones as an error of its own.
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file.name} cannot be read as a picture: {str(error) or type(error).__name__}") from error


def _rate(text: Any) -> float:
    try:
        rate = float(text)
    except (TypeError, ValueError):
        return 0.0
    return rate if 0 < rate < 1e6 else 0.0
