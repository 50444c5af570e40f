"""What a source address did in a time window, as numbers. Which address it is, is no feature."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.data_sources.schema import Column, FeatureSchema, Kind
from shared.data_sources.source_types import Chunk
from shared.data_sources.windows import most_frequent, window_families

TCP, UDP, ICMP = 6, 17, (1, 58)
WELL_KNOWN_PORTS = 1024
# Remote shells and desktops, file shares, remote management and databases: what is looked for inside a network.
ADMIN_PORTS = (22, 23, 135, 139, 445, 1433, 3306, 3389, 5432, 5900, 5985, 5986, 6379, 27017)

_PORT, _PROTOCOL = frozenset({"dstport"}), frozenset({"protocol"})
_DESTINATION, _TIME = frozenset({"dstaddr"}), frozenset({"start"})
_BYTES, _PACKETS = frozenset({"bytes"}), frozenset({"packets"})

# Feature: kind, and the fields of a flow that it is made from.
_FEATURES: dict[str, tuple[Kind, frozenset[str]]] = {
    "flows": ("numeric", frozenset()),
    "bytes": ("numeric", _BYTES),
    "packets": ("numeric", _PACKETS),
    "bytes_per_packet": ("numeric", _BYTES | _PACKETS),
    "largest_flow_bytes": ("numeric", _BYTES),
    "destinations": ("numeric", _DESTINATION),
    "destination_ports": ("numeric", _PORT),
    "source_ports": ("numeric", frozenset({"srcport"})),
    "flows_per_destination": ("numeric", _DESTINATION),
    "seconds_per_flow": ("numeric", frozenset({"start", "end"})),
    "reject_share": ("numeric", frozenset({"action"})),
    "tcp_share": ("numeric", _PROTOCOL),
    "udp_share": ("numeric", _PROTOCOL),
    "icmp_share": ("numeric", _PROTOCOL),
    "port_entropy": ("numeric", _PORT),
    "destination_entropy": ("numeric", _DESTINATION),
    "well_known_port_share": ("numeric", _PORT),
    "admin_port_share": ("numeric", _PORT),
    "hour_sin": ("cyclic", _TIME),
    "hour_cos": ("cyclic", _TIME),
}

_AS_THEY_ARE = ("_share", "_entropy")  # numbers that are not compressed


def schema(excluded: tuple[str, ...], window_minutes: int, source: str = "vpc_flow") -> FeatureSchema:
    """All features but those made from an excluded field."""
    columns = tuple(
        Column(name, name, kind, log=kind == "numeric" and not name.endswith(_AS_THEY_ARE))
        for name, (kind, fields) in _FEATURES.items()
        if not fields & set(excluded)
    )
    return FeatureSchema(source, columns, window_minutes=window_minutes, excluded=tuple(sorted(excluded)))


def chunk(flows: pd.DataFrame, schema: FeatureSchema, *, labelled: bool) -> Chunk:
    """One row for each source address and window among flows of closed windows, sorted by time."""
    flows = flows.assign(
        seconds=(flows["end"] - flows["start"]).clip(lower=0),
        reject=flows["action"] == "REJECT",
        tcp=flows["protocol"] == TCP,
        udp=flows["protocol"] == UDP,
        icmp=flows["protocol"].isin(ICMP),
        well_known=flows["dstport"] < WELL_KNOWN_PORTS,
        admin=flows["dstport"].isin(ADMIN_PORTS),
    )
    grouped = flows.groupby(["window", "srcaddr"], sort=True)
    rows = grouped.ngroup().to_numpy()  # the row of each flow
    count = grouped.size().to_numpy(np.float64)
    windows = grouped.first().index.get_level_values("window").to_numpy(np.int64)
    total_bytes, packets = (grouped[name].sum().to_numpy(np.float64) for name in ("bytes", "packets"))
    destinations = grouped["dstaddr"].nunique().to_numpy(np.float64)
    # The middle of the window: it is the same for whoever acts in it.
    angle = 2 * np.pi * ((windows + schema.window_minutes * 30) % 86_400) / 86_400
    columns = {
        "flows": np.log1p(count),
        "bytes": np.log1p(total_bytes),
        "packets": np.log1p(packets),
        "bytes_per_packet": np.log1p(total_bytes / np.maximum(packets, 1)),
        "largest_flow_bytes": np.log1p(grouped["bytes"].max().to_numpy(np.float64)),
        "destinations": np.log1p(destinations),
        "destination_ports": np.log1p(grouped["dstport"].nunique().to_numpy(np.float64)),
        "source_ports": np.log1p(grouped["srcport"].nunique().to_numpy(np.float64)),
        "flows_per_destination": np.log1p(count / destinations),
        "seconds_per_flow": np.log1p(grouped["seconds"].mean().to_numpy(np.float64)),
        "port_entropy": entropy(rows, flows["dstport"], len(count)),
        "destination_entropy": entropy(rows, flows["dstaddr"], len(count)),
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
    }
    for name, what in (
        ("reject_share", "reject"),
        ("tcp_share", "tcp"),
        ("udp_share", "udp"),
        ("icmp_share", "icmp"),
        ("well_known_port_share", "well_known"),
        ("admin_port_share", "admin"),
    ):
        columns[name] = grouped[what].mean().to_numpy(np.float64)
    first = grouped.first()
    meta = pd.DataFrame(
        {
            "start": windows,
            "end": windows + schema.window_minutes * 60,
            "source": first.index.get_level_values("srcaddr").to_numpy(),
            "flows": count.astype(np.int64),
        }
    )
    if not labelled:
        destinations = flows["dstaddr"] + " " + flows["dstport"].astype(str)
        meta["destinations"] = most_frequent(rows, destinations, len(count))
    features = np.column_stack([columns[name] for name in schema.names]).astype(np.float32)
    families = window_families(flows["family"], rows, len(count)) if labelled else np.full(len(count), "")
    return Chunk(meta, features, families, first["group"].to_numpy(dtype=np.str_))


def entropy(rows: NDArray[np.int64], values: pd.Series, num_rows: int) -> NDArray[np.float64]:
    """Shannon entropy in bits of the values within each row: 0 for one value, log2(k) for k equally often."""
    counts = pd.DataFrame({"row": rows, "value": values.to_numpy()}).value_counts(sort=False)
    of_row = counts.index.get_level_values("row").to_numpy(np.int64)
    number = counts.to_numpy(np.float64)
    share = number / np.bincount(of_row, weights=number, minlength=num_rows)[of_row]
    return np.bincount(of_row, weights=-share * np.log2(share), minlength=num_rows).astype(np.float64)
