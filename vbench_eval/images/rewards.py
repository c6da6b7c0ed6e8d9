"""Rewards: a number per picture and prompt, larger for what people like better. And CLIP-I, against reference pictures.

    score = reward("pickscore")
    score(pictures, prompts)  # [N]

- PickScore: a CLIP ViT-H/14 trained on people's choices between two pictures of one prompt. Its score is exp(logit
  scale) times the cosine; the probability that one of two pictures is preferred is the softmax of their scores.
- HPS v2 and v2.1: the cosine in a CLIP ViT-H/14 trained on people's preferences. The published files have open_clip's
  names and their own way to prepare pictures: the longer side to 224, black to a square, so that nothing is cut off.
- AES: LAION's improved aesthetic predictor, a head on CLIP ViT-L/14 trained on people's ratings from 1 to 10. It is not
  the linear head of VBench's aesthetic_quality.
- ImageReward: a BLIP with a head, trained on people's rankings; of a file of its own (`image_reward.py`).
- HPSv3: a Qwen2-VL with a head, trained on people's preferences; of a folder of its own (`hpsv3.py`).
- VQAScore: how likely a vision-language model (Qwen3-VL) says that the picture shows its prompt (`questions.py`).
- CLIP-T and CLIP-I in the convention of DreamBooth: cosines in CLIP ViT-B/32, with the prompt or with references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vbench_eval.errors import UserError
from vbench_eval.images.clip_towers import ClipTowers, load_tokenizer, load_towers, towers
from vbench_eval.images.sources import Pictures, Sources, as_pictures

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

References: TypeAlias = "Pictures | Iterable[Image.Image]"
"""Reference pictures in memory, or one after the other."""
CLIP = "clip_vit_b_32"
AT_ONCE = 64  # references held at a time
_PREPARATION = "CLIP's: shorter side, bicubic (Pillow), centre"


class Encoder(Protocol):
    """Pictures to features of length 1."""

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Returns [N, D], float32 on the CPU."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Returns where the network comes from."""
        ...


class Similarity:
    """The mean cosine of a picture with all reference pictures."""

    def __init__(self, name: str, encoder: Encoder, references: References, *, preparation: str) -> None:
        import torch

        self.name = name
        self._encoder, self._preparation = encoder, preparation
        rest = iter(as_pictures(references) if isinstance(references, torch.Tensor) else references)
        total, self._count = torch.zeros(()), 0
        while some := as_pictures(list(islice(rest, AT_ONCE))):
            total = total + encoder.encode(some).sum(0)
            self._count += len(some)
        if not self._count:
            raise UserError(f"{name} has no reference pictures that can be read; give at least one")
        self._mean = total / self._count  # the mean of cosines is the cosine with the mean: lengths are 1

    def __call__(self, pictures: Pictures, prompts: Sequence[str] = ()) -> Tensor:
        return self._encoder.encode(as_pictures(pictures)) @ self._mean

    def provenance(self) -> dict[str, Any]:
        return {**self._encoder.provenance(), "preparation": self._preparation, "references": self._count}


def load_clip_t(sources: Sources) -> Alignment:
    """CLIP-T: the cosine of picture and prompt."""
    return Alignment("clip_t", load_towers(CLIP, sources), scale=1.0, preparation=_PREPARATION)


def load_clip_i(sources: Sources, references: References) -> Similarity:
    """CLIP-I: the mean cosine of a picture with the references."""
    return Similarity("clip_i", load_towers(CLIP, sources, text=False), references, preparation=_PREPARATION)


def load_pickscore(sources: Sources) -> Alignment:
    """PickScore; its tokenizer may come from any CLIP that is found."""
    towers = load_towers("pickscore", sources)
    return Alignment(
        "pickscore", towers, scale=towers.scale, preparation="CLIP's: shorter side, bicubic (Pillow), centre"
    )


def preference(first: Tensor, second: Tensor) -> Tensor:
    """The probability that the first of two pictures is preferred, by their scores [N]: their softmax."""
    return (first - second).sigmoid()


