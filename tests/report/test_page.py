"""index.html stands alone: every video, label and setting of a run, whatever the prompts contain."""

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from w2sd_video.report.page import ROWS_PER_PAGE, Row, gap_in_words, render_pages
from w2sd_video.runs.tasks import METHODS as EXPLAINED

PROMPT = "</title><script>alert(\"x\")</script> & 'quotes' \0 %2e #1?"
METHODS = ["weak", "strong", "w2sd"]


def run(**settings: Any) -> dict[str, Any]:
    base = {"height": 32, "width": 32, "num_frames": 8, "fps": 8.0, "steps": 20, "reflections": 10, "mode": "paper"}
    return {
        "command": f"w2sd-video --prompt {PROMPT!r}",
        "preset": "demo",
        "pair": {"name": "demo", "strong": "a<b", "weak": "c"},
        "settings": {**base, "video_format": "mp4", **settings},
        "methods": METHODS,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2"},
    }


def record(method: str, prompt: str = PROMPT, index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "method": method,
        "prompt": prompt,
        "index": index,
        "seed": index,
        "path": f"{method}/50% #1?'\"-{index}.mp4",
        "frames": 8,
        "num_evaluations": 40,
        "num_rows": 40,
        "seconds": 1.25,
        "peak_memory_mb": 400.0,
        "status": "done",
        **changes,
    }


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    VOID = frozenset(["meta", "img", "br", "link"])

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def first_page(told: dict[str, Any], rows: list[Row], **given: Any) -> str:
    return next(render_pages(told, rows, methods=EXPLAINED, **given))[1]


def page(rows: list[Row], **settings: Any) -> Tags:
    return Tags(first_page(run(**settings), rows))


def full_row(index: int = 0, prompt: str = PROMPT) -> Row:
    return Row(prompt, index, {m: record(m, prompt, index) for m in METHODS}, f"comparison/50% #1?'\"-{index}.mp4")


def source(video: dict[str, str | None]) -> str:
    url = urlparse(video["data-src"] or "")
    assert (url.scheme, url.netloc, url.query, url.fragment) == ("", "", "", "")
    return unquote(url.path)


def test_the_comparison_comes_first_and_every_video_plays_silently_in_a_loop() -> None:
    row = full_row()
    videos = page([row]).named("video")
    assert [source(video) for video in videos] == [row.comparison, *(record(method)["path"] for method in METHODS)]
    for video in videos:
        assert {"loop", "muted", "playsinline", "controls"} <= video.keys()
        assert not {"autoplay", "src"} & video.keys(), "loaded and played where it is looked at, by the script"


def test_a_hostile_prompt_is_shown_as_text() -> None:
    tags = page([full_row()])
    assert not tags.open, "every tag is closed"
    assert len(tags.named("script")) == 1
    assert any(PROMPT.replace("\0", "\u2400") in text for text in tags.text)
    assert "\0" not in first_page(run(), [full_row()])


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = first_page(run(), [full_row()])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert page([full_row()]).named("link") == []


def test_costs_and_settings_are_there() -> None:
    text = "".join(page([full_row()]).text)
    assert run()["command"].replace("\0", "\u2400") in text
    for needle in ("another model", "evaluations", "1.25", "W2SD", "a<b", "float32", "reflections", "version of torch"):
        assert needle in text


def test_without_its_control_w2sd_is_shown_with_a_word_about_it() -> None:
    text = "".join(page([full_row()]).text)
    assert "No control is shown" in text
    shown = {**run(), "methods": ["w2sd", "zero-gap"]}
    rows = [Row("a", 0, {method: record(method) for method in ("w2sd", "zero-gap")})]
    assert "No control is shown" not in first_page(shown, rows)


def test_a_failed_and_an_unmade_video_say_so() -> None:
    records = {"weak": record("weak", status="failed", reason="not finite <after> step 3", path=None)}
    tags = page([Row("a", 0, records)])
    assert tags.named("video") == []
    text = "".join(tags.text)
    assert "not finite <after> step 3" in text
    assert text.count("not made yet") == 2
    assert "0 of 3 videos so far" in text


