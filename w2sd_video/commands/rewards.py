"""Rewards by name, for the method w2sd-auto: the bundled oracle, networks of the evaluation, or a user's function.

The only module of the library that asks the evaluation for anything, and only where one of its networks is named.
Imports no torch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from w2sd_video.commands.option import unknown
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.pair import Selection
from w2sd_video.runs.tasks import SELECTING

Reward = Callable[[NDArray[np.uint8], str], float]
"""A number, higher is better, of frames [F, H, W, 3] uint8 RGB (one frame is a picture) and the prompt."""

NETWORKS = (  # `vbench_eval.images.reward` loads them
    "pickscore", "hps_v2.1", "hps_v2", "aes", "clip_t", "image_reward", "vqascore", "hpsv3",
)  # fmt: skip
NAMES = ("oracle", *NETWORKS)
FRAMES = 4
ORACLE_SIZE = 32
FORMS = "MODULE:FUNCTION or FILE.py:FUNCTION"
MOST_SAID = 200  # characters of what a function returned or raised
BUNDLED = ("demo", "picture-demo")  # presets whose prompts the oracle can read


class RewardFailedError(Exception):
    """A reward raised, or gave no finite number; the message says which and what."""


@dataclass(frozen=True)
class RewardSettings:
    """Which reward, and how it picks: `threshold` is eps_r of Algorithm 2, `frames` the most frames of a video it sees
    (None: it sees pictures).

    `weights` are (name of weights, path) of a network.
    """

    name: str
    weights: tuple[tuple[str, str], ...] = ()
    threshold: float = 0.0
    frames: int | None = None

    def record(self) -> dict[str, Any]:
        """Returns the settings as JSON data, paths absolute, with a hash of a user's file."""
        weights = {name: str(Path(path).expanduser().resolve()) for name, path in self.weights}
        named = located_name(self.name) if is_named(self.name) else self.name
        return {
            "name": named,
            **({"source": source_of(self.name)} if is_named(self.name) else {}),
            **({"weights": weights} if weights else {}),
            "threshold": self.threshold,
            **({} if self.frames is None else {"frames": self.frames}),
        }

    def selection(self, reward: Reward, prompt: str) -> Selection:
        """Returns what `reflected` is told: the reward of frames made for this prompt."""
        return Selection(lambda frames, _: reward(frames, prompt), self.threshold, self.frames or 1)


def plan_reward(
    request: Request,
    methods: Sequence[str],
    *,
    preset: str | None,
    prompts: Sequence[str],
    size: tuple[int, int],
    video: bool,
) -> RewardSettings | None:
    """Returns the settings, None for methods that ask for no reward; checked as far as can be without loading a
    network, a function of the user's being imported.

    `size` is the height and width of what is made. The bundled presets have the oracle where nothing is given.

    Raises:
        UserError: no reward, none of that name, weights that are not there, or an oracle for what it cannot read.
    """
    if SELECTING not in methods:
        return None
    chosen = request.reward if request.reward is not None else ("oracle" if preset in BUNDLED else None)
    if chosen is None:
        raise UserError(
            f"the method {SELECTING} needs to know what is better; give --reward NAME ({', '.join(NAMES)}), {FORMS}, "
            "or leave the method out"
        )
    settings = RewardSettings(
        chosen,
        weights=_weights(chosen, request.reward_weights),
        threshold=request.reward_threshold or 0.0,
        frames=(request.get("reward_frames") or FRAMES) if video else None,
    )
    if settings.threshold < 0:
        raise UserError(f"the reward's threshold is {settings.threshold:g}; it must be 0 (no tie) or more")
    if is_named(chosen):
        find_function(chosen, "reward")
    elif chosen not in NAMES:
        unknown("reward", chosen, (*NAMES, "MODULE:FUNCTION"))
    elif chosen == "oracle":
        for prompt in prompts:
            _wanted(prompt)
        _check_size(size)
    else:
        _find_weights(settings)
    return settings


