"""Who could see what in a run, in plain words. `docs/privacy.md` has the same for every mode, and the reasons."""

from collections.abc import Sequence
from statistics import median

from orchestrator.publishing import Verdicts
from orchestrator.report.run_data import Run
from shared.addresses import is_loopback, split_address
from shared.config import Config
from shared.config_checks import MASKABLE

Statement = tuple[str, str]
_SIMULATED = "everything: one machine had all rows, keys and masks; what follows holds where each client has its own"


def in_one_sentence(c: Config, *, simulated: bool = False) -> str:
    """What the mode of a run with these settings amounts to."""
    if simulated:
        return (
            "A simulation: one machine saw all clients' rows and secrets. Had each had a machine of its own: "
            + in_one_sentence(c)
        )
    if c.he_scheme == "none":
        return "Encryption was off: the orchestrator received every client's update in the clear."
    if c.masked:
        records = " Noise in the sums hides single records." if c.privacy == "records" else ""
        return (
            f"Updates were encrypted and masked: the orchestrator could open sums of at least {c.fewest_contributors} "
            f"clients over one task, and no update by itself, even had its code been changed.{records}"
        )
    return (
        f"Updates were encrypted, and the orchestrator held the key: that it opened only sums of at least "
        f"{c.fewest_contributors} clients is a promise of its code. Masked updates would make it mathematics."
    )


def who_could_see_what(run: Run) -> list[Statement]:
    """One line for each party that might be curious."""
    c = run.config
    plain, masked = c.he_scheme == "none", c.masked
    each = "each client's update"
    lines = [
        *([("Whoever ran this simulation", _SIMULATED)] if any(start.simulated for start in run.starts) else []),
        ("Log records", "Nobody but the client they belong to: they never leave it."),
        (
            "The orchestrator, running this code",
            f"{each}, in the clear" if plain else f"sums of at least {c.fewest_contributors} updates",
        ),
        (
            "The orchestrator, had its code been changed",
            _seen_by_an_altered_server(c) if masked else each,
        ),
        (
            "The same, siding with some clients",
            "that sum, less the updates of those clients" if masked else each,
        ),
        ("Number of rows, and statistics of the features", _seen_of_statistics(run)),
        ("Each client", _seen_by_a_client(run)),
        ("Somebody on the network", _seen_on_the_network(run)),
        (
            "A stranger who connects",
            "is refused: only enrolled clients take part" if c.enrolled_clients else "could take part as a client",
        ),
    ]
    if not plain:
        lines.append(
            (
                "Who steals the private key later, with a recording of the traffic",
                "nothing more than the sums" if masked else f"{each} in the recording",
            )
        )
    if masked:
        lines.append(
            (
                "Who made the identities, if copies were kept",
                "could play all clients but one, and so read that one's update",
            )
        )
    elif c.enrolled_clients:
        lines.append(("Who made the identities, if copies were kept", "could sign as any client"))
    return [*lines, ("Sent in the clear", _in_the_clear(run))]


def _seen_by_an_altered_server(c: Config) -> str:
    sums = "sums over a large part of the clients, all of one task, and no update by itself; it could have subtracted "
    if c.privacy == "records":
        return f"{sums}sums over models that differ a little, each with the noise that hides single records"
    return f"{sums}sums over models that differ a little, which only added noise would hide"


