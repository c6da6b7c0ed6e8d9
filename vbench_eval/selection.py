"""From settings to what can be measured here: dimensions with their backbones, and the reasons for those without."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from vbench_eval import __version__
from vbench_eval.detections import LIKE, Detected
from vbench_eval.dimensions import BACKBONE_KINDS, I2V, MEASURED, build
from vbench_eval.dimensions.clips import InClips
from vbench_eval.errors import UserError
from vbench_eval.journal import fingerprint
from vbench_eval.judges import PREFIX, Judge, load_judge
from vbench_eval.profiles import get_profile
from vbench_eval.proxies import OFFICIAL_STAND_INS, PROXIES, SHOWN_BESIDE
from vbench_eval.settings import ELSEWHERE, WITH_CLIP, ScoringSettings

if TYPE_CHECKING:
    from vbench_eval.dimensions import Dimension

# Measured unless no proxies are wanted, because a folder of stills looks consistent; cheap beside decoding.
ALWAYS = ("frozen_frames",)
_LIBRARIES = ("torch", "transformers", "safetensors", "av", "pillow", "numpy", "imageio")


@dataclass(frozen=True)
class Selection:
    """What a run measures.

    Attributes:
        dimensions: what is measured on each video, by the name it is journalled under.
        described: for each of them and of the unavailable ones the facts for the report: "status" ("measured" or
            "unavailable"), "official", "backbone" (its provenance), "reason", "stand_in".
        stand_ins: official name -> proxy whose value is written under it, only if the user allowed it.
        stamp: profile, versions, device and dtype, for the report.
        names: of `dimensions`, also once those have been let go.
    """

    dimensions: Mapping[str, Dimension]
    described: Mapping[str, Mapping[str, Any]]
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    stamp: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Returns a fingerprint per dimension of all that its numbers depend on besides the video.

        Which of several equal devices it was does not count: workers have one each.
        """
        kind = str(self.stamp.get("device", "")).partition(":")[0]
        prints = {}
        for name in self.names:
            backbone = {**(self.described[name].get("backbone") or {}), "device": kind}
            if backbone.get("sha256"):
                backbone.pop("file", None)  # the same bytes elsewhere give the same numbers
            prints[name] = fingerprint({**self.stamp, "dimension": name, "backbone": backbone, "device": kind})
        return prints

    @property
    def unavailable(self) -> dict[str, str]:
        """Returns the reason for each dimension that was asked for and cannot be measured."""
        return {name: facts["reason"] for name, facts in self.described.items() if facts["status"] == "unavailable"}

    def without_backbones(self) -> Selection:
        """Returns what a report needs of it, which holds no network."""
        return replace(self, dimensions={})


def select(settings: ScoringSettings) -> Selection:
    """Returns what the settings measure on this machine, with every backbone loaded.

    A dimension without its own weights is unavailable, never an error; its stand-in is measured beside it. Raises
    UserError for a backbone the user named that cannot be used, and for a device that is not there.
    """
    device = find_device(settings.device)
    profile = get_profile(settings.profile)
    dimensions: dict[str, Dimension] = {}
    described: dict[str, dict[str, Any]] = {}
    stand_ins: dict[str, str] = {}
    beside: list[str] = []
    for name in settings.dimensions:
        if name in MEASURED:
            try:
                backbone = _backbone(name, settings, device)
            except _unavailable() as error:
                if name in settings.backbones:
                    raise UserError(f"--backbone {name}={settings.backbones[name]}: {error}") from error
                proxy = OFFICIAL_STAND_INS.get(name)
                described[name] = _lacking(str(error), proxy)
                if settings.proxies:
                    beside += SHOWN_BESIDE.get(name, ())
                if proxy is not None and settings.allow_proxy:
                    beside.append(proxy)
                    stand_ins[name] = proxy
                    described[name]["backbone"] = {"id": f"proxy:{proxy}"}
                continue
            dimension = build(name, profile, backbone)
            dimensions[name] = InClips(dimension) if settings.long and name not in I2V else dimension
            described[name] = _found(backbone, official=True)
        elif name in ELSEWHERE:
            described[name] = _lacking(
                "it judges the prompt's content with detectors and captioners, which are not part of this package; "
                "VBench's own package computes it",
                None,
            )
        else:
            beside.append(name)
    always = ALWAYS if settings.proxies else ()
    for name in sorted({*beside, *always}, key=list(PROXIES).index):
        dimensions[name] = PROXIES[name](profile)
        described[name] = _found(getattr(dimensions[name], "backbone", None), official=False)
    for name, choice in settings.judges.items():
        judge = load_judge(
            name,
            choice,
            device=device,
            dtype=settings.dtype,
            offline=settings.offline,
            allow_pickle=settings.allow_pickle,
            cache=settings.cache,
        )
        dimensions[PREFIX + name] = Judge(PREFIX + name, judge)
        described[PREFIX + name] = _found(judge, official=False)
    if settings.detector is not None:
        detector = _detector(settings, device)
        for name in LIKE:
            dimensions[name] = Detected(name, detector)
            described[name] = _found(detector, official=False)
    stamp = {
        "profile": asdict(profile),
        "imaging_mode": settings.imaging_mode,
        "device": device,
        "dtype": settings.dtype or "float32",
        "versions": versions(device),
    }
    if settings.long:
        stamp["long"] = "videos over 5 s by the mean of their clips, as VBench-Long cuts them"
    return Selection(dimensions, described, stand_ins, stamp, tuple(dimensions))


def find_device(device: str) -> str:
    """Returns the device that `device` means here. Raises UserError if it is not there."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    counts = {"cpu": lambda: 1, "mps": lambda: int(torch.backends.mps.is_available())}
    count = counts.get(kind, lambda: getattr(torch, kind).device_count())()
    if count <= int(number or 0):
        raise UserError(f"device is {device!r}, but of {kind} this machine has {count}; try --device auto")
    return device


def versions(device: str = "cpu") -> dict[str, str]:
    """Returns the versions of what the numbers come from, "absent" for a library that is not installed."""
    found = {"vbench_eval": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _backbone(name: str, settings: ScoringSettings, device: str) -> Any:
    if BACKBONE_KINDS[name] is None:
        return None
    from vbench_eval.backbones.registry import resolve

    choice = settings.backbones.get(name)
    return resolve(
        name,
        choice,
        profile=get_profile(settings.profile),
        device=device,
        dtype=settings.clip_dtype or settings.dtype if name in WITH_CLIP else settings.dtype,
        offline=settings.offline,
        allow_pickle=settings.allow_pickle,
        cache=settings.cache,
        imaging_mode=settings.imaging_mode,
    )


def _detector(settings: ScoringSettings, device: str) -> Any:
    from vbench_eval.backbones.registry import resolve_detector

    return resolve_detector(
        str(settings.detector),
        device=device,
        dtype=settings.dtype,
        offline=settings.offline,
        allow_pickle=settings.allow_pickle,
        cache=settings.cache,
    )


def _unavailable() -> type[Exception]:
    from vbench_eval.backbones.registry import Unavailable

    return Unavailable


def _found(backbone: Any, *, official: bool) -> dict[str, Any]:
    provenance = dict(backbone.provenance()) if backbone is not None else None
    return {"status": "measured", "official": official, "backbone": provenance, "reason": None, "stand_in": None}


def _lacking(reason: str, proxy: str | None) -> dict[str, Any]:
    return {"status": "unavailable", "official": True, "backbone": None, "reason": reason, "stand_in": proxy}
