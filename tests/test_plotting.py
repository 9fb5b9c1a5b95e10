"""Plots show the numbers they were given, with axes named, and only when asked change the style."""

import importlib
import warnings

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba

from charlm_utils.book import plotting
from charlm_utils.checkpoint import History


@pytest.fixture(autouse=True)
def fresh():
    """Every figure is drawn without a warning, and closed."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
        plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_style_is_set_only_on_request():
    before = dict(matplotlib.rcParams)
    importlib.reload(plotting)
    assert dict(matplotlib.rcParams) == before
    plotting.set_style()
    assert dict(matplotlib.rcParams) != before


def test_style():
    plotting.set_style()
    assert plt.rcParams["savefig.dpi"] <= 100 and plt.rcParams["figure.dpi"] <= 100
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    assert fig.get_facecolor() == to_rgba(plotting.CARD)
    assert ax.lines[0].get_color() == plotting.BLUE
    fig.canvas.draw()
    assert not ax.spines["top"].get_visible()


def test_history():
    history = History([2.0, 1.5], [2.2, 1.8], [1.0, 2.0], [500_000, 1_000_000])
    ax = plotting.plot_history(history, floors={"table": 1.4}, title="A run")
    train, valid, floor = ax.lines
    assert train.get_xydata().tolist() == [[0.5, 2.0], [1.0, 1.5]]
    assert valid.get_xydata().tolist() == [[0.5, 2.2], [1.0, 1.8]]
    assert valid.get_color() == plotting.BLUE and set(floor.get_ydata()) == {1.4}
    assert "nats" in ax.get_ylabel() and "millions" in ax.get_xlabel()
    assert ax.get_title(loc="left") == "A run" or ax.get_title() == "A run"
    assert texts(ax) == ["table 1.400"]
    assert len(ax.get_legend().get_texts()) == 2


def test_history_of_a_run_stopped_in_its_first_epoch():
    ax = plotting.plot_history(History(interrupted=True))
    assert len(ax.lines) == 2


@pytest.mark.parametrize("horizontal", [True, False])
def test_floors(horizontal):
    ax = plt.subplots()[1]
    ax.set(xlim=(0, 3), ylim=(0, 3))
    plotting.draw_floors(ax, {"uniform": 2.5, "table": 1.25}, horizontal=horizontal)
    for line, value in zip(ax.lines, (2.5, 1.25), strict=True):
        along = line.get_ydata() if horizontal else line.get_xdata()
        assert set(along) == {value} and line.get_linestyle() == "--"
        assert line.get_color() == plotting.GREY
    assert [text.split()[0] for text in texts(ax)] == ["uniform", "table"]


def test_ladder():
    losses = {"uniform": 4.2, "table": 1.5, "our GRU": 1.4}
    ax = plotting.plot_ladder(losses, ours=["our GRU"], title="Ladder")
    assert [t.get_text() for t in ax.get_yticklabels()] == list(losses)
    assert texts(ax) == ["4.200", "1.500", "1.400"]
    points = ax.collections[-1]
    assert points.get_offsets().tolist() == [[4.2, 0], [1.5, 1], [1.4, 2]]
    colours = [tuple(c) for c in points.get_facecolors()]
    assert colours == [to_rgba(plotting.GREY)] * 2 + [to_rgba(plotting.BLUE)]
    assert ax.yaxis_inverted() and ax.get_xlim()[1] > 4.2


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("diverging", [True, False])
def test_matrix(diverging, sign):
    """The colours are centred on zero whichever side reaches further."""
    values = sign * np.array([[0.5, -2.0, np.nan], [1.0, 0.0, 0.25]])
    ax = plotting.plot_matrix(
        values, ["a", " "], ["x", "\n", "z"], label="nats", diverging=diverging
    )
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "␣"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "↵", "z"]
    lowest_and_highest = (-2.0, 1.0) if sign == 1 else (-1.0, 2.0)
    assert image.get_clim() == ((-2.0, 2.0) if diverging else lowest_and_highest)
    assert [a.get_ylabel() for a in ax.figure.axes if a is not ax] == ["nats"]


def test_next_characters():
    probs = {"a": 0.1, " ": 0.5, "\n": 0.15, "$": 0.2, "z": 0.05}
    ax = plotting.plot_next_chars(probs, top=4)
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["␣", "$", "↵", "a"]
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.2, 0.15, 0.1]
    assert ax.get_xlabel() and ax.get_ylabel()


def test_given_axes_are_used():
    ax = plt.subplots()[1]
    history = History([1.0], [1.0], [1.0], [10])
    assert plotting.plot_history(history, ax=ax) is ax
    assert plotting.plot_ladder({"a": 1.0}, ax=ax) is ax
    assert plt.get_fignums() == [1]


def test_characters_made_visible():
    assert plotting.visible("a b\n\0é🙂") == "a␣b↵∅é🙂"
