"""The results as tables, for the terminal and as markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.masking_growth import STAGES
from benchmarks.pace import PARTS
from benchmarks.results import OPERATIONS, Results
from shared.console import console

FIGURES_BEGIN = "<!-- figures: written by the benchmark -->"
FIGURES_END = "<!-- end of figures -->"

_MEANING = {
    "encrypt_vs_phe_2048": "encrypt, 2048 bits: phe / this project",
    "encrypt_vs_phe_3072": "encrypt, 3072 bits: phe / this project",
    "online_encrypt_vs_phe_3072": "encrypt with randomisers made before, 3072 bits: phe / this project",
    "bytes_vs_phe_3072": "bytes of an update, 3072 bits: phe / this project",
    "decrypt_vs_phe_2048": "decrypt, 2048 bits: phe / this project",
    "decrypt_vs_phe_3072": "decrypt, 3072 bits: phe / this project",
    "bytes_vs_tenseal": "bytes of an update: TenSEAL CKKS / this project at 3072 bits",
    "kahe_encrypt_vs_tenseal": "encrypt: TenSEAL CKKS / this project's kahe at 3072 bits",
    "kahe_decrypt_vs_tenseal": "decrypt: TenSEAL CKKS / kahe at 3072 bits",
    "kahe_bytes_vs_tenseal": "bytes of an update: TenSEAL CKKS / kahe at 3072 bits",
    "kahe_bytes_vs_float32": "bytes of an update: unencrypted float32 numbers / kahe at 3072 bits",
    "kahe_encrypt_vs_packed": "encrypt, 3072 bits: packed Paillier / kahe",
    "kahe_decrypt_vs_packed": "decrypt, 3072 bits: packed Paillier / kahe",
    "comb_vs_limit_3072": "one randomiser / its 192 multiplications mod n² (1 is the limit)",
    "train_vs_before": "an epoch of local training: PyTorch's usual loop / this project, the same model bit for bit",
    "round_vs_plain_3_clients": "a whole round, 3 clients, 5 local epochs: encrypted / he_scheme none (1 is the limit)",
}


@dataclass(frozen=True)
class Sheet:
    """One table, whatever it is written to."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_rich(self) -> Table:
        table = Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sheets(results: Results) -> list[Sheet]:
    """Every table that this run has figures for."""
    all_sheets = [_ratios(results), _comparisons(results), _medians(results), _combs(results), _rounds(results)]
    all_sheets += [_round_parts(results), _memory(results), _masked(results), _masked_bytes(results), _growth(results)]
    all_sheets += [_audits(results), _paces(results), _forests(results)]
    return [sheet for sheet in all_sheets if sheet.rows]


def print_results(results: Results) -> None:
    for sheet in sheets(results):
        console.print(sheet.as_rich())
    for line in _remarks(results):
        console.print(line, markup=False)


def write_markdown(results: Results, path: Path, picture: Path | None = None) -> None:
    """Put the tables between the two marks of the page at `path`, in place of those of an earlier run.

    Args:
        results: what was measured.
        path: the page.
        picture: a picture of the results in the page's folder, to be shown above the tables.
    """
    parts = [
        *([f"![the ratios as a picture]({picture.name})\n"] if picture else []),
        *(sheet.as_markdown() for sheet in sheets(results)),
        "### How each figure was obtained\n",
        "\n".join(f"- {line}" for line in _remarks(results)) + "\n",
    ]
    write_figures(path, parts)


def write_figures(path: Path, parts: Sequence[str]) -> None:
    """Put these between the two marks of the page, in place of what an earlier run wrote; made where there is none.

    Raises:
        SystemExit: the page has no marks.
    """
    page = path.read_text(encoding="utf-8") if path.exists() else f"{FIGURES_BEGIN}{FIGURES_END}\n"
    before, begin, rest = page.partition(FIGURES_BEGIN)
    _, end, after = rest.partition(FIGURES_END)
    if not begin or not end:
        raise SystemExit(f"{path} has no lines {FIGURES_BEGIN} and {FIGURES_END} to put the tables between")
    path.write_text(f"{before}{begin}\n\n" + "\n".join(parts) + f"\n{end}{after}", encoding="utf-8")


def _ratios(results: Results) -> Sheet:
    size = results.settings["ratio_parameters"]
    rows = [[key, _figure(value), _MEANING[key]] for key, value in results.ratios().items()]
    return Sheet(f"Ratios at {size:,} parameters", ["ratio", "measured", "what it is"], rows)


