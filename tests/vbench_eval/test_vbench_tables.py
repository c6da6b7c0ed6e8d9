"""The tables of a comparison: what is bold, what is escaped, and that proxies keep to themselves."""

import csv
import io
import re

import pytest

from vbench_eval.comparing import compare
from vbench_eval.comparison import p_text
from vbench_eval.tables import differences_csv, latex, latex_text, markdown, markdown_table, means_csv

TABLE_12 = {  # the paper's Table 12, in percent
    "AnimateDiff (SDXL)": (91.4152, 95.8491, 94.1647, 45.0, 55.3108, 58.4293),
    "W2SD": (97.1398, 97.9386, 96.8706, 8.0, 59.3736, 64.6987),
}
NAMES = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)


def one(value):
    return {"value": value, "score": float(value), "weight": 1.0, "extras": {}, "reason": None}


def report(count=200, **values):
    """A report of `count` prompts; a value is the same number for all, or a function of the prompt's number."""
    videos = [
        {
            "path": f"p{n}-0.mp4",
            "prompt": f"p{n}",
            "index": 0,
            "measured": {name: one(value(n) if callable(value) else value) for name, value in values.items()},
        }
        for n in range(count)
    ]
    return {"schema": 1, "name": "r", "profile": "vbench", "folder": "", "dimensions": {}, "videos": videos}


def of_paper(values):
    """A report whose means are a row of Table 12."""
    measured = dict(zip(NAMES, (value / 100 for value in values), strict=True))
    return report(**{**measured, "dynamic_degree": lambda n: n < round(2 * values[3])})


@pytest.fixture(scope="module")
def paper():
    return compare({label: of_paper(values) for label, values in TABLE_12.items()})


def markdown_lines(text, first):
    return next(
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {first}")
    )


def test_markdown_has_the_papers_rows_times_100_to_four_digits_with_the_best_bold(paper):
    text = markdown_table(paper)
    assert markdown_lines(text, "method") == ["method", *(name.replace("_", " ") for name in NAMES)]
    expected = {label: [f"{value:.4f}" for value in values] for label, values in TABLE_12.items()}
    for n in range(6):
        best = "AnimateDiff (SDXL)" if n == 3 else "W2SD"  # only dynamic degree is higher without W2SD
        expected[best][n] = f"**{expected[best][n]}**"
    assert {label: markdown_lines(text, label) for label in TABLE_12} == {k: [k, *v] for k, v in expected.items()}
    assert markdown_table(paper) in markdown(paper).replace("## ", "")


def test_markdown_warns_first_and_gives_differences_with_tests(paper):
    text = markdown(paper)
    assert text.index("**Warning.**") < text.index("| method |")
    assert "-37.00 [" in text and "McNemar" in text and "not independent" in text
    found = markdown_lines(text[text.index("W2SD minus AnimateDiff") :], "subject consistency")
    assert found == [
        "subject consistency",
        "+5.72 [+5.72, +5.72]",
        "Wilcoxon",
        r"\< 0.0001",
        r"\< 0.0001",
        "100.0 % [98, 100]",
    ]


def test_equal_means_are_not_bold_and_two_bests_both_are():
    text = markdown_table(compare({k: report(20, imaging_quality=0.5) for k in "ab"}))
    assert "**" not in text
    sides = {
        "a": report(20, imaging_quality=0.5),
        "b": report(20, imaging_quality=0.6),
        "c": report(20, imaging_quality=0.6),
    }
    assert markdown_table(compare(sides)).count("**60.0000**") == 2


def test_proxies_have_a_table_of_their_own_in_their_own_units():
    sides = {
        k: report(20, imaging_quality=0.5, sharpness=900 + n, warp_error=0.02 - n / 100) for n, k in enumerate("ab")
    }
    for text, header in ((markdown(compare(sides)), "| method |"), (latex(compare(sides)), "method &")):
        headers = [line for line in text.splitlines() if line.startswith(header)]
        assert len(headers) == 2
        assert "imaging quality" in headers[0] and "sharpness" not in headers[0]
        assert "sharpness" in headers[1] and "imaging quality" not in headers[1]
        assert "901" in text and "90100" not in text
    text = markdown_table(compare(sides))
    assert "**0.01**" in text, "the lower warp error is the better"
    assert "**901**" not in text and "**900**" not in text, "neither sharpness is"
    columns = next(csv.reader(io.StringIO(means_csv(compare(sides)))))
    assert columns == ["method", "imaging_quality", "proxy: sharpness", "proxy: warp_error"]


def test_a_method_without_a_dimension_has_an_empty_cell():
    sides = {"a": report(12, imaging_quality=0.5, aesthetic_quality=0.4), "b": report(12, imaging_quality=0.6)}
    assert markdown_lines(markdown_table(compare(sides)), "b") == ["b", "-", "**60.0000**"]
    assert list(csv.reader(io.StringIO(means_csv(compare(sides)))))[2] == ["b", "", "60.0000"]


def test_what_was_left_out_stands_under_the_table():
    sides = {"a": report(30, imaging_quality=0.5), "b": report(29, imaging_quality=0.6)}
    assert "29 videos of 29 prompts" in markdown_table(compare(sides))
    assert "left out, for want of a partner: 1 of a" in latex(compare(sides))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50% & more_of #1 $x$", r"50\% \& more\_of \#1 \$x\$"),
        ("a\\b{c}", r"a\textbackslash{}b\{c\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("a\nb", "a b"),
        ("<x|y>", r"\textless{}x\textbar{}y\textgreater{}"),
    ],
)
def test_latex_has_no_command_that_a_label_brought_in(text, escaped):
    assert latex_text(text) == escaped
    sides = {"base": report(12, imaging_quality=0.5), text: report(12, imaging_quality=0.6)}
    assert f"\n{escaped} & \\textbf{{60.0000}} \\\\\n" in latex(compare(sides))


def test_latex_rows_have_as_many_cells_as_the_tabular_has_columns(paper):
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex(paper))[1]
    assert columns == "lrrrrrr"
    rows = [line for line in latex(paper).splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(line.count("&") == 6 for line in rows)


def test_a_bar_in_a_label_does_not_split_a_markdown_cell():
    sides = {"a|b": report(12, imaging_quality=0.5), "*c*": report(12, imaging_quality=0.6)}
    text = markdown_table(compare(sides))
    assert r"| a\|b | 50.0000 |" in text and r"| \*c\* |" in text


def test_the_csv_of_differences_holds_every_number_unrounded(paper):
    lines = list(csv.DictReader(io.StringIO(differences_csv(paper))))
    assert len(lines) == 12
    line = next(line for line in lines if line["dimension"] == "dynamic_degree" and line["method"] == "W2SD")
    found = next(row for row in paper.rows if row.name == "dynamic_degree").differences["W2SD"]
    assert float(line["difference"]) == found.interval.value == pytest.approx(-0.37)
    assert float(line["p"]) == found.test.p and float(line["p_holm"]) == found.p_holm
    assert (line["kind"], line["baseline"], line["videos"], line["losses"]) == (
        "official",
        "AnimateDiff (SDXL)",
        "200",
        "74",
    )
    base = next(line for line in lines if line["method"] == "AnimateDiff (SDXL)")
    assert base["difference"] == base["p"] == ""


@pytest.mark.parametrize(
    ("p", "text"), [(1e-9, "< 0.0001"), (0.0386, "0.039"), (0.0001, "0.0001"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_p_is_written_with_the_digits_that_mean_something(p, text):
    assert p_text(p) == text
