"""The tables, figures and the page of a comparison: offline, safe whatever the prompts say, and true to the numbers."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image, ImageColor

from tests.support.vbench_reports import measured, video
from tests.support.vbench_reports import report as scored
from vbench_eval import figures, pages
from vbench_eval.comparing import compare
from vbench_eval.comparison import p_text, verdicts
from vbench_eval.dimensions import OFFICIAL
from vbench_eval.errors import UserError
from vbench_eval.page import write_comparison
from vbench_eval.plots import differences_plot, motion_plot, scatter_plot
from vbench_eval.tables import differences_csv, latex, latex_text, markdown, markdown_table, means_csv

PROMPTS = (
    "a plain fox",
    "a \"quoted\" <b>fox</b> & 'co'</script><script>alert(1)</script>",
    "façades #1? 100%",
    "a; {b} \x00c",
)


def report(folder="", gain=0.0, prompts=PROMPTS, **others):
    videos = []
    for n, prompt in enumerate(prompts):
        values = {"imaging_quality": 0.5 + gain + n / 1000, "dynamic_degree": n % 2 == 0, **others}
        info = {"fps": 8.0, "frames": 16, "width": 64, "height": 48}
        videos.append({**video(prompt, seed=n, path=f"video {n}-0.mp4", **values), "info": info})
    facts = {"folder": str(folder), "skipped": [{"path": "bad & broken.mp4", "reason": "no <frames>"}]}
    lacking = {"motion_smoothness": {"reason": "AMT-S <is> not installed"}}
    return {**scored(videos, dimensions=lacking), **facts}


class Page(HTMLParser):
    """The tags with their attributes, and the text of headings, of one page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self._open = [], {"h1": [], "h2": [], "h3": []}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in self.headings:
            self._open = tag
            self.headings[tag].append("")

    def handle_endtag(self, tag):
        if tag == self._open:
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.headings[self._open][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("comparison")
    for label in ("base", "ours"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for n in range(len(PROMPTS)):
            (tmp_path / "videos" / label / f"video {n}-0.mp4").write_bytes(b"x")
    sides = {
        "base": report(tmp_path / "videos" / "base", sharpness=900.0),
        'o"urs<i>': report(tmp_path / "videos" / "ours", 0.02, sharpness=950.0),
    }
    files = write_comparison(compare(sides, draws=200), tmp_path / "out" / "comparison")
    return files, files["page"].read_text(encoding="utf-8")


@pytest.fixture
def no_plots(monkeypatch):
    """As without matplotlib, and quicker."""
    monkeypatch.setattr(figures, "available", lambda: False)


def test_prompts_and_labels_are_text_whatever_they_hold(made):
    page = Page(made[1])
    shown = {prompt.replace("\x00", "␀") for prompt in PROMPTS}
    assert shown <= set(page.headings["h3"])
    assert page.headings["h1"] == ['base / o"urs<i>']
    assert len(page.all("script")) == 1 and not page.all("i")
    assert "motion smoothness: AMT-S &lt;is&gt; not installed" in made[1]
    assert "bad &amp; broken.mp4: no &lt;frames&gt;" in made[1]
    assert all(set(attributes) <= {"type"} for attributes in page.all("button")), "no attribute escapes its quotes"


def test_the_page_needs_no_network_and_no_file_but_the_videos(made):
    page = Page(made[1])
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data-src", "poster", "action")
    ]
    videos = [address for address in addresses if not address.startswith(("data:image/png;base64,", "#"))]
    assert videos and all(address.startswith("../../videos/") for address in videos)
    assert not page.all("link") and not page.all("iframe")
    without_plots = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", made[1])
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttpRequest|WebSocket", without_plots)


def test_videos_are_found_from_where_the_page_lies(made):
    files, text = made
    videos = Page(text).all("video")
    assert len(videos) == 2 * len(PROMPTS)
    for attributes in videos:
        assert (files["page"].parent / unquote(attributes["src"])).is_file()
        assert {"muted", "loop", "controls", "playsinline"} <= set(attributes)
        assert (attributes["preload"], attributes["width"], attributes["height"]) == ("none", "64", "48")
    assert text.count(">Play together<") == len(PROMPTS)


def test_official_dimensions_and_proxies_stand_in_different_sections_and_the_script_has_their_gains(made):
    text = made[1]
    official, proxies = text.index("<h2>VBench dimensions"), text.index("<h2>Proxies")
    end = text.index("<h2>Videos side by side")
    assert official < proxies < end
    assert "sharpness" not in text[official:proxies] and "sharpness" in text[proxies:end]
    assert "imaging quality" in text[official:proxies] and "imaging quality" not in text[proxies:end]
    gains = json.loads(re.search(r"const gains = (.*?);\n", text)[1])
    assert gains["imaging_quality/1"] == pytest.approx([0.02] * len(PROMPTS))
    assert gains["dynamic_degree/1"] == [0.0] * len(PROMPTS)


def test_a_stand_in_is_shown_among_the_proxies_only(tmp_path, no_plots):
    def side(value):
        made = report(prompts=[f"p{n}" for n in range(4)])
        for clip in made["videos"]:
            clip["measured"] = {"dynamic_degree": measured(value, backbone="proxy:flow_dynamic")}
        return made

    files = write_comparison(compare({"a": side(True), "b": side(False)}, draws=200), tmp_path)
    for role in ("page", "markdown", "latex", "csv"):
        text = files[role].read_text(encoding="utf-8").split("<h2>How to read")[0]
        named = re.sub(r"VBench&#39;s rule for dynamic_degree", "", text)  # the proxy's description may say so
        assert "dynamic degree" not in named and "dynamic_degree" not in named
    assert "None has been measured" in files["page"].read_text(encoding="utf-8")


def test_missing_videos_say_so_and_lone_ones_have_an_empty_place(tmp_path, no_plots):
    sides = {"a": report(tmp_path, prompts=("x", "only a")), "b": report(tmp_path, prompts=("x",))}
    text = write_comparison(compare(sides, draws=200), tmp_path / "out")["page"].read_text(encoding="utf-8")
    assert text.count("not found: video") == 3 and text.count("no such video") == 1
    assert not Page(text).all("video")


def test_folders_of_frames_and_gifs_are_pictures(tmp_path, no_plots):
    frames = tmp_path / "video 0-0.mp4"  # a folder, whatever its name
    frames.mkdir()
    for name in ("b.png", "a.png", "notes.txt"):
        (frames / name).write_bytes(b"x")
    sides = {k: report(tmp_path, prompts=("x",)) for k in "ab"}
    text = write_comparison(compare(sides, draws=200), tmp_path / "out")["page"].read_text(encoding="utf-8")
    pictures = [attributes for attributes in Page(text).all("img") if "data-pages" in attributes]
    assert len(pictures) == 2
    assert [page.rpartition("/")[2] for page in json.loads(pictures[0]["data-pages"])] == ["a.png", "b.png"]
    assert pictures[0]["data-fps"] == "8"


def test_a_page_of_very_many_videos_shows_some_and_says_so(tmp_path, no_plots, monkeypatch):
    monkeypatch.setattr("vbench_eval.page.MOST", 8)
    sides = {k: report(prompts=[f"p{n}" for n in range(13)]) for k in "ab"}
    text = write_comparison(compare(sides, draws=200), tmp_path)["page"].read_text(encoding="utf-8")
    assert text.count("<div class=pair>") == 8 and "The first 8 of 13 are shown." in text


def test_all_files_are_written_and_the_plots_lie_beside_the_page(made):
    files, text = made
    plots = {f"{kind}{plot}" for kind in ("", "proxies-") for plot in ("differences", "scatter-1")}
    assert {path.name for path in files.values()} == {path.name for path in files["page"].parent.iterdir()}
    assert set(files) == {"page", "markdown", "csv", "latex", "differences_csv", "json", "motion", *plots}
    assert json.loads(files["json"].read_text(encoding="utf-8"))["labels"][0] == "base"
    images = [image for image in Page(text).all("img") if image.get("src", "").startswith("data:")]
    embedded = [image.get("srcset") or image["src"] for image in Page(text).all("source") + images]
    assert len(embedded) == 10, "five plots, each light and dark"
    for data in embedded:
        Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).verify()