def _comparisons(results: Results) -> Sheet:
    rows = [
        [
            row["peer"],
            f"{row['key_bits']}",
            f"{row['parameters']:,}",
            *(_figure(row[name]) if name in row else "-" for name in OPERATIONS),
        ]
        for row in results.comparisons()
    ]
    return Sheet(
        "Peer / this project with a blum key of so many bits (above 1: this project is better)",
        ["peer", "key bits", "parameters", *OPERATIONS],
        rows,
    )


def _medians(results: Results) -> Sheet:
    rows = [
        [
            m.name,
            str(m.key_bits or "-"),
            f"{m.size:,}",
            str(m.passes),
            *(_figure(m.median[name]) if name in m.median else "-" for name in ("encrypt", "online", "sum", "decrypt")),
            f"{m.median['bytes'] / 1e6:,.3f}",
        ]
        for m in results.schemes
    ]
    columns = ["scheme", "key bits", "parameters", "passes", "encrypt s", "online s", "sum s", "decrypt s", "MB"]
    return Sheet("Medians behind the ratios", columns, rows)


def _combs(results: Results) -> Sheet:
    rows = [
        [
            str(c.key_bits),
            f"{c.randomiser_seconds * 1e3:.3f}",
            f"{c.multiplication_seconds * 1e6:.2f}",
            str(c.multiplications),
            f"{c.over_limit:.2f}",
        ]
        for c in results.combs
    ]
    columns = ["key bits", "randomiser ms", "multiplication mod n² µs", "multiplications", "over the limit"]
    return Sheet("One randomiser by the comb over the multiplications it can't do without", columns, rows)


def _rounds(results: Results) -> Sheet:
    rows = [
        [
            f"{r.clients} clients, {r.local_epochs} local epochs",
            r.data,
            f"{r.parameters:,}",
            str(r.rounds),
            f"{r.encrypted['round_seconds']:.2f}",
            f"{r.plain['round_seconds']:.2f}",
            f"{r.over_plain:.2f}",
        ]
        for r in results.rounds
    ]
    columns = ["round", "data", "parameters", "rounds timed", "encrypted s", "plain s", "encrypted / plain"]
    return Sheet("The whole round, encrypted with 3072 bits and with he_scheme none", columns, rows)


def _round_parts(results: Results) -> Sheet:
    names = ("train_seconds", "encrypt_seconds", "aggregate_seconds", "decrypt_seconds", "round_seconds")
    rows = [
        [f"{r.clients} clients, {r.local_epochs} local epochs", kind, *(f"{times[name]:.3f}" for name in names)]
        for r in results.rounds
        for kind, times in (("encrypted", r.encrypted), ("plain", r.plain))
    ]
    columns = ["round", "kind", *(name.replace("_seconds", " s") for name in names)]
    return Sheet("Where the time of a round goes (medians; train and encrypt: the slowest client's)", columns, rows)


def _memory(results: Results) -> Sheet:
    rows = [
        [
            p.side,
            f"{p.parameters:,}",
            str(p.contributors),
            f"{p.update_mb:.2f}",
            f"{p.add_mb:.1f}" if p.side == "orchestrator" else "-",
            f"{p.peak_mb:.1f}",
            f"{p.add_mb / p.update_mb:.1f}" if p.side == "orchestrator" else "-",
            f"{p.peak_mb / p.update_mb:.1f}",
            f"{p.peak_mb / (8 * p.parameters / 1e6):.1f}",
        ]
        for p in results.memory
    ]
    columns = [
        "side",
        "parameters",
        "contributors",
        "one update MB",
        "peak adding MB",
        "peak MB",
        "peak adding / one update",
        "peak / one update",
        "peak / float64 model",
    ]
    return Sheet("Peak memory beyond the process's own (resident, 3072 bits)", columns, rows)


def _audits(results: Results) -> Sheet:
    rows = [
        [
            a.scheme, f"{a.parameters:,}", str(a.contributors), str(a.passes), f"{a.upload_bytes / 1e6:.2f}",
            f"{a.proof_bytes / 1e6:.2f}", f"{a.decrypt_seconds:.3f}", f"{a.roots_seconds:.3f}",
            f"{a.verify_seconds:.3f}", f"{a.verify_seconds / a.decrypt_seconds:.2f}",
        ]
        for a in results.audits
    ]  # fmt: skip
    columns = [
        "scheme", "parameters", "contributors", "passes", "update MB", "proof MB", "decrypt s", "prove s", "check s",
        "check / decrypt",
    ]  # fmt: skip
    return Sheet("The audit of a round's sum, 3072 bits: what each tenant is sent, and its check", columns, rows)