def reward_record(settings: RewardSettings | None) -> dict[str, Any]:
    """Returns what run.json says of a run's reward; nothing where it has none."""
    return {} if settings is None else {"reward": settings.record()}


def identity_of(settings: RewardSettings | None) -> list[dict[str, Any]]:
    """Returns what a reward adds to what names a run's folder: nothing for the bundled one, as a method may be added to
    a folder, else all of it, as another reward makes other files.
    """
    plain = (RewardSettings("oracle"), RewardSettings("oracle", frames=FRAMES))
    if settings is None or settings in plain:
        return []
    return [{name: value for name, value in settings.record().items() if name != "source"}]  # edits keep the folder


def load_reward(settings: RewardSettings, *, device: str, allow_pickle: bool = False) -> Reward:
    """Returns the reward, its network loaded on the device.

    Raises:
        UserError: it cannot be had. Where it fails later, it raises RewardFailedError.
    """
    if is_named(settings.name):
        own = find_function(settings.name, "reward")
    elif settings.name == "oracle":
        own = oracle_share
    else:
        own = _network_reward(settings, device, allow_pickle)

    def checked(frames: NDArray[np.uint8], prompt: str) -> float:
        try:
            return answer(own, frames, prompt)
        except FunctionFailedError as error:
            raise RewardFailedError(f"the reward {settings.name} {error}") from error
        except UserError as error:
            raise RewardFailedError(f"the reward {settings.name} failed: {error}") from error

    return checked


def oracle_share(frames: NDArray[np.uint8], prompt: str, *, first: int = 3) -> float:
    """The share, 0 to 1, of what a prompt of the toy world says that frames show: its colour, its shape, its motion.

    Of these the first so many count; one frame shows no motion, so of it only colour and shape.

    Raises:
        UserError: the prompt is not a caption of the toy world, or the frames are not of its size.
    """
    import torch

    from w2sd_video.demo import oracle

    wanted = _wanted(prompt)
    _check_size(frames.shape[1:3])
    clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None] / 255
    count = min(len(wanted), first, 2 if len(frames) == 1 else 3)
    return float((oracle.read(clip)[0, :count] == torch.tensor(wanted[:count])).double().mean())


def _wanted(prompt: str) -> tuple[int, ...]:
    """Colour, shape and, of a video's caption, motion."""
    from w2sd_video.demo import parse_caption, parse_picture_caption

    try:
        return tuple(parse_picture_caption(prompt))
    except ValueError:
        try:
            return tuple(parse_caption(prompt))
        except ValueError as error:
            raise UserError(f"the oracle reads the toy world only: {error}; choose another score or reward") from None


def _check_size(size: Sequence[int]) -> None:
    if tuple(size) != (ORACLE_SIZE, ORACLE_SIZE):
        raise UserError(
            f"the oracle reads {ORACLE_SIZE} x {ORACLE_SIZE} pixels and these are {size[1]} x {size[0]}; leave the "
            "size out, or choose another score or reward"
        )


