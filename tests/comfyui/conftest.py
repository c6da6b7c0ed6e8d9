"""Where the nodes run: in a small stand-in, or in ComfyUI itself.

COMFYUI=/path/to/ComfyUI python -m pytest tests/comfyui        (with the Python that ComfyUI runs in)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support import fake_comfy

PLACE = os.environ.get("COMFYUI")
CONTEXT = {"eps": 16, "flow": 4096}
SHAPES = {"eps": (2, 4, 8, 8), "flow": (1, 16, 2, 8, 8)}


@pytest.fixture(scope="session")
def host() -> Iterator[Any]:
    """ComfyUI's modules, the nodes, and tiny models for them."""
    if PLACE is None:
        with fake_comfy.installed():
            import bridges.comfyui.nodes as nodes

            yield SimpleNamespace(
                real=False,
                nodes=nodes,
                tiny=fake_comfy.tiny,
                shape=lambda kind: (2, 4, 8, 8) if kind == "eps" else (2, 4, 3, 4, 8),
                context=lambda kind: 8,
                network=lambda patcher, x, sigma, context: patcher.model.diffusion_model(x, sigma, context=context),
                manager=fake_comfy.MANAGER,
                key="diffusion_model.mix",
            )
        return
    sys.path.insert(0, PLACE)
    words, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management
    import comfy.samplers
    import utils.install_util  # noqa: F401  as at its own start, before comfy/utils.py is found by that name

    import bridges.comfyui.nodes as nodes

    sys.argv = words

    def network(patcher: Any, x: Any, sigma: Any, context: Any) -> Any:
        timestep = patcher.get_model_object("model_sampling").timestep(sigma).float()
        return patcher.model.diffusion_model(x, timestep, context=context, transformer_options={})

    yield SimpleNamespace(
        real=True,
        nodes=nodes,
        tiny=_tiny,
        shape=SHAPES.__getitem__,
        context=CONTEXT.__getitem__,
        network=network,
        manager=comfy.model_management,
        key="diffusion_model.out.2.weight",
    )


def _tiny(kind: str, seed: int) -> Any:
    """A MODEL of ComfyUI's own classes: Wan 2.1 ("flow") or Stable Diffusion 1 ("eps")."""
    import comfy.model_patcher
    import comfy.supported_models as supported

    if kind == "flow":
        size: dict[str, Any] = {"dim": 64, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "patch_size": (1, 2, 2)}
        size |= {"freq_dim": 32, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6}
        size |= {"in_dim": 16, "out_dim": 16, "text_len": 512, "image_model": "wan2.1", "model_type": "t2v"}
        config = supported.WAN21_T2V(size)
    else:
        size = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]}
        size |= {"channel_mult": [1, 2], "num_heads": 2, "use_spatial_transformer": True, "transformer_depth": [1, 1]}
        size |= {"transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "context_dim": 16}
        size |= {"use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False}
        config = supported.SD15({**size, "legacy": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
