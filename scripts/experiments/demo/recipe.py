"""The recipe of the bundled pair: which phases, how long, and in what order."""

from collections.abc import Callable
from pathlib import Path

from diffusers import UNetMotionModel

from experiments.demo import training
from experiments.demo.export import export_pair
from experiments.demo.loop import Phase

TEXT = Phase(1, steps=400, batch=120, learning_rate=3e-3, ema=0.99)
VAE = Phase(2, steps=1200, batch=64, learning_rate=3e-3, ema=0.99)
FRAMES = Phase(3, steps=1500, batch=128, learning_rate=1.5e-3, ema=0.995)
CLIPS = Phase(4, steps=1300, batch=16, learning_rate=1.2e-3, ema=0.995, horizon=2200)
SIDES = Phase(5, steps=700, batch=16, learning_rate=6e-4, ema=0.995)


class Recipe:
    """The phases over one folder of checkpoints; finished ones are read from it, an unfinished one is continued."""

    def __init__(self, work: Path, seed: int, *, quiet: bool = False) -> None:
        self.work, self.seed, self.quiet = work, seed, quiet
        self.encoders = training.train_text(work, seed, TEXT, quiet)
        self.vae = training.train_vae(work, seed, VAE, quiet)
        self.bank = training.make_bank(self.encoders, self.vae, seed)
        self.unet = training.train_frames(self.bank, work, seed, FRAMES, quiet)
        self.train_clips()

    def train_clips(self) -> UNetMotionModel:
        """The network both sides start from, a new copy at each call."""
        return training.train_clips(self.unet, self.bank, self.work, self.seed, CLIPS, self.quiet)

    def train_side(self, side: str) -> UNetMotionModel:
        """The "strong" or the "weak" network."""
        start = self.train_clips()
        return training.train_side(side, start, self.bank, self.work, self.seed, SIDES, self.quiet)

    def export(self, output: Path) -> None:
        """Train what is left, and write the pair to `output`."""
        export_pair(output, self.encoders, self.vae, self.train_side("strong"), self.train_side("weak"))


def make_pair(output: Path, work: Path, seed: int, *, quiet: bool, train_sides: Callable[[], bool]) -> bool:
    """Train the shared phases, let `train_sides` train both sides at once, and write the pair; False if it failed."""
    recipe = Recipe(work, seed, quiet=quiet)
    if not train_sides():
        return False
    recipe.quiet = True  # everything is finished: what follows only reads it
    recipe.export(output)
    return True
