"""AMT-S as a plug-in: its licence (CC-BY-NC-4.0) forbids commercial use, so nothing of it is part of this package."""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.finding import Unavailable, sha256
from vbench_eval.backbones.loading import (
    as_dtype,
    is_archive,
    load_state,
    load_strictly,
    members,
    placed,
    usable_device,
)
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.video_info import VideoError

CONTRACT = "model(first, second, embt, scale_factor=1.0, eval=True)['imgt_pred']"

EXPORT_MARKS = ("/archive_format", "serialized_exported_program.json")  # of this and of older versions of torch


class AmtInterpolator:
    """A network that keeps AMT's contract as a frame interpolator.

    Such a network takes two frames in 0..1 and the time as a tensor of shape (1, 1, 1, 1), subtracts the joint mean
    itself, and returns the frame, or a table or tuple with it ("imgt_pred", or first).
    """

    vbench_side = 128
    pad_multiple = 16

    def __init__(
        self, network: Callable[..., Any], *, provenance: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> None:
        self.name = str(provenance["id"])
        self._network, self._provenance = network, dict(provenance)
        self._device, self._dtype = usable_device(device), dtype

    @torch.no_grad()
    def midpoint(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the frames halfway, `[B, 3, H, W]`, float32, on the CPU, of frames in 0..1 and of that shape.

        Pairs are computed one at a time. Raises VideoError where the network fails, as an exported one does on frames
        of a size that it was not exported for, and UserError where what it returns is no frame.
        """
        return torch.cat([self._one(*(frame[None] for frame in pair)) for pair in zip(a, b, strict=True)])

    def _one(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = (frame.to(self._device, self._dtype) for frame in (a, b))
        half = torch.full((1, 1, 1, 1), 0.5, device=self._device, dtype=self._dtype)
        try:
            middle = _frame(self._network(first, second, half))
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            size = f"{a.shape[-1]}x{a.shape[-2]}"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise VideoError(
                f"the interpolator {self.name} failed on frames of {size} with padding: {reason}"
            ) from error
        if not isinstance(middle, Tensor) or middle.shape != a.shape:
            got = list(middle.shape) if isinstance(middle, Tensor) else type(middle).__name__
            raise UserError(f"{self.name} returned {got} for frames {list(a.shape)}; it must keep AMT's {CONTRACT}")
        return middle.float().cpu()

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def load_amt(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> AmtInterpolator:
    """Returns the interpolator of an exported network: a TorchScript file or a torch.export file (.pt2).

    An exported network is a program: it is opened only with `allow_pickle`, as its maker must be trusted. Raises
    UserError otherwise, and for a bare checkpoint, which holds no network.
    """
    kind = exported_kind(path)
    if kind is None:
        raise UserError(
            f"{path} is no exported network. AMT's checkpoint alone cannot be run here: its code is not ours to bring "
            f"(licence {WEIGHTS['amt_s'].licence}). Export the network from its own repository with torch.jit.trace or "
            "torch.export, or give a function of yours that builds it, as package.module:function"
        )
    if not allow_pickle:
        raise UserError(
            f"{path} is an exported network, a program that runs when it is used; if you trust who made it, "
            "allow it with --allow-pickle"
        )
    target, number = usable_device(device), as_dtype(dtype)
    try:
        if kind == "export":
            network: Any = torch.export.load(path).module()
        else:
            network = torch.jit.load(path, map_location="cpu").eval()
        network = network.to(device=target, dtype=number)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be opened as an exported network: {str(error).splitlines()[0]}") from error
    provenance = {
        "id": "amt (plug-in)",
        "revision": None,
        "file": str(path),
        "sha256": sha256(path, cache=cache),
        "sha256_verified": False,
        "dtype": str(number).removeprefix("torch."),
        "device": str(target),
        "licence": WEIGHTS["amt_s"].licence,
        "commercial_ok": False,
    }
    return AmtInterpolator(network, provenance=provenance, device=device, dtype=number)


CHECKOUT_NETWORK = Path("networks") / "AMT-S.py"


def load_checkout(
    checkout: Path,
    path: Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> AmtInterpolator:
    """Returns the interpolator that a checkout of AMT's repository, or of VBench's copy of it, builds for amt-s.pth.

    The checkout's code is run, only with `allow_pickle`. Raises UserError otherwise, for a folder without
    networks/AMT-S.py, and for weights of another network.
    """
    if not (checkout / CHECKOUT_NETWORK).is_file():
        raise UserError(f"{checkout} holds no {CHECKOUT_NETWORK}; give the folder of AMT's repository")
    if not allow_pickle:
        raise UserError(
            f"{checkout} holds the code of a network, which would run; if you trust who made it, allow it with "
            "--allow-pickle"
        )
    try:
        network = _model_of(checkout.resolve())()
    except Exception as error:  # it is anybody's code
        raise UserError(f"{checkout / CHECKOUT_NETWORK} cannot be run: {type(error).__name__}: {error}") from error
    load_strictly(network, load_state(path, allow_pickle=allow_pickle), source=str(path))
    made = wrapped(network, str(checkout), device=device, dtype=dtype)
    found = made.provenance() | {"id": "amt_s", "file": str(path), "sha256": sha256(path, cache=cache)}
    found |= {"licence": WEIGHTS["amt_s"].licence, "commercial_ok": False}
    called = partial(network, scale_factor=1.0, eval=True)
    return AmtInterpolator(called, provenance=found, device=device, dtype=as_dtype(dtype))


def _model_of(checkout: Path) -> Any:
    """The class of the network in the checkout, whose modules are forgotten again.

    AMT's own files import each other as `networks...`; VBench's copy as `vbench.third_party.amt.networks...`, whose
    package would load much else: empty packages stand in for it.
    """
    text = (checkout / CHECKOUT_NETWORK).read_text(encoding="utf-8")
    prefix = re.search(r"^from ((?:\w+\.)*)networks\.", text, re.MULTILINE)
    packages = (prefix[1] if prefix else "").strip(".").split(".")
    tops = [packages[0]] if packages[0] else ["networks", "utils"]
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    path = list(sys.path)
    try:
        if packages[0]:
            for number in range(1, len(packages) + 1):
                package = types.ModuleType(".".join(packages[:number]))
                package.__path__ = [str(checkout)] if number == len(packages) else []
                sys.modules[package.__name__] = package
        else:
            sys.path.insert(0, str(checkout))
        return importlib.import_module(".".join([*filter(None, packages), "networks", "AMT-S"])).Model
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(before)


def wrapped(network: nn.Module, source: str, *, device: str, dtype: str | torch.dtype | None) -> AmtInterpolator:
    """Returns the interpolator of a network that the user's own code built, called as AMT's own is."""
    network = placed(network, device, dtype)
    provenance = {
        "id": "amt (plug-in)",
        "revision": None,
        "file": source,
        "sha256": None,
        "sha256_verified": False,
        "dtype": str(as_dtype(dtype)).removeprefix("torch."),
        "device": str(usable_device(device)),
        "licence": f"the plug-in's ({WEIGHTS['amt_s'].licence} if it is AMT)",
        "commercial_ok": None,
    }
    called = partial(network, scale_factor=1.0, eval=True)
    return AmtInterpolator(called, provenance=provenance, device=device, dtype=as_dtype(dtype))


def without_amt() -> Unavailable:
    """Returns the error that says why there is no interpolator, and what gives one."""
    weights = WEIGHTS["amt_s"]
    return Unavailable(
        f"motion_smoothness needs the frame interpolator AMT-S ({weights.file}, about {weights.size}, from "
        f"{weights.origins[0]}). Its code and weights are licensed {weights.licence}, not for commercial use, and are "
        "not part of this package. If that licence suits you, give a checkout of its repository, --backbone "
        "motion_smoothness=CHECKOUT,weights=amt-s.pth --allow-pickle, an exported network, --backbone "
        "motion_smoothness=path:FILE --allow-pickle, or a function of yours that builds it, "
        "--backbone motion_smoothness=package.module:function. Without it the interp_smoothness proxies stand in",
        weights=weights.name,
    )


def exported_kind(path: Path) -> str | None:
    """Returns "script" for a TorchScript archive, "export" for one of torch.export, None for anything else."""
    names = members(path)
    if is_archive(path):
        return "script"
    return "export" if any(name.endswith(EXPORT_MARKS) for name in names) else None


def _frame(found: Any) -> Any:
    if isinstance(found, Mapping):
        return found.get("imgt_pred")
    if isinstance(found, tuple | list) and found:
        return found[0]
    return found
