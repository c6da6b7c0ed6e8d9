"""Write the tables of flags in docs/guide/ from the one table of options: python scripts/make_guides.py [--check]

What stands above "## All flags" in a guide is written by hand; what follows is made here, and `--check` (also a test)
exits with 1 where a guide is not as the table has it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.option import Option
from w2sd_video.commands.options import options_of

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guide"
PROGRAMS = ("video", "image", "bridge", "moe", "diagnose", "sweep", "arena", "diff")
HEADING = "## All flags\n"


def row(option: Option) -> str:
    flags = ", ".join(f"`{name}`" for name in option.names)
    value = f" {option.metavar}" if option.metavar else ""
    text = option.help.replace("|", "\\|")
    return f"| {flags}{value} | {text[0].upper() + text[1:]} |"


def flags(program: str) -> str:
    """The flags of a program as Markdown: a table per group, everyday groups first."""
    groups: dict[str, list[Option]] = {}
    for option in options_of(program):
        groups.setdefault(option.group, []).append(option)
    tables = []
    for name, options in groups.items():
        everyday = [option for option in options if option.everyday]
        expert = [option for option in options if not option.everyday]
        rows = "\n".join(map(row, [*everyday, *expert]))
        tables.append(f"### {name[0].upper() + name[1:]}\n\n| flag | what it does |\n|---|---|\n{rows}\n")
    return "\n".join(tables)


def renewed(program: str) -> tuple[Path, str]:
    """The guide of a program, and its text with the flags as the table has them."""
    path = GUIDES / f"{program}.md"
    above, _, _ = path.read_text(encoding="utf-8").partition(HEADING)
    return path, f"{above}{HEADING}\n{flags(program)}"


def main(words: list[str] | None = None) -> int:
    check = "--check" in (sys.argv[1:] if words is None else words)
    stale = []
    for program in PROGRAMS:
        path, text = renewed(program)
        if path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'not as the table of options has them' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
