"""Flow by OpenCV, for those who have it: faster than Horn-Schunck, and other numbers.

It is never chosen on its own, because results must not depend on what happens to be installed:

    PROXIES["flow_dynamic"](profile, backbone=OpenCVFlow("dis"))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vbench_eval.errors import UserError

METHODS = ("dis", "farneback")


@dataclass(frozen=True)
class OpenCVFlow:
    """A FlowEstimator: "dis" (Kroeger et al. 2016, medium preset) or "farneback" (2003).

    Raises UserError if there is no such method, or if OpenCV is not installed.
    """

    method: str = "dis"
    pad_multiple: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"OpenCV's flow method is {self.method!r}; choose one of {', '.join(METHODS)}")
        _opencv()

    @property
    def name(self) -> str:
        return f"opencv-{self.method}"

    def provenance(self) -> dict[str, Any]:
        return {
            "id": f"proxy:{self.name}",
            "opencv": _opencv().__version__,
            "dtype": "uint8",
            "device": "cpu",
            "licence": "Apache-2.0",
            "commercial_ok": True,
        }

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns `[B, 2, H, W]` in pixels of frames `[B, 3, H, W]`, 0..255."""
        pairs = zip(_grey(a), _grey(b), strict=True)
        return torch.stack([torch.from_numpy(self._one(before, after)).permute(2, 0, 1) for before, after in pairs])

    def _one(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        cv2 = _opencv()
        if self.method == "dis":
            return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before, after, None)
        settings = {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
        return cv2.calcOpticalFlowFarneback(before, after, None, flags=0, **settings)


def _grey(frames: Tensor) -> list[np.ndarray]:
    cv2 = _opencv()
    pictures = frames.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().contiguous().numpy()
    return [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "OpenCV is not installed; pip install opencv-python-headless, or leave the flow as it is"
        ) from error
    return cv2
