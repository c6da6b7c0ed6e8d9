"""Blocks of a network left out on one side of a pair, whole or in their self-attention: a weak side for free, by
diffusers' hooks.

A block as a whole (SLG, S2-Guidance) has a hook of ours, as `TransformerBlockSkipHook` hands on the two streams of Flux
and SD3 in the other's place. "NAME:pag" has the hook of diffusers' `PerturbedAttentionGuidance` (arXiv 2403.17377: each
position attends to itself alone), "NAME:seg" that of its `SmoothedEnergyGuidance` (arXiv 2408.00760: queries are
blurred; diffusers 0.42 takes their mean, the paper's infinite blur).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks._common import _ATTENTION_CLASSES
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.hooks.layer_skip import AttentionProcessorSkipHook
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceHook
from torch import nn

from w2sd_video.errors import UserError

NAME = "w2sd_layer_skip"  # of our hooks, beside any of the user's own
WAYS = ("", "pag", "seg")  # what of a block is left out: "" all of it
STACKS = ("blocks", "transformer_blocks", "layers")  # which stack of a network a number alone is of, the first it has


def find_layer_skips(network: nn.Module) -> LayerSkips:
    """Returns the switch of the blocks that a network leaves out.

    Raises:
        UserError: the network has no blocks that can be.
    """
    return LayerSkips(network)


class LayerSkips:
    """Which blocks are skipped: names of modules in a stack, such as "mid_block.attentions.0.transformer_blocks.0", or
    numbers in the main one. What a block is given goes on as it is; with ":pag" or ":seg" behind the name only its
    self-attention does less.
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
            sorted(_entry(name, way) for name in self.names for way in WAYS if _skips(self._block(name), way))
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
            stack, index, way = self._place(name)
            if way and not _hooks(self._block(f"{stack}.{index}"), way):
                raise UserError(
                    f"skip_layers names {name!r}, a block of {self._kind} without self-attention that diffusers can "
                    f"change; leave {':' + way!r} out to skip it as a whole, or name another block"
                )

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
        return tuple(sorted(_entry(f"{stack}.{index}", way) for stack, index, way in map(self._place, value)))

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
        for module, _ in self._changed(set(self._now) - set(names)):
            registry: Any = module._diffusers_hook
            registry.remove_hook(NAME, recurse=False)
            if not registry.hooks:
                del module._diffusers_hook
                vars(module).pop("forward", None)  # the hooked one was the instance's own
        for module, hook in self._changed(set(names) - set(self._now)):
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, NAME)
        self._now = tuple(sorted(names))

    def _changed(self, entries: set[str]) -> list[tuple[nn.Module, ModelHook]]:
        """The modules that entries change, with a hook for each."""
        parted = [entry.partition(":") for entry in entries]
        return [pair for name, _, way in parted for pair in _hooks(self._block(name), way)]

    def _block(self, name: str) -> Any:
        stack, _, index = name.rpartition(".")
        return self._stacks[stack][int(index)]

    def _place(self, name: str | int) -> tuple[str, int, str]:
        """The stack and the number in it of a block, and what of it is left out."""
        block, _, way = str(name).partition(":")
        stack, _, index = block.rpartition(".")
        if not stack:
            stack = next((each for each in STACKS if each in self._stacks), "")
        if stack not in self._stacks or not index.isdigit() or int(index) >= len(self._stacks[stack]):
            known = ", ".join(f"{each}.0 to {len(blocks) - 1}" for each, blocks in self._stacks.items())
            raise UserError(f"skip_layers names {name!r}, which {self._kind} does not have; it has {known}")
        if way not in WAYS:
            raise UserError(
                f"skip_layers names {name!r}; behind the colon stands pag or seg, without it all is left out"
            )
        return stack, int(index), way


def _entry(name: str, way: str) -> str:
    return f"{name}:{way}" if way else name


def _skips(block: Any, way: str) -> bool:
    """Whether hooks of ours leave this out of a block."""
    hooks = _hooks(block, way)
    return bool(hooks) and all(
        type(getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).get(NAME)) is type(hook)
        for module, hook in hooks
    )


def _hooks(block: nn.Module, way: str) -> list[tuple[nn.Module, ModelHook]]:
    """The modules of a block that leaving this out changes, with the hooks that do."""
    if not way:
        return [(block, SkippedBlock())]
    own = [
        m for m in block.modules() if isinstance(m, _ATTENTION_CLASSES) and not getattr(m, "is_cross_attention", False)
    ]
    if way == "pag":
        return [(each, AttentionProcessorSkipHook(_unused, skip_attention_scores=True)) for each in own]
    queries = [getattr(each, "to_q", None) for each in own]
    return [(each, SmoothedEnergyGuidanceHook()) for each in queries if isinstance(each, nn.Linear)]


def _unused(*_: Any, **__: Any) -> Any:
    raise AssertionError("attention whose scores are left out is computed")


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
