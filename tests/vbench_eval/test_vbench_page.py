"""The page of a comparison and its plots: offline, safe whatever the prompts say, and true to the numbers."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from vbench_eval import figures
from vbench_eval.comparing import compare
from vbench_eval.page import MOST, write_comparison
from vbench_eval.plots import differences_plot, scatter_plot

PROMPTS = (
    "a plain fox",
    "a \"quoted\" <b>fox</b> & 'co'</script><script>alert(1)</script>",
    "façades #1? 100%",
    "a; {b} \x00c",
)


def one(value, **extras):
    return {"value": value, "score": float(value), "weight": 1.0, "extras": extras, "reason": None}


def report(folder="", gain=0.0, prompts=PROMPTS, **others):
    videos = [
        {
            "path": f"video {n}-0.mp4",
            "prompt": prompt,
            "index": 0,
            "info": {"fps": 8.0, "frames": 16, "width": 64, "height": 48},
            "generation": {"seed": n},
            "measured": {
                "imaging_quality": one(0.5 + gain + n / 1000),
                "dynamic_degree": one(n % 2 == 0),
                **{name: one(value) for name, value in others.items()},
            },
        }
        for n, prompt in enumerate(prompts)
    ]
    return {
        "schema": 1,
        "name": "r",
        "profile": "vbench",
        "folder": str(folder),
        "dimensions": {"motion_smoothness": {"reason": "AMT-S <is> not installed"}},
        "videos": videos,
        "skipped": [{"path": "bad & broken.mp4", "reason": "no <frames>"}],
    }


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


def test_official_dimensions_and_proxies_stand_in_different_sections(made):
    text = made[1]
    official, proxies = text.index("<h2>VBench dimensions"), text.index("<h2>Proxies")
    end = text.index("<h2>Videos side by side")
    assert official < proxies < end
    assert "sharpness" not in text[official:proxies] and "sharpness" in text[proxies:end]
    assert "imaging quality" in text[official:proxies] and "imaging quality" not in text[proxies:end]


def test_a_stand_in_is_shown_among_the_proxies_only(tmp_path):
    def side(value):
        made = report(prompts=[f"p{n}" for n in range(4)])
        for video in made["videos"]:
            video["measured"] = {"dynamic_degree": one(value, backbone="proxy:flow_dynamic")}
        return made

    files = write_comparison(compare({"a": side(True), "b": side(False)}, draws=200), tmp_path)
    for role in ("page", "markdown", "latex", "csv"):
        text = files[role].read_text(encoding="utf-8").split("<h2>How to read")[0]
        named = re.sub(r"VBench&#39;s rule for dynamic_degree", "", text)  # the proxy's description may say so
        assert "dynamic degree" not in named and "dynamic_degree" not in named
    assert "None has been measured" in files["page"].read_text(encoding="utf-8")


def test_the_scripts_gains_are_the_differences_of_the_rows_in_their_order(made):
    gains = json.loads(re.search(r"const gains = (.*?);\n", made[1])[1])
    assert gains["imaging_quality/1"] == pytest.approx([0.02] * len(PROMPTS))
    assert gains["dynamic_degree/1"] == [0.0] * len(PROMPTS)


def test_missing_videos_say_so_and_lone_ones_have_an_empty_place(tmp_path):
    sides = {"a": report(tmp_path, prompts=("x", "only a")), "b": report(tmp_path, prompts=("x",))}
    text = write_comparison(compare(sides, draws=200), tmp_path / "out")["page"].read_text(encoding="utf-8")
    assert text.count("not found: video") == 3 and text.count("no such video") == 1
    assert not Page(text).all("video")


def test_folders_of_frames_and_gifs_are_pictures(tmp_path):
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


def test_a_page_of_very_many_videos_shows_some_and_says_so(tmp_path):
    sides = {k: report(prompts=[f"p{n}" for n in range(MOST + 5)]) for k in "ab"}
    text = write_comparison(compare(sides, draws=200), tmp_path)["page"].read_text(encoding="utf-8")
    assert text.count("<div class=pair>") == MOST
    assert f"The first {MOST} of {MOST + 5} are shown." in text


def test_all_files_are_written_and_the_plots_lie_beside_the_page(made):
    files, text = made
    assert {path.name for path in files.values()} == {path.name for path in files["page"].parent.iterdir()}
    assert set(files) == {
        *("page", "markdown", "csv", "latex", "differences_csv", "json", "differences", "scatter-1"),
        *("proxies-differences", "proxies-scatter-1"),
    }
    assert json.loads(files["json"].read_text(encoding="utf-8"))["labels"][0] == "base"
    embedded = Page(text).all("source") + [
        img for img in Page(text).all("img") if img.get("src", "").startswith("data:")
    ]
    assert len(embedded) == 8, "four plots, each light and dark"
    for attributes in embedded:
        data = attributes.get("srcset") or attributes["src"]
        Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).verify()


def test_without_matplotlib_the_page_says_how_to_get_plots_and_has_everything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "available", lambda: False)
    files = write_comparison(compare({"a": report(), "b": report(gain=0.1)}, draws=200), tmp_path)
    assert not list(tmp_path.glob("*.png")) and not Page(files["page"].read_text(encoding="utf-8")).all("picture")
    assert "pip install -e &#39;.[plots]&#39;" in files["page"].read_text(encoding="utf-8")


# plots


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gain_is_drawn_right_of_zero_and_a_loss_left_of_it(sign):
    prompts = [f"p{n}" for n in range(12)]
    ours = report(gain=0.02 * sign, prompts=prompts)
    for n, video in enumerate(ours["videos"]):
        video["measured"]["imaging_quality"] = one(0.5 + sign * (0.02 + n / 2000))
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
