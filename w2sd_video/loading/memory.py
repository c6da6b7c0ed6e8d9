"""How networks may be kept in memory, and how much of it a pair will take, before any is loaded (imports no torch).

A run has phases: the prompts are encoded with the text encoders alone, which are freed; the networks are loaded, and
sample; the VAE decodes; a bridge fits its noise map before that. For each memory plan the estimate has the bytes on the
device and on the host in each phase.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.loading.sizes import Sizes

MEMORY_PLANS: Mapping[str, str] = {
    "resident": "everything on the device",
    "weak-offload": "the strong side stays on the device, the weak one comes layer by layer",
    "model-offload": "one whole network at a time is on the device, strong and weak in turns",
    "group": "both sides come layer by layer, the next one while one computes",
    "sequential": "likewise, one after the other: the least memory, many times slower",
}
"""The fastest first."""
AUTO = "auto"
ALIASES = {"none": "resident", "model": "model-offload"}
GIB = 2**30
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
RESERVED = 3 * GIB // 4  # on an accelerator, for its context, workspaces and what is left between blocks of memory
PROCESS = 450 * 2**20  # the program itself, its libraries loaded; beside an accelerator's more
COMPUTING = 100 * 2**20  # more of it on a CPU once it computes: kernels made for the sizes at hand
ACCELERATED_PROCESS = 2 * GIB


def memory_plan(given: str | None, device: str | None = None) -> str:
    """Returns the name of a memory plan, "resident" for None; old words are taken too.

    Raises:
        UserError: an unknown word; or, where `device` is known, a plan for which that device has nothing to offload
            from.
    """
    plan = ALIASES.get(given or "resident", given or "resident")
    if plan not in MEMORY_PLANS:
        raise UserError(f"memory is {given!r}; choose one of {', '.join(MEMORY_PLANS)}")
    if plan != "resident" and device is not None and device.partition(":")[0] == "cpu":
        raise UserError(
            f"memory {plan!r} keeps networks off an accelerator, but the device is cpu, which has nothing to offload "
            "from; use resident"
        )
    return plan


def memory_size(text: str) -> int:
    """Returns the bytes of "12GB", "12" or "8000MB"; a GB is 2^30 bytes, as graphics cards are sold.

    Raises:
        UserError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m|)", str(text).strip().lower())
    size = 0 if found is None else int(float(found[1]) * (2**20 if found[2].startswith("m") else GIB))
    if found is None or not 2**20 <= size <= 2**50:
        raise UserError(f"{text!r} is no size of a memory; give it as 12GB or 8000MB")
    return size


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes: `gpu` of the accelerator, `host` beside it; None is not known."""

    gpu: int | None = None
    host: int | None = None


@dataclass(frozen=True)
class PlanMemory:
    """What one memory plan takes, in bytes by phase, on the device (nothing for a CPU) and on the host."""

    device: Mapping[str, int]
    host: Mapping[str, int]

    @property
    def peak(self) -> int:
        """On the device, or where there is none on the host."""
        return max((self.device or self.host).values())

    @property
    def host_peak(self) -> int:
        return max(self.host.values())

    def fits(self, machine: Machine) -> bool:
        """Whether a machine has that much; what is not known of it is enough."""
        on_device = not self.device or machine.gpu is None or max(self.device.values()) + RESERVED <= machine.gpu
        return on_device and (machine.host is None or self.host_peak <= machine.host)


@dataclass(frozen=True)
class Estimate:
    """What a pair takes by each memory plan, and of what it is made up, in bytes."""

    plans: Mapping[str, PlanMemory]
    weights: Mapping[str, int]
    activations: Mapping[str, int]

    @property
    def networks(self) -> int:
        return sum(self.weights[name] for name in ("strong", "weak", "shared"))

    def choose(self, machine: Machine) -> str | None:
        """Returns the fastest plan that fits a machine; None where none does."""
        return next((name for name, plan in self.plans.items() if plan.fits(machine)), None)

    def record(self, machine: Machine) -> dict[str, Any]:
        """Returns the estimate in MiB as JSON data."""
        return {
            "weights": _mib(self.weights),
            "activations": _mib(self.activations),
            "plans": {
                name: {
                    **({"device": _mib(plan.device)} if plan.device else {}),
                    "host": _mib(plan.host),
                    "fits": plan.fits(machine),
                }
                for name, plan in self.plans.items()
            },
            "take": self.choose(machine),
        }


def _mib(parts: Mapping[str, int]) -> dict[str, int]:
    return {name: round(size / 2**20) for name, size in parts.items()}


@dataclass(frozen=True)
class Load:
    """What a side has to do at once: `rows` of its widest evaluation of one output, sizes in pixels, frames (None: a
    picture), and how many outputs are made together.
    """

    rows: int
    height: int
    width: int
    num_frames: int | None = None
    batch: int = 1


@dataclass(frozen=True)
class Sides:
    """What is to be estimated.

    Attributes:
        strong, weak: both sides; a weak one of None is the strong one's network.
        loads: what each has to do, the weak side's where it has a network of its own.
        one_vae: the strong side's VAE serves both.
        motion: numbers of motion modules, which both sides share.
        more: numbers beside the networks of the strong side: LoRAs, a ControlNet.
        fits_map: a noise map is fitted before anything is made.
        at_once: the networks have their weights before the prompts are encoded, as LoRAs and ControlNets need them.
        shared: numbers of networks that both sides have equal, beside motion modules; `one_text` likewise the text
            encoders.
        stored: bytes of a network's number, where they are not the dtype's (fp8).
        codes: bytes for each number of the strong side's network that are kept beside it for the weak side.
    """

    strong: Sizes
    weak: Sizes | None
    loads: tuple[Load, Load | None]
    one_vae: bool = True
    motion: int = 0
    more: int = 0
    fits_map: bool = False
    at_once: bool = False
    shared: int = 0
    one_text: bool = False
    stored: int | None = None
    codes: float = 0.0

    def only(self, roles: Collection[str]) -> Sides:
        """Returns the sides in these roles, of a pair of two."""
        if len(roles) == 2 or self.weak is None:
            return self
        alone: dict[str, Any] = {"weak": None, "one_vae": True, "shared": 0, "one_text": False, "fits_map": False}
        if "strong" in roles:
            return replace(self, loads=(self.loads[0], None), **alone)
        lent: dict[str, Any] = {} if self.weak.vae else {"vae": self.strong.vae, "vae_config": self.strong.vae_config}
        assert self.loads[1] is not None
        return replace(self, strong=replace(self.weak, **lent), loads=(self.loads[1], None), **alone)


@dataclass(frozen=True)
class _Bytes:
    """The sides in bytes."""

    strong: int
    weak: int
    shared: int
    text: tuple[tuple[int, ...], ...]
    vaes: tuple[int, ...]
    largest: int
    largest_text: int
    sampling: int
    decoding: int
    fits_map: bool = False
    at_once: bool = False
    texts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(sum(each) for each in self.text) or (0,))

    @property
    def networks(self) -> int:
        return self.strong + self.weak + self.shared

    @property
    def all(self) -> int:
        return self.networks + sum(self.vaes)

    @property
    def before(self) -> int:
        """On the host while the prompts are encoded: the text encoders of both sides, and the VAEs."""
        return sum(self.texts) + (self.all if self.at_once else sum(self.vaes))


def estimate_memory(sides: Sides, *, dtype: str, device: str, plans: Iterable[str] = MEMORY_PLANS) -> Estimate:
    """Returns what loading a pair and one call of it take by each of the plans (on a CPU there is one: "resident")."""
    found = _in_bytes(sides, ITEM_BYTES[dtype], dtype)
    cpu = device.partition(":")[0] == "cpu"
    made = {"resident": _on_cpu(found)} if cpu else {name: _on_device(found, name) for name in plans}
    return Estimate(
        made,
        {
            "strong": found.strong,
            "weak": found.weak,
            "shared": found.shared,
            "text_encoders": max(found.texts),
            "vae": sum(found.vaes),
        },
        {"sampling": found.sampling, "decoding": found.decoding},
    )


def _in_bytes(sides: Sides, item: int, dtype: str) -> _Bytes:
    strong, weak = sides.strong, sides.weak
    both = [(strong, sides.loads[0]), *([(weak, sides.loads[1])] if weak is not None else [])]
    moving = sides.motion > 0

    def vae_item(side: Sizes) -> int:
        return 4 if side.vae_config.get("force_upcast", True) and dtype == "float16" else item

    decoding = [
        side.decoded(load.height, load.width, load.num_frames, load.batch) * vae_item(side)
        for side, load in both[: 1 if sides.one_vae else 2]
        if load is not None
    ]
    held = [side for side, _ in both if side.vae]
    stored = sides.stored or item

    def network(side: Sizes) -> int:
        numbers = sum(side.networks.values())
        return (numbers - sides.shared) * stored if side.packed is None else side.packed

    texts = [side for side, _ in both if side.text]
    return _Bytes(
        strong=network(strong) + sides.more * item,
        weak=int(sum(strong.networks.values()) * sides.codes) if weak is None else network(weak),
        shared=sides.motion * stored + sides.shared * stored,
        text=tuple(tuple(size * item for size in side.text) for side in texts[: 1 if sides.one_text else 2]),
        vaes=tuple(side.vae * vae_item(side) for side in held[: 1 if sides.one_vae else 2]),
        largest=max(side.largest for side, _ in both) * item,
        largest_text=max(side.largest_text for side, _ in both) * item,
        sampling=max(
            side.alive(load.height, load.width, load.num_frames, moving=moving and load.num_frames is not None)
            * load.rows
            * load.batch
            for side, load in both
            if load is not None
        )
        * item,
        decoding=max(decoding, default=0),
        fits_map=sides.fits_map,
        at_once=sides.at_once,
    )


def _phases(found: _Bytes, *, encode: int, sample: int, decode: int) -> dict[str, int]:
    fit = {"fit": max(sample, decode)} if found.fits_map else {}
    return {"encode": encode, **fit, "sample": sample, "decode": decode}


def _on_cpu(found: _Bytes) -> PlanMemory:
    host = _phases(
        found,
        encode=PROCESS + found.before,
        sample=PROCESS + COMPUTING + found.all + found.sampling + found.largest,  # a weight in another order
        decode=PROCESS + COMPUTING + found.all + found.decoding * 4 // 3,  # likewise what goes into a convolution
    )
    return PlanMemory({}, host)


def _on_device(found: _Bytes, plan: str) -> PlanMemory:
    """The bytes of a plan on an accelerator, and beside it."""
    layer, base = 2 * found.largest, ACCELERATED_PROCESS  # the layer that computes, and the next one
    vaes, widest = sum(found.vaes), max(found.strong, found.weak) + found.shared
    encoder = max((size for side in found.text for size in side), default=0)
    layers = plan in ("group", "sequential")
    if plan == "sequential":
        layer = found.largest
    read_there = plan == "resident" and not found.at_once  # tensors are read to the device, one by one
    encode = {
        "resident": sum(found.texts) + vaes if read_there else max(found.texts),
        "weak-offload": max(found.texts),
        "model-offload": encoder,
    }
    held = {
        "resident": found.all,
        "weak-offload": found.strong + found.shared + found.vaes[0] if found.vaes else found.strong + found.shared,
        "model-offload": widest,
    }
    if plan == "weak-offload" and found.weak:
        held[plan] += layer
    decoded = found.vaes[0] if plan == "model-offload" and found.vaes else held.get(plan, layer)
    device = _phases(
        found,
        encode=2 * found.largest_text if layers else encode[plan],
        sample=held.get(plan, layer) + found.sampling,
        decode=(max(found.vaes, default=0) if layers else decoded) + found.decoding,
    )
    kept = {"resident": found.largest, "weak-offload": found.weak + (found.shared if found.weak else 0) + vaes}
    waiting = kept.get(plan, found.all)
    host = _phases(
        found,
        encode=base + (max(found.largest, found.largest_text) if read_there else found.before),
        sample=base + waiting,
        decode=base + waiting,
    )
    return PlanMemory(device, host)
