"""MPS: which of two pictures of a prompt people would prefer, by a network that the user brings.

The published checkpoint is a whole pickled model of old libraries without a licence, so that it is a plug-in here: a
function of the user's, or an exported TorchScript file. The column of the paper is the mean over prompts of the
probability that the method's picture is preferred to the other's, times 100.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.images.rewards import check_prompts
from vbench_eval.images.sources import Pictures, Sources, as_pictures

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 224
ABSENT = (
    "mps is a plug-in: its published checkpoint (MPS_overall_checkpoint.pth of Kwai-Kolors/MPS, no licence stated) is "
    "a pickled model that needs its own code. Give --plugin mps=package.module:function, a function of two lists of "
    "pictures and the prompts that returns probabilities [N] of the first or scores [N, 2], or a TorchScript file of "
    "one that takes pixels [N, 3, 224, 224] twice, as CLIP prepares them, and CLIP's tokens [N, 77]"
)


class Preference:
    """The probability that the first of two pictures is preferred."""

    def __init__(self, name: str, judge: Callable[..., Any], origin: dict[str, Any], batch: int) -> None:
        self.name = name
        self._judge, self._origin, self._batch = judge, origin, batch

    def __call__(self, first: Pictures, second: Pictures, prompts: Sequence[str]) -> Tensor:
        """Returns probabilities [N], float32 on the CPU.

        Raises:
            UserError: the plug-in returned something else than probabilities [N] or finite scores [N, 2].
        """
        import torch

        one, other = as_pictures(first), as_pictures(second)
        check_prompts(one, prompts)
        check_prompts(other, prompts)
        parts = [torch.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(one), self._batch):
                part = slice(start, start + self._batch)
                parts.append(self._checked(self._judge(one[part], other[part], list(prompts[part])), len(one[part])))
        return torch.cat(parts)

    def provenance(self) -> dict[str, Any]:
        return dict(self._origin)

    def _checked(self, found: Any, count: int) -> Tensor:
        import torch

        found = torch.as_tensor(found).detach().float().cpu()
        if found.shape == (count, 2) and found.isfinite().all():
            return found.softmax(-1)[:, 0]
        if found.shape != (count,) or not ((found >= 0) & (found <= 1)).all():
            what = f"{list(found.shape)} from {found.min():g} to {found.max():g}" if found.numel() else "nothing"
            raise UserError(
                f"the plug-in {self.name} returned {what} for {count} pairs; it must return probabilities [N] of the "
                "first in 0..1, or finite scores [N, 2]"
            )
        return found


def load_mps(choice: str | None, sources: Sources) -> Preference:
    """The plug-in that the user names: "package.module:function", or a TorchScript file.

    Raises:
        Unavailable: none is named.
        UserError: it cannot be used.
    """
    from vbench_eval.backbones.finding import Unavailable

    if not choice:
        raise Unavailable(ABSENT)
    if Path(choice).expanduser().exists():
        return _scripted(Path(choice).expanduser(), sources)
    module, colon, function = choice.partition(":")
    if not colon:
        raise UserError(f"the plug-in {choice} is not a file; give package.module:function or a TorchScript file")
    try:
        judge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the plug-in {choice} cannot be imported: {error}") from error
    if not callable(judge):
        raise UserError(f"the plug-in {choice} is a {type(judge).__name__}; it must be a function")
    return Preference("mps", judge, {"id": choice, "licence": None, "commercial_ok": None}, sources.batch)


def _scripted(path: Path, sources: Sources) -> Preference:
    import torch

    from vbench_eval.backbones.amt import exported_kind
    from vbench_eval.backbones.finding import sha256
    from vbench_eval.backbones.loading import usable_device
    from vbench_eval.images.clip_towers import load_tokenizer, prepare_as_clip

    if exported_kind(path) != "script":
        raise UserError(f"{path} is no TorchScript file; {ABSENT}")
    if not sources.allow_pickle:
        raise UserError(
            f"{path} is a program that runs when it is used; if you trust its maker, allow it with --allow-pickle"
        )
    device = usable_device(sources.device)
    tokenizer, prepare = load_tokenizer(path, sources), prepare_as_clip(SIZE)
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read as TorchScript: {str(error).splitlines()[0]}") from error

    def judge(first: list[Any], second: list[Any], prompts: list[str]) -> Any:
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        return network(prepare(first).to(device), prepare(second).to(device), tokens.to(device))

    told = {"id": "mps (TorchScript)", "file": str(path), "sha256": sha256(path, cache=sources.cache)}
    return Preference("mps", judge, {**told, "licence": None, "commercial_ok": None}, sources.batch)
