"""diffusers' pipelines by family, one table: classes, what sampling may start from, defaults, guidance (no torch).

Sizes, frames and guidance are the defaults of the pipelines or of their models' cards; none was tuned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

LAYOUTS = {
    "grid": "[B, C, h, w]",
    "list": "a list of [C, 1, h, w]",
    "last": "[B, F, h, w, C]",
    "tokens": "tokens [B, h / 2 * w / 2, 4 C], channels outermost",
    "patches": "tokens [B, h / 2 * w / 2, 4 C], channels innermost",
}
NOTHING: Mapping[str, Any] = MappingProxyType({})
FROM_TEXT, FROM_IMAGE, FROM_MASK, FROM_VIDEO = "text", "image", "mask", "video"
STARTS = (FROM_TEXT, FROM_IMAGE, FROM_MASK, FROM_VIDEO)  # what sampling starts from, beside noise and a prompt


@dataclass(frozen=True)
class PipelineFamily:
    """Pipelines of one kind of network.

    Attributes:
        name: as people say it.
        text, image, mask, video: the class of pipeline that starts from a prompt alone, from a picture (of videos their
            first frame), from a picture and a mask of what is made anew, from a video; "" where diffusers has none.
        own_weights: the starts whose pipeline has weights of its own, so that the others cannot serve for it.
        noised: the starts whose picture or video is noised part of the way (`--denoise`), not shown to the network.
        rounds_up: whether such a call makes the whole steps that hold its part of them, rather than those it holds.
        last_image: whether the pipeline that starts from a first frame takes a last one.
        size: height and width in pixels; None where the checkpoint's own say.
        sizes: all that its pipelines make, where these are few: others they make of the nearest shape.
        num_frames, fps: of videos, None for pictures.
        fewest_frames: that the pipeline from a first frame can make.
        group: frames that one latent frame holds, so that videos have `group * k + 1` frames; 1 for any number.
        patch: cells of a latent that make one token, so that sizes are multiples of as many cells.
        guidance: the scale that sampling has where none is given; None leaves it to the command.
        scale: the call argument of it; "guider" is an object of the pipeline's, "" is none.
        excess: whether that argument is what the guidance is above 1: cond + scale * (cond - uncond).
        by_frame: whether each frame has a scale of its own, so that sides cannot differ in guidance.
        embedded: whether guidance is an input of the network.
        both: whether both halves of guidance are evaluated at any scale, 1 too.
        negative: whether its calls take a negative prompt.
        frames_name, rate_name: the call arguments of how many frames there are, and of their rate ("": none).
        mode: of reflections where none is given: "fused" where sampling begins at pure noise, of which no inversion is.
        extra: call arguments beside those, which keep guidance plain.
        sees: whether an image encoder is part of it.
        vae: whose latents they are, as people say it.
        layout: how these latents are kept, one of `LAYOUTS`; families of one VAE can differ in it.
    """

    name: str
    text: str = ""
    image: str = ""
    mask: str = ""
    video: str = ""
    own_weights: tuple[str, ...] = ()
    noised: tuple[str, ...] = (FROM_IMAGE, FROM_MASK, FROM_VIDEO)
    rounds_up: bool = False
    last_image: bool = False
    size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    num_frames: int | None = None
    fps: int | None = None
    fewest_frames: int = 1
    group: int = 1
    patch: int = 1
    guidance: float | None = None
    scale: str = "guidance_scale"
    excess: bool = False
    by_frame: bool = False
    embedded: bool = False
    both: bool = False
    negative: bool = True
    frames_name: str = "num_frames"
    rate_name: str = ""
    mode: str = "paper"
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    sees: bool = False
    vae: str = ""
    layout: str = "grid"

    @property
    def makes_videos(self) -> bool:
        return self.num_frames is not None

    @property
    def classes(self) -> dict[str, str]:
        """The classes of its pipelines by what they start from."""
        return {start: name for start in STARTS if (name := getattr(self, start))}


def _pictures(name: str, start: str, *, noised: str = "", rounds_up: bool = True, **rest: Any) -> PipelineFamily:
    """A family that makes pictures; `noised` are the starts beside text, by their class's own names."""
    classes = {FROM_IMAGE: f"{start}Img2ImgPipeline", FROM_MASK: f"{start}InpaintPipeline"}
    given: dict[str, Any] = {word: classes[word] for word in noised.split()}
    settings = {"size": (1024, 1024), "patch": 2, **given, **rest}
    return PipelineFamily(name, f"{start}Pipeline", rounds_up=rounds_up, **settings)


