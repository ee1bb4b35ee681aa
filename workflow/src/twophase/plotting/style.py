"""How every figure looks and how it is saved: the same bytes for the same data."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from twophase.files import whole_file
from twophase.provenance import digest

DEFAULTS = {"dpi": 150, "font_size": 9, "sequential_colormap": "cividis"}
# Okabe and Ito's colours, told apart by colour-blind readers; their yellow is left out, it fades on white paper.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_MARKERS = 30
# Matplotlib writes the date and its own version by default; None leaves a key out.
METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
SVG_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "twophase"}


@contextmanager
def style_context(figures: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw and save figures in the project's style, whatever the user's matplotlibrc says.

    Args:
        figures: ``dpi``, ``font_size`` in points and ``sequential_colormap`` (a Matplotlib name); what is left out
            takes its default.

    Yields:
        Nothing; Matplotlib's settings are as before afterwards.

    Raises:
        ValueError: If ``figures`` has another key, or the colour map is unknown.
    """
    unknown = sorted(set(figures or {}) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"figures has the keys {sorted(DEFAULTS)}, got also {unknown}")
    settings = DEFAULTS | dict(figures or {})
    if settings["sequential_colormap"] not in mpl.colormaps:
        raise ValueError(f"Matplotlib has no colour map {settings['sequential_colormap']!r} (sequential_colormap)")
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_parameters(settings))
        yield


def _parameters(settings: dict[str, Any]) -> dict[str, Any]:
    size = settings["font_size"]
    return SVG_SETTINGS | {
        "figure.dpi": settings["dpi"],
        "font.size": size,
        "axes.titlesize": size,
        "axes.labelsize": size,
        "xtick.labelsize": 0.85 * size,
        "ytick.labelsize": 0.85 * size,
        "legend.fontsize": 0.85 * size,
        "legend.frameon": False,
        "image.cmap": settings["sequential_colormap"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "errorbar.capsize": 2,
    }


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with a constrained layout and an Agg canvas of its own, unknown to pyplot.

    Args:
        width: Inches at 9 point text; larger text gets a larger figure.
        height: Inches at 9 point text.
    """
    figure = Figure(figsize=(width * text_scale(), height * text_scale()), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def text_scale() -> float:
    """Size of the text over the 9 points for which sizes in inches are given."""
    return mpl.rcParams["font.size"] / DEFAULTS["font_size"]


def add_note(figure: Figure, *sentences: str) -> None:
    """Write the sentences at the figure's foot: n, what the spread is, what is hidden; the layout makes room."""
    size = 0.8 * mpl.rcParams["font.size"]
    characters = int(figure.get_figwidth() * 72 / (0.58 * size)) - 2
    text = "; ".join(sentence for sentence in sentences if sentence) + "."
    for sign in "≤=":
        text = text.replace(f" {sign} ", f"\u00a0{sign}\u00a0")  # no line ends beside a sign
    figure.supxlabel(textwrap.fill(text, characters), x=0.01, ha="left", fontsize=size, color="0.25")


def sequential_colors(count: int) -> list[tuple]:
    """Colours for an ordered family of lines, dark to light, stopping before those that fade on white paper."""
    colormap = mpl.colormaps[mpl.rcParams["image.cmap"]]
    return [colormap(0.88 * index / max(count - 1, 1)) for index in range(count)]


def ordered_line(index: int, count: int) -> dict[str, Any]:
    """Colour and line style of one of ``count`` lines with an order."""
    return {"color": sequential_colors(count)[index], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def named_line(index: int) -> dict[str, Any]:
    """Colour, line style and marker of one of a few lines without an order."""
    return {
        "color": OKABE_ITO[index % len(OKABE_ITO)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def marked_line(index: int, points: int) -> dict[str, Any]:
    """:func:`named_line`, without a marker if so many points would make a smear of them."""
    line = named_line(index)
    return line if points <= MOST_MARKERS else {key: value for key, value in line.items() if key != "marker"}


def compact(value: float) -> str:
    """A number of at most seven characters with two or three digits: ``0``, ``0.123``, ``-1.2e-5``."""
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa  # infinity has no exponent


def save_figure(figure: Figure, paths: str | Path | Iterable[str | Path], *, recipe: str = "") -> None:
    """Write a figure, each file whole or not at all, with the same bytes for the same figure.

    Call it inside the :func:`style_context` in which the figure was drawn.

    Args:
        figure: The figure; not changed.
        paths: One file or several, ``.png`` or ``.svg``; their folders must exist.
        recipe: Canonical JSON of what made it; each file carries its digest.

    Raises:
        ValueError: If a path has another suffix.
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    unknown = [str(path) for path in paths if path.suffix.lower().lstrip(".") not in METADATA]
    if unknown:
        raise ValueError(f"figures are saved as .png or .svg, got {unknown}")
    with mpl.rc_context(SVG_SETTINGS):
        for path in paths:
            file_format = path.suffix.lower().lstrip(".")
            metadata = METADATA[file_format] | ({"Source": digest(recipe)} if recipe else {})
            with whole_file(path) as temporary:
                figure.savefig(temporary, format=file_format, dpi="figure", metadata=metadata)
