"""Step caches of diffusers' transformers (`enable_cache`) under a reflection: a state for each kind of evaluation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from w2sd_video.errors import UserError

# Caches that keep one state for each `cache_context`, so that evaluations under names of their own never meet.
SEPARABLE = ("FirstBlockCacheConfig", "TaylorSeerCacheConfig")
REASONS = {
    "MagCacheConfig": "is calibrated for one pass over the timesteps, and a reflection goes back and forth",
    "PyramidAttentionBroadcastConfig": "keeps one state for all evaluations, so that those of a reflection would mix",
    "FasterCacheConfig": "keeps one state for all evaluations, so that those of a reflection would mix",
}
OTHER = "is not known to keep the evaluations of a reflection apart"


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
