"""Scores of pictures: how well people would like them, how well they follow their prompts, how real their set is.

    from vbench_eval.images import reward, score_images
    reward("pickscore")(pictures, prompts)  # [N]
    score_images("outputs/w2sd", metrics=("pickscore", "hps_v2.1"), baseline="outputs/strong")

Importing this costs nothing: each name loads its module when it is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vbench_eval.images.rewards import reward
    from vbench_eval.images.scoring import score_images

QUESTIONS = ("geneval2", "dpg")  # the metrics that ask questions, each with a file of its own
__all__ = ["IMAGE_METRICS", "ImageMetric", "reward", "score_images"]
_HOMES = {"reward": "rewards", "score_images": "scoring"}


@dataclass(frozen=True)
class ImageMetric:
    """A metric of a folder of pictures.

    Attributes:
        name: what the user writes.
        summary: one line for help texts.
        unit: of the reported number, as the paper's tables have it.
        factor: the reported number in those of the network's own.
        needs: beside the pictures: "prompts", "reference" (pictures, or for FID statistics), "baseline" (pictures of
            the same prompts) or "plugin".
        weights: names of the weights it is computed with.
        better: 1 if more is better, -1 if less.
    """

    name: str
    summary: str
    unit: str
    factor: float = 1.0
    needs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    better: int = 1


IMAGE_METRICS: Mapping[str, ImageMetric] = {
    metric.name: metric
    for metric in (
        ImageMetric(
            "pickscore",
            "PickScore v1: what people choose, from the prompt and two pictures of it",
            "exp(scale) x cosine, about 20",
            needs=("prompts",),
            weights=("pickscore", "clip_vit_h_14"),
        ),
        ImageMetric(
            "hps_v2.1",
            "Human Preference Score v2.1",
            "100 x cosine",
            100.0,
            needs=("prompts",),
            weights=("hps_v2.1", "clip_vit_h_14"),
        ),
        ImageMetric(
            "hps_v2",
            "Human Preference Score v2, its first weights",
            "100 x cosine",
            100.0,
            needs=("prompts",),
            weights=("hps_v2", "clip_vit_h_14"),
        ),
        ImageMetric(
            "aes",
            "LAION's improved aesthetic predictor (an MLP; not VBench's linear head)",
            "rating, about 1 to 10",
            weights=("aesthetic_mlp", "clip_vit_l_14"),
        ),
        ImageMetric(
            "clip_t",
            "CLIP-T: picture and prompt in CLIP ViT-B/32",
            "100 x cosine",
            100.0,
            needs=("prompts",),
            weights=("clip_vit_b_32",),
        ),
        ImageMetric(
            "image_reward",
            "ImageReward: what people rank higher",
            "reward, of deviation 1",
            needs=("prompts",),
            weights=("image_reward", "bert_vocabulary"),
        ),
        ImageMetric(
            "vqascore",
            "VQAScore: whether Qwen3-VL says that the picture shows its prompt",
            "100 x probability",
            100.0,
            needs=("prompts",),
            weights=("qwen3_vl_8b",),
        ),
        ImageMetric(
            "hpsv3",
            "HPSv3: what people prefer, by a Qwen2-VL of a folder of yours (--weights hpsv3=FOLDER)",
            "reward, its mean",
            needs=("prompts",),
            weights=("hpsv3",),
        ),
        ImageMetric(
            "clip_i",
            "CLIP-I: pictures and references in CLIP ViT-B/32",
            "100 x mean cosine",
            100.0,
            needs=("reference",),
            weights=("clip_vit_b_32",),
        ),
        ImageMetric(
            "dino",
            "DINO: pictures and references in DINO ViT-S/16",
            "100 x mean cosine",
            100.0,
            needs=("reference",),
            weights=("dino_vits16",),
        ),
        ImageMetric(
            "geneval2",
            "GenEval 2: questions about what the prompt asks for, by Qwen3-VL or a plug-in of yours",
            "100 x geometric mean of probabilities",
            100.0,
            needs=("prompts",),
            weights=("geneval2_questions", "qwen3_vl_8b"),
        ),
        ImageMetric(
            "dpg",
            "DPG-Bench: the same, each yes or no, some depending on others",
            "100 x share of questions",
            100.0,
            needs=("prompts",),
            weights=("dpg_questions", "qwen3_vl_8b"),
        ),
        ImageMetric(
            "mps",
            "MPS: how often a picture would be preferred to the baseline's; a plug-in of yours",
            "100 x probability",
            100.0,
            needs=("prompts", "baseline", "plugin"),
        ),
        ImageMetric(
            "fid",
            "Frechet distance of Inception features (needs torchmetrics)",
            "squared distance",
            needs=("reference",),
            weights=("inception",),
            better=-1,
        ),
        ImageMetric(
            "is", "Inception Score of 10 parts (needs torchmetrics)", "exp(mean KL), 1 to 1008", weights=("inception",)
        ),
    )
}
"""What can be measured, by name."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
