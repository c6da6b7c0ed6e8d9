"""Measures that need no weights. They are proxies: none of them is one of VBench's numbers.

    accumulator = PROXIES["flow_dynamic"](get_profile("vbench")).start(video.info)

They stream as the dimensions do. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vbench_eval.dimensions import Dimension
    from vbench_eval.profiles import Profile


@dataclass(frozen=True)
class Proxy:
    """What a proxy is, for tables and help texts; calling it builds the measure.

    Attributes:
        name: what the user writes.
        unit: of its value.
        better: +1 where higher is better, -1 where lower is, 0 where neither is as such.
        reading: what a higher or lower value says.
        description: one line.
        beside: the official dimensions it is shown next to, the nearest first.
        home: module and factory.
    """

    name: str
    unit: str
    better: int
    reading: str
    description: str
    beside: tuple[str, ...]
    home: str

    def __call__(self, profile: Profile, backbone: Any | None = None) -> Dimension:
        """Returns the measure. `backbone`, a FlowEstimator, replaces the flow of those that use one."""
        module, _, factory = self.home.partition(":")
        build = getattr(import_module(f"{__name__}.{module}"), factory)
        return build(self.name, profile) if backbone is None else build(self.name, profile, backbone)


_CONSISTENCIES = ("subject_consistency", "background_consistency")
PROXIES: Mapping[str, Proxy] = {
    proxy.name: proxy
    for proxy in (
        Proxy(
            "pixel_consistency",
            "0..1",
            +1,
            "higher is more alike",
            "correlation of 32x32 grey thumbnails with the frame before and with the first",
            _CONSISTENCIES,
            "frames:pixel_consistency",
        ),
        Proxy(
            "interp_smoothness_linear",
            "0..1",
            +1,
            "higher is smoother",
            "how well the mean of its two neighbours foretells every other frame",
            ("motion_smoothness",),
            "frames:interp_smoothness_linear",
        ),
        Proxy(
            "interp_smoothness_flow",
            "0..1",
            +1,
            "higher is smoother",
            "how well its two neighbours, moved halfway along their flow, foretell every other frame",
            ("motion_smoothness",),
            "flow_measures:interp_smoothness_flow",
        ),
        Proxy(
            "flow_dynamic",
            "true or false",
            +1,
            "true is more motion",
            "VBench's rule for dynamic_degree on Horn-Schunck flow instead of RAFT",
            ("dynamic_degree",),
            "flow_measures:flow_dynamic",
        ),
        Proxy(
            "acceleration",
            "share of full range",
            -1,
            "lower is smoother, and lowest in a still",
            "mean absolute second difference of the pixels over time",
            ("motion_smoothness",),
            "frames:acceleration",
        ),
        Proxy(
            "jerk",
            "share of full range",
            -1,
            "lower is smoother, and lowest in a still",
            "mean absolute third difference of the pixels over time",
            ("motion_smoothness",),
            "frames:jerk",
        ),
        Proxy(
            "sharpness",
            "grey levels squared",
            0,
            "higher is sharper, or noisier",
            "variance of the Laplacian; Tenengrad and the share of high frequencies as details",
            ("imaging_quality",),
            "frames:sharpness",
        ),
        Proxy(
            "exposure",
            "share of pixels",
            -1,
            "lower is better exposed",
            "share of pixels that are clipped to black or to white",
            ("aesthetic_quality", "imaging_quality"),
            "frames:exposure",
        ),
        Proxy(
            "colourfulness",
            "grey levels",
            0,
            "higher is more colourful",
            "spread and offset of the opponent colours (Hasler and Susstrunk 2003)",
            ("aesthetic_quality",),
            "frames:colourfulness",
        ),
        Proxy(
            "contrast",
            "share of full range",
            0,
            "higher is more contrast",
            "standard deviation of the luma",
            ("aesthetic_quality",),
            "frames:contrast",
        ),
        Proxy(
            "noise_sigma",
            "grey levels",
            -1,
            "lower is less noise, or less texture",
            "standard deviation of the noise (Immerkaer 1996)",
            ("imaging_quality",),
            "frames:noise_sigma",
        ),
        Proxy(
            "blockiness",
            "ratio",
            -1,
            "1 is no blocks, higher is more",
            "steps across the borders of 8x8 blocks against steps inside them",
            ("imaging_quality",),
            "frames:blockiness",
        ),
        Proxy(
            "frozen_frames",
            "share of frame pairs",
            -1,
            "lower is fewer stills",
            "share of neighbouring frames that differ by less than half a grey level",
            ("dynamic_degree",),
            "frames:frozen_frames",
        ),
        Proxy(
            "warp_error",
            "share of full range",
            -1,
            "lower is more consistent",
            "what is left of |frame - next frame| once the flow is undone, where the flow can be trusted",
            (*_CONSISTENCIES, "motion_smoothness"),
            "flow_measures:warp_error",
        ),
    )
}
# On the official scale (0..1, higher is better), so that their values may stand under the official name, marked, where
# a user allows it. The other proxies have units of their own and never may.
OFFICIAL_STAND_INS: Mapping[str, str] = {
    "subject_consistency": "pixel_consistency",
    "background_consistency": "pixel_consistency",
    "motion_smoothness": "interp_smoothness_flow",
    "dynamic_degree": "flow_dynamic",
}
SHOWN_BESIDE: Mapping[str, tuple[str, ...]] = {
    official: tuple(proxy.name for proxy in PROXIES.values() if official in proxy.beside)
    for official in (
        "subject_consistency",
        "background_consistency",
        "motion_smoothness",
        "dynamic_degree",
        "aesthetic_quality",
        "imaging_quality",
    )
}
