"""Make the README's picture from a demo run: python scripts/make_pictures.py outputs/demo docs/pictures/demo.webp

A looping animation: a row per prompt, a column per method, the prompt beside its row.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.request import METHODS
from w2sd_video.video_io import read_video, write_video

CELL, GAP, MARGIN, BAND = 96, 6, 168, 30  # pixels
GROUND, TEXT = (22, 24, 29), (236, 238, 242)


def picture(folder: Path) -> np.ndarray:
    """The finished videos of a run as one animation, [F, H, W, 3] uint8; every video must have the same frame count."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["status"] == "done" and record["index"] == 0]
    if not records:
        raise UserError(f"{folder} holds no finished video; run the command that made it again")
    methods = [method for method in METHODS if any(record["method"] == method for record in records)]
    prompts = list(dict.fromkeys(record["prompt"] for record in records))
    size = (MARGIN + len(methods) * (CELL + GAP), BAND + len(prompts) * (CELL + GAP))
    sheet = Image.new("RGB", size, GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, method in enumerate(methods):
        centre = MARGIN + column * (CELL + GAP) + CELL / 2
        draw.text((centre, BAND / 2), METHODS[method].title, fill=TEXT, font=font, anchor="mm")
    for row, prompt in enumerate(prompts):
        words, half = prompt.split(), len(prompt.split()) // 2 + 1
        label = " ".join(words[:half]) + "\n" + " ".join(words[half:])
        middle = BAND + row * (CELL + GAP) + CELL / 2
        draw.multiline_text((MARGIN - 14, middle), label, fill=TEXT, font=font, anchor="rm", align="right")
    frames: list[np.ndarray] = []
    for record in records:
        video = read_video(folder / record["path"]).frames
        frames = frames or [np.asarray(sheet).copy() for _ in video]
        top = BAND + prompts.index(record["prompt"]) * (CELL + GAP)
        left = MARGIN + methods.index(record["method"]) * (CELL + GAP)
        for canvas, frame in zip(frames, video, strict=True):
            cell = Image.fromarray(frame).resize((CELL, CELL), Image.Resampling.NEAREST)
            canvas[top : top + CELL, left : left + CELL] = np.asarray(cell)
    return np.stack([*frames, *[frames[-1]] * 4])  # hold the last frame for half a second


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --output folder of a generate_video.py run")
    parser.add_argument("picture", type=Path, help="the .gif or .webp to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: write_picture(options.run, options.picture))


def write_picture(run: Path, path: Path) -> int:
    if path.suffix not in (".gif", ".webp"):
        raise UserError(f"{path} is no name of an animation; let it end in .gif or .webp")
    if not (run / "results.jsonl").is_file():
        raise UserError(f"{run} holds no results.jsonl; run `make demo` first and give outputs/demo")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, picture(run), 8)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
