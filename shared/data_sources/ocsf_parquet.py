"""OCSF events in Parquet, as Amazon Security Lake keeps them, in folders `region=…/accountId=…/eventDay=…`:
https://docs.aws.amazon.com/security-lake/latest/userguide/subscriber-data-access.html
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from shared.data_sources.json_values import Value
from shared.errors import OddFileError

_BATCH_EVENTS = 1_000  # that are in memory as Python's objects: some 20 kB each
# By name and not as they look: an account 012345678901 is no number.
_FOLDERS = ds.partitioning(
    pa.schema([(name, pa.string()) for name in ("region", "accountId", "eventDay")]), flavor="hive"
)
_UNUSED = ("raw_data", "observables", "enrichments")  # copies of what other fields have, and as large as these


def records(path: Path) -> Iterator[Value]:
    """The events of a file; what its folders say and an event does not is a field of the event, too.

    Batch by batch out of a row group of any size: `Dataset.to_batches` would decode a whole one at once.

    Raises:
        OddFileError: it is damaged; the events before that were given.
    """
    row = 0
    try:
        said = ds.get_partition_keys(_FOLDERS.parse(str(path)))
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in _UNUSED]
            for batch in file.iter_batches(batch_size=_BATCH_EVENTS, columns=columns):
                for event in batch.to_pylist(maps_as_pydicts="lossy"):
                    row += 1
                    yield Value(row, 0, {**said, **event})
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        told = " ".join(str(error).split())[:200]
        raise OddFileError(f"{path}: not a readable Parquet file after {row} events: {told}") from None
