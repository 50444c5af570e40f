"""Makes example files for docs/tutorial.md: network flows of three tenants, each of which knows one kind of attack.

    python benchmarks/example_flows.py --out data/example

`tenant-0.csv` to `tenant-2.csv` are what each tenant has, `public.csv` is the labelled set that the orchestrator judges
by, and `today.csv` is unlabelled and to be scored. The flows are made up: they show how things fit together, not how
good a detector is.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

ATTACKS = ("port scan", "password guessing", "exfiltration")
_SERVICES = {"https": 443, "dns": 53, "ssh": 22, "smtp": 25, "postgres": 5432}
_HOSTS = {  # who attacks, or is attacked; no feature
    "port scan": ("src_ip", "10.1.66.6"),
    "password guessing": ("dst_ip", "10.2.0.22"),
    "exfiltration": ("src_ip", "10.1.7.7"),
}
_START = 1_760_000_000  # seconds since 1970


def benign(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """What users and servers do all day."""
    services = rng.choice(list(_SERVICES), rows, p=(0.55, 0.25, 0.05, 0.05, 0.1))
    return pd.DataFrame(
        {
            "service": services,
            "dst_port": [_SERVICES[name] for name in services],
            "protocol": np.where(services == "dns", "udp", "tcp"),
            "seconds": rng.lognormal(0.0, 1.2, rows),
            "bytes_out": rng.lognormal(7.0, 1.3, rows),
            "bytes_in": rng.lognormal(9.0, 1.6, rows),
            "packets": rng.poisson(20, rows) + 2,
            "flows_last_minute": rng.poisson(6, rows) + 1,
            "label": "benign",
        }
    )


def attack(kind: str, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """The same columns when somebody attacks, with a good deal of overlap."""
    flows = benign(rows, rng).assign(label=kind)
    if kind == "port scan":
        ports = rng.integers(1, 10_000, rows)
        return flows.assign(
            service="other",
            dst_port=ports,
            seconds=rng.lognormal(-3.0, 0.8, rows),
            bytes_out=rng.lognormal(4.2, 0.4, rows),
            bytes_in=rng.lognormal(3.8, 0.6, rows),
            packets=rng.poisson(1, rows) + 1,
            flows_last_minute=rng.poisson(60, rows) + 1,
        )
    if kind == "password guessing":
        return flows.assign(
            service="ssh",
            dst_port=22,
            seconds=rng.lognormal(0.5, 0.4, rows),
            bytes_out=rng.lognormal(7.2, 0.3, rows),
            bytes_in=rng.lognormal(7.4, 0.3, rows),
            packets=rng.poisson(14, rows) + 2,
            flows_last_minute=rng.poisson(25, rows) + 1,
        )
    return flows.assign(
        service="https",
        dst_port=443,
        seconds=rng.lognormal(4.0, 0.7, rows),
        bytes_out=rng.lognormal(15.0, 1.0, rows),
        bytes_in=rng.lognormal(8.0, 1.0, rows),
        packets=rng.poisson(4000, rows) + 2,
    )


def flows_of(rows: int, kinds: tuple[str, ...], rng: np.random.Generator) -> pd.DataFrame:
    """Mixed flows in the order of their time; one in twelve is an attack of one of these kinds."""
    attacks = rows // 12
    parts = [benign(rows - attacks, rng), *(attack(kind, attacks // len(kinds), rng) for kind in kinds)]
    flows = pd.concat(parts, ignore_index=True).sample(frac=1.0, random_state=rng, ignore_index=True)
    flows.insert(0, "time", _START + np.sort(rng.integers(0, 86_400, len(flows))))
    for position, column in enumerate(("src_ip", "dst_ip"), start=1):
        hosts = rng.integers(1, 255, (len(flows), 2))
        flows.insert(position, column, [f"10.{position}.{a}.{b}" for a, b in hosts])
    for kind, (column, address) in _HOSTS.items():
        flows.loc[flows["label"] == kind, column] = address
    return flows.round({"seconds": 3, "bytes_out": 0, "bytes_in": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example files of docs/tutorial.md.")
    parser.add_argument("--out", type=Path, default=Path("data/example"), help="folder (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=6_000, help="flows of each tenant (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for tenant, kind in enumerate(ATTACKS):
        flows_of(args.rows, (kind,), rng).to_csv(args.out / f"tenant-{tenant}.csv", index=False)
    flows_of(args.rows, ATTACKS, rng).to_csv(args.out / "public.csv", index=False)
    flows_of(args.rows // 2, ATTACKS, rng).drop(columns="label").to_csv(args.out / "today.csv", index=False)
    print(f"{args.out}: three tenants, public.csv and today.csv")


if __name__ == "__main__":
    main()
