"""The book's one visual language. The only module that imports matplotlib.

Blue is the model on held-out text, light blue the same on its training text, orange the
thing compared with it; grey dashes are floors (count tables, compressors). Figures stand
on a pale card, so that they read on a light and on a dark page.
"""

import functools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from charlm_utils.checkpoint import History

CARD = "#fbfaf6"
INK = "#1c2733"
BLUE, LIGHT_BLUE, ORANGE, GREEN, RED, GREY = (
    "#1b4f8f",
    "#9cc4e4",
    "#c2601b",
    "#1f6b3a",
    "#b5403a",
    "#6b6f76",
)
CYCLE = [BLUE, ORANGE, GREEN, "#7a5ea8", RED, "#8a6d3b"]
STYLE = {
    "figure.dpi": 96,
    "savefig.dpi": 96,
    "figure.figsize": (6.4, 3.6),
    "figure.facecolor": CARD,
    "axes.facecolor": CARD,
    "savefig.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.cmap": "Blues",
}


def set_style() -> None:
    """Apply the book's style to every figure that follows."""
    plt.style.use(STYLE)


def draw_floors(ax: Axes, floors: Mapping[str, float], *, horizontal: bool = True) -> None:
    """Dashed grey lines at the losses a model must beat, each with its name at the edge."""
    note = functools.partial(ax.annotate, textcoords="offset points", fontsize=8, color=GREY)
    for name, loss in floors.items():
        if horizontal:
            ax.axhline(loss, color=GREY, linestyle="--", linewidth=1, zorder=0)
            note(
                f"{name} {loss:.3f}",
                (1, loss),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                ha="right",
            )
        else:
            ax.axvline(loss, color=GREY, linestyle="--", linewidth=1, zorder=0)
            note(
                name,
                (loss, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                va="top",
                rotation=90,
            )


def plot_history(
    history: History,
    *,
    floors: Mapping[str, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Training and validation loss of a `History` against characters fed forward."""
    ax = ax or plt.subplots()[1]
    millions = np.array(history.characters) / 1e6
    ax.plot(
        millions,
        history.train,
        "o-",
        color=LIGHT_BLUE,
        label="training (mean of the epoch)",
    )
    ax.plot(millions, history.valid, "o-", color=BLUE, label="validation")
    draw_floors(ax, floors or {})
    ax.set(xlabel="characters fed forward (millions)", ylabel="loss (nats per character)")
    ax.set_title(title)
    ax.legend()
    return ax


def plot_ladder(
    losses: Mapping[str, float],
    *,
    ours: Sequence[str] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Losses as dots on one scale, one row each; rows named in `ours` are models (blue)."""
    ax = ax or plt.subplots(figsize=(6.4, 0.6 + 0.32 * len(losses)))[1]
    rows = np.arange(len(losses))
    colours = [BLUE if name in ours else GREY for name in losses]
    ax.hlines(rows, 0, list(losses.values()), color=colours, linewidth=1)
    ax.scatter(list(losses.values()), rows, color=colours, zorder=2)
    for row, value in zip(rows, losses.values(), strict=True):
        ax.annotate(
            f"{value:.3f}",
            (value, row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set_yticks(rows, list(losses))
    ax.invert_yaxis()
    ax.set(xlabel="loss (nats per character)", xlim=(0, 1.15 * max(losses.values())))
    ax.set_title(title)
    return ax


def plot_matrix(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    xlabel: str = "",
    ylabel: str = "",
    diverging: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A heat map with named rows and columns; `diverging` centres the colours on zero."""
    ax = ax or plt.subplots(figsize=(6.0, 5.0))[1]
    values = np.asarray(matrix, dtype=float)
    span = np.nanmax(np.abs(values)) if diverging else None
    image = ax.imshow(
        values,
        cmap="RdBu_r" if diverging else "Blues",
        vmin=None if span is None else -span,
        vmax=span,
        interpolation="nearest",
        aspect="auto",
    )
    ax.set_xticks(range(len(columns)), [visible(c) for c in columns])
    ax.set_yticks(range(len(rows)), [visible(r) for r in rows])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def plot_next_chars(
    probs: Mapping[str, float],
    *,
    top: int = 12,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Bars of the `top` likeliest next characters, spaces and line ends made visible."""
    ax = ax or plt.subplots(figsize=(5.0, 2.4))[1]
    best = sorted(probs.items(), key=lambda item: -item[1])[:top]
    ax.bar([visible(c) for c, _ in best], [p for _, p in best], color=BLUE)
    ax.set(xlabel="next character", ylabel="probability")
    ax.set_title(title)
    return ax


def plot_surprise(
    text: str, surprise: ArrayLike, models: Sequence[str], *, width: int = 21, highest: float = 6.0
) -> None:
    """The surprise (M, T) in nats of M models at each of T characters; dark is surprised."""
    plot_over_text(text, surprise, models, label="surprise (nats)", width=width, span=(0, highest))


def plot_over_text(
    text: str,
    values: ArrayLike,
    rows: Sequence[str],
    *,
    label: str,
    width: int = 21,
    span: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Values (M, T) as colours under T characters, one row for each of the M names in `rows`.

    The text is broken into lines of `width` characters; `span` are the lightest and the
    darkest value, and below 0 the colours diverge.
    """
    values, lines = np.asarray(values, dtype=float), -(-len(text) // width)
    figure, axes = plt.subplots(lines, 1, figsize=(6.4, 0.5 + 1.35 * lines), squeeze=False)
    for ax, start in zip(axes[:, 0], range(0, len(text), width), strict=True):
        here = values[:, start : start + width]
        filled = np.pad(here, ((0, 0), (0, width - here.shape[1])), constant_values=np.nan)
        options = {"vmin": span[0], "vmax": span[1], "cmap": "RdBu_r" if span[0] < 0 else "Blues"}
        image = ax.imshow(filled, aspect="auto", interpolation="nearest", **options)
        letters = visible(text[start : start + width])
        ax.set_xticks(range(len(letters)), letters, fontsize=12)
        ax.set_yticks(range(len(rows)), rows)
        ax.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)


def visible(text: str) -> str:
    """Text with its spaces, line ends and NULs shown as signs."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\0", "∅")
