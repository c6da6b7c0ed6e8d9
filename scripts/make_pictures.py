"""Make the README's pictures from demo runs: python scripts/make_pictures.py outputs/demo docs/pictures/demo.webp

A row per prompt, a column per method (--across: the other way round), the prompt beside its row: a looping animation
(.gif, .webp) of a run of videos, one picture (.png) of a run of pictures.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.picture_io import read_picture, write_picture
from w2sd_video.runs.tasks import METHODS
from w2sd_video.runs.video_io import read_video, write_video

CELL, GAP, MARGIN, BAND = 96, 6, 168, 30  # pixels
GROUND, TEXT = (22, 24, 29), (236, 238, 242)


def picture(folder: Path, across: bool = False) -> np.ndarray:
    """What a run finished as one animation, [F, H, W, 3] uint8, all of one frame count; a run of pictures has F = 1.

    The first picture or video of each prompt; `across` gives prompts columns and methods rows.
    """
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["status"] == "done"]
    if not records:
        raise UserError(f"{folder} holds nothing finished; run the command that made it again")
    methods = [method for method in METHODS if any(record["method"] == method for record in records)]
    prompts = list(dict.fromkeys(record["prompt"] for record in records))
    first = {prompt: min(r["index"] for r in records if r["prompt"] == prompt) for prompt in prompts}
    titles = [METHODS[method].title for method in methods]
    sheet = blank(titles, prompts) if across else blank(prompts, titles)
    frames: list[np.ndarray] = []
    for record in records:
        if record["index"] != first[record["prompt"]]:
            continue
        path = folder / record["path"]
        video = read_picture(path).pixels[None] if path.suffix == ".png" else read_video(path).frames
        frames = frames or [np.asarray(sheet).copy() for _ in video]
        place = (prompts.index(record["prompt"]), methods.index(record["method"]))
        row, column = reversed(place) if across else place
        top, left = BAND + row * (CELL + GAP), MARGIN + column * (CELL + GAP)
        for canvas, frame in zip(frames, video, strict=True):
            cell = Image.fromarray(frame).resize((CELL, CELL), Image.Resampling.NEAREST)
            canvas[top : top + CELL, left : left + CELL] = np.asarray(cell)
    return np.stack(frames)


def blank(rows: list[str], columns: list[str]) -> Image.Image:
    """The labelled sheet without its pictures."""
    sheet = Image.new("RGB", (MARGIN + len(columns) * (CELL + GAP), BAND + len(rows) * (CELL + GAP)), GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, title in enumerate(columns):
        draw.text((MARGIN + column * (CELL + GAP) + CELL / 2, BAND / 2), title, fill=TEXT, font=font, anchor="mm")
    for row, title in enumerate(rows):
        words = title.split()
        half = len(words) // 2 + 1
        label = " ".join(words[:half]) + "\n" * (len(words) > half) + " ".join(words[half:])
        middle = BAND + row * (CELL + GAP) + CELL / 2
        draw.multiline_text((MARGIN - 14, middle), label, fill=TEXT, font=font, anchor="rm", align="right")
    return sheet


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --output folder of a run of any of the commands")
    parser.add_argument("picture", type=Path, help="the .gif, .webp or .png to write")
    parser.add_argument("--across", action="store_true", help="a column per prompt, for many short prompts")
    options = parser.parse_args(arguments)
    return exit_code(lambda: make(options.run, options.picture, across=options.across))


def make(run: Path, path: Path, *, across: bool = False) -> int:
    if path.suffix not in (".gif", ".webp", ".png"):
        raise UserError(f"{path} is no name of a picture; let it end in .png, or for videos in .gif or .webp")
    if not (run / "results.jsonl").is_file():
        raise UserError(f"{run} holds no results.jsonl; run `make demo` first and give outputs/demo")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = picture(run, across)
    if path.suffix == ".png":
        write_picture(path, frames[0])
    else:
        write_video(
            path, np.concatenate([frames, frames[-1:].repeat(4, axis=0)]), 8
        )  # holds the last for half a second
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