def test_without_matplotlib_the_page_says_how_to_get_plots_and_has_everything_else(tmp_path, no_plots):
    files = write_comparison(compare({"a": report(), "b": report(gain=0.1)}, draws=200), tmp_path)
    assert not list(tmp_path.glob("*.png")) and not Page(files["page"].read_text(encoding="utf-8")).all("picture")
    assert "pip install -e &#39;.[plots]&#39;" in files["page"].read_text(encoding="utf-8")


# plots


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gain_is_drawn_right_of_zero_and_a_loss_left_of_it(sign):
    prompts = [f"p{n}" for n in range(12)]
    ours = report(gain=0.02 * sign, prompts=prompts)
    for n, clip in enumerate(ours["videos"]):
        clip["measured"]["imaging_quality"] = measured(0.5 + sign * (0.02 + n / 2000))
    found = compare({"base": report(prompts=prompts), "ours": ours}, draws=500)
    rows = [row for row in found.official if row.name == "imaging_quality"]
    (axes,) = differences_plot(found, rows).axes
    ((dot, _, (interval,)),) = axes.containers
    (x,), ((low, _), (high, _)) = dot.get_xdata(), interval.get_segments()[0]
    assert 0 < min(sign * low, sign * high) < sign * x < max(sign * low, sign * high) <= 1
    assert dot.get_markerfacecolor() == dot.get_color() == figures.colours(["base", "ours"])["ours"]


