"""The hosted loop neither waits for the device nor walks through modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.support import tiny
from w2sd_video import ModelSpec, reflected
from w2sd_video.hosting.run import FiniteWatch

READS = {"item", "tolist", "numpy", "cpu", "equal", "allclose", "nonzero", "is_nonzero"}
READS |= {f"__{kind}__" for kind in ("bool", "float", "int", "index", "array")}


class Watch(TorchFunctionMode):
    """Counts host reads and module walks outside of the network's own forward."""

    def __init__(self, network: nn.Module, monkeypatch: Any) -> None:
        super().__init__()
        self.reads = self.walks = self._inside = 0
        network.register_forward_pre_hook(lambda *_: self._enter(1))
        network.register_forward_hook(lambda *_: self._enter(-1))
        for name in ("named_modules", "named_children"):
            monkeypatch.setattr(nn.Module, name, self._counted(getattr(nn.Module, name)))

    def _counted(self, walk: Any) -> Any:
        def counted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.walks += not self._inside
            return walk(module, *args, **kwargs)

        return counted

    def _enter(self, by: int) -> None:
        self._inside += by

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += getattr(func, "__name__", "") in READS and not self._inside
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["sdxl", "animatediff", "flux"])
@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_no_host_reads_and_no_module_walks_in_the_loop(family, mode, monkeypatch):
    build, arguments = {
        "sdxl": (tiny.sdxl, tiny.IMAGE_CALL),
        "animatediff": (tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL),
        "flux": (tiny.flux, tiny.FLUX_CALL),
    }[family]
    pipe = build()
    # On a CPU its flags are there at once; on a GPU they are copied while the host goes on, and read when they arrive.
    monkeypatch.setattr(FiniteWatch, "_read", lambda self, wait: None)
    watch = Watch(pipe.transformer if family == "flux" else pipe.unet, monkeypatch)
    found = []
    with reflected(pipe, ModelSpec(guidance=1.0), mode=mode):
        for steps in (2, 3, 9):  # the first call prepares more
            watch.reads = watch.walks = 0
            with watch:
                pipe("a cat", **arguments, num_inference_steps=steps, guidance_scale=3.0, output_type="latent")
            found.append((watch.reads, watch.walks))
    assert found[1] == found[2] and found[1][0] < 20


@pytest.mark.parametrize("read", [float, torch.Tensor.tolist, torch.Tensor.numpy, bool, lambda x: x.max().item()])
def test_the_watch_sees_every_way_to_read(read, monkeypatch):
    with Watch(nn.Identity(), monkeypatch) as watch:
        read(torch.ones(()))
        list(nn.Sequential(nn.Identity()).parameters())
    assert watch.reads == 1 and watch.walks >= 1