def _paces(results: Results) -> Sheet:
    rows = [
        [
            p.transport, p.scheme, str(p.rounds), f"{1 / p.round_seconds:.1f}",
            *(f"{1e3 * p.parts[part]:.1f}" for part in PARTS),
        ]
        for p in results.paces
    ]  # fmt: skip
    columns = ["transport", "scheme", "rounds timed", "rounds a second", *(f"{part} ms" for part in PARTS)]
    return Sheet("Tiny masked rounds of 3 tenants, 3072 bits", columns, rows)


def _forests(results: Results) -> Sheet:
    rows = [
        [
            f.scheme, f"{f.rows:,}", str(f.sums), f"{f.values:,}", f"{f.vector_seconds:.1f}", f"{f.stage_seconds:.1f}",
            f"{f.cpu_seconds:.1f}", f"{f.sent_bytes / 1e6:.2f}", f"{f.received_bytes / 1e6:.2f}",
            f"{f.decrypt_seconds:.1f}", f"{f.seconds:.0f}",
        ]
        for f in results.forests
    ]  # fmt: skip
    columns = [
        "scheme", "rows of a tenant", "sums", "values at most", "its vectors s", "its other stages s", "its CPU s",
        "it sends MB", "it receives MB", "decrypt s", "all parties s",
    ]  # fmt: skip
    title = "A whole forest of 3 tenants in masked sums, 3072 bits (none: in the clear, without masks)"
    return Sheet(title, columns, rows)


def _masked(results: Results) -> Sheet:
    rows = [
        [
            f"{m.clients}",
            f"{m.local_epochs}",
            m.data,
            f"{m.pairs}",
            f"{m.plain['round']:.2f}",
            *(f"{m.masked[part]:.2f}" for part in ("before", "fit", "after", "evaluation", "round")),
            f"{m.over_plain:.3f}",
            f"{m.lowest:.2f}–{m.highest:.2f}",
            f"{m.cpu_over_plain:.3f}",
        ]
        for m in results.masked
    ]
    columns = ["clients", "epochs", "data", "pairs", "plain round s", "masked: before s", "fit s", "after s"]
    title = "A round with masks against the same without, 3072 bits (seconds of all parties)"
    columns += ["evaluation s", "round s", "masked / plain", "of the pairs", "of CPU seconds"]
    return Sheet(title, columns, rows)


def _masked_bytes(results: Results) -> Sheet:
    rows = []
    for m in results.masked:
        whole, plain = sum(m.masked_bytes.values()), sum(m.plain_bytes.values())
        stages = [f"{size:,}" for size in m.masked_bytes.values()]
        rows.append([f"{m.clients}", *stages, f"{whole:,}", f"{plain:,}", f"{whole / plain:.3f}"])
    stage_names = list(results.masked[0].masked_bytes) if results.masked else []
    columns = ["clients", *stage_names, "masked in all", "plain in all", "masked / plain"]
    return Sheet("Bytes of a round with masks, all clients, both ways, without the global model", columns, rows)


def _growth(results: Results) -> Sheet:
    rows = [
        [
            f"{g.clients}",
            f"{g.dropped}",
            *(f"{g.server[stage]:.3f}" for stage in STAGES),
            f"{g.server_seconds:.3f}",
            f"{g.server_seconds / g.clients**2 * 1e6:,.0f}",
            f"{g.client_seconds:.3f}",
            f"{g.client_bytes / 1e3:.1f}",
            f"{g.client_bytes / g.clients:,.0f}",
        ]
        for g in results.growth
    ]
    columns = ["clients", "lost", *STAGES, "server s", "server µs / N²", "one client s", "its KB", "its bytes / N"]
    return Sheet("What masking adds by the number of clients (stages: the server's seconds)", columns, rows)


def _remarks(results: Results) -> list[str]:
    how = dict.fromkeys(f"{m.name}: {m.how}" for m in results.schemes if m.size == results.settings["ratio_parameters"])
    return [
        *_machines(results),
        f"Settings: {results.settings['fractional_bits']} fractional bits, slots for at most "
        f"{results.settings['max_contributors']} contributors; medians of interleaved passes.",
        *how,
        *results.notes,
    ]


def _machines(results: Results) -> list[str]:
    """Each machine that sections were measured on, once, and when and for how long each was."""
    lines: dict[str, list[str]] = {}
    for name, section in results.sections.items():
        machine = section.machine
        libraries = ", ".join(f"{library} {version}" for library, version in machine["libraries"].items())
        where = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, {libraries}"
        )
        lines.setdefault(where, []).append(
            f"{name} {section.seconds:.0f} s on {machine['date']}, load average before it {machine['load_average'][0]}"
        )
    return [f"Machine: {where}. Measured: {'; '.join(sections)}." for where, sections in lines.items()]


def _figure(value: float) -> str:
    """Three significant digits, and whole numbers above."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
