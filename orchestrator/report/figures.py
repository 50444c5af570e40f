"""What a run's data means: the result in a sentence, where the time went, who was lost, what to be careful about."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from orchestrator.report import ranking
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.run_data import Comparison, Run
from orchestrator.report.words import client_order, count, figure, final_round, numbers, rate_text, seconds, share, size
from orchestrator.run_folder import RoundRecord
from shared.metrics import FALSE_POSITIVE_RATES, FEWEST_TEST_ROWS, rows_for_rate
from shared.printable import printable

TIME_PARTS = ("clients train and encrypt", "mask and wait", "add", "decrypt", "evaluate")
_FEW_ROWS = 30  # of a family: one row more or less moves its recall by three points
_FEW_NAMES = 5
_FEW_ALARMS = 10  # benign validation rows above a threshold: fewer say little about the rate it was made for
_FAR = 3.0  # a real false-positive rate so many times the one that was asked for is worth a warning


@dataclass(frozen=True)
class Tile:
    """One large number and what it is."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Loss:
    """One client whose updates are not in the model, in these rounds and for this reason."""

    client: str
    rounds: str
    reason: str


@dataclass(frozen=True)
class ClientRow:
    """One client over the whole run, for the table."""

    client: str
    rounds_in: int
    rounds_lost: int
    sent: str


def headline(run: Run) -> str:
    """The result in one sentence."""
    done = [record for record in run.rounds if not record.skipped]
    if not done:
        return "No round brought a new model" if run.rounds else "No round was finished"
    clients = len({client for record in done for client in record.contributor_ids})
    text = f"{count(clients, 'client')} trained one detector together in {count(len(done), 'round')}"
    e = run.evaluation
    if e is None:
        return text
    if e.too_few:
        return f"{text}; {e.too_few}"
    return f"{text}: it catches {share(e.recall)} of the attacks, with false alarms on {share(e.fpr)} of benign records"


def tiles(run: Run) -> list[Tile]:
    """The figures that a person looks for first."""
    result = []
    if (e := run.evaluation) and e.too_few:
        result = [Tile(f"{e.test_rows:,}", f"test records, too few for percentages: {FEWEST_TEST_ROWS} of each kind")]
    elif e:
        result = [
            Tile(figure(e.roc_auc), "ROC-AUC on the test set"),
            Tile(share(e.recall), "of attacks caught at the alert threshold"),
            Tile(share(e.fpr), "false alarms, share of benign records"),
            Tile(share(e.precision), "of the alerts are attacks"),
        ]
    took = sum(record.round_seconds or 0.0 for record in run.rounds)
    result.append(Tile(seconds(took), f"for {count(len(run.rounds), 'round')}"))
    uploads = [r.upload_bytes_per_client for r in run.rounds if r.upload_bytes_per_client is not None]
    if uploads:
        result.append(Tile(size(uploads[-1]), "sent by each client in a round"))
    return result


def time_parts(record: RoundRecord) -> list[float]:
    """Seconds of each of `TIME_PARTS` in one round.

    The first is as the orchestrator saw it, from its request to the last update, the transfer included. Updates are
    added as they arrive, so within that time: what adding takes of it is counted once, as adding.
    """
    known = [record.fit_seconds, record.aggregate_seconds, record.decrypt_seconds, record.evaluate_seconds]
    fit, add, decrypt, evaluate = (value or 0.0 for value in known)
    rest = (record.round_seconds or 0.0) - fit - decrypt - evaluate
    return [max(fit - add, 0.0), max(rest, 0.0), add, decrypt, evaluate]


def losses(run: Run) -> list[Loss]:
    """Who was lost or refused, one line for each client and reason, by the first round."""
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in run.rounds:
        for client, reason in record.failed.items():
            grouped[client, printable(reason)].append(record.round)
    ordered = sorted(grouped.items(), key=lambda item: (item[1][0], client_order(item[0][0])))
    return [Loss(printable(client), numbers(rounds), reason) for (client, reason), rounds in ordered]


def skipped(run: Run) -> list[tuple[str, str]]:
    """(rounds, why) of the rounds that left the model as it was."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for record in run.rounds:
        if record.skipped:
            grouped[printable(record.skipped)].append(record.round)
    return [(numbers(rounds), why) for why, rounds in grouped.items()]


def bad_groups(run: Run) -> list[tuple[str, str]]:
    """(rounds, clients) of the groups whose sums were left out, or would have been by another rule."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for record in run.rounds:
        for number in record.bad_groups:
            grouped[printable(", ".join(record.groups[number]))].append(record.round)
    return [(numbers(rounds), clients) for clients, rounds in grouped.items()]


def client_rows(run: Run) -> list[ClientRow]:
    """All clients that ever took part."""
    names = {c for r in run.rounds for c in (*r.contributor_ids, *r.failed)}
    rows = []
    for name in sorted(names, key=client_order):
        inside = [r for r in run.rounds if name in r.contributor_ids]
        sent = sum(r.upload_bytes_per_client or 0 for r in inside)
        lost = sum(name in r.failed for r in run.rounds)
        rows.append(ClientRow(printable(name), len(inside), lost, size(sent)))
    return rows