def _weights(name: str, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(name of weights, path) of each; without a name they are the reward's own."""
    if not given:
        return ()
    if name not in NETWORKS:
        raise UserError(f"--reward-weights is for {', '.join(NETWORKS)}, and the reward is {name}; leave it out")
    from vbench_eval.images import IMAGE_METRICS
    from vbench_eval.images.rewards import REWARDS

    known, found = IMAGE_METRICS[name].weights, {}
    for text in given:
        of, equals, path = text.partition("=")
        if equals and of not in known:
            unknown(f"weights of {name}", of, known)
        found[of if equals else REWARDS[name][0]] = path if equals else text
    return tuple(found.items())


def _find_weights(settings: RewardSettings) -> None:
    from vbench_eval.images.rewards import REWARDS
    from vbench_eval.images.sources import Sources

    own = REWARDS[settings.name][0]
    try:
        Sources(dict(settings.weights)).find(own)
    except ValueError as error:
        _cannot(settings, error)


def _network_reward(settings: RewardSettings, device: str, allow_pickle: bool) -> Reward:
    import torch

    from vbench_eval.images import reward

    try:
        network = reward(
            settings.name, weights=dict(settings.weights) or None, device=device, allow_pickle=allow_pickle
        )
    except ValueError as error:  # the evaluation's own errors for its users
        _cannot(settings, error)

    def mean(frames: NDArray[np.uint8], prompt: str) -> float:
        return float(network(torch.from_numpy(np.ascontiguousarray(frames)), [prompt] * len(frames)).double().mean())

    return mean


def _cannot(settings: RewardSettings, error: Exception) -> NoReturn:
    raise UserError(
        f"the reward {settings.name} cannot be used: {error} (or give --reward-weights PATH, or another --reward)"
    ) from error


# -- functions of the user's own: MODULE:FUNCTION or FILE.py:FUNCTION -------------------------------------------------


class FunctionFailedError(Exception):
    """A function raised, or gave no finite number; the message, one line, follows its name ("failed: ...")."""


def is_named(given: str) -> bool:
    """Whether a word has the form of one of these names."""
    module, colon, function = given.rpartition(":")
    return bool(module and colon and function)


def find_function(given: str, kind: str) -> Callable[..., Any]:
    """Returns the function that `given` names, its module imported; `kind` says what it is for ("scorer").

    A module is looked for where Python looks and in the working folder; FUNCTION may have dots.

    Raises:
        UserError: no such module or file, one that cannot be imported, no such name in it, or no function.
    """
    module, _, function = given.rpartition(":")
    try:
        found: Any = _module(module, kind)
        for part in function.split("."):
            found = getattr(found, part)
    except UserError:
        raise
    except Exception as error:  # whatever a module of the user's does when it is imported
        said = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError | AttributeError) else error
        raise UserError(f"the {kind} {given} cannot be loaded ({said}); give {FORMS}") from error
    if not callable(found):
        raise UserError(f"the {kind} {given} is no function; it must take frames and a prompt and return a number")
    return found


def described(given: str, function: Callable[..., Any]) -> str:
    """Returns the first line of what a function says of itself, or its name."""
    lines = (getattr(function, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else given.rpartition(":")[2]


def answer(function: Callable[..., Any], frames: Any, prompt: str) -> float:
    """Returns the finite number that a function gives for frames and a prompt.

    Raises:
        FunctionFailedError: it raises (or would end the program), or returns something else, text included.
        UserError, or a lack of memory: as it is.
    """
    try:
        value = function(frames, prompt)
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise FunctionFailedError(f"failed: {type(error).__name__}: {_shortened(str(error))}") from error
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise FunctionFailedError(f"returned {_shortened(repr(value))}; it must return a finite number")
    return number


def located_name(given: str) -> str:
    """Returns the name with the path of a FILE.py made absolute, so that it means the same from anywhere."""
    module, _, function = given.rpartition(":")
    return f"{Path(module).expanduser().resolve()}:{function}" if module.endswith(".py") else given


def source_of(given: str) -> str:
    """Returns 12 hexadecimal digits of the file that a function lies in, "" where there is none: it may be edited."""
    module = given.rpartition(":")[0]
    place: str | None = str(Path(module).expanduser())
    if not module.endswith(".py"):
        place = getattr(sys.modules.get(module), "__file__", None)
    if place is None or not Path(place).is_file():
        return ""
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:12]


def _module(name: str, kind: str) -> Any:
    if not name.endswith(".py"):
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)
        return importlib.import_module(name)
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"the {kind}: there is no file {name}; give {FORMS}")
    return _from_file(path, path.stat().st_mtime_ns)


@functools.cache
def _from_file(path: Path, _changed: int) -> Any:
    """The module in a file, made once for as long as the file is as it is: it may load a network."""
    from importlib.util import module_from_spec, spec_from_file_location

    name = f"{path.stem} in {path.parent}"  # a name that no module of anybody's has
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)  # where dataclasses and pickles look for their own module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_SAID else f"{line[: MOST_SAID - 3]}..."
