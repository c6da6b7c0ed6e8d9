"""The weak side as a difference: W_weak - W_strong of every layer at low rank, as a LoRA of the strong network.

Read tensor by tensor from safetensors files, so that neither network is in memory. A layer's weight is carried by two
factors (a truncated singular value decomposition, of large layers a randomised one: Halko, Martinsson, Tropp,
arXiv 0909.4061, section 5), its bias exactly. What has no place in a LoRA (norms, embeddings, tables) is not carried,
and listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vbench_eval.files import write_bytes
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import TEXT_ENCODERS, Description, Weights
from w2sd_video.loading.files import GGUF, LDM_UNET
from w2sd_video.loading.fingerprints import WIDTHS, fingerprint, same_weights
from w2sd_video.loading.rehearsal import check_networks

METADATA = "w2sd_difference"  # the report's name in the file's header
OVERSAMPLING, POWER_ITERATIONS = 16, 4
EXACT = 256  # a layer with no more rows or columns than this, or than four ranks, is decomposed exactly


@dataclass(frozen=True)
class LayerDifference:
    """How one layer is carried.

    Attributes:
        rank: of its two factors; 0 where the weights are equal and only the bias differs.
        size: |W_weak - W_strong| / |W_strong|, Frobenius norms (of the difference alone where W_strong is 0).
        error: |difference - what is carried| / |difference|, as stored.
    """

    rank: int
    size: float
    error: float


@dataclass
class Difference:
    """What a file holds, and what it does not.

    Attributes:
        layers: by name, those that differ.
        equal: how many layers do not.
        biases: how many biases are carried, exactly.
        not_carried: tensors that differ and have no place in a LoRA: |difference| / |strong| by name.
        error: |all differences - all that is carried| / |all differences|, what is not carried included.
        notes: what differs beside the network.
    """

    layers: dict[str, LayerDifference] = field(default_factory=dict)
    equal: int = 0
    biases: int = 0
    not_carried: dict[str, float] = field(default_factory=dict)
    error: float = 0.0
    num_bytes: int = 0
    network_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> list[tuple[str, LayerDifference]]:
        """The layers, those of which most is lost (error times size) first."""
        return sorted(self.layers.items(), key=lambda pair: -pair[1].error * pair[1].size)

    def record(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


def check_sides(strong: Description, weak: Description) -> str:
    """Returns the part that holds the network of both models ("unet" or "transformer").

    Raises:
        UserError: a side that is not on this machine, is quantised, has two networks, or a layout that is not read
            tensor by tensor; networks that are not of one shape.
    """
    parts = []
    for role, side in (("strong", strong), ("weak", weak)):
        if side.needs_network and side.kind == "hub":
            raise UserError(f"the {role} side {side.given} is a hub id; download it first, and give the folder")
        if side.part_folder("transformer_2") is not None:
            raise UserError(
                f"the {role} side {side.given} has two networks, and a LoRA's file goes to both; give one with one"
            )
        part = "unet" if side.weights("unet") is not None else "transformer"
        weights, config = side.weights(part), side.part(part)
        if weights is None or config is None:
            raise UserError(
                f"the {role} side {side.given} has no network as .safetensors with its config here; give a folder of "
                "diffusers' layout, or a single file with --config"
            )
        if "quantization_config" in config:
            raise UserError(f"the {role} side {side.given} is quantised; give it in 16 or 32 bits")
        if any(path.suffix == GGUF for path in weights.files):
            raise UserError(f"the {role} side {side.given} is a GGUF file; give it in 16 or 32 bits")
        if side.kind == "file" and part == "transformer":
            raise UserError(
                f"the {role} side {side.given} is a single file of Flux; give a folder of diffusers' layout"
            )
        parts.append(part)
    if parts[0] != parts[1]:
        raise UserError(
            f"the strong side's network is a {parts[0]}, the weak side's a {parts[1]}; a difference is between two "
            "checkpoints of one network"
        )
    return parts[0]


def find_difference(
    strong: Description,
    weak: Description,
    *,
    rank: int | None = None,
    energy: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[dict[str, Tensor], Difference]:
    """Returns the tensors of a LoRA that turns the strong network into the weak one, and how exactly it does.

    Its scale is 1 on the weak side and 0 on the strong one. Tensors are named as peft names them, with the network's
    part before; stored as the weak side's weights are, 8 bits as float16.

    Args:
        rank: of every layer, at most; None with `energy` is any.
        energy: of every layer as many singular values as hold this share (above 0, up to 1) of the difference's
            squared norm; None is as many as `rank` allows.
        seed: of the randomised decompositions.
        progress: told how many layers are done, of how many, and which is next.

    Raises:
        UserError: as `check_sides`; networks that do not differ, or not in what a LoRA carries.
    """
    part = check_sides(strong, weak)
    modules = _layers(strong, weak, part)
    found, tensors = Difference(), dict[str, Tensor]()
    generator = torch.Generator().manual_seed(seed)
    lost = whole = 0.0
    with _Reader(strong, part) as ours, _Reader(weak, part) as theirs:
        names = [name for name in theirs.names if name in ours.names]
        found.network_bytes = sum(theirs.bytes_of(name) for name in names)
        for done, name in enumerate(names):
            progress(done, len(names), name)
            module, _, leaf = name.rpartition(".")
            base, other = ours.read(name), theirs.read(name)
            delta = other.float() - base.float()
            square = float(delta.double().square().sum())
            if not square:
                found.equal += leaf == "weight" and module in modules
                continue
            if not math.isfinite(square):
                raise UserError(f"{name} has values that are no finite numbers; download the checkpoints again")
            whole += square
            own = float(base.double().square().sum())
            size = math.sqrt(square / own) if own else math.sqrt(square)
            kept = other.dtype if other.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float16
            key = f"{part}.{module}"
            if module in modules and leaf == "bias":
                tensors[f"{key}.lora_B.bias"] = delta.to(kept)
                found.biases += 1
            elif module in modules and leaf == "weight":
                down, up = factors(delta.flatten(1), rank=rank, energy=energy, generator=generator)
                down, up = down.to(kept), up.to(kept)
                left = float((delta.flatten(1) - up.float() @ down.float()).double().square().sum())
                lost += left
                found.layers[module] = LayerDifference(len(down), size, math.sqrt(left / square))
                tensors[f"{key}.lora_A.weight"] = down.view(-1, *delta.shape[1:]).contiguous()
                tensors[f"{key}.lora_B.weight"] = up.view(*up.shape, *[1] * (delta.dim() - 2)).contiguous()
            else:
                lost += square
                found.not_carried[name] = size
        _complete(tensors, found, part, modules)
    if not whole:
        raise UserError("the two networks do not differ, so there is nothing to write; give two checkpoints")
    if not tensors:
        raise UserError(
            f"the two networks differ in {', '.join(found.not_carried)} alone, which a LoRA does not "
            "carry; use them as two checkpoints"
        )
    found.error = math.sqrt(lost / whole)
    found.num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    found.notes = _other_parts(strong, weak)
    return tensors, found


def write_difference(path: Path, tensors: Mapping[str, Tensor], found: Difference, settings: Mapping[str, Any]) -> None:
    """Writes the LoRA, with the report and `settings` in its header, as a whole or not at all."""
    header = {METADATA: json.dumps({**settings, **found.record()}), "format": "pt"}
    write_bytes(path, save(dict(tensors), metadata=header))


def read_report(path: Path) -> dict[str, Any] | None:
    """Returns the report in a file's header; None where the file was not written by `write_difference`."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA)
    return None if text is None else json.loads(text)


