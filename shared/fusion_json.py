"""The entry `density` of a bundle: what a density is made from, what it is worth, and what fuses it with the model."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from shared.density import BenignSums
from shared.fusion import Fusion, Gate, Tail
from shared.json_values import exact, numbers
from shared.preprocessing import Preprocessing


def density_to_plain(benign: BenignSums | None, fusion: Fusion | None) -> dict[str, Any] | None:
    """For JSON; None where no density is beside the model."""
    if benign is None or fusion is None:  # a density that is the whole detector is the model itself
        return None
    names = ("model", "density")
    return {
        "rows": benign.rows,
        "total": benign.total.tolist(),
        "products": benign.products.tolist(),
        "gate": asdict(fusion.gate),
        "rate": fusion.rate,
        "tails": fusion.tails
        and {
            name: {
                "points": tail.points.tolist(),
                "tails": tail.tails.tolist(),
                "spread": float(tail.spread),
            }
            for name, tail in zip(names, fusion.tails, strict=True)
        },
    }


def with_density(preprocessing: Preprocessing, value: Any) -> tuple[Preprocessing, Fusion | None]:
    """The inverse: the preprocessing with the sums, and the fusion.

    Raises:
        ValueError, DataError: it is no such entry, or holds what no rows have.
    """
    if value is None:
        return preprocessing, None
    value = exact(value, ("rows", "total", "products", "gate", "rate", "tails"), "density")
    width = len(preprocessing.schema)
    shapes = {"rows": (), "total": (width,), "products": (width * (width + 1) // 2,)}
    rows, total, products = (numbers(value[name], shape, f"density {name}") for name, shape in shapes.items())
    if not all(((array == np.floor(array)) & (np.abs(array) < 2**53)).all() for array in (rows, total, products)):
        raise ValueError("density: expected whole numbers")
    benign = BenignSums(int(rows), total.astype(np.int64), products.astype(np.int64))
    benign.check()
    gate = Gate.from_json(value["gate"])
    rate = float(numbers(value["rate"], (), "density rate"))
    if not 0 < rate <= 1:
        raise ValueError(f"density rate = {rate}: expected above 0, up to 1")
    if (value["tails"] is not None) != gate.open:
        raise ValueError("density: expected tails where the gate is open, and none where it is shut")
    tails = None
    if gate.open:
        both = exact(value["tails"], ("model", "density"), "density tails")
        tails = _tail(both["model"]), _tail(both["density"])
    return replace(preprocessing, benign=benign), Fusion(gate, rate, tails)


def _tail(value: Any) -> Tail:
    value = exact(value, ("points", "tails", "spread"), "density tail")
    count = len(value["points"]) if isinstance(value["points"], list) else 0
    points = numbers(value["points"], (count,), "density points")
    tails = numbers(value["tails"], (count,), "density tails")
    spread = numbers(value["spread"], (), "density spread")
    if count < 2 or (np.diff(points) <= 0).any() or (np.diff(tails) < 0).any() or tails[0] < 0 or not spread > 0:
        raise ValueError("density tail: expected 2 points or more and tails, both ascending, and a spread above 0")
    return Tail.of_points(points, tails, float(spread))
