"""OCSF events in Parquet, as Amazon Security Lake keeps them, in folders `region=…/accountId=…/eventDay=…`:
https://docs.aws.amazon.com/security-lake/latest/userguide/subscriber-data-access.html
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from shared.data_sources.json_values import Value
from shared.errors import OddFileError

_BATCH_ROWS = 1_000  # that are in memory as Python's objects: some 20 kB each
# By name and not as they look: an account 012345678901 is no number.
_PARTITIONS = pa.schema([(name, pa.string()) for name in ("region", "accountId", "eventDay")])
_UNUSED = ("raw_data", "observables", "enrichments")  # copies of what other fields have, and as large as these


def records(path: Path) -> Iterator[Value]:
    """The events of a file, in bounded memory; those of its folders that an event lacks are fields of it, too.

    Raises:
        OddFileError: it is damaged; the events before that were given.
    """
    row = 0
    try:
        events = ds.dataset(str(path), format="parquet", partitioning=ds.partitioning(_PARTITIONS, flavor="hive"))
        columns = [name for name in events.schema.names if name not in _UNUSED]
        parts = events.to_batches(
            columns=columns, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
        )
        for part in parts:
            for event in part.to_pylist(maps_as_pydicts="lossy"):
                row += 1
                yield Value(row, 0, event)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        told = " ".join(str(error).split())[:200]
        raise OddFileError(f"{path}: not a readable Parquet file after {row} events: {told}") from None
