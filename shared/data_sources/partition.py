"""One labelled data set shared out among simulated clients.

Pure functions from labels and families to one index array per client. Together the arrays hold every row exactly
once, and the same seed gives the same arrays. Each class has a row at every client as long as there are enough rows
of it.
"""

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.streams import Stream, generator
from shared.errors import DataError

# Below this a client can neither train nor hold rows back; the synthetic source has the same lower limit.
MIN_ROWS_PER_CLIENT = 10

Labels = NDArray[np.int64]
Families = NDArray[np.str_]
Parts = list[NDArray[np.int64]]


def partition_rows(
    kind: str,
    labels: Labels,
    families: Families,
    num_clients: int,
    *,
    dirichlet_alpha: float,
    seed: int,
    groups: Families | None = None,
) -> Parts:
    """The rows of each client by the setting `partition`: `even`, `dirichlet`, `family`, `quantity` or `natural`.

    Args:
        kind: the setting `partition`.
        labels: (rows,); class 0 is benign.
        families: attack family of each row, (rows,); "benign" for class 0.
        num_clients: how many parts to make.
        dirichlet_alpha: used by `dirichlet` and `quantity` alone.
        seed: of the whole partition; all clients must use the same.
        groups: value of `partition_column` of each row, (rows,); used by `natural` alone.

    Returns:
        `num_clients` sorted arrays of row numbers.

    Raises:
        DataError: unknown kind, or a client would have too few rows.
    """
    match kind:
        case "even":
            parts = even(labels, families, num_clients, seed)
        case "dirichlet":
            parts = dirichlet(labels, families, num_clients, dirichlet_alpha, seed)
        case "family":
            parts = by_family(labels, families, num_clients, seed)
        case "quantity":
            parts = by_quantity(labels, num_clients, dirichlet_alpha, seed)
        case "natural" if groups is not None:
            parts = natural(groups, num_clients)
        case _:
            raise DataError(f"partition = {kind!r}: no such partition of this data; expected even, dirichlet or family")
    smallest = min(range(num_clients), key=lambda client: len(parts[client]))
    if len(parts[smallest]) < MIN_ROWS_PER_CLIENT:
        raise DataError(
            f"partition = {kind!r}: client {smallest} of {num_clients} would have {len(parts[smallest])} of "
            f"{len(labels)} rows, expected at least {MIN_ROWS_PER_CLIENT}; lower num_clients or use more data"
        )
    return parts


def even(labels: Labels, families: Families, num_clients: int, seed: int) -> Parts:
    """Shuffled parts of equal size: rows, and rows of each class, differ by at most one between clients."""
    rows = generator(seed, Stream.PARTITION).permutation(len(labels))
    # Dealt class by class, and family by family within a class, so that a rare class reaches every client.
    dealt = rows[np.lexsort((families[rows], labels[rows]))]
    return [np.sort(dealt[client::num_clients]) for client in range(num_clients)]


def dirichlet(labels: Labels, families: Families, num_clients: int, alpha: float, seed: int) -> Parts:
    """Each family's rows cut in shares drawn from Dirichlet(alpha): the smaller alpha, the more skewed.

    A floor of `MIN_ROWS_PER_CLIENT` rows per client, balanced over the classes, is dealt first where the rows allow
    it, because a small alpha leaves some clients with nothing; only the rest follows the Dirichlet shares
    (Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual classification",
    2019).
    """
    rng = generator(seed, Stream.PARTITION)
    pieces, rest = _floor(rng.permutation(len(labels)), labels, num_clients)
    for label in np.unique(labels):
        of_class = rest[labels[rest] == label]
        for family in np.unique(families[of_class]):
            of_family = of_class[families[of_class] == family]
            shares = rng.dirichlet(np.full(num_clients, alpha))
            _deal(of_family, shares, pieces)
    return _joined(pieces)


