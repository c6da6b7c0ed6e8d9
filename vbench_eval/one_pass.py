"""All dimensions of one video from one decode: frames are streamed in chunks, and no failure outlives its video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vbench_eval.video_info import CHUNK_BYTES, About, VideoError

if TYPE_CHECKING:
    from vbench_eval.dimensions import Accumulator, Dimension, Measured
    from vbench_eval.video_info import Video


@dataclass(frozen=True)
class Pass:
    """What one decode gave: facts about the video, a dict per dimension (`Measured`), or why it cannot be read.

    `failed` names the dimensions that failed by accident and would be worth trying again.
    """

    info: dict[str, Any]
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    failed: tuple[str, ...] = ()


def measure(
    video: Video, dimensions: Mapping[str, Dimension], *, about: About | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Pass:
    """Returns what every dimension says about the video, decoding it once; `about` is what it is meant to show.

    A video that cannot be decoded to its end gives an error and no values at all: half a video has no score. A
    dimension that raises loses its value, with the reason in its place, and the others go on.
    """
    running: dict[str, Accumulator] = {}
    measured: dict[str, dict[str, Any]] = {}
    failed: list[str] = []

    def guarded(name: str, step: Any) -> Any:
        try:
            return step()
        except VideoError as error:  # this dimension cannot take this video (frames too small for it, say)
            running.pop(name, None)
            measured[name] = without_value(str(error))
            return None
        except Exception as error:  # whatever a backbone may raise, one video of one dimension is lost, not the run
            running.pop(name, None)
            measured[name] = without_value(_said(error))
            failed.append(name)
            return None

    described = replace(video.info, about=about or About())
    info = plain(described.as_json())
    try:
        for name, dimension in dimensions.items():
            accumulator = guarded(name, lambda dimension=dimension: dimension.start(described))
            if accumulator is not None:
                running[name] = accumulator
        frames = 0
        for chunk in video.chunks(chunk_bytes):
            frames += len(chunk)
            info.update(frames=frames, height=int(chunk.shape[1]), width=int(chunk.shape[2]))
            for name, accumulator in list(running.items()):
                guarded(name, lambda accumulator=accumulator, chunk=chunk: accumulator.add(chunk))
        if not frames:
            raise VideoError("it holds no frames")
        for name, accumulator in list(running.items()):
            result = guarded(name, accumulator.finish)
            if result is not None:
                measured[name] = measured_as_json(result)
    except VideoError as error:
        return Pass(info, error=str(error))
    except Exception as error:  # what a decoder raises on a file nobody foresaw
        return Pass(info, error=_said(error))
    return Pass(info, {name: measured[name] for name in dimensions}, None, tuple(failed))


def measured_as_json(measured: Measured) -> dict[str, Any]:
    """Returns the dict of a report for what a dimension measured; numbers are plain Python's, none is a NaN.

    A value that is not finite becomes None with a reason.
    """
    values = plain(measured.as_json())
    if values["value"] is None and not values["reason"]:
        values["reason"] = "the value is not a finite number"
    return values


def without_value(reason: str) -> dict[str, Any]:
    """Returns the dict of a report where a dimension has no value, for this reason."""
    return {"value": None, "score": None, "weight": 0.0, "extras": {}, "reason": reason}


def plain(value: Any) -> Any:
    """Returns the value as JSON data: arrays as lists, their numbers as Python's, NaN and infinities as None."""
    if hasattr(value, "tolist"):  # of numpy and torch alike
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | Iterator):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
