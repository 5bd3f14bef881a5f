"""One figure per stage: time and memory over size, both axes logarithmic."""

import importlib.util
import io
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.growth import exponent
from benchmarks.stage_series import METHODS
from cus.errors import InputError

# Blue, vermilion, green: distinguishable for most people (Okabe and Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73")
_MARKS = ("o", "s", "^")


def check_figures() -> None:
    """Raise InputError if figures cannot be made, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("figures need matplotlib: pip install 'closeupshot[dev]', or give --no-write")


def figure(part: dict[str, Any]) -> bytes:
    """PNG of a stage's part of the results; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(part["series"])
    made = Figure(figsize=(0.6 + 2.7 * count, 4.6), dpi=80, layout="constrained")
    panels = made.subplots(2, count, squeeze=False, sharex="col")
    for column, series in enumerate(part["series"]):
        methods = dict.fromkeys(row["method"] for row in series["rows"])
        for index, method in enumerate(methods):
            rows = [row for row in series["rows"] if row["method"] == method and row["error"] is None]
            amounts, seconds = [row["amount"] for row in rows], [row["seconds"] for row in rows]
            memory = [max(row["memory"] / 2**20, 0.1) for row in rows]
            style = dict(color=_COLORS[index % 3], marker=_MARKS[index % 3], markersize=4, linewidth=1.2)
            for panel, values in zip(panels[:, column], (seconds, memory), strict=True):
                label = f"{METHODS[method]}: ^{exponent(amounts, values):.2f}"
                panel.loglog(amounts, values, label=label, **style)
        _dress(panels[:, column], series, first=column == 0)
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(32)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _dress(panels: Any, series: dict[str, Any], first: bool) -> None:
    """Format the axes of one column: labels at the measured sizes; a legend with the exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    amounts = sorted({row["amount"] for row in series["rows"]})
    for panel, title in zip(panels, ("time (s)", "peak memory (MiB)"), strict=True):
        panel.set_xticks(amounts, [_short(amount) for amount in amounts])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.minorticks_off()
        panel.grid(True, alpha=0.3)
        panel.margins(y=0.3)
        panel.legend(fontsize=7, framealpha=0.6)
        panel.tick_params(labelsize=8)
        if first:
            panel.set_ylabel(title, fontsize=9)
    panels[-1].set_xlabel(series["grows"], fontsize=9)


def _short(amount: float) -> str:
    return f"{amount / 1000:.0f}k" if amount >= 10_000 else f"{amount:g}"
