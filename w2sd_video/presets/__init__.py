"""The paper's pairs as a table, the paper's numbers beside them (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from w2sd_video.errors import UserError
from w2sd_video.presets.pictures import PICTURES
from w2sd_video.presets.preset import Preset
from w2sd_video.presets.tables import TABLE_12, PaperTable
from w2sd_video.presets.videos import DEMO_WEIGHTS, VIDEOS

__all__ = [
    "DEMO_WEIGHTS",
    "PICTURE_PRESETS",
    "PRESETS",
    "TABLE_12",
    "VIDEO_PRESETS",
    "PaperTable",
    "Preset",
    "get_preset",
]

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in (*VIDEOS, *PICTURES)})
VIDEO_PRESETS, PICTURE_PRESETS = (
    MappingProxyType({name: preset for name, preset in PRESETS.items() if preset.is_video == videos})
    for videos in (True, False)
)


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`.

    Raises:
        UserError: there is no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
