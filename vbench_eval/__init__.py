"""Scores videos by VBench's dimensions on any machine, and compares methods honestly.

    from vbench_eval import score_folder, evaluate_frames, compare

Importing the package costs nothing: each name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vbench_eval.comparing import compare
    from vbench_eval.errors import UserError
    from vbench_eval.scoring import evaluate_frames, score_folder
    from vbench_eval.videos import FramesInMemory, VideoError, find_videos, open_video

__version__ = "0.1.0"
__all__ = [
    "FramesInMemory",
    "UserError",
    "VideoError",
    "compare",
    "evaluate_frames",
    "find_videos",
    "open_video",
    "score_folder",
]
_HOMES = {
    "compare": "comparing",
    "UserError": "errors",
    "evaluate_frames": "scoring",
    "score_folder": "scoring",
    "FramesInMemory": "videos",
    "VideoError": "videos",
    "find_videos": "videos",
    "open_video": "videos",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
