"""Flows to learn from and to score, as a table and as a flow log, and the model of a run that learned from either."""

from pathlib import Path

from shared.bundle import ModelBundle
from shared.config import Config
from tests.source_files import write_lines
from tests.trained import train_bundle

HEADER = "No,Source IP,Source Port,Destination IP,dur,proto,bytes,Label"


def flow(row: int, shift: float = 0.0) -> str:
    """One line; a flow lasts `shift` seconds longer."""
    attack = row % 4 == 0
    proto, label = ("icmp", "DoS") if attack else ("tcp", "BENIGN")
    duration, size = (row * 37 % 101) / 10 + shift, (row * 7919 % 1000) + (40_000 if attack else 0)
    return f"{row},10.0.0.{row % 9},{1024 + row},192.0.2.1,{duration},{proto},{size},{label}"


def table(rows: range) -> bytes:
    """A CSV file of these flows."""
    return "\n".join([HEADER, *map(flow, rows), ""]).encode()


def train_on_flows(folder: Path) -> ModelBundle:
    """Leave `flows.csv` in the folder, and beside it the model that learned from it."""
    path = folder / "flows.csv"
    path.write_bytes(table(range(2000)))
    config = Config(
        data_source="csv", data_path=str(path), csv_label_column="Label", partition="even", hash_width=8,
        csv_drop_columns=("No", "Source IP", "Source Port", "Destination IP"), num_features=10, num_hidden_units=(8,),
        max_broken_share=0.2, alert_fpr=0.02,
    )  # fmt: skip
    return train_bundle(config, folder, epochs=10)


def _logged(second: int, row: int) -> str:
    scan = row == 0
    port = 1 + second % 65_000 if scan else 443
    source = "10.0.0.66" if scan else f"10.0.0.{row}"
    start = 1_700_000_100 + second
    target = f"10.0.1.{second % 200 if scan else 9}"
    return f"2 111 eni-1 {source} {target} 4{row:04} {port} 6 3 180 {start} {start + 1} ACCEPT OK"


# Ten hours of a flow log, in which one of twelve addresses scans.
SCANS = [_logged(second, row) for second in range(0, 36_000, 40) for row in range(12)]


def train_on_scans(folder: Path) -> ModelBundle:
    """Leave `flows.log` in the folder, and beside it the model that learned from its windows."""
    path = write_lines(folder / "flows.log", SCANS)
    config = Config(
        data_source="vpc_flow", data_path=str(path), label_field="srcaddr", label_patterns=("10.0.0.66",),
        num_features=20, num_hidden_units=(8,), partition="even", alert_fpr=0.03,
    )  # fmt: skip
    return train_bundle(config, folder, epochs=20)
