"""Rewards: a number per picture and prompt, larger for what people like better.

score = reward("pickscore")
score(pictures, prompts)  # [N]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vbench_eval.errors import UserError
from vbench_eval.images.pictures import Pictures, as_pictures
from vbench_eval.images.sources import Sources

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.images.clip_towers import ClipTowers


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


def _pickscore(sources: Sources) -> Reward:
    from vbench_eval.images.pickscore import load_pickscore

    return load_pickscore(sources)


def _hps(version: str) -> Callable[[Sources], Reward]:
    def load(sources: Sources) -> Reward:
        from vbench_eval.images.hps import load_hps

        return load_hps(sources, version)

    return load


def _aes(sources: Sources) -> Reward:
    from vbench_eval.images.aesthetic import load_aesthetic

    return load_aesthetic(sources)


def _clip_t(sources: Sources) -> Reward:
    from vbench_eval.images.clip_scores import load_clip_t

    return load_clip_t(sources)


REWARDS: Mapping[str, tuple[str, Callable[[Sources], Reward]]] = {
    "pickscore": ("pickscore", _pickscore),
    "hps_v2.1": ("hps_v2.1", _hps("v2.1")),
    "hps_v2": ("hps_v2", _hps("v2")),
    "aes": ("aesthetic_mlp", _aes),
    "clip_t": ("clip_vit_b_32", _clip_t),
}
"""Each reward's own weights and how it is loaded."""
