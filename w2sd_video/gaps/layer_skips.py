"""Blocks of a network left out on one side of a pair: a weak side for free, by hooks of diffusers (as its LayerSkip).

The hook is ours, as `TransformerBlockSkipHook` hands on the two streams of Flux and SD3 in the other's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch import nn

from w2sd_video.errors import UserError

NAME = "w2sd_layer_skip"  # of our hooks, beside any of the user's own
STACKS = ("blocks", "transformer_blocks", "layers")  # which stack of a network a number alone is of, the first it has


def find_layer_skips(network: nn.Module) -> LayerSkips:
    """Returns the switch of the blocks that a network leaves out.

    Raises:
        UserError: the network has no blocks that can be.
    """
    return LayerSkips(network)


class LayerSkips:
    """Which blocks are skipped: names of modules in a stack, such as "mid_block.attentions.0.transformer_blocks.0", or
    numbers in the main one. What a block is given goes on as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        inner: Any = getattr(network, "_orig_mod", network)  # of a compiled module
        self._network, self._kind = inner, type(inner).__name__
        self._stacks = {
            name: module
            for name, module in inner.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) and _can_be_skipped(module[0])
        }
        if not self._stacks:
            raise UserError(
                f"{self._kind} has no blocks that diffusers knows how to skip; leave skip_layers out, or take another "
                "gap"
            )
        self._now = tuple(
            f"{stack}.{i}"
            for stack, blocks in self._stacks.items()
            for i, block in enumerate(blocks)
            if NAME in getattr(getattr(block, "_diffusers_hook", None), "hooks", ())
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The full names of all blocks that can be skipped."""
        return tuple(f"{stack}.{i}" for stack, blocks in self._stacks.items() for i in range(len(blocks)))

    def check(self, value: Sequence[str | int]) -> None:
        if value and getattr(self._network, "_cache_config", None) is not None:
            raise UserError(
                f"{self._kind} has a step cache, which goes by blocks that skip_layers leaves out; call its "
                "disable_cache(), or take another gap"
            )
        for name in value:
            self._place(name)

    @property
    def now(self) -> tuple[str, ...]:
        return self._now

    def held(self, values: Sequence[Any]) -> AbstractContextManager[None]:
        """Nothing has to be got ready."""
        return nullcontext()

    def meaning(self, value: Sequence[str | int] | None) -> tuple[str, ...]:
        """The full names of the blocks that are skipped, in order."""
        if value is None:
            return self._now
        return tuple(sorted(f"{stack}.{index}" for stack, index in map(self._place, value)))

    @contextmanager
    def set_to(self, value: Sequence[str | int]) -> Iterator[None]:
        before = self._now
        try:
            self._skip(self.meaning(value))
            yield
        finally:
            self._skip(before)

    def _skip(self, names: tuple[str, ...]) -> None:
        """Has these blocks skipped and no others, and those that are not as if they never had been."""
        for name in set(self._now) - set(names):
            block = self._block(name)
            registry = block._diffusers_hook
            registry.remove_hook(NAME, recurse=False)
            if not registry.hooks:
                del block._diffusers_hook
                vars(block).pop("forward", None)  # the hooked one was the instance's own
        for name in set(names) - set(self._now):
            HookRegistry.check_if_exists_or_initialize(self._block(name)).register_hook(SkippedBlock(), NAME)
        self._now = tuple(sorted(names))

    def _block(self, name: str) -> Any:
        stack, _, index = name.rpartition(".")
        return self._stacks[stack][int(index)]

    def _place(self, name: str | int) -> tuple[str, int]:
        """The stack and the number in it of a block."""
        stack, _, index = str(name).rpartition(".")
        if not stack:
            stack = next((each for each in STACKS if each in self._stacks), "")
        if stack not in self._stacks or not index.isdigit() or int(index) >= len(self._stacks[stack]):
            known = ", ".join(f"{each}.0 to {len(blocks) - 1}" for each, blocks in self._stacks.items())
            raise UserError(f"skip_layers names {name!r}, which {self._kind} does not have; it has {known}")
        return stack, int(index)


class SkippedBlock(ModelHook):
    """Hands on what a block is given, in the order in which the block returns it."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        told = TransformerBlockRegistry.get(type(module))
        hidden = told._get_parameter_from_args_kwargs("hidden_states", args, kwargs)
        if told.return_encoder_hidden_states_index is None:
            return hidden
        other = told._get_parameter_from_args_kwargs("encoder_hidden_states", args, kwargs)
        return (other, hidden) if told.return_encoder_hidden_states_index == 0 else (hidden, other)


def _can_be_skipped(block: nn.Module) -> bool:
    try:
        TransformerBlockRegistry.get(type(block))
    except ValueError:
        return False
    return True