def test_dots_are_the_videos_baseline_across_and_method_upward():
    prompts = [f"p{n}" for n in range(6)]
    found = compare({"base": report(prompts=prompts), "ours": report(gain=0.01, prompts=prompts)}, draws=200)
    scatter, counts = scatter_plot(found, found.official, "ours").axes
    if scatter.get_title() != "imaging quality":
        scatter, counts = counts, scatter
    dots = scatter.collections[0].get_offsets()
    assert dots[:, 0].tolist() == pytest.approx([50 + n / 10 for n in range(6)])
    assert (dots[:, 1] - dots[:, 0]).tolist() == pytest.approx([1.0] * 6)
    assert [text.get_text() for text in counts.texts] == ["3", "0", "0", "3"]


def test_nothing_to_draw_is_no_picture():
    single = compare({"a": report(prompts=("x",)), "b": report(prompts=("x",))}, draws=200)
    assert differences_plot(single, ()) is None and scatter_plot(single, (), "b") is None
    assert differences_plot(single, single.official) is not None, "one prompt has no intervals but a difference"


NAMES = OFFICIAL[:6]
TABLE_12 = {  # the paper's Table 12, in percent
    "AnimateDiff (SDXL)": (91.4152, 95.8491, 94.1647, 45.0, 55.3108, 58.4293),
    "W2SD": (97.1398, 97.9386, 96.8706, 8.0, 59.3736, 64.6987),
}


def uniform(count, **values):
    """A report of `count` prompts; a value is the same number for all, or a function of the prompt's number."""

    def at(n):
        return {name: value(n) if callable(value) else value for name, value in values.items()}

    return scored(video(f"p{n}", **at(n)) for n in range(count))


def of_paper(values):
    """A report whose means are a row of Table 12."""
    measured = dict(zip(NAMES, (value / 100 for value in values), strict=True))
    return uniform(200, **{**measured, "dynamic_degree": lambda n: n < round(2 * values[3])})


@pytest.fixture(scope="module")
def paper():
    return compare({label: of_paper(values) for label, values in TABLE_12.items()})


