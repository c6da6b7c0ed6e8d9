"""The nodes, by ComfyUI's V3 schema."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension, io

from bridges.comfyui.crossing import BridgeGuider
from bridges.comfyui.guiders import AutoGuider, W2SDGuider, check_cfg
from bridges.comfyui.sampling import W2SDSampler
from w2sd_video.core.options import MODES, ReflectionConfig

SAMPLERS, GUIDERS = "sampling/custom_sampling/samplers", "sampling/custom_sampling/guiders"
SAME = -1.0
PAPER = "Weak-to-Strong Diffusion with Reflection (arXiv 2502.00473)"
SAME_TIP = "-1: the same as the strong side's cfg while sampling. 1 is the paper's setting for SDXL."


def _cfg(name: str, default: float, tip: str) -> Any:
    return io.Float.Input(name, default=default, min=-1.0, max=100.0, step=0.1, round=0.01, tooltip=tip)


class W2SDGuiderNode(io.ComfyNode):
    """W2SD Guider."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="W2SDGuider",
            display_name="W2SD Guider",
            category=GUIDERS,
            description=f"A strong and a weak model for the W2SD Sampler. {PAPER}. What differs may be the checkpoint, "
            "LoRAs, the prompt or the cfg; one latent space. With other samplers it is the strong model alone.",
            inputs=[
                io.Model.Input("strong"),
                io.Model.Input(
                    "weak", tooltip="The less good model; or the strong one, where only prompt or cfg differ."
                ),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative", optional=True, tooltip="Not needed at cfg 1."),
                _cfg("cfg", 5.5, "The strong model's guidance."),
                _cfg("weak_cfg", 1.0, "The weak model's guidance."),
                _cfg("reflect_cfg", SAME, f"The strong model's guidance inside reflections. {SAME_TIP}"),
                io.Conditioning.Input("weak_positive", optional=True, tooltip="Without it: positive."),
                io.Conditioning.Input("weak_negative", optional=True, tooltip="Without it: negative."),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        strong: Any,
        weak: Any,
        positive: Any,
        cfg: float,
        weak_cfg: float,
        reflect_cfg: float,
        negative: Any = None,
        weak_positive: Any = None,
        weak_negative: Any = None,
    ) -> Any:
        guider = _guider(W2SDGuider, strong, positive, negative, cfg)
        _set_reflect_cfg(guider, negative, cfg, reflect_cfg)
        _add_weak(guider, weak, weak_positive or positive, weak_negative or negative, weak_cfg)
        return io.NodeOutput(guider)