def factors(
    matrix: Tensor, *, rank: int | None, energy: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns (down [r, n], up [m, r]) whose product up @ down is nearest to a matrix [m, n], at most of rank `rank`.

    With `energy`, r is the least that holds this share of the squared norm. Each factor has the square roots of the
    singular values, so that neither leaves the range of 16 bits first.
    """
    most = min(matrix.shape)
    most = most if rank is None else min(rank, most)
    whole = float(matrix.double().square().sum())
    tried = most if energy is None else min(most, 16)
    while True:
        left, values, right = _decomposed(matrix, tried, generator)
        squares = values.double().square().cumsum(0)
        enough = energy is None or float(squares[-1]) >= energy * whole * (1 - 1e-9)
        if enough or tried == most:
            break
        tried = min(2 * tried, most)
    count = tried if energy is None else int((squares < energy * whole * (1 - 1e-9)).sum()) + 1
    count = max(1, min(count, tried, int((values > 0).sum())))
    root = values[:count].sqrt()
    return root[:, None] * right[:count], left[:, :count] * root


def _decomposed(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The first `rank` singular triples (left [m, r], values [r], right [r, n]) of a matrix [m, n]."""
    if min(matrix.shape) <= max(EXACT, 4 * rank):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    basis = wide @ torch.randn(wide.shape[1], rank + OVERSAMPLING, generator=generator)
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(basis).Q
        basis = wide @ (wide.T @ basis)
    basis = torch.linalg.qr(basis).Q
    inner, values, right = torch.linalg.svd(basis.T @ wide, full_matrices=False)
    left, values, right = (basis @ inner)[:, :rank], values[:rank], right[:rank]
    return (left, values, right) if wide is matrix else (right.T, values, left.T)


def _complete(tensors: dict[str, Tensor], found: Difference, part: str, modules: Mapping[str, nn.Module]) -> None:
    """Gives every layer both factors, and a bias where any has one, zeros where there is nothing: loaders of LoRAs take
    all or none.
    """
    biases = {key.removesuffix(".lora_B.bias") for key in tensors if key.endswith("lora_B.bias")}
    layers = biases | {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("lora_A.weight")}
    for key in sorted(layers):
        weight: Any = modules[name := key.removeprefix(f"{part}.")].weight
        kind = next(tensor.dtype for other, tensor in tensors.items() if other.startswith(f"{key}.lora_"))
        if name not in found.layers:
            tensors[f"{key}.lora_A.weight"] = torch.zeros(1, *weight.shape[1:], dtype=kind)
            tensors[f"{key}.lora_B.weight"] = torch.zeros(weight.shape[0], 1, *[1] * (weight.dim() - 2), dtype=kind)
            found.layers[name] = LayerDifference(0, 0.0, 0.0)
        if biases and key not in biases:
            tensors[f"{key}.lora_B.bias"] = torch.zeros(weight.shape[0], dtype=kind)


def _layers(strong: Description, weak: Description, part: str) -> dict[str, nn.Module]:
    """The layers that a LoRA can be of, by name, without values; `UserError` for networks that are not of one shape."""
    ours, theirs = (check_networks(side)[part] for side in (strong, weak))
    shapes = [{name: tuple(value.shape) for name, value in net.state_dict().items()} for net in (ours, theirs)]
    common = shapes[0].keys() & shapes[1].keys()
    lacking = [name for name in shapes[1] if name not in common]
    lacking += [name for name in shapes[0] if name not in common and "motion_modules" not in name]
    other = [name for name in common if shapes[0][name] != shapes[1][name]]
    if lacking or other:
        first = (other or lacking)[0]
        raise UserError(
            f"the two networks are not of one shape: {first} is {shapes[0].get(first, 'missing')} on the strong side "
            f"and {shapes[1].get(first, 'missing')} on the weak one ({len(lacking) + len(other)} such tensors); a "
            "difference is between two checkpoints of one network"
        )
    return {
        name: module
        for name, module in theirs.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1 and not module.transposed)
    }


