"""A model as the sampler sees it: a side of the pair, and the same with nothing left open at a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from w2sd_video.gaps.control_settings import ControlSetting
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.hosting.conditioning import Conditioning, told_alike


@dataclass(frozen=True)
class Side:
    """A model as the sampler sees it; None means as the pipeline itself does it at the current step.

    Attributes:
        network: evaluated instead of the conditioning's own.
        conditioning: recorded from another call; its timestep is replaced by the current one.
        guidance: scale of classifier-free guidance.
        embedded: value of the guidance that is an input of the network, in the units of the call's argument.
        prediction: what the network predicts.
        settings: of the network, in force while this side is evaluated, by name (see `switches`).
        control: the scale of the ControlNet and when it is in force, where the conditioning has one.
    """

    network: nn.Module | None = None
    conditioning: Conditioning | None = None
    guidance: float | None = None
    embedded: float | None = None
    prediction: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    control: ControlSetting | None = None

    def differs_in_guidance_alone(self, other: Side) -> bool:
        """Whether one evaluation of both halves of guidance gives both sides."""
        return replace(self, guidance=None) == replace(other, guidance=None)


@dataclass(frozen=True)
class Sides:
    """What a call evaluates; the control's `weak` is its very `reflector`.

    Attributes:
        strong: the strong side as it samples; reflector: as it reflects; weak: the weak side.
    """

    strong: Side
    reflector: Side
    weak: Side


@dataclass(frozen=True)
class Resolved:
    """A side with nothing left open: what is evaluated, told what, guided how, and what it predicts."""

    network: nn.Module
    conditioning: Conditioning
    guidance: float
    prediction: str
    settings: Mapping[str, Any]

    def equals(self, other: Resolved, switches: SwitchBoard) -> bool:
        """Whether the two predict the same, whatever the latent (waits for the device)."""
        return (
            self.network is other.network
            and (self.guidance, self.prediction) == (other.guidance, other.prediction)
            and switches.alike(self.network, self.settings, other.settings)
            and told_alike(self.conditioning, other.conditioning, self.guidance)
        )