def markdown_lines(text, first):
    """The cells of the first row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


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
    p = r"\< 0.0001"
    assert found == ["subject consistency", "+5.72 [+5.72, +5.72]", "Wilcoxon", p, p, "100.0 % [98, 100]"]


def test_the_papers_own_table_is_led_by_quality_against_motion(paper, tmp_path):
    (verdict,) = verdicts(paper)
    assert verdict.startswith("W2SD against AnimateDiff (SDXL): imaging quality +6.27 [")
    assert re.search(
        r"aesthetic quality \+4\.06 .*, dynamic degree -37\.00 \[-4[0-9.]+, -3[0-9.]+\] of 45\.00: less motion$",
        verdict,
    )
    files = write_comparison(paper, tmp_path)
    text = files["page"].read_text(encoding="utf-8")
    assert text.index("Quality against motion") < text.index("VBench dimensions") and "less motion" in text
    assert files["motion"].read_bytes().startswith(b"\x89PNG")
    assert "less motion" in markdown(paper).partition("## ")[0]
    axes = motion_plot(paper).axes
    assert [one.get_ylabel() for one in axes] == ["imaging quality", "aesthetic quality"]
    dots = [bars[0].get_xydata()[0].tolist() for bars in axes[0].containers]
    assert dots == [pytest.approx([45, 58.4293]), pytest.approx([8, 64.6987])]


@pytest.mark.parametrize(
    ("motions", "said"),
    [
        ((0.2, 0.9), "more motion"),
        ((0.5, 0.51), "no difference of motion is shown"),
        (None, "motion was not measured, so that gains may come from videos that stand still"),
    ],
)
def test_a_verdict_claims_no_more_than_the_test_shows(motions, said):
    def side(at, quality):
        more = {} if motions is None else {"dynamic_degree": lambda n: n < round(100 * motions[at])}
        return uniform(100, imaging_quality=quality, **more)

    found = compare({"a": side(0, 0.5), "b": side(1, 0.6)}, draws=200)
    assert verdicts(found)[0].endswith(said)
    assert (motion_plot(found) is None) == (motions is None)


def test_equal_means_are_not_bold_and_two_bests_both_are():
    assert "**" not in markdown_table(compare({k: uniform(20, imaging_quality=0.5) for k in "ab"}))
    sides = {k: uniform(20, imaging_quality=v) for k, v in (("a", 0.5), ("b", 0.6), ("c", 0.6))}
    assert markdown_table(compare(sides)).count("**60.0000**") == 2


def test_proxies_have_a_table_of_their_own_in_their_own_units():
    numbers = {"a": (900, 0.02), "b": (901, 0.01)}
    found = compare({k: uniform(20, imaging_quality=0.5, sharpness=s, warp_error=w) for k, (s, w) in numbers.items()})
    for text, header in ((markdown(found), "| method |"), (latex(found), "method &")):
        headers = [line for line in text.splitlines() if line.startswith(header)]
        assert len(headers) == 2
        assert "imaging quality" in headers[0] and "sharpness" not in headers[0]
        assert "sharpness" in headers[1] and "imaging quality" not in headers[1]
        assert "901" in text and "90100" not in text
    text = markdown_table(found)
    assert "**0.01**" in text, "the lower warp error is the better"
    assert "**901**" not in text and "**900**" not in text, "neither sharpness is"
    columns = next(csv.reader(io.StringIO(means_csv(found))))
    assert columns == ["method", "imaging_quality", "proxy: sharpness", "proxy: warp_error"]


def test_empty_cells_lost_videos_and_bars_in_labels_have_their_place_in_tables():
    sides = {"a": uniform(12, imaging_quality=0.5, aesthetic_quality=0.4), "b": uniform(12, imaging_quality=0.6)}
    assert markdown_lines(markdown_table(compare(sides)), "b") == ["b", "-", "**60.0000**"]
    assert list(csv.reader(io.StringIO(means_csv(compare(sides)))))[2] == ["b", "", "60.0000"]
    found = compare({"a|b": uniform(30, imaging_quality=0.5), "*c*": uniform(29, imaging_quality=0.6)})
    text = markdown_table(found)
    assert r"| a\|b | 50.0000 |" in text and r"| \*c\* |" in text and "29 videos of 29 prompts" in text
    assert "left out, for want of a partner: 1 of a|b" in latex(found), "in a comment"


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
    sides = {"base": uniform(12, imaging_quality=0.5), text: uniform(12, imaging_quality=0.6)}
    assert f"\n{escaped} & \\textbf{{60.0000}} \\\\\n" in latex(compare(sides))


def test_latex_rows_have_as_many_cells_as_the_tabular_has_columns(paper):
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex(paper))[1]
    assert columns == "lrrrrrr"
    rows = [line for line in latex(paper).splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(line.count("&") == 6 for line in rows)


def test_the_csv_of_differences_holds_every_number_unrounded(paper):
    lines = {(line["dimension"], line["method"]): line for line in csv.DictReader(io.StringIO(differences_csv(paper)))}
    line, base = (lines["dynamic_degree", method] for method in ("W2SD", "AnimateDiff (SDXL)"))
    found = next(row for row in paper.rows if row.name == "dynamic_degree").differences["W2SD"]
    assert len(lines) == 12 and float(line["difference"]) == found.interval.value == pytest.approx(-0.37)
    assert float(line["p"]) == found.test.p and float(line["p_holm"]) == found.p_holm
    told = {"kind": "official", "baseline": "AnimateDiff (SDXL)", "videos": "200", "losses": "74"}
    assert told.items() <= line.items() and base["difference"] == base["p"] == ""


@pytest.mark.parametrize(
    ("p", "text"), [(1e-9, "< 0.0001"), (0.0386, "0.039"), (0.0001, "0.0001"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_p_is_written_with_the_digits_that_mean_something(p, text):
    assert p_text(p) == text


def lab(rgb):
    """CIE L*a*b* (D65) of linear RGB [N, 3]."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = np.clip(rgb, 0, 1) @ to_xyz.T / (0.9505, 1.0, 1.089)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