def by_family(labels: Labels, families: Families, num_clients: int, seed: int) -> Parts:
    """One attack family per client; benign rows are shared evenly.

    The families are taken in alphabetical order, which for NSL-KDD is dos, probe, r2l, u2r. Slot i = 0, 1, ... gives
    family `i mod families` to client `i mod clients`, for as many slots as the larger of the two numbers. So 3
    clients and 4 families make dos + u2r, probe, r2l: u2r, the smallest by far, joins the largest, and no client is
    without a family. With more clients than families, the clients of one family share its rows evenly.

    Raises:
        DataError: a family has fewer rows than clients that would share it, so a client would never see an attack.
    """
    rows = generator(seed, Stream.PARTITION).permutation(len(labels))
    benign = rows[labels[rows] == 0]
    attacks = rows[labels[rows] != 0]
    names = np.unique(families[attacks])
    pieces = [[benign[client::num_clients]] for client in range(num_clients)]
    for index, name in enumerate(names):
        of_family = attacks[families[attacks] == name]
        slots = range(index, max(num_clients, len(names)), len(names))
        if len(of_family) < len(slots):
            raise DataError(
                f"partition = 'family': {len(slots)} clients would share the {len(of_family)} rows of family {name}, "
                f"expected a row for each; lower num_clients to at most {len(of_family) * len(names)} "
                "or use partition: even"
            )
        for turn, slot in enumerate(slots):
            pieces[slot % num_clients].append(of_family[turn :: len(slots)])
    return _joined(pieces)


def by_quantity(labels: Labels, num_clients: int, alpha: float, seed: int) -> Parts:
    """Clients alike in what they hold but not in how much: sizes in shares drawn from Dirichlet(alpha).

    The same floor as in `dirichlet` is dealt first; only the rest follows the shares, as a random draw.
    """
    rng = generator(seed, Stream.PARTITION)
    pieces, rest = _floor(rng.permutation(len(labels)), labels, num_clients)
    # Shuffled once more: `_floor` leaves the rows sorted by class.
    _deal(rng.permutation(rest), rng.dirichlet(np.full(num_clients, alpha)), pieces)
    return _joined(pieces)


def natural(groups: Families, num_clients: int) -> Parts:
    """Rows with one value of a column (an account, a region) stay together at one client.

    The values are dealt by falling number of rows, each to the client that has the fewest rows so far.

    Raises:
        DataError: fewer values than clients.
    """
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < num_clients:
        raise DataError(
            f"partition = 'natural': {len(names)} values of partition_column for {num_clients} clients, expected a "
            "value for each; lower num_clients or choose another column"
        )
    held = np.zeros(num_clients, dtype=np.int64)
    owner = np.zeros(len(names), dtype=np.int64)
    for value in np.lexsort((names, -counts)):
        owner[value] = held.argmin()
        held[owner[value]] += counts[value]
    return [np.flatnonzero(owner[index] == client) for client in range(num_clients)]


def _floor(rows: NDArray[np.int64], labels: Labels, num_clients: int) -> tuple[list[Parts], NDArray[np.int64]]:
    """The first rows of each client, balanced over the classes, and the rows that are left, class by class."""
    classes = np.unique(labels)
    floor = -(-MIN_ROWS_PER_CLIENT // max(len(classes), 1))
    pieces: list[Parts] = [[] for _ in range(num_clients)]
    left = []
    for label in classes:
        of_class = rows[labels[rows] == label]
        dealt = num_clients * min(floor, len(of_class) // num_clients)
        for client in range(num_clients):
            pieces[client].append(of_class[client:dealt:num_clients])
        left.append(of_class[dealt:])
    return pieces, np.concatenate(left) if left else rows


def _deal(rows: NDArray[np.int64], shares: NDArray[np.float64], pieces: list[Parts]) -> None:
    """Cut the rows in these shares, (clients,), and add one piece to each client."""
    cuts = np.floor(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
    for client, piece in enumerate(np.split(rows, cuts)):
        pieces[client].append(piece)


def _joined(pieces: list[list[NDArray[np.int64]]]) -> Parts:
    return [np.sort(np.concatenate(piece)) for piece in pieces]