def _videos(name: str, text: str, size: tuple[int, int], frames: int, fps: int, **rest: Any) -> PipelineFamily:
    """A family that makes videos, whose pictures are shown to the network."""
    settings = {"noised": (FROM_VIDEO,), "group": 4, "patch": 2, **rest}
    return PipelineFamily(name, text, size=size, num_frames=frames, fps=fps, **settings)


_PLAIN_LTX2 = {
    "use_cross_timestep": False,
    "spatio_temporal_guidance_blocks": None,
    **{f"{kind}stg_scale": 0.0 for kind in ("", "audio_")},
    **{f"{kind}modality_scale": 1.0 for kind in ("", "audio_")},
    **{f"{kind}guidance_rescale": 0.0 for kind in ("", "audio_")},
}
BOTH = "image mask"
KANDINSKY_SIZES = (1024, 1024), (1408, 640), (640, 1408), (1280, 768), (768, 1280), (1152, 896), (896, 1152)
FLUX_VAE, WAN_VAE, HUNYUAN_VAE = "Flux.1's", "Wan 2.1's", "HunyuanVideo's"

FAMILIES: tuple[PipelineFamily, ...] = (
    _pictures("SDXL", "StableDiffusionXL", noised=BOTH, rounds_up=False, size=None, patch=1, vae="SDXL's"),
    _pictures("SD 1.5", "StableDiffusion", noised=BOTH, rounds_up=False, size=None, patch=1, vae="SD 1.5's"),
    _pictures("SD 3.5", "StableDiffusion3", noised=BOTH, guidance=4.5, vae="SD 3's"),
    _pictures("Flux", "Flux", noised=BOTH, guidance=3.5, embedded=True, vae=FLUX_VAE, layout="tokens"),
    _pictures("Chroma", "Chroma", noised=BOTH, guidance=5.0, vae=FLUX_VAE, layout="tokens"),
    _pictures("HiDream", "HiDreamImage", guidance=5.0, vae=FLUX_VAE),
    _pictures("Z-Image", "ZImage", noised=BOTH, guidance=5.0, excess=True, vae=FLUX_VAE, layout="list"),
    _pictures("Lumina 2", "Lumina2", guidance=4.0, vae=FLUX_VAE),
    _pictures("Qwen-Image", "QwenImage", noised=BOTH, size=(1328, 1328), guidance=4.0, scale="true_cfg_scale",
              vae="Qwen-Image's", layout="tokens"),
    _pictures("Krea 2", "Krea2", guidance=5.5, excess=True, vae="Qwen-Image's", layout="tokens"),
    _pictures("Flux.2 klein", "Flux2Klein", noised="mask", guidance=4.0, negative=False, vae="Flux.2's",
              layout="tokens"),
    _pictures("Flux.2", "Flux2", guidance=4.0, embedded=True, negative=False, vae="Flux.2's", layout="tokens"),
    _pictures("Ideogram 4", "Ideogram4", guidance=7.0, both=True, negative=False, extra={"guidance_schedule": None},
              vae="Flux.2's", layout="patches"),
    _pictures("Sana", "Sana", guidance=4.5, patch=1, vae="DC-AE f32"),
    _pictures("PixArt", "PixArtSigma", guidance=4.5, vae="SDXL's"),
    _pictures("AuraFlow", "AuraFlow", guidance=3.5, vae="SDXL's"),
    _pictures("CogView 4", "CogView4", guidance=5.0, vae="CogView 4's"),
    PipelineFamily("Kandinsky 5 image", "Kandinsky5T2IPipeline", "Kandinsky5I2IPipeline", own_weights=(FROM_IMAGE,),
                   noised=(), size=(1024, 1024), sizes=KANDINSKY_SIZES, patch=2, guidance=3.5, vae=FLUX_VAE,
                   layout="last"),
    PipelineFamily("AnimateDiff SDXL", "AnimateDiffSDXLPipeline", num_frames=16, fps=8, vae="SDXL's"),
    PipelineFamily("AnimateDiff SD 1.5", "AnimateDiffPipeline", video="AnimateDiffVideoToVideoPipeline",
                   num_frames=16, fps=8, vae="SD 1.5's"),
    _videos("Wan", "WanPipeline", (480, 832), 81, 16, image="WanImageToVideoPipeline", last_image=True,
            video="WanVideoToVideoPipeline", own_weights=(FROM_IMAGE,), guidance=5.0, sees=True, vae=WAN_VAE),
    _videos("SkyReels V2", "SkyReelsV2Pipeline", (544, 960), 97, 24, image="SkyReelsV2ImageToVideoPipeline",
            last_image=True, own_weights=(FROM_IMAGE,), guidance=6.0, sees=True, vae=WAN_VAE),
    _videos("Kandinsky 5", "Kandinsky5T2VPipeline", (512, 768), 121, 24, image="Kandinsky5I2VPipeline",
            own_weights=(FROM_IMAGE,), fewest_frames=17, guidance=5.0, vae=HUNYUAN_VAE, layout="last"),
    _videos("HunyuanVideo 1.5", "HunyuanVideo15Pipeline", (480, 832), 121, 24, patch=1, guidance=6.0, scale="guider",
            image="HunyuanVideo15ImageToVideoPipeline", own_weights=(FROM_IMAGE,), sees=True, vae="HunyuanVideo 1.5's"),
    _videos("HunyuanVideo", "HunyuanVideoPipeline", (720, 1280), 129, 15, guidance=6.0, embedded=True,
            vae=HUNYUAN_VAE),
    _videos("LTX", "LTXPipeline", (512, 704), 161, 25, image="LTXImageToVideoPipeline", group=8, patch=1,
            guidance=3.0, rate_name="frame_rate", vae="LTX's"),
    _videos("LTX-2", "LTX2Pipeline", (512, 768), 121, 24, image="LTX2ImageToVideoPipeline", group=8, patch=1,
            guidance=4.0, rate_name="frame_rate", extra=_PLAIN_LTX2, vae="LTX-2's"),
    _videos("CogVideoX", "CogVideoXPipeline", (480, 720), 49, 8, image="CogVideoXImageToVideoPipeline",
            video="CogVideoXVideoToVideoPipeline", own_weights=(FROM_IMAGE,), guidance=6.0, mode="fused",
            vae="CogVideoX's"),
    _videos("SVD", "", (576, 1024), 25, 7, image="StableVideoDiffusionPipeline", own_weights=(FROM_IMAGE,), group=1,
            patch=1, guidance=3.0, negative=False, scale="max_guidance_scale", by_frame=True, rate_name="fps",
            sees=True, vae="SVD's"),
    _videos("Sana Video", "SanaVideoPipeline", (480, 832), 81, 16, image="SanaImageToVideoPipeline", guidance=6.0,
            frames_name="frames", vae=WAN_VAE),
    _videos("Mochi", "MochiPipeline", (480, 848), 85, 30, group=6, guidance=4.5, vae="Mochi's"),
    _videos("Latte", "LattePipeline", (512, 512), 16, 8, group=1, guidance=7.5, frames_name="video_length",
            vae="SD 1.5's"),
    _videos("Allegro", "AllegroPipeline", (720, 1280), 88, 15, group=1, guidance=7.5, vae="Allegro's"),
    _videos("EasyAnimate", "EasyAnimatePipeline", (512, 512), 49, 8, guidance=5.0, vae="EasyAnimate's"),
)  # fmt: skip