def key_and_channel(run: Run) -> list[Statement]:
    """The cryptographic facts of a run."""
    c = run.config
    facts = []
    if c.he_scheme in MASKABLE:
        under = "ring-LWE under one-time keys, and these under " if c.he_scheme == "kahe" else ""
        facts.append(("Encryption", f"{under}Paillier, {c.he_key_length:,}-bit key"))
        if c.allow_insecure_key:
            facts.append(("", "allow_insecure_key was set: a short key, for tests alone"))
    else:
        facts.append(("Encryption", "none"))
    prints = list(dict.fromkeys(start.key_fingerprint for start in run.starts if start.key_fingerprint))
    if prints:
        facts.append(("Public key, SHA-256" if len(prints) == 1 else "Public keys, SHA-256", ", ".join(prints)))
        facts.append(("Private key", "kept in a file" if c.he_key_file else "made for this run, never written down"))
    spent = [record.epsilon for record in run.rounds if record.epsilon is not None]
    if spent:
        facts.append(("Differential privacy", f"of single records: epsilon {spent[-1]:.3g}, delta {c.dp_delta:g}"))
    heard = [record.signal_to_noise for record in run.rounds if record.signal_to_noise is not None]
    if heard:
        facts.append(("Signal to noise", f"of a round's sum, in the median: {median(heard):.2f}"))
    if c.groups > 1:
        facts.append(
            ("Groups", f"{c.groups} sums a round, over groups that all tenants drew; {c.group_rule} over them")
        )
    if run.verdicts:
        facts.append(("Sums", of_audits(run.verdicts)))
    facts.append(("Channel", "TLS" if c.tls_ca else f"no TLS, at {c.server_address}"))
    if c.enrolled_clients:
        names = run.starts[-1].enrolled if run.starts else []
        facts.append(("Enrolled clients", ", ".join(names) or "by list"))
    else:
        facts.append(("Enrolled clients", "none: anyone who reached the server could take part"))
    return facts


def of_audits(verdicts: Sequence[Verdicts]) -> str:
    """Who verified the sums of a run that has shown the proof of at least one."""
    verified: dict[int, set[str]] = {}
    failed: dict[int, dict[str, str]] = {}
    for line in verdicts:
        verified.setdefault(line.round, set()).update(line.verified)
        failed.setdefault(line.round, {}).update(line.failed)
    shown = set()
    for number, by in verified.items():
        auditors = by | failed[number].keys()
        shown.add(f"{len(by)} of {len(auditors)} clients" if auditors else "nobody, as no client audits")
        for client, why in sorted(failed[number].items()):
            if client not in by:
                return f"round {number} was NOT verified by client {client}: {why}"
    each = "the one sum that was shown" if len(verified) == 1 else f"each of {len(verified)} sums"
    return f"{each} was verified by {' or '.join(sorted(shown))}"


def _seen_of_statistics(run: Run) -> str:
    c = run.config
    if c.he_scheme == "none":
        return "each client's, by the orchestrator, in the clear"
    text = "by the orchestrator: their sums over all clients; by each client: the mean and variance of all rows"
    if c.makes_density:
        text += "; mean and covariance of benign rows: by the orchestrator, and whoever has the bundle"
    return text if c.masked else f"{text}. Had its code been changed, the orchestrator could have opened each client's"


def _seen_by_a_client(run: Run) -> str:
    text = "the global model, before and after each round"
    pairs = [record.round for record in run.rounds if record.contributors == 2]
    if pairs:
        named = "one round" if len(pairs) == 1 else f"{len(pairs)} rounds"
        text += f"; in {named} two clients alone were in the sum, so each could work out the other's update"
    if run.config.audit:
        sums = ", and the sums themselves" if run.config.model == "forest" else ""
        text += f"; to verify the sums, the others' masked ciphertexts, which no client can open{sums}"
    return text


def _seen_on_the_network(run: Run) -> str:
    c = run.config
    if c.tls_ca:
        return "that there was a run, and nothing of it (TLS)"
    if c.he_scheme == "none":
        seen = "everything: each update and the global models"
    elif c.masked:
        seen = "ciphertexts of masked values, which no key opens, and the global models"
    else:
        seen = (
            "ciphertexts and the global models; whoever can change the traffic could put in a key of its own and read "
            "the updates of clients that pin none (pinned_key_fingerprint)"
        )
    if is_loopback(split_address(c.server_address)[0]):
        return f"nobody: the traffic stayed on one machine ({c.server_address}). On a network without TLS: {seen}"
    return seen


def _in_the_clear(run: Run) -> str:
    text = "who took part and when"
    if not run.config.masked:
        text += ", seconds of training and encrypting, how many values saturated, and the text of errors"
    return text