EYES = {  # Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
    "usual": np.eye(3),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}


@pytest.mark.parametrize("eye", EYES)
def test_any_two_methods_are_told_apart_by_their_colours(eye):
    rgb = np.array([ImageColor.getrgb(colour) for colour in figures.METHOD_COLOURS.values()]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = lab(linear @ EYES[eye].T)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(seen), 1)]
    assert apart.min() > 10, "in CIELAB, where 2.3 is just noticeable"


def test_a_method_has_its_colour_and_other_labels_those_that_are_left():
    found = figures.colours(["mine", "w2sd", "strong", "weak, half", "other"])
    assert list(found) == ["mine", "w2sd", "strong", "weak, half", "other"] and len(set(found.values())) == 5
    for label, method in (("w2sd", "w2sd"), ("strong", "strong"), ("weak, half", "weak")):
        assert found[label] == figures.METHOD_COLOURS[method]


def drawn(dark=False):
    with figures.style(dark=dark):
        figure, axes = figures.subplots()
        axes[0, 0].plot([0, 1], [1, 0], label="costs $5 and $6 or \u4e2d")
        figures.shared_legend(figure)
    return figures.png(figure)


def test_a_figure_repeats_byte_for_byte_and_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    def settings():  # asking for the backend would choose one
        return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if "backend" not in name}

    before = settings()
    assert drawn() == drawn() != drawn(dark=True)
    assert settings() == before
    figures.save(figures.subplots(size=(3, 2))[0], tmp_path / "new" / "empty.png")
    assert Image.open(tmp_path / "new" / "empty.png").size == (330, 220)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["empty.png"]


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[plots\]'"), figures.style():
        pass


def test_a_page_shows_any_text_as_text_and_refuses_what_it_was_not_given():
    source = pages.environment().from_string("{% extends 'base.html' %}{% block main %}<p>{{ text }}</p>{% endblock %}")
    assert "<p>&lt;b&gt; &amp; &#34;␀</p>" in source.render(text='<b> & "\x00')
    with pytest.raises(Exception, match="'text' is undefined"):
        source.render()
