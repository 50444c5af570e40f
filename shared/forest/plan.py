"""What kind of forest is grown, and which sum comes next."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.config import Config

LEVEL = "level-{}"  # the bucket of a sum: how deep the nodes are that it is about
BATCH = "batch"  # the work of all sums of the trees that are grown at once


@dataclass(frozen=True)
class ForestPlan:
    """The settings of a forest.

    Attributes:
        trees: in all.
        parallel: of them that are grown at once, on the same gradients; one batch.
        depth: levels of splits.
        bins: of a numeric column, at most.
        columns: share of the columns that a tree may split by.
        learning_rate: share of a batch's Newton step that is taken.
        least_rows: on either side of a split, over all tenants.
        least_hessian: the same of the sum of hessians.
        seed: of the columns that a tree may split by.
    """

    trees: int
    parallel: int
    depth: int
    bins: int
    columns: float
    learning_rate: float
    least_rows: int
    least_hessian: float
    seed: int

    @classmethod
    def of(cls, config: Config) -> "ForestPlan":
        """The one of these settings."""
        c = config
        return cls(
            c.forest_trees, c.forest_parallel, c.forest_depth, c.forest_bins, c.forest_columns, c.forest_learning_rate,
            c.forest_min_rows, c.forest_min_hessian, c.seed,
        )  # fmt: skip

    @property
    def sums(self) -> int:
        """That the whole forest takes: one for each level of each batch."""
        return self.trees // self.parallel * self.depth

    def turn(self, grown: int) -> "Turn":
        """The sum that comes after `grown` of them, of which there are `sums`."""
        batch, level = divmod(grown, self.depth)
        return Turn(level, slice(batch * self.parallel, (batch + 1) * self.parallel), (batch + 1) * self.depth)

    def levels(self) -> Iterator["Turn"]:
        """The first batch's turns: one for each bucket."""
        return (self.turn(level) for level in range(self.depth))


@dataclass(frozen=True)
class Turn:
    """One sum of a forest.

    Attributes:
        level: depth of the nodes that are to be split; 0 for the roots.
        trees: which are grown.
        after: sums that are behind when this batch is done.
    """

    level: int
    trees: slice
    after: int

    @property
    def bucket(self) -> str:
        """The name of the vector; its size depends on the level, and on nothing else of the turn."""
        return LEVEL.format(self.level)

    @property
    def asked(self) -> int:
        """Nodes of a tree that are added up: the root, then left children alone, as right is parent less left."""
        return 1 << max(self.level - 1, 0)
