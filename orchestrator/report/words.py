"""Numbers as a person reads them."""

import math

from orchestrator.report.run_data import Run
from orchestrator.run_folder import RoundRecord

DASH = "–"
NARROW = "\u00a0"  # between a number and its sign, so that no line ends there


def share(value: float | None) -> str:
    """A share as a percentage; what is not quite none or all never reads as if it were."""
    if value is None:
        return DASH
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", f"{NARROW}%")
    nearest = min(value, 1.0 - value)
    digits = (
        1 if nearest >= 0.01 else min(-1 - math.floor(math.log10(nearest) + 1e-9), 6)
    )  # two digits of what is small
    return f"{100 * value:.{digits}f}{NARROW}%"


def rate_text(rate: str) -> str:
    """A false-positive rate that was asked for, such as "0.001", as a percentage."""
    return f"{100 * float(rate):g}{NARROW}%"


def figure(value: float | None, digits: int = 3) -> str:
    """A figure with so many decimals."""
    return DASH if value is None else f"{value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """A time, from milliseconds to hours."""
    if value is None:
        return DASH
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def size(value: float | None) -> str:
    """A number of bytes, in powers of 1000."""
    if value is None:
        return DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= factor:
            return f"{value / factor:,.1f} {unit}"
    return f"{value:,.0f} B"


def count(number: int, noun: str, plural: str = "") -> str:
    """Such as "1 round" and "2 rounds"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def numbers(values: list[int]) -> str:
    """Ascending whole numbers with runs joined, such as "1, 3–5"."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts)


def client_order(client: str) -> tuple[int, str]:
    """Clients by number, as 2 before 10; others after them."""
    return (int(client), "") if client.isdecimal() and len(client) < 12 else (10**12, client)


def final_round(run: Run) -> RoundRecord | None:
    """The round that the kept model is of: the best by validation loss under early stopping, else the last."""
    done = [r for r in run.rounds if r.skipped is None and r.validation_loss is not None]
    if run.config.early_stopping_rounds and done:
        return min(done, key=lambda r: r.validation_loss or 0.0)
    return run.rounds[-1] if run.rounds else None