class W2SDZeroGapNode(io.ComfyNode):
    """W2SD Zero-Gap Guider, the control."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="W2SDZeroGap",
            display_name="W2SD Zero-Gap Guider",
            category=GUIDERS,
            description="The control: the weak side is the strong one, so that what remains does not come from the "
            "gap. As many evaluations as W2SD with the same sampler.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative", optional=True, tooltip="Not needed at cfg 1."),
                _cfg("cfg", 5.5, "The guidance of sampling."),
                _cfg("reflect_cfg", SAME, f"The guidance of both sides inside reflections. {SAME_TIP}"),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, cfg: float, reflect_cfg: float, negative: Any = None) -> Any:
        guider = _guider(W2SDGuider, model, positive, negative, cfg)
        _set_reflect_cfg(guider, negative, cfg, reflect_cfg)
        return io.NodeOutput(guider)


class AutoGuidanceNode(io.ComfyNode):
    """Auto-guidance, for comparison."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="W2SDAutoGuider",
            display_name="AutoGuidance Guider",
            category=GUIDERS,
            description="strong + weight * (strong - weak) at every step (arXiv 2406.02507), with any sampler: what "
            "W2SD is compared with. Two evaluations a step.",
            inputs=[
                io.Model.Input("strong"),
                io.Model.Input("weak"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative", optional=True, tooltip="Not needed at cfg 1."),
                _cfg("cfg", 5.5, "The strong model's guidance."),
                _cfg("weak_cfg", 1.0, "The weak model's guidance."),
                io.Float.Input("weight", default=1.0, min=-10.0, max=10.0, step=0.05, round=False),
                io.Conditioning.Input("weak_positive", optional=True, tooltip="Without it: positive."),
                io.Conditioning.Input("weak_negative", optional=True, tooltip="Without it: negative."),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        strong: Any,
        weak: Any,
        positive: Any,
        cfg: float,
        weak_cfg: float,
        weight: float,
        negative: Any = None,
        weak_positive: Any = None,
        weak_negative: Any = None,
    ) -> Any:
        guider = _guider(AutoGuider, strong, positive, negative, cfg)
        guider.weight = weight
        _add_weak(guider, weak, weak_positive or positive, weak_negative or negative, weak_cfg)
        return io.NodeOutput(guider)


class W2SDBridgeGuiderNode(io.ComfyNode):
    """W2SD Bridge Guider."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="W2SDBridgeGuider",
            display_name="W2SD Bridge Guider",
            category=GUIDERS,
            description="A strong and a weak model of different latent spaces, which meet in pixels through their "
            "VAEs; pictures only. For the W2SD Sampler in mode fused; few reflections, each costs VAE passes.",
            inputs=[
                io.Model.Input("strong"),
                io.Model.Input("weak"),
                io.Vae.Input("strong_vae"),
                io.Vae.Input("weak_vae"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("weak_positive", tooltip="Of the weak model's own text encoder."),
                io.Conditioning.Input("negative", optional=True, tooltip="Not needed at cfg 1."),
                io.Conditioning.Input("weak_negative", optional=True, tooltip="Not needed at weak_cfg 1."),
                _cfg("cfg", 1.0, "The strong model's guidance."),
                _cfg("weak_cfg", 1.0, "The weak model's guidance."),
                _cfg("reflect_cfg", SAME, f"The strong model's guidance inside reflections. {SAME_TIP}"),
                io.Int.Input("draws", default=1, min=1, max=64, step=1,
                             tooltip="Draws of noise for each reflection; more are less noisy and cost more."),
            ],
            outputs=[io.Guider.Output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        strong: Any,
        weak: Any,
        strong_vae: Any,
        weak_vae: Any,
        positive: Any,
        weak_positive: Any,
        cfg: float,
        weak_cfg: float,
        reflect_cfg: float,
        draws: int,
        negative: Any = None,
        weak_negative: Any = None,
    ) -> Any:
        check_cfg("strong", negative, cfg)
        guider = BridgeGuider(strong, strong_vae, weak_vae, draws)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        _set_reflect_cfg(guider, negative, cfg, reflect_cfg)
        _add_weak(guider, weak, weak_positive, weak_negative, weak_cfg)
        return io.NodeOutput(guider)


class W2SDSamplerNode(io.ComfyNode):
    """W2SD Sampler."""

    @classmethod
    def define_schema(cls) -> Any:
        usual = ReflectionConfig()
        whole = {"step": 1}
        return io.Schema(
            node_id="W2SDSampler",
            display_name="W2SD Sampler",
            category=SAMPLERS,
            description=f"Euler with reflections. {PAPER}. Two further evaluations for each reflected step; with 0 "
            "reflections it is the sampler euler.",
            inputs=[
                io.Int.Input("reflections", default=10, min=-1, max=10000, **whole,
                             tooltip="lambda: how many of the noisiest steps are reflected; -1: all but the last."),
                io.Combo.Input("mode", options=list(MODES), default=usual.mode,
                               tooltip="paper: Algorithm 1. fused: Theorem 1, equal sides change nothing. release: the "
                               "published code's coefficients."),
                io.Float.Input("strength", default=usual.strength, min=-10.0, max=10.0, step=0.05, round=False,
                               tooltip="Multiplies the move of each reflection; 1 is the paper's."),
                io.Int.Input("every", default=usual.every, min=1, max=1000, **whole,
                             tooltip="Reflect each k-th of these steps; saves two evaluations a step left out."),
                io.Float.Input("window_start", default=usual.window[0], min=0.0, max=1.0, step=0.01, round=False,
                               tooltip="Part of the steps that may be reflected: from (0 is the noisiest) ..."),
                io.Float.Input("window_end", default=usual.window[1], min=0.0, max=1.0, step=0.01, round=False,
                               tooltip="... to (1 is the last)."),
                io.Float.Input("cap", default=0.0, min=0.0, max=100.0, step=0.01, round=False,
                               tooltip="The most that a reflection may move a sample, as a root mean square in latent "
                               "units; 0: no cap."),
                io.Int.Input("fixed_point", default=usual.fixed_point, min=0, max=2, **whole,
                             tooltip="Iterations that make mode paper invert more exactly, an evaluation each."),
                io.Int.Input("gap_every", default=-1, min=-1, max=1000, **whole,
                             tooltip="Cached gap, in mode fused: measured at every k-th step (0: once), an "
                             "evaluation there and none in reflections; -1: measured in each reflection."),
                io.Float.Input("motion_strength", default=usual.motion_strength, min=-10.0, max=10.0, step=0.05,
                               round=False, tooltip="Of videos: multiplies what a move has beside its frames' mean."),
            ],
            outputs=[io.Sampler.Output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        reflections: int,
        mode: str,
        strength: float,
        every: int,
        window_start: float,
        window_end: float,
        cap: float,
        fixed_point: int,
        gap_every: int,
        motion_strength: float,
    ) -> Any:
        config = ReflectionConfig(
            None if reflections == -1 else reflections,
            mode,
            strength,
            every=every,
            window=(window_start, window_end),
            cap=cap or None,
            fixed_point=fixed_point,
            gap_every=None if gap_every == -1 else gap_every,
            motion_strength=motion_strength,
        )
        return io.NodeOutput(W2SDSampler(config))


def _guider(kind: Any, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    check_cfg("strong", negative, cfg)
    guider = kind(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def _set_reflect_cfg(guider: Any, negative: Any, cfg: float, reflect_cfg: float) -> None:
    """Sets the strong side's cfg inside reflections; `SAME` is that of sampling."""
    guider.reflect_cfg = None if reflect_cfg == SAME else reflect_cfg
    check_cfg("reflecting", negative, cfg if guider.reflect_cfg is None else reflect_cfg)


def _add_weak(guider: W2SDGuider, weak: Any, positive: Any, negative: Any, cfg: float) -> None:
    check_cfg("weak", negative, cfg)
    guider.set_weak(weak, positive, negative, cfg)


class W2SDExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[Any]:
        return [W2SDGuiderNode, W2SDSamplerNode, W2SDZeroGapNode, AutoGuidanceNode, W2SDBridgeGuiderNode]


async def comfy_entrypoint() -> ComfyExtension:
    """The entry point of ComfyUI's V3 packs."""
    return W2SDExtension()