class _Reader:
    """One network's tensors under diffusers' names, each read from its mapped file when it is asked for."""

    def __init__(self, side: Description, part: str) -> None:
        weights = side.weights(part)
        assert weights is not None
        self._weights, self._header, self._stack = weights, weights.header, ExitStack()
        self._own = _own_names(side, part, weights)

    def __enter__(self) -> _Reader:
        files = [self._stack.enter_context(safe_open(path, framework="pt")) for path in self._weights.files]
        self._file = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    @property
    def names(self) -> Mapping[str, str]:
        """In the file's order."""
        return self._own

    def read(self, name: str) -> Tensor:
        return self._file[self._own[name]].get_tensor(self._own[name])

    def bytes_of(self, name: str) -> int:
        info = self._header[self._own[name]]
        return info.numel * WIDTHS.get(info.dtype, 1)


def _own_names(side: Description, part: str, weights: Weights) -> dict[str, str]:
    """diffusers' names of a network's tensors, and what they are called in the file."""
    header = weights.header
    if side.kind != "file":
        return {name: name for name in header}
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # The conversion moves what it is given from name to name; of names themselves it makes the table.
    made: dict[str, str] = convert_ldm_unet_checkpoint(
        {name: name for name in header if name.startswith(LDM_UNET)}, side.part(part) or {}
    )
    return made


def _other_parts(strong: Description, weak: Description) -> list[str]:
    """What else the two models differ in, which the LoRA does not carry."""
    notes = []
    for part in ("vae", *TEXT_ENCODERS):
        pair = [side.weights(part) if side.kind != "network" else None for side in (strong, weak)]
        if None in pair:
            continue
        ours, theirs = (fingerprint(weights) for weights in pair if weights is not None)
        if not same_weights(ours, theirs):
            notes.append(f"the {part.replace('_', ' ')} of the two sides differs too, and is not carried")
    return notes