VERSIONS = ("v2.1", "v2")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def load_hps(sources: Sources, version: str = "v2.1") -> Alignment:
    """HPS of a version: the published file, with the configuration and tokenizer of the CLIP ViT-H/14 it began as.

    Raises:
        Unavailable: either is nowhere.
        UserError: another version, or a file of another network.
    """
    from transformers import CLIPConfig, CLIPModel

    from vbench_eval.backbones.clip import to_transformers
    from vbench_eval.backbones.loading import load_state, pretrained
    from vbench_eval.backbones.weights import named

    if version not in VERSIONS:
        raise UserError(f"HPS version is {version!r}; choose one of {', '.join(VERSIONS)}")
    name = f"hps_{version}"
    path, folder = sources.find(name), sources.find("clip_vit_h_14")
    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    state = to_transformers(load_state(path, allow_pickle=sources.allow_pickle))
    model = pretrained(CLIPModel, None, source=path, config=config, state_dict=state)
    size = config.vision_config.image_size
    found = towers(
        model,
        path,
        named(name),
        sources,
        tokenizer=load_tokenizer(folder, sources),
        prepare=lambda pictures: letterboxed(pictures, size),
    )
    said = f"longer side to {size} (bicubic, antialiased), zeros to a square"
    return Alignment(name, found, scale=1.0, preparation=said)


def letterboxed(pictures: Sequence[Image.Image], size: int = 224) -> Tensor:
    """Pictures as HPS sees them [N, 3, size, size]: in [0, 1], the longer side bicubically to `size`, zeros around the
    other to a square, then CLIP's mean and deviation.

    hpsv2 leaves the antialiasing to torchvision, whose default for tensors is on since 0.17; that is what is done here.
    Values that bicubic weights push out of [0, 1] are kept, as there.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    prepared = []
    for picture in pictures:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        height, width = x.shape[1:]
        scale = size / max(height, width)
        if scale != 1:
            shape = [max(1, round(side * scale)) for side in (height, width)]
            x = F.interpolate(x[None], shape, mode="bicubic", align_corners=False, antialias=True)[0]
        down, right = size - x.shape[1], size - x.shape[2]
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        prepared.append((x - mean) / std)
    return torch.stack(prepared)


WIDTHS = (768, 1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the layers among the dropouts of the published head: layers.0.weight and so on
PREFIXES = ("layers.", "model.layers.", "mlp.layers.")  # as different copies of the file have it


class Aesthetic:
    """Pictures to ratings of about 1 to 10, whatever the prompt."""

    name = "aes"

    def __init__(self, towers: ClipTowers, head: Any, origin: dict[str, Any]) -> None:
        self._towers, self._head, self._origin = towers, head, origin

    def __call__(self, pictures: Pictures, prompts: Sequence[str] = ()) -> Tensor:
        import torch

        with torch.inference_mode():
            return self._head(self._towers.encode(as_pictures(pictures))).squeeze(-1)

    def provenance(self) -> dict[str, Any]:
        tower = self._towers.provenance()
        return {**self._origin, "tower": tower, "preparation": "CLIP's: shorter side, bicubic (Pillow), centre"}


def build_head(width: int = WIDTHS[0]) -> Any:
    """The head [N, width] -> [N, 1]: five linear layers with nothing between them (training has dropouts)."""
    from torch import nn

    layers = nn.Sequential()
    for place, inputs, outputs in zip(PLACES, (width, *WIDTHS[1:-1]), WIDTHS[1:], strict=True):
        layers.add_module(str(place), nn.Linear(inputs, outputs))
    return layers


def load_aesthetic(sources: Sources) -> Aesthetic:
    """AES from the head's published file and CLIP ViT-L/14.

    Raises:
        Unavailable: either is nowhere.
        UserError: the file is of another head.
    """
    from vbench_eval.backbones.loading import load_state, load_strictly, origin
    from vbench_eval.backbones.weights import named
    from vbench_eval.errors import UserError

    path = sources.find("aesthetic_mlp")
    state = load_state(path, allow_pickle=sources.allow_pickle)
    prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), "")
    head = build_head()
    load_strictly(head, {key.removeprefix(prefix): value.float() for key, value in state.items()}, source=str(path))
    towers = load_towers("clip_vit_l_14", sources, text=False)
    if towers.dim != WIDTHS[0]:
        raise UserError(f"the head needs {WIDTHS[0]} features of CLIP ViT-L/14; the CLIP given for it has {towers.dim}")
    head = head.eval().requires_grad_(False)
    return Aesthetic(towers, head, origin(named("aesthetic_mlp"), path, head, cache=sources.cache))


def _image_reward(sources: Sources) -> Reward:
    from vbench_eval.images.image_reward import load_image_reward

    return load_image_reward(sources)


def _hpsv3(sources: Sources) -> Reward:
    from vbench_eval.images.hpsv3 import load_hpsv3

    return load_hpsv3(sources)


def _vqascore(sources: Sources) -> Reward:
    from vbench_eval.images.questions import VqaScore, load_chat_answerer

    return VqaScore(load_chat_answerer(sources))


class Reward(Protocol):
    """What every metric of single pictures is."""

    name: str

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        """Returns scores [N], float32 on the CPU, of N pictures in memory and the prompt of each."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Returns where the network comes from and how pictures are prepared, as JSON."""
        ...


