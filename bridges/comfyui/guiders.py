"""ComfyUI guiders with a weak side: its own model, conditioning and guidance.

The weak side is a `CFGGuider` of its own. While the strong one samples, it is inside that guider's `sample`, so that
hooks, wrappers, patches, loading and clean-up of both are ComfyUI's own. Both models are offered to its memory manager
together; where they are one network with two sets of patches (LoRA), it patches anew at every change of sides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
from torch import Tensor

from bridges.comfyui.sampling import STRONG, WEAK, W2SDSampler
from w2sd_video.core.denoisers import autoguidance
from w2sd_video.errors import UserError


class W2SDGuider(comfy.samplers.CFGGuider):
    """The strong side, as CFGGuider has it, and a weak one for the W2SD sampler; other samplers see the strong alone.

    Attributes:
        weak: the weak side's guider; None for the zero-gap control, whose weak side is the strong one as it reflects.
        reflect_cfg: the strong side's guidance inside a reflection (App. C.1); None as it samples.
    """

    def __init__(self, strong: Any) -> None:
        super().__init__(strong)
        self.cfg: float
        self.weak: Any = None
        self.reflect_cfg: float | None = None
        self._role = STRONG
        self._weak_options: dict[str, Any] = {}

    def set_conds(self, positive: Any, negative: Any = None) -> None:
        self.inner_set_conds({"positive": positive} if negative is None else _both(positive, negative))

    def set_weak(self, model: Any, positive: Any, negative: Any, cfg: float) -> None:
        """Adds the weak side, after the conditioning; raises `UserError` for another latent space."""
        self.check_weak(model)
        self.weak = comfy.samplers.CFGGuider(model.clone() if model is self.model_patcher else model)
        self.weak.inner_set_conds({"positive": positive} if negative is None else _both(positive, negative))
        self.weak.set_cfg(cfg)
        if model.model is not self.model_patcher.model:  # loaded beside the strong one, not instead of it
            first = self.original_conds["positive"][0]
            first["additional_models"] = [*first.get("additional_models", []), self.weak.model_patcher]

    def check_weak(self, model: Any) -> None:
        """Raises `UserError` for a weak model that this guider has no use for."""
        check_latents(self.model_patcher, model)

    def weak_latents(self, noise: Tensor) -> Tensor | None:
        """Empty latents of the weak side; None where they are of the strong one's shape."""
        return None

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: Any = None,
    ) -> Any:
        """As `CFGGuider.sample`, inside the weak side's where the sampler makes use of it."""
        given = (noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        strong = functools.partial(super().sample, *given)
        if self.weak is None or not self.asks_weak(sampler) or sigmas.shape[-1] == 0:
            return strong()
        inside = _Inside(self, strong)
        own = self.weak_latents(noise)
        if own is not None:
            noise, latent_image, denoise_mask = own, own, None
        self.weak.sample(noise, latent_image, inside, sigmas, denoise_mask, None, True, seed)
        return inside.output

    def asks_weak(self, sampler: Any) -> bool:
        """Whether this sampler evaluates the weak side."""
        return isinstance(sampler, W2SDSampler) and not sampler.config.plain()

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Inside, this guider predicts as that side: "strong", "reflector" or "weak"."""
        before, self._role = self._role, name
        try:
            yield
        finally:
            self._role = before

    def __call__(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        """The clean estimate of ``x`` [B, ...] at sigma ``timestep`` [B], of the side whose role it is."""
        if self._role == WEAK and self.weak is not None:
            self._activate(self.weak, x)
            return self.weak(x, timestep, self._weak_options, seed)
        self._activate(self, x)
        cfg: float = self.cfg
        if self._role != STRONG and self.reflect_cfg is not None:
            self.cfg = self.reflect_cfg
        try:
            return super().__call__(x, timestep, model_options or {}, seed)
        finally:
            self.cfg = cfg

    def _activate(self, guider: Any, x: Tensor) -> None:
        """Has the patches of this side applied, where the two share one network."""
        if self.weak is None:
            return
        patcher = guider.model_patcher
        other = self.weak.model_patcher if guider is self else self.model_patcher
        network = patcher.model
        if network is not other.model or network.current_patcher is patcher or network.current_patcher is None:
            return
        other.unpatch_hooks()
        if not (patcher.clone_has_same_weights(other) and patcher.object_patches == other.object_patches):
            memory = network.memory_required([2 * x.shape[0], *x.shape[1:]])
            comfy.model_management.load_models_gpu([patcher], memory_required=memory)
        network.current_patcher = patcher


class AutoGuider(W2SDGuider):
    """Auto-guidance (App. E.5) for comparison: strong + weight * (strong - weak) at every step, with any sampler."""

    weight = 1.0

    def asks_weak(self, sampler: Any) -> bool:
        if isinstance(sampler, W2SDSampler) and not sampler.config.plain():
            raise UserError("auto-guidance is what W2SD is compared with; use a W2SD Guider, or set reflections to 0")
        return True

    def __call__(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        def side(role: str) -> Any:
            def predict(latent: Tensor, level: Any) -> Tensor:
                with self.role(role):
                    return super(AutoGuider, self).__call__(latent, level, model_options, seed)

            return predict

        return autoguidance(side(STRONG), side(WEAK), self.weight)(x, timestep)  # type: ignore[arg-type]


class _Inside(comfy.samplers.Sampler):
    """A sampler of the weak guider in whose place the strong one samples."""

    def __init__(self, guider: W2SDGuider, strong: Callable[[], Any]) -> None:
        self._guider, self._strong = guider, strong
        self.output: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, *_: Any
    ) -> Tensor:
        self._guider._weak_options = extra_args["model_options"]
        self.output = self._strong()
        return noise


def check_latents(strong: Any, weak: Any) -> None:
    """Raises `UserError` for models (MODEL) whose latents are not of one space, by ComfyUI's names for them."""
    ours, theirs = (type(model.model.latent_format).__name__ for model in (strong, weak))
    if ours != theirs:
        raise UserError(
            f"the strong model's latents are {ours}, the weak model's {theirs}; W2SD Guider needs one latent space: "
            "choose models of one family, or connect W2SD Bridge Guider, where they meet in pixels"
        )
    kinds = [
        isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST) for model in (strong, weak)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(
            "one of the two models is of rectified flow and the other is not; W2SD Guider needs both of one kind: "
            "connect W2SD Bridge Guider, where they meet in pixels"
        )


def check_cfg(side: str, negative: Any, cfg: float) -> None:
    """Raises `UserError` for guidance without a negative conditioning."""
    if negative is None and cfg != 1:
        raise UserError(f"the {side} side's cfg is {cfg} and it has no negative conditioning; connect one, or set 1.0")


def _both(positive: Any, negative: Any) -> dict[str, Any]:
    return {"positive": positive, "negative": negative}
