"""The ratios as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Results

_OPERATIONS = ("encrypt", "bytes", "decrypt")
_LARGEST_FACTOR = 30.0  # room to the right of a bar for its figure, on a logarithmic axis
_COST_COLOURS = ("tab:blue", "tab:orange", "tab:green")

Pair = tuple[str, int]  # a peer, and the bits of the key that it is compared with


def draw(results: Results, path: Path) -> None:
    """Write a PNG: peers by operation, the same by the number of parameters, and what whole rounds cost.

    A colour is one peer in all panels of the upper two rows; the bars' labels name it.
    """
    import matplotlib

    matplotlib.use("Agg")  # a file, never a window
    from matplotlib import pyplot

    size = results.settings["ratio_parameters"]
    rows = results.comparisons()
    pairs = list(dict.fromkeys((row["peer"], row["key_bits"]) for row in rows))
    colours = {pair: pyplot.get_cmap("tab10")(number % 10) for number, pair in enumerate(pairs)}
    figure, axes = pyplot.subplots(3, len(_OPERATIONS), figsize=(16, 13), layout="constrained")
    figure.suptitle(
        "Upper rows: peer / this project (above 1: this project is better). Lowest row: what whole rounds cost",
        fontsize="x-large",
    )
    for column, operation in enumerate(_OPERATIONS):
        _bars(axes[0, column], [row for row in rows if row["parameters"] == size], operation, colours)
        axes[0, column].set_title(f"{operation}, {size:,} parameters")
        _lines(axes[1, column], rows, operation, colours)
        axes[1, column].set_title(f"{operation}, by the number of parameters")
    for axis in axes[0, 1:]:
        axis.set_yticklabels([])
    _costs(
        axes[2, 0],
        "a whole round: encrypted / he_scheme none",
        [(f"{r.clients} clients\nepochs: {r.local_epochs}", r.over_plain) for r in results.rounds],
    )
    _costs(
        axes[2, 1],
        "a whole round: masked / not masked",
        [(f"{m.clients} clients\nepochs: {m.local_epochs}", m.over_plain) for m in results.masked],
    )
    _growth(axes[2, 2], results)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, rows: Sequence[dict[str, Any]], operation: str, colours: dict[Pair, Any]) -> None:
    labels = [f"{row['peer']}\nagainst {row['key_bits']} bits" for row in rows]
    values = [row[operation] for row in rows]
    places = list(range(len(rows)))
    # From 1, so that a bar to the left means: the peer is better.
    lefts, widths = [min(1.0, value) for value in values], [abs(value - 1.0) for value in values]
    axis.barh(places, widths, left=lefts, color=[colours[row["peer"], row["key_bits"]] for row in rows])
    for place, value in zip(places, values, strict=True):
        axis.annotate(
            f" {_short(value)}", (max(1.0, value), place), va="center", ha="left", fontsize="medium", weight="bold"
        )
    axis.set(xscale="log", yticks=places, yticklabels=labels)
    axis.set_xlim(min([0.5, *values]) / 2, max([2.0, *values]) * _LARGEST_FACTOR)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axis.invert_yaxis()
    _plain_ticks(axis.xaxis)


def _lines(axis: Any, rows: Sequence[dict[str, Any]], operation: str, colours: dict[Pair, Any]) -> None:
    for (peer, bits), colour in colours.items():
        own = [row for row in rows if (row["peer"], row["key_bits"]) == (peer, bits)]
        axis.plot([row["parameters"] for row in own], [row[operation] for row in own], marker="o", color=colour)
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="peer / this project")
    _plain_ticks(axis.xaxis)
    _plain_ticks(axis.yaxis)
    axis.grid(visible=True, which="major", alpha=0.3)


def _costs(axis: Any, title: str, costs: Sequence[tuple[str, float]]) -> None:
    axis.set_title(title)
    if not costs:
        _not_measured(axis)
        return
    labels, values = zip(*costs, strict=True)
    bars = axis.bar(labels, values, color=_COST_COLOURS[0])
    axis.bar_label(bars, [f"{value:.3f}" for value in values], weight="bold")
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axis.set(ylim=(0, 1.25 * max(1.0, *values)), ylabel="1: costs nothing")


def _growth(axis: Any, results: Results) -> None:
    axis.set_title("what masking adds to a round, by clients")
    if not results.growth:
        _not_measured(axis)
        return
    lossless = [cost for cost in results.growth if not cost.dropped]
    lossy = [cost for cost in results.growth if cost.dropped]
    for label, colour, costs, seconds in (
        ("server, nobody lost", _COST_COLOURS[0], lossless, [c.server_seconds for c in lossless]),
        ("server, as many lost as may be", _COST_COLOURS[1], lossy, [c.server_seconds for c in lossy]),
        ("one client, nobody lost", _COST_COLOURS[2], lossless, [c.client_seconds for c in lossless]),
    ):
        axis.plot([cost.clients for cost in costs], seconds, marker="o", color=colour, label=label)
    axis.set(xlabel="clients", ylabel="seconds", ylim=(0, None))
    axis.legend(loc="upper left")
    axis.grid(visible=True, alpha=0.3)


def _not_measured(axis: Any) -> None:
    axis.text(0.5, 0.5, "not measured in this run", ha="center", va="center", transform=axis.transAxes)
    axis.set_axis_off()


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