class Alignment:
    """The cosine of a picture's and its prompt's features, times a number."""

    def __init__(self, name: str, towers: ClipTowers, *, scale: float, preparation: str) -> None:
        self.name, self.scale = name, scale
        self._towers, self._preparation = towers, preparation

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        found = as_pictures(pictures)
        check_prompts(found, prompts)
        return (self._towers.encode(found) * self._towers.encode_text(prompts)).sum(-1) * self.scale

    def provenance(self) -> dict[str, Any]:
        return {**self._towers.provenance(), "preparation": self._preparation, "scale": self.scale}


def reward(
    name: str,
    *,
    weights: Mapping[str, str] | str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    batch: int = 16,
    offline: bool = True,
    allow_pickle: bool = False,
    cache: str | None = None,
) -> Reward:
    """The reward of that name (`REWARDS`), with its network loaded.

    `weights` is {name of weights: path or hub id}, or a path or hub id for the reward's own network. The scores are the
    networks' own: cosines for HPS v2 and CLIP-T, about 20 for PickScore, about 1 to 10 for AES.

    Raises:
        UserError: there is no such reward, or the weights cannot be used.
        Unavailable: the weights are not on this machine.
    """
    if name not in REWARDS:
        raise UserError(f"no reward is called {name!r}; there are {', '.join(REWARDS)}")
    own, load = REWARDS[name]
    given = {own: weights} if isinstance(weights, str) else dict(weights or {})
    return load(
        Sources(given, device=device, dtype=dtype, batch=batch, offline=offline, allow_pickle=allow_pickle, cache=cache)
    )


def check_prompts(pictures: Sequence[Any], prompts: Sequence[str]) -> None:
    """Raises UserError unless there is a prompt for each picture."""
    if isinstance(prompts, str) or len(pictures) != len(prompts):
        given = "one text" if isinstance(prompts, str) else f"{len(prompts)} prompts"
        raise UserError(f"{given} for {len(pictures)} pictures; give a list with the prompt of each")


REWARDS: Mapping[str, tuple[str, Callable[[Sources], Reward]]] = {
    "pickscore": ("pickscore", load_pickscore),
    "hps_v2.1": ("hps_v2.1", partial(load_hps, version="v2.1")),
    "hps_v2": ("hps_v2", partial(load_hps, version="v2")),
    "aes": ("aesthetic_mlp", load_aesthetic),
    "clip_t": ("clip_vit_b_32", load_clip_t),
    "image_reward": ("image_reward", _image_reward),
    "vqascore": ("qwen3_vl_8b", _vqascore),
    "hpsv3": ("hpsv3", _hpsv3),
}
"""Each reward's own weights and how it is loaded."""
