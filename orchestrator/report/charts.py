"""Small SVG charts, drawn by hand: no library to load, and colours that follow the page's light or dark theme.

All are 360 units wide, which is about what a card of the page takes on a phone and on a desktop alike, so that a label
is as large as it says. Colours are the classes c1 to c8 of `shared/page_style.css`; line styles and markers differ as
well, for whoever can't tell the colours apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 216
COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 24, 34
_MARKED_POINTS = 30  # more markers than this on one line would touch
_TICKS = 5

Range = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: for the legend and the tooltips.
        points: (x, y); a line breaks where y is None.
        colour: 1 to `COLOURS`.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int = 1


@dataclass(frozen=True)
class Mark:
    """A point of its own, such as an operating point, with a label beside it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Where data lies on the drawing."""

    x: Range
    y: Range

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point, in units of the drawing."""
        return self.across(x), self.down(y)

    def across(self, x: float) -> float:
        return round(_LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT), 1)

    def down(self, y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - _TOP - _BOTTOM), 1)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x: Range,
    x_ticks: Sequence[float],
    x_format: Callable[[float], str],
    y_ticks: Sequence[float],
    marks: Sequence[Mark] = (),
    shaded: Sequence[float] = (),
    diagonal: bool = False,
) -> Markup:
    """Lines over a common x.

    Args:
        title: for whoever hears the page read out.
        series: the lines.
        x_label, y_label: of the axes.
        x: range of the x axis, of positive length.
        x_ticks: where it is labelled.
        x_format: how.
        y_ticks: where the y axis is labelled; it reaches from the first to the last.
        marks: points of their own.
        shaded: values of x, a unit wide, with a grey ground.
        diagonal: draw y = x, what guessing gives.
    """
    plot = Plot(x, (y_ticks[0], y_ticks[-1]))
    parts = [_shade(plot, value) for value in shaded]
    parts += _axes(plot, y_ticks, x_ticks, x_format, x_label, y_label)
    if diagonal:
        (x1, y1), (x2, y2) = plot.at(0.0, 0.0), plot.at(1.0, 1.0)
        parts.append(Markup('<line class="guess" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, y1, x2, y2))
    for line in series:
        parts += _line(plot, line, x_format)
    parts += [_mark(plot, mark) for mark in marks]
    return _svg(title, parts)


def stacked_columns(
    title: str, columns: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], *, x_label: str, y_label: str
) -> Markup:
    """One column for each (label, parts), the parts on top of each other in the order of `names`."""
    highest = max([sum(parts) for _, parts in columns] + [1e-9])
    y_ticks = ticks(0.0, highest)
    plot = Plot((0.0, float(len(columns))), (0.0, y_ticks[-1]))
    step = max(1, math.ceil(len(columns) / 12))
    positions = [index + 0.5 for index in range(0, len(columns), step)]
    drawn = _axes(plot, y_ticks, positions, lambda at: columns[int(at)][0].partition("–")[0], x_label, y_label)
    width = round(min((plot.across(1.0) - plot.across(0.0)) * 0.72, 44.0), 2)
    for index, (label, parts) in enumerate(columns):
        left, base = round(plot.across(index + 0.5) - width / 2, 1), 0.0
        for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
            top, bottom = plot.down(base + part), plot.down(base)
            base += part
            if part > 0:
                drawn.append(
                    Markup(
                        '<rect class="fill c{}" x="{}" y="{}" width="{}" height="{}"><title>{} {}: {} {:.2f} s'
                        "</title></rect>"
                    ).format(number, left, top, width, round(bottom - top, 1), x_label, label, name, part)
                )
    return _svg(title, drawn)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about five."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / (_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number_ticks(count: int) -> list[float]:
    """Which of the rounds 1 to `count` to label: at most nine, the first and evenly spaced ones."""
    step = max(1, math.ceil(count / 8))
    if step > 1:
        step = next(s for power in range(6) for s in (2 * 10**power, 5 * 10**power, 10 * 10**power) if s >= step)
    return [1.0] + [float(number) for number in range(step, count + 1, step) if number > 1]


def _svg(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("\n").join(parts)
    )


def _axes(
    plot: Plot,
    y_ticks: Sequence[float],
    x_ticks: Sequence[float],
    x_format: Callable[[float], str],
    x_label: str,
    y_label: str,
) -> list[Markup]:
    parts = []
    left, right, floor = _LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM
    digits = max((len(f"{tick:.10g}".partition(".")[2]) for tick in y_ticks), default=0)
    for tick in y_ticks:
        at = plot.down(tick)
        parts.append(Markup('<line class="gridline" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(left, at, right, at))
        label = Markup('<text class="tick end" x="{}" y="{}">{:,.{}f}</text>')
        parts.append(label.format(left - 6, at + 3.5, tick, digits))
    parts.append(Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(left, floor, right, floor))
    for tick in x_ticks:
        place = Markup('<text class="tick middle" x="{}" y="{}">{}</text>')
        parts.append(place.format(plot.across(tick), floor + 14, x_format(tick)))
    parts.append(Markup('<text class="label end" x="{}" y="{}">{}</text>').format(right, HEIGHT - 5, x_label))
    parts.append(Markup('<text class="label" x="{}" y="{}">{}</text>').format(4, 11, y_label))
    return parts


def _shade(plot: Plot, value: float) -> Markup:
    left, right = plot.across(max(value - 0.5, plot.x[0])), plot.across(min(value + 0.5, plot.x[1]))
    return Markup('<rect class="shade" x="{}" y="{}" width="{}" height="{}"/>').format(
        left, _TOP, round(right - left, 1), HEIGHT - _TOP - _BOTTOM
    )


def _line(plot: Plot, line: Series, x_format: Callable[[float], str]) -> list[Markup]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append(plot.at(x, y))
    style = f"line c{line.colour} d{line.colour}"
    parts = [Markup('<path class="{}" d="{}"/>').format(style, _path(run)) for run in runs if len(run) > 1]
    if len(line.points) > _MARKED_POINTS:
        # A point between two gaps has no line; without a marker nothing of it would be seen.
        single = [run[0] for run in runs if len(run) == 1]
        spot = Markup('<circle class="fill c{}" cx="{}" cy="{}" r="2"/>')
        return parts + [spot.format(line.colour, *point) for point in single]
    for x, y in line.points:
        if y is not None:
            dot = Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3"><title>{}, {}: {:.4g}</title></circle>')
            parts.append(dot.format(line.colour, *plot.at(x, y), line.name, x_format(x), y))
    return parts


def _mark(plot: Plot, mark: Mark) -> Markup:
    x, y = plot.at(mark.x, mark.y)
    right = x < WIDTH * 0.6
    return Markup('<circle class="mark" cx="{}" cy="{}" r="4.5"/><text class="note {}" x="{}" y="{}">{}</text>').format(
        x, y, "" if right else "end", x + 9 if right else x - 9, min(y + 13, HEIGHT - _BOTTOM - 5), mark.label
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if index else 'M'}{x:g} {y:g}" for index, (x, y) in enumerate(points))
