"""The beds of the arena's page: the words of `w2sd arena` for each, and what these name that has to be made before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.demo import LORA_WEIGHTS, WEIGHTS
from w2sd_video.demo.captions import CAPTIONS, MOTIONS
from w2sd_video.demo.pictures import PICTURE_CAPTIONS

HERE = Path("scripts/experiments")  # the repository's root is where programs run
PROMPTED = "CFG,limited CFG,CFG-Zero*,APG,TCFG,Z-Sampling,cached zigzag"
UNPROMPTED = "auto-guidance,limited auto-guidance,SLG,PAG,SEG,Re-Sampling"
FORMS = "W2SD paper,W2SD fused,W2SD cached"
STILL = MOTIONS.index("standing still")


@dataclass(frozen=True)
class Bed:
    """One pair at one budget.

    Attributes:
        title: of its table and its panel.
        flags: of the arena, without --output.
        inner: flags of the family, after the "--"; {prompts} and {pair} are what `prompts` and `pair` write.
        prompts: one for each line of the file of prompts.
        pair: returns the folder of a pair that does not come with the code, from the folder of its weights.
    """

    title: str
    flags: Sequence[str]
    inner: Sequence[str]
    prompts: Sequence[str] = ()
    pair: Callable[[Path, Path], Path] | None = None

    def words(self, name: str, output: Path, weights: Path) -> list[str]:
        """Returns the words of `w2sd arena`, and writes what they name; raises `UserError` for missing weights."""
        output.mkdir(parents=True, exist_ok=True)
        told = {}
        if self.prompts:
            told["prompts"] = output / f"{name}.txt"
            told["prompts"].write_text("\n".join(self.prompts) + "\n", encoding="utf-8")
        if self.pair is not None:
            told["pair"] = self.pair(weights, output)
        inner = [word.format(**told) for word in self.inner]
        return [*self.flags, "--output", str(output / name), "--", *inner]


def still_pair(weights: Path, output: Path) -> Path:
    """The bundled video pair with the strong network of `scripts/train_still.py`, as a folder for --strong."""
    folder = output / "still-pair"
    if not folder.is_dir():
        from experiments.demo.still import sides

        network = sides(weights)["strong"].unet
        part = folder.with_suffix(".part")
        shutil.copytree(WEIGHTS, part, dirs_exist_ok=True)
        network.half().save_pretrained(part / "unet")
        part.rename(folder)
    return folder


_TOY = ("--guidance", "1", "--height", "32", "--width", "32", "--num-frames", "8", "--fps", "8", "--dtype", "float32")
BEDS: Mapping[str, Bed] = {
    "pictures": Bed(
        "Pictures: a gap of guidance (1 over 0)",
        ("--budgets", "56", "--tuned", "24", "--count", "96", "--entrants", f"{PROMPTED},{UNPROMPTED},{FORMS}"),
        ("--batch", "24", "--prompts", "{prompts}"),
        PICTURE_CAPTIONS,
    ),
    "lora": Bed(
        "Pictures: a gap of LoRA scales (0.8 over -1.5)",
        ("--budgets", "28", "--tuned", "24", "--count", "96", "--entrants",
         f"auto-guidance,limited auto-guidance,Re-Sampling,{FORMS}"),
        ("--batch", "24", "--guidance", "1", "--weak-guidance", "1", "--lora", f"demo={LORA_WEIGHTS}:0.8",
         "--weak-lora", "demo:-1.5", "--prompts", "{prompts}"),
        PICTURE_CAPTIONS,
    ),
    "videos": Bed(
        "Videos: two networks",
        ("--videos", "--budgets", "25", "--tuned", "20", "--count", "72", "--entrants",
         f"CFG,APG,Z-Sampling,auto-guidance,limited auto-guidance,{FORMS}"),
        ("--batch", "24", "--prompts", "{prompts}"),
        CAPTIONS,
    ),
    "still": Bed(
        "Videos whose strong side moves less",
        ("--videos", "--reward", f"{HERE}/arena/rewards.py:colour_and_shape", "--budgets", "25", "--tuned", "12",
         "--count", "72", "--entrants", "auto-guidance,W2SD fused"),
        ("--strong", "{pair}", "--weak", str(WEIGHTS / "weak"), "--motion-adapter", str(WEIGHTS / "motion_adapter"),
         "--batch", "24", "--steps", "20", "--lambda", "10", *_TOY, "--prompts", "{prompts}"),
        [caption for i, caption in enumerate(CAPTIONS) if i % len(MOTIONS) != STILL],
        still_pair,
    ),
    "digits": Bed(
        "Digits: a gap of experts in a DiT-MoE",
        ("--family", "moe", "--reward", f"{HERE}/digits/reward.py:right", "--budgets", "50", "--tuned", "20",
         "--count", "100", "--entrants",
         f"CFG,limited CFG,CFG-Zero*,APG,auto-guidance,Z-Sampling,{FORMS}"),
        ("--guidance", "1", "--lambda", "25"),
    ),
}  # fmt: skip