def test_small_videos_keep_their_pixels_and_large_ones_are_smooth() -> None:
    assert all(video.get("class") == "pixelated" for video in page([full_row()]).named("video"))
    assert not any(video.get("class") for video in page([full_row()], height=512, width=512).named("video"))


def test_thousands_of_videos_stand_on_pages_that_name_each_other() -> None:
    count = 2 * ROWS_PER_PAGE + 1
    rows = [full_row(index, f"prompt {index}") for index in range(count)]
    pages = {name: Tags(text) for name, text in render_pages(run(), rows, methods=EXPLAINED)}
    assert list(pages) == ["index.html", "index-2.html", "index-3.html"]
    assert [len(tags.named("h2")) for tags in pages.values()] == [ROWS_PER_PAGE, ROWS_PER_PAGE, 1]
    for name, tags in pages.items():
        links = {link["href"] for link in tags.named("a")}
        assert pages.keys() - {name} == links & pages.keys()
        assert f"{3 * count} of {3 * count} videos, " in "".join(tags.text), "the costs are of all"


@pytest.mark.parametrize(("video_format", "suffix"), [("gif", ".gif"), ("webp", ".webp"), ("png", "/0000.png")])
def test_other_formats_are_pictures(video_format: str, suffix: str) -> None:
    path = f"weak/a-0{suffix}".removesuffix("/0000.png")
    rows = [Row("a", 0, {"weak": record("weak", "a", path=path)})]
    (image,) = page(rows, video_format=video_format).named("img")
    assert (image["src"] or "").endswith(suffix)


def test_a_prompt_with_several_videos_is_named_once() -> None:
    tags = page([full_row(0), full_row(1), full_row(0, "another")])
    assert len(tags.named("h2")) == 2


def test_a_run_of_videos_keeps_its_five_columns_and_one_with_counts_of_its_own_gets_more() -> None:
    def columns(**counts: Any) -> list[str]:
        rows = [Row("a", 0, {"weak": record("weak", fps=8.0, num_forwards=40, **counts), "strong": record("strong")})]
        text = first_page(run(), rows)
        return re.findall('<th scope="col"[^>]*>([^<]*)', text)

    assert columns() == ["method", "videos", "evaluations", "rows", "seconds", "peak MB"]
    assert columns(num_decodes=3, drift=0.5, cached=True, map="fresh") == [
        *("method", "videos", "evaluations", "rows", "decodes", "drift", "seconds", "peak MB")
    ]


def test_a_note_is_shown_as_text_at_the_head_and_a_fact_among_the_settings() -> None:
    amended = {**run(), "notes": ["fitted from <8>"], "noise_map": {"kind": "a<b"}, "prompts": ["p"], "seeds": [0]}
    facts = {"noise_map": amended["noise_map"]}
    tags = Tags(first_page(amended, [full_row()], facts=facts))
    assert "fitted from <8>" in tags.text
    where = tags.text.index("noise_map.kind")
    assert tags.text[where + 1] == "a<b"
    assert not {"prompts", "seeds", "notes"} & set(tags.text)


@pytest.mark.parametrize(
    ("pair", "settings", "said"),
    [
        ({"strong": "a", "weak": "b"}, {"guidance": 3.0, "weak_guidance": 3.0}, "another model"),
        (
            {"strong": "a", "weak": None},
            {"strong_guidance": 5.5, "weak_guidance": 1.0},
            "guidance 5.5 strong, 1.0 weak",
        ),
        ({"strong": "a", "weak": "a"}, {"guidance": 2.0, "weak_guidance": 2.0}, "none: both sides are the same"),
        (
            {"strong": "a", "loras": {"art": {"from": "x", "strong": 1.0, "weak": -0.5}}},
            {},
            "LoRA art 1.0 strong, -0.5 weak",
        ),
        (
            {
                "strong": "a",
                "weak": "a",
                "strong_experts": "top 2",
                "weak_experts": "bottom 2",
                "raw_prompts": {"a": "b"},
            },
            {},
            "experts: top 2 strong, bottom 2 weak; raw prompts on the weak side",
        ),
    ],
)
def test_the_gap_is_said_in_words(pair: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    assert gap_in_words(pair, settings) == said
