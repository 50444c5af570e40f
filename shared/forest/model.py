"""The forest as a torch module: what scores, explains and travels. Its arrays are the global model of `model: forest`.

A tree is complete, in the order of a heap: node i has the children 2i + 1 and 2i + 2. A node without a split is a leaf,
wherever it is.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LEAF = -1.0  # in the place of a column: no split
ALL = slice(None)


class ThreatForest(nn.Module):
    """Trees whose values at the leaf of a record add up to the log odds of an attack.

    All float32, as everything that travels as a model is; whole numbers in it are far below 2**24, and so exact.

    Attributes:
        column: that a node splits by, or `LEAF`, (trees, inner nodes).
        threshold: a record goes right if its scaled feature is at least this, (trees, inner nodes).
        value: what a node would add to the log odds as a leaf, (trees, nodes).
        gain: by how much a split lowers the loss, (trees, inner nodes); 0 for leaves.
        grown: sums that are in the forest, (1,); `ForestPlan.turn` says what comes next.
    """

    column: Tensor
    threshold: Tensor
    value: Tensor
    gain: Tensor
    grown: Tensor

    def __init__(self, trees: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        inner = (1 << depth) - 1
        self.register_buffer("column", torch.full((trees, inner), LEAF))
        self.register_buffer("threshold", torch.zeros(trees, inner))
        self.register_buffer("value", torch.zeros(trees, 2 * inner + 1))
        self.register_buffer("gain", torch.zeros(trees, inner))
        self.register_buffer("grown", torch.zeros(1))
        # Where a tree's nodes begin among those of all, (trees,); an index into one axis is faster than one into two.
        self.register_buffer("_inner_from", inner * torch.arange(trees), persistent=False)
        self.register_buffer("_node_from", (2 * inner + 1) * torch.arange(trees), persistent=False)

    _inner_from: Tensor
    _node_from: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features, (B, F), to logits, (B, 2)."""
        log_odds = self.log_odds(features)
        return torch.stack([torch.zeros_like(log_odds), log_odds], dim=1)

    def log_odds(self, features: Tensor) -> Tensor:
        """Of an attack, (B,)."""
        return self.values_at(self.nodes(features, self.depth)).sum(dim=1)

    def nodes(self, features: Tensor, depth: int, trees: slice = ALL) -> Tensor:
        """Where records are after at most `depth` splits of some trees, int64, (B, trees)."""
        node = torch.zeros_like(features[:, :1], dtype=torch.int64) + torch.zeros_like(self._inner_from[trees])
        for _ in range(depth):
            node = self.next_nodes(features, node, trees)
        return node

    def next_nodes(self, features: Tensor, node: Tensor, trees: slice = ALL) -> Tensor:
        """One split further from these inner nodes, (B, trees); a leaf is where it ends."""
        at = self._inner_from[trees] + node
        column = self.column.flatten()[at]
        # An index may not be negative: a leaf looks at the first column, and does not go by it.
        right = features.gather(1, column.clamp(min=0).long()) >= self.threshold.flatten()[at]
        return torch.where(column < 0, node, 2 * node + 1 + right.long())

    def columns_at(self, node: Tensor) -> Tensor:
        """That these inner nodes of all trees split by, int64, (B, trees); 0 for leaves."""
        return self.column.flatten()[self._inner_from + node].clamp(min=0).long()

    def values_at(self, node: Tensor, trees: slice = ALL) -> Tensor:
        """Of these nodes, (B, trees)."""
        return self.value.flatten()[self._node_from[trees] + node]


def flaw_of(arrays: Mapping[str, NDArray[np.float32]], features: int) -> str:
    """What is wrong with a forest from elsewhere, whose arrays have the right shapes; empty if nothing is.

    Args:
        arrays: by the names of a forest's tensors, finite.
        features: that records have.
    """
    column, grown = arrays["column"], arrays["grown"]
    if ((column != np.floor(column)) | (column < LEAF) | (column >= features)).any():
        return f"a forest that splits by a column that is none of 0 to {features - 1}"
    if (grown != np.floor(grown)).any() or not 0 <= grown[0] < 1 << 24:
        return "a forest that does not say how far it is grown"
    return ""
