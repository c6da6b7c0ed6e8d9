"""A pretended accelerator, `card`, where there is none: `python -m tests.support.pretended_device sdxl flux`.

A tensor on it holds a host tensor and computes as that does, but says that it is elsewhere: it cannot be mixed with
host tensors, drawn by a host generator or read as numpy, and every read by the host is counted. So a pipeline that is
right here puts nothing in the wrong place on a GPU. Speed, kernels, streams and memory are not pretended, nor is
offloading, which puts other storage into tensors that there are.

A line of JSON for each pipeline of `pipelines_page.PIPELINES`, or each command (`w2sd-image`): how far what it makes
is from what it makes on the CPU, and how often the host reads. The first line is what the device refuses.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "card"
NAMED = "PrivateUse1"
READERS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal")
INDEXERS = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # take host indices too
INTEGERS = (torch.long, torch.int, torch.bool, torch.uint8)
FACTORIES = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.arange, torch.linspace, torch.eye)
reads: list[str] = []  # what the host has read from the device, by operator
_as_subclass, _data_ptr = Tensor.as_subclass, Tensor.data_ptr
_kinds: dict[type, type] = {}


class CardTensor(Tensor):
    """A tensor on the card; `held` is the host tensor that it computes with."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> CardTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"CardTensor({self.held})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        return CardTensor(self.held.clone())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _held(value: Any) -> Any:
    return value.held if isinstance(value, CardTensor) else value


def _moved(tensor: Tensor, to_card: bool, settings: dict[str, Any]) -> Tensor:
    made = torch.ops.aten._to_copy(_held(tensor), **settings)
    if isinstance(tensor, CardTensor) and not to_card:
        reads.append("copy to host")
    return CardTensor(made) if to_card else made


def _computed(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operator comes to, where it may be called with these arguments on a real device."""
    name, told = func._schema.name, "device" in kwargs
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    cards = [leaf for leaf in leaves if isinstance(leaf, CardTensor)]
    on_card = is_card(kwargs["device"]) if kwargs.get("device") is not None else bool(cards)
    if name == "aten::_to_copy":
        settings = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
        return _moved(args[0], on_card, settings)
    if name == "aten::copy_":
        if isinstance(args[1], CardTensor) and not isinstance(args[0], CardTensor):
            reads.append(name)
        _held(args[0]).copy_(_held(args[1]))
        return args[0]
    if name in READERS:
        reads.append(name)
    for leaf in leaves if cards else ():
        indexes = name in INDEXERS and leaf is not args[0] and leaf.dtype in INTEGERS
        if not isinstance(leaf, CardTensor) and leaf.dim() and not indexes:
            raise RuntimeError(f"expected all tensors on one device: {name} is given a host tensor {tuple(leaf.shape)}")
    generator = kwargs.get("generator")
    if on_card and generator is not None and generator.device.type != NAME:
        raise RuntimeError(f"expected a generator of the device: {name} is given one of the host")
    kwargs = {**kwargs, "device": torch.device("cpu")} if told and on_card else kwargs
    made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    for card in cards:
        if card.held is made:  # in place
            return card
    return tree_map(lambda each: CardTensor(each) if on_card and isinstance(each, Tensor) else each, made)


class _Calls(TorchFunctionMode):
    """What does not come as far as the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and is_card(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.tolist and isinstance(args[0], CardTensor):
            reads.append("tolist")
            return args[0].held.tolist()
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], CardTensor):
            raise TypeError("a tensor on the card is no numpy array; use Tensor.cpu() first")
        return func(*args, **kwargs)


def _subclassed(tensor: Tensor, kind: type) -> Tensor:
    if not isinstance(tensor, CardTensor):
        return _as_subclass(tensor, kind)
    if kind is Tensor:
        return CardTensor(tensor.held)
    made = _kinds.setdefault(kind, type(kind.__name__, (kind, CardTensor), {}))
    return CardTensor.__new__(made, tensor.held)


