"""Words to a request, made from the table of options; and how every program ends and reports (imports no torch)."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from w2sd_video import __version__
from w2sd_video.commands.option import Option
from w2sd_video.commands.options import options_of, takers_of
from w2sd_video.commands.request import Request
from w2sd_video.errors import TerminatedError, UserError, terminable, unread
from w2sd_video.runs.fellows import Worker

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143
Run = Callable[[argparse.Namespace, list[str]], tuple[int, dict[str, Any]]]
"""Does what the arguments (parsed, and as words) ask for: the exit code, and a report, for people under "text"."""

EXIT_CODES = """\
exit codes: 0 all is there; 1 something failed (results.jsonl says why) or memory ran out; 2 refused: bad arguments,
files or folder, or a disk that is full or read-only (what was finished is kept); 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """Refuses by `UserError`, which `run_command` reports in the format asked for, and names the nearest flag."""

    def error(self, message: str) -> NoReturn:
        start, _, words = message.partition("unrecognized arguments: ")
        if words and not start and (flag := words.split()[0].partition("=")[0]).startswith("-"):
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
            if others := takers_of(flag):  # it is no slip, but another program's
                message += f": it is a flag of w2sd {' and w2sd '.join(others)}"
            elif near:
                message += f"; did you mean {near[0]}?"
        raise UserError(f"{message}; --help shows every flag")


def build_parser(
    program: str,
    name: str,
    *,
    description: str,
    examples: str = "",
    details: str = "",
    listing: Callable[[], str] | None = None,
) -> Parser:
    """Returns the parser of the program called `name` in the table: one flag per row, None where it is not given.

    `--help` shows everyday flags and the `examples`, where {program} stands for the program; `--help-all` every flag
    and the `details` too. `listing` returns what `--list-presets` prints.
    """
    parser = Parser(prog=program, description=textwrap.fill(description, 118), allow_abbrev=False, add_help=False,
                    usage=f"{program} [flags]", formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    asked = parser.add_argument_group("help")
    rows = options_of(name)
    expert = [option for option in rows if not option.everyday]
    asked.add_argument("-h", "--help", action=_Help, help="show the everyday flags", expert=expert, details="")
    asked.add_argument("--help-all", action=_Help, help="show every flag", expert=[], details=details)
    asked.add_argument("--version", action="version", version=f"{program} {__version__}")
    if listing is not None:
        about = "print every preset with its settings and the paper's numbers"
        asked.add_argument("--list-presets", action=_Text, text=listing, help=about)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in rows:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    parser.epilog = f"examples:\n{examples.format(program=program)}" if examples else None
    return parser


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    flag, *aliases = option.names
    also = f" (also {', '.join(aliases)})" if aliases else ""
    settings: dict[str, Any] = {"dest": option.field, "default": None}
    if option.kind is bool:
        settings |= {"action": "store_const", "const": True}
    else:
        settings |= {"metavar": option.metavar, "action": "append" if option.many else "store"}
    if option.kind in (int, float):
        settings["type"] = option.kind
    if option.of_run and option.choices:
        settings["choices"] = option.choices
    group.add_argument(flag, help=option.help.replace("%", "%%") + also, **settings)
    if aliases:
        group.add_argument(*aliases, help=argparse.SUPPRESS, **settings)


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        self.expert, self.details = settings.pop("expert"), settings.pop("details")
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        hidden = {option.field for option in self.expert}
        for action in parser._actions:
            action.help = argparse.SUPPRESS if action.dest in hidden else action.help
        parser.epilog = "\n".join([*filter(None, [parser.epilog, self.details, EXIT_CODES])])
        if hidden:
            parser.epilog += f"\n{parser.prog} --help-all shows {len(hidden)} more flags"
        parser.print_help()
        parser.exit()


class _Text(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        self.text = settings.pop("text")
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self.text(), flush=True)
        parser.exit()


def request_of(name: str, arguments: argparse.Namespace, note: Callable[[str], None]) -> Request:
    """Returns what parsed arguments ask for.

    Raises:
        UserError: a file that cannot be read, or a value outside its range.
    """
    given: dict[str, Any] = {}
    for option in options_of(name):
        value = getattr(arguments, option.field)
        if value is not None and not option.of_run:
            given[option.field] = tuple(map(option.read, value)) if option.many else option.read(value)
    prompts = (*(getattr(arguments, "prompt", None) or ()), *given.pop("prompts", ()))
    request = Request(name, **given, **({"prompts": prompts} if prompts else {}))
    if prompts and (repeated := len(prompts) - len(request.prompts)):
        note(f"{repeated} repeated prompts are made once: a repeat would be the same (--num makes more of each)")
    return request


def run_command(
    parser: argparse.ArgumentParser, words: Sequence[str], run: Run, *, room: str, made: str | None = None
) -> int:
    """Parses the words, runs and returns the exit code.

    One report goes to standard output, as JSON if `--format json` is among the arguments, and whatever libraries print
    to standard error. `made` is what the program makes and keeps one by one ("files"; None: it is all or nothing),
    `room` what to do when memory runs out.
    """
    kept = "nothing is kept" if made is None else f"finished {made} are kept"
    # As far as can be told before the words are understood: a refusal of them is reported in this format too.
    as_json = "--format=json" in words or ("--format", "json") in pairwise(words)
    try:
        arguments = parser.parse_args(words)
        as_json = arguments.format == "json"
        with terminable(), contextlib.redirect_stdout(sys.stderr):
            code, report = run(arguments, list(words))
    except KeyboardInterrupt as error:
        ended = isinstance(error, TerminatedError)
        code, said = (EXIT_TERMINATED, "terminated") if ended else (EXIT_INTERRUPTED, "interrupted")
        report = {"status": said, "error": said}
        again = "run the same command again" + ("" if made is None else " to make the rest")
        print(f"\n{said}; {kept}: {again}", file=sys.stderr)
    except UserError as error:
        code, report = EXIT_REFUSED, _refused(str(error))
    except BrokenPipeError:
        return unread()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        again = f"\n{kept.capitalize()}; once there is room and permission, run the same command again."
        code, report = EXIT_REFUSED, _refused(f"{error.strerror or error}{where}" + (again if error.errno else ""))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: out of memory ({error}).\n{kept.capitalize()}. {room}", file=sys.stderr)
        code, report = EXIT_FAILED, {"status": "out of memory", "error": str(error)}
    return report_on(code, report, as_json=as_json)


def said(arguments: argparse.Namespace, report: dict[str, Any], text: str, quiet: str | None = None) -> dict[str, Any]:
    """Returns what a program reports in the format asked for: `report` as JSON, else the text (or that of --quiet)."""
    if arguments.format == "json":
        return report
    return {"text": quiet if quiet is not None and arguments.quiet else text}


def report_on(code: int, report: Mapping[str, Any], *, as_json: bool) -> int:
    """Prints a report on standard output and returns the code."""
    if not Worker.of_environment().first:  # of processes started together the first one reports
        return code
    try:
        if as_json:
            print(json.dumps({**report, "exit_code": code}, ensure_ascii=True), flush=True)
        elif "text" in report:
            print(report["text"], flush=True)
    except BrokenPipeError:
        unread()
    return code


def _refused(message: str) -> dict[str, Any]:
    print(f"error: {message}", file=sys.stderr)
    return {"status": "refused", "error": message}
