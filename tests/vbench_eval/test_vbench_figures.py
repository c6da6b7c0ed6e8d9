"""Figures and pages of the whole project: colours that are told apart, files that repeat, text that stays text."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from vbench_eval import figures, pages
from vbench_eval.errors import UserError


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
    assert {name: found[name] for name in ("w2sd", "strong")} == {
        name: figures.METHOD_COLOURS[name] for name in ("w2sd", "strong")
    }
    assert found["weak, half"] == figures.METHOD_COLOURS["weak"]
    assert list(found) == ["mine", "w2sd", "strong", "weak, half", "other"]
    assert len(set(found.values())) == 5


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