_BY_CLASS = {name: family for family in FAMILIES for name in family.classes.values()}
_BY_NAME = {family.name: family for family in FAMILIES}


def family_of_class(name: str | None) -> PipelineFamily | None:
    """Returns the family that a class of pipelines is of, also with a ControlNet; None for one that is not known."""
    known = _BY_CLASS.get(name or "")
    return known or _BY_CLASS.get((name or "").replace("ControlNet", ""))


def family_called(name: str | None) -> PipelineFamily | None:
    """Returns the family of that name, None for one that is not in the table."""
    return _BY_NAME.get(name or "")


def layouts_apart(one: str | None, other: str | None) -> str | None:
    """Returns how latents of two classes of pipelines are kept, where that is known to differ."""
    families = [family for name in (one, other) if (family := family_of_class(name)) is not None]
    if len({family.layout for family in families}) < 2:
        return None
    kept = " and ".join(f"{family.name} as {LAYOUTS[family.layout]}" for family in families)
    return f"the VAEs may be one, but latents are kept by {kept}"


def start_of_class(name: str | None) -> str | None:
    """Returns what a class of pipelines starts from (`STARTS`), None for one that is not in the table."""
    family = family_of_class(name)
    found = {} if family is None else {each: start for start, each in family.classes.items()}
    return found.get(name or "", None if family is None else FROM_TEXT)


def makes_videos(name: str | None) -> bool:
    """Whether a class of pipelines makes videos; what is not in the table makes pictures."""
    family = family_of_class(name)
    return (name or "").startswith("AnimateDiff") if family is None else family.makes_videos