def compared(e: Evaluation, comparison: Comparison) -> str:
    """What the federation gained and what it fell short of, in one sentence."""
    alone = [rival.evaluation.roc_auc for rival in comparison.alone if rival.evaluation.roc_auc is not None]
    pooled = comparison.pooled.evaluation.roc_auc
    if e.roc_auc is None or pooled is None or not alone:
        return f"Nothing can be compared: {e.too_few}."
    mean = fmean(alone)
    better = sum(e.roc_auc > value for value in alone)
    how_many = {0: "none", len(alone): "all"}.get(better, str(better))
    return (
        f"By ROC-AUC the federated model, {e.roc_auc:.3f}, is {_apart(e.roc_auc, mean)} the mean of the clients alone, "
        f"{mean:.3f}, and better than {how_many} of the {len(alone)}; it is {_apart(e.roc_auc, pooled)} training on "
        f"all rows in one place, {pooled:.3f}."
    )


def which_to_use(e: Evaluation, comparison: Comparison) -> str:
    """Which of the detectors that were compared a person should use."""
    if comparison.federated is None:
        return ""
    ours = {rival.name: (rival.evaluation, rival.ranking) for rival in comparison.others if rival.ranking}
    references = {rival.name: rival.ranking for rival in comparison.references if rival.ranking}
    if comparison.pooled.ranking:
        references["a model of the same kind"] = comparison.pooled.ranking
    return ranking.advice({"this run's detector": (e, comparison.federated), **ours}, references)


def _apart(mine: float, other: float) -> str:
    difference = round(mine - other, 3)
    if difference == 0:
        return "level with"
    return f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"


def caveats(run: Run) -> list[str]:
    """What a reader should know before believing the figures."""
    notes = []
    c, done = run.config, [r for r in run.rounds if not r.skipped]
    if c.data_source == "synthetic":
        notes.append("The data was generated, and is easy on purpose: this shows that the machinery works, no more.")
    if c.labels == "none":
        notes.append(
            "No label was used: records are ranked by how far they are from all clients' records together, attacks "
            "among them included, and what is rare need be no attack."
        )
    if c.labels == "rules":
        notes.append(
            "What is called an attack here is a hit of a Sigma rule: all figures say how well the model agrees with "
            "the rules, and none how many attacks it finds."
        )
    if c.labels == "findings":
        notes.append(
            "What is called an attack here is what a finding of another detector is about"
            f"{', or a hit of a Sigma rule' if c.rules_path else ''}: all figures say how well the model agrees with "
            "these, and none how many attacks it finds."
        )
    if len(run.rounds) < c.num_rounds and not c.density_alone:
        ended = "early stopping, or it was interrupted" if c.early_stopping_rounds else "it was interrupted"
        notes.append(f"{len(run.rounds)} of {count(c.num_rounds, 'round')} were run: {ended}.")
    if len(done) < len(run.rounds):
        notes.append(f"{count(len(run.rounds) - len(done), 'round')} of {len(run.rounds)} left the model as it was.")
    if c.fraction_fit == 1 and (absent := _absent(run, len(done))):
        notes.append(absent)
    if len(run.starts) > 1:
        notes.append(f"The server was started {len(run.starts)} times; the run went on from its last finished round.")
    if saturated := sum(record.saturated for record in run.rounds):
        notes.append(f"{count(saturated, 'value')} of updates were beyond the fixed-point range and were cut.")
    kept = final_round(run)
    if c.early_stopping_rounds and kept is not None and kept is not run.rounds[-1]:
        notes.append(f"The model that was kept, and is judged here, is that of round {kept.round}, by validation loss.")
    if run.evaluation is None:
        notes.append("The final model was not measured: the run did not come to its end.")
        return notes
    return notes + _caveats_of_evaluation(run.evaluation)


def _absent(run: Run, done: int) -> str:
    """Who is not in every round's model."""
    parts = [f"client {row.client} is in {row.rounds_in}" for row in client_rows(run) if row.rounds_in < done]
    if not parts:
        return ""
    named = ", ".join(parts) if len(parts) <= _FEW_NAMES else f"{len(parts)} clients are not in all"
    return f"Of the {count(done, 'round')} that moved the model {named}."


def _caveats_of_evaluation(e: Evaluation) -> list[str]:
    if e.too_few:
        return [f"Nothing here says how good the model is: {e.too_few}."]
    notes = []
    few = {name: family.rows for name, family in e.families.items() if family.rows < _FEW_ROWS}
    if few:
        named = ", ".join(f"{printable(name)} ({rows})" for name, rows in few.items())
        notes.append(f"Few test rows, so a recall that chance moves: {named}.")
    notes += [
        f"A threshold for {rate_text(str(rate))} false positives takes {rows_for_rate(rate):,} benign validation rows; "
        f"there are {e.validation_benign:,}, so none is shown."
        for rate in FALSE_POSITIVE_RATES
        if e.validation_benign < rows_for_rate(rate)
    ]
    for rate, at in e.at_rates.items():
        wanted = float(rate)
        if wanted * e.validation_benign < _FEW_ALARMS:
            notes.append(
                f"The threshold for {rate_text(rate)} false positives rests on about "
                f"{count(round(wanted * e.validation_benign), 'benign validation row')}."
            )
        elif at.fpr > _FAR * wanted:
            notes.append(
                f"At the threshold made for {rate_text(rate)} false positives {share(at.fpr)} of the test set's benign "
                "records are alerts: they differ from the validation rows, and the recall was bought with that."
            )
    if e.attacks and e.benign:
        notes.append(
            f"Of the test set's {e.test_rows:,} rows {share(e.attacks / e.test_rows)} are attacks. Where attacks are "
            "rarer, fewer of the alerts are attacks than here."
        )
    return notes