_registered: list[Any] = []


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, there is a device `card`. Torch knows of it for the rest of the process."""
    if not _registered:
        _setup_privateuseone_for_python_backend(rename=NAME)
        every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
        every.fallback(lambda op, *args, **kwargs: _computed(op, args, kwargs), dispatch_key="PrivateUse1")
        own.impl("empty.memory_format", lambda size, dtype=None, **_: CardTensor(torch.empty(size, dtype=dtype)), NAMED)
        own.impl(
            "empty_strided",
            lambda size, stride, dtype=None, **_: CardTensor(torch.empty_strided(size, stride, dtype=dtype)),
            NAMED,
        )
        _registered.extend((every, own))
    Tensor.as_subclass = _subclassed
    Tensor.data_ptr = lambda tensor: _data_ptr(_held(tensor))
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Calls():
            yield
    finally:
        Tensor.as_subclass, Tensor.data_ptr = _as_subclass, _data_ptr
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _on(device: str, value: Any) -> Any:
    return tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, value)


def _calls(name: str, device: str) -> dict[str, Callable[[], tuple[Tensor, int]]]:
    """The calls of a pipeline's small random networks on a device, each to its latents and the evaluations made."""
    from tests.support import pipelines_page, tiny, tiny_loops
    from w2sd_video import ModelSpec, reflected
    from w2sd_video.core.options import ReflectionConfig

    pipe, settings = pipelines_page.PIPELINES[name]()
    weak = tiny_loops.another(pipelines_page.network_of(pipe)).to(device)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(device)
    settings = {"num_inference_steps": 4, "output_type": "latent", **_on(device, settings)}

    def call() -> Tensor:
        return pipelines_page.latents(pipe(generator=tiny.generator(), **settings)).cpu()

    def hosted(side: Any, **options: Any) -> Callable[[], tuple[Tensor, int]]:
        def made() -> tuple[Tensor, int]:
            with reflected(pipe, side, config=ReflectionConfig(**options)) as run:
                return call(), run.num_evaluations

        return made

    return {
        "stock": lambda: (call(), 4),
        "lambda 0": hosted(weak, num_reflections=0),
        "paper": hosted(weak, num_reflections=3, noise=0.01, cap=0.1),
        "zero-gap": hosted("zero-gap", num_reflections=3, mode="fused"),
        "guidance": hosted(ModelSpec(guidance=1.0), num_reflections=3),
        "cached": hosted(weak, num_reflections=3, mode="fused", gap_every=1),
    }


@torch.no_grad()
def compared(name: str) -> dict[str, Any]:
    """{"pipeline", and of each call {"difference" from the CPU's, as a share of its range, "reads", "evaluations"} or
    {"refused"}, where both refuse alike}."""
    here, there = _calls(name, "cpu"), _calls(name, NAME)
    row: dict[str, Any] = {"pipeline": name}
    for call in here:
        try:
            expected, count = here[call]()
        except Exception as error:
            expected, count = None, str(error)
        reads.clear()
        try:
            made, counted = there[call]()
        except Exception as error:
            made, counted = None, str(error)
        if expected is None or made is None:
            row[call] = {"refused" if count == counted else "failed": counted if made is None else count}
        else:
            share = float((made - expected).abs().max() / expected.abs().max())
            row[call] = {"difference": share, "reads": len(reads), "evaluations": counted}
    return row


def refusals() -> dict[str, str]:
    """What the device says to the mistakes that it is here to find."""
    mistakes: dict[str, Callable[[], Any]] = {
        "mixed": lambda: torch.ones(2).to(NAME) + torch.ones(2),
        "host generator": lambda: torch.randn(2, generator=torch.Generator(), device=NAME),
        "numpy": lambda: torch.ones(2).to(NAME).numpy(),
    }
    said = {}
    for name, mistake in mistakes.items():
        try:
            said[name] = f"made {mistake()}"
        except (RuntimeError, TypeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


PROMPTS = {
    "w2sd-image": ("--prompt", "a red ring"),
    "w2sd-bridge": ("--prompt", "a red ring"),
    "w2sd-video": ("--prompt", "a red ring moving left", "--video-format", "png"),
}


def by_command(name: str) -> dict[str, Any]:
    """{"pipeline", "files", "difference"}: of the bundled pair's pixels, of 255, made by the command on each device."""
    import imageio.v3 as iio

    from w2sd_video.commands import app, engine, machines

    machines.DEVICES, machines.cpu_build, engine.cpu_build = re.compile(f"cpu|{NAME}"), bool, bool
    made: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        for device in ("cpu", NAME):
            output = Path(folder, device)
            argv = [
                name.removeprefix("w2sd-"),
                *PROMPTS.get(name, ()),
                "--steps",
                "8",
                "--device",
                device,
                "--dtype",
                "float32",
            ]
            with redirect_stdout(sys.stderr):
                assert app.main([*argv, "--quiet", "--output", str(output)]) == 0
            # Comparisons are compressed, and grids show what is compared already.
            files = [path for path in output.rglob("*.png") if path.parent != output and "comparison" not in path.parts]
            made[device] = {str(path.relative_to(output)): iio.imread(path).astype(int) for path in files}
    assert made["cpu"].keys() == made[NAME].keys()
    differences = [int(abs(pixels - made[NAME][key]).max()) for key, pixels in made["cpu"].items()]
    return {"pipeline": name, "files": len(differences), "difference": max(differences)}


if __name__ == "__main__":
    with pretended():
        print(json.dumps(refusals()), flush=True)
        for each in sys.argv[1:]:
            print(json.dumps((by_command if each.startswith("w2sd-") else compared)(each)), flush=True)
