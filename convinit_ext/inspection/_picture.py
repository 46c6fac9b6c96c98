"""The picture of what a look at a model found; the only file that knows matplotlib, which may be missing."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from convinit_ext.inspection._result import Inspection, WeightRow

_NUM_HISTOGRAMS = 4
_PANELS = "AAAABBBBCCCC;DDDEEEFFFGGG"


def check_picture(path: str | PathLike[str]) -> None:
    """Check that a picture can be written there; the errors are those of Inspection.plot()."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a picture needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    accepted = sorted(Figure().canvas.get_supported_filetypes())
    if Path(path).suffix.lstrip(".").lower() not in accepted:
        raise ValueError(f"a picture's path must end in one of {', '.join(accepted)}, not as {str(path)!r}")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(Path(path).parent)!r} for the picture")


def draw(found: Inspection, path: str | PathLike[str]) -> None:
    """Draw signal and gradients by depth, stds against the intended ones, and some histograms."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes: dict[str, Any] = figure.subplot_mosaic(_PANELS)
    figure.suptitle(f"{found.model}, seed {found.seed}; inputs: {found.inputs}", fontsize=10)
    places = {name: at for at, name in enumerate(dict.fromkeys(row.name for row in found.rows))}
    for number, recipe in enumerate(found.recipes):
        style = {"color": f"C{number}", "label": recipe}
        rows = [row for row in found.rows if row.recipe == recipe]
        depth = [places[row.name] for row in rows]
        axes["A"].plot(depth, [_positive(row.std) for row in rows], ".-", **style)
        axes["B"].plot(depth, [_positive(row.gradient_std) for row in rows], ".-", **style)
        weights = [row for row in found.weights if row.recipe == recipe]
        pairs = [(_positive(row.intended), _positive(row.std)) for row in weights]
        axes["C"].plot(*zip(*pairs, strict=True), "o", alpha=0.6, **style)
    for panel, title in (("A", "std of outputs"), ("B", "std of gradients of outputs")):
        axes[panel].set(title=f"{title}, by depth", xlabel="layer, in the order of calls", yscale="log")
    axes["C"].set(title="std of weights", xlabel="intended", ylabel="measured", xscale="log", yscale="log")
    for axis in (axes["C"].xaxis, axes["C"].yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    axes["C"].minorticks_off()
    diagonal = axes["C"].get_xlim()
    axes["C"].plot(diagonal, diagonal, color="grey", linewidth=0.8)
    axes["A"].legend()
    _draw_histograms(found, [axes[panel] for panel in "DEFG"])
    figure.savefig(path, dpi=100)


def _draw_histograms(found: Inspection, axes: list[Any]) -> None:
    """Draw the values of some weights, evenly spaced by depth, in standard deviations of their own."""
    names = list(dict.fromkeys(row.name for row in found.weights if row.counts and len(row.shape) > 1))
    chosen = [names[round(at)] for at in np.linspace(0, len(names) - 1, min(len(names), _NUM_HISTOGRAMS))]
    for panel in axes[len(chosen) :]:
        panel.set_axis_off()
    for name, panel in zip(chosen, axes, strict=False):
        panel.set(title=name, xlabel="value / std", yticks=[])
        panel.title.set_fontsize(9)
        for number, recipe in enumerate(found.recipes):
            for row in found.weights:
                if (row.recipe, row.name) == (recipe, name) and row.counts:
                    _draw_histogram(panel, row, f"C{number}")


def _draw_histogram(panel: Any, row: WeightRow, color: str) -> None:
    scale = row.intended if row.intended > 0 else row.std
    edges = np.array(row.edges) / scale
    density = 1 / (sum(row.counts) * np.diff(edges))
    panel.stairs(np.array(row.counts) * density, edges, fill=True, color=color, alpha=0.25)
    if row.expected:
        panel.plot((edges[1:] + edges[:-1]) / 2, np.array(row.expected) * density, color=color)


def _positive(value: float) -> float:
    return value if value > 0 else math.nan  # what has no place on a logarithmic axis is left out
