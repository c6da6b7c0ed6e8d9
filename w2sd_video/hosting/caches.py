"""Step caches of diffusers' transformers (`enable_cache`) under a reflection: a state for each kind of evaluation.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# Caches that keep one state for each `cache_context`, so that evaluations under names of their own never meet.
SEPARABLE = ("FirstBlockCacheConfig", "TaylorSeerCacheConfig")
REASONS = {
    "MagCacheConfig": "is calibrated for one pass over the timesteps, and a reflection goes back and forth",
    "PyramidAttentionBroadcastConfig": "keeps one state for all evaluations, so that those of a reflection would mix",
    "FasterCacheConfig": "keeps one state for all evaluations, so that those of a reflection would mix",
}
OTHER = "is not known to keep the evaluations of a reflection apart"
CALLED = {  # as people call them
    **dict.fromkeys(("magcache", "mag"), "MagCacheConfig"),
    **dict.fromkeys(("pab", "pyramid-attention-broadcast"), "PyramidAttentionBroadcastConfig"),
    **dict.fromkeys(("fastercache", "faster"), "FasterCacheConfig"),
}
FIRST_BLOCK, TAYLOR = "first-block", "taylorseer"
ALLOWED = f"{FIRST_BLOCK}=THRESHOLD from 0 to 1, such as 0.1, or {TAYLOR}=STEPS, 1 or more, such as 2"
WARM_UP = 2  # evaluations of a kind that TaylorSeer computes first: its line goes through two


@dataclass(frozen=True)
class StepCache:
    """A step cache of diffusers by its name and its one number.

    Attributes:
        name: "first-block" runs a network's first block, and the rest only if what that block adds differs from the
            last time by more than `value` of its mean magnitude (FirstBlockCache); "taylorseer" computes every
            `value`-th evaluation and continues the blocks' outputs in between by a line (arXiv 2503.06923).
        value: 0 of "first-block" and 1 of "taylorseer" change nothing.
    """

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"

    def config(self, dtype: Any) -> Any:
        """Returns it as diffusers' `enable_cache` takes it, for networks of this dtype."""
        from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

        if self.name == FIRST_BLOCK:
            return FirstBlockCacheConfig(threshold=self.value)
        interval = int(self.value)
        return TaylorSeerCacheConfig(interval, disable_cache_before_step=WARM_UP, taylor_factors_dtype=dtype)


def read_step_cache(text: str | StepCache) -> StepCache:
    """Returns the cache that a text such as "first-block=0.1" names.

    Raises:
        UserError: another name, one that cannot serve a reflection, or a number outside its range.
    """
    name, _, number = str(text).partition("=")
    if (known := CALLED.get(name.strip().lower())) is not None:
        raise UserError(f"the cache {name} {REASONS[known]}; give {ALLOWED}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    right = {FIRST_BLOCK: 0 <= value <= 1, TAYLOR: 1 <= value <= 1000 and value % 1 == 0}
    if not right.get(name, False):
        raise UserError(f"the cache is {str(text)!r}; give {ALLOWED}")
    return StepCache(name, value)


def check_cacheable(network: Any) -> None:
    """Raises `UserError` for a network that diffusers' step caches do not take: all but some transformers."""
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS as STACKS
    from diffusers.hooks._helpers import TransformerBlockRegistry

    inner = _inner(network)
    blocks = [block for name, child in inner.named_children() if name in STACKS for block in child]
    unknown = []
    for kind in {type(block) for block in blocks}:
        try:
            TransformerBlockRegistry.get(kind)
        except ValueError:
            unknown.append(kind.__name__)
    why = None
    if not blocks or not hasattr(inner, "enable_cache"):
        why = "is of no kind that diffusers caches (it does some transformers)"
    elif unknown:
        why = f"has blocks that diffusers cannot leave out ({', '.join(sorted(unknown))})"
    elif len(blocks) < 2:
        why = "has 1 block, and the first is always run"
    if why is not None:
        raise UserError(f"{type(inner).__name__} {why}, so it can have no step cache; leave --cache out")


def enable_caches(networks: Iterable[Any], cache: StepCache) -> None:
    """Enables a step cache in each of the networks; raises `UserError` for one that cannot have it."""
    for network in {id(each): each for each in networks}.values():
        check_cacheable(network)
        _inner(network).enable_cache(cache.config(network.dtype))


def check_caches(networks: Iterable[Any]) -> None:
    """Raises `UserError` for a network with a cache that cannot keep evaluations apart."""
    for network in networks:
        name = type(_config(network)).__name__
        if _config(network) is not None and name not in SEPARABLE:
            raise UserError(
                f"{type(_inner(network)).__name__} has a cache enabled ({name}), which {REASONS.get(name, OTHER)}; "
                f"call its disable_cache(), or enable {' or '.join(SEPARABLE)}"
            )


def check_uncached(network: Any) -> None:
    """Raises `UserError` for a network with a cache, where evaluations have no names."""
    if _config(network) is not None:
        raise UserError(
            f"{type(_inner(network)).__name__}, the weak side in another latent space, has a cache enabled, which "
            "would mix its evaluations; call its disable_cache()"
        )


class CacheContexts:
    """The names under which the networks of one call keep what they cache: one for each side, visit and half.

    A side is asked at a step once or several times (the strong side in the reflection and for the step itself); the
    n-th visit of a step continues what the n-th visit of the step before left.
    """

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}
        self._sides: dict[Hashable, int] = {}
        self._cached: dict[int, nn.Module] = {}

    def next_step(self) -> None:
        """The pipeline goes on to its next timestep."""
        self._counts.clear()

    def visit(self, *side: Hashable) -> str:
        """Returns the name of the evaluation that follows, of this side."""
        number = self._sides.setdefault(side, len(self._sides))
        self._counts[side] = self._counts.get(side, 0) + 1
        return f"side {number}, visit {self._counts[side]}"

    @contextmanager
    def named(self, name: str, network: nn.Module, half: str) -> Iterator[None]:
        """Inside, an evaluation of the network caches under this name alone."""
        if _config(network) is None:
            yield
            return
        inner = _inner(network)
        if id(inner) not in self._cached:  # what an earlier call left
            self._cached[id(inner)] = inner
            inner._reset_stateful_cache()
        with inner.cache_context(f"{name}, {half}"):
            yield

    def close(self) -> None:
        """Forgets what was cached in this call."""
        for network in self._cached.values():
            network._reset_stateful_cache()
        self._cached.clear()


def _inner(network: Any) -> Any:
    return getattr(network, "_orig_mod", network)  # of a compiled module


def _config(network: Any) -> Any:
    return getattr(_inner(network), "_cache_config", None)
