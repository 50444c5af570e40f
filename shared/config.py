"""The YAML file as one frozen, validated dataclass.

`load_config(path)` is the only way in. Whatever can't work is refused here, in one line that names the key, the value
and what is allowed, before any key is made or port opened.
"""

import dataclasses
import difflib
import ipaddress
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared.errors import ConfigError
from shared.yaml_values import UniqueKeyLoader, coerce

MIN_SECURE_KEY_BITS = 2048  # NIST SP 800-57 part 1, table 2: below this a modulus gives less than 112 bits of strength
MAX_SLOT_BITS = 54  # a float64 holds integers up to 2**53 exactly; `shared/he/packing.py` sizes its slots by it
MIN_CONTRIBUTORS = 2  # a sum of one update is that update
CLASS_BALANCES = ("none", "inverse")
MIN_MASKED_COHORT = 3  # what `shared/masking` asks for: of a sum of two, each of the two knows the other's update

CLIENT_ID = "{client_id}"  # stands for the client's number in a path
FILE_SOURCES = ("csv", "cloudtrail", "vpc_flow")
PARTITIONS = ("even", "dirichlet", "family", "quantity", "natural")


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A dataclass field with its meaning and its inclusive range (or its choices) beside it."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings. `config/config.yaml` explains each to a person; the one-liners here are for the reader of code."""

    # Who takes part
    server_address: str = setting("127.0.0.1:8080", "host:port the server listens on and clients connect to")
    num_rounds: int = setting(5, "rounds of training", low=1, high=100_000)
    num_clients: int = setting(3, "clients the run is made for, and the most that one sum may hold", low=2, high=10_000)
    min_available_clients: int = setting(3, "clients that must be connected before round 1", low=2, high=10_000)
    min_fit_clients: int = setting(2, "clients that a round of training needs", low=2, high=10_000)
    min_evaluate_clients: int = setting(2, "clients that a round of evaluation needs", low=1, high=10_000)
    min_contributors: int = setting(2, "valid updates below which nothing is decrypted", low=2, high=10_000)
    fraction_fit: float = setting(1.0, "share of the connected clients that trains in a round", low=0.0, high=1.0)
    fraction_evaluate: float = setting(1.0, "share that evaluates; 0 switches it off", low=0.0, high=1.0)

    # Patience, in seconds
    client_wait_timeout: float = setting(60.0, "how long the server waits for clients", low=0.1, high=86_400)
    server_wait_timeout: float = setting(60.0, "how long a client looks for the server", low=0.1, high=86_400)
    round_timeout: float = setting(300.0, "how long the server waits for one client's answer", low=0.1, high=86_400)
    stage_timeout: float = setting(30.0, "the same, in each short stage of masking", low=0.1, high=86_400)

    # Who may take part, and how the channel is protected; all of it is empty on one machine, all set in secure.yaml
    tls_ca: str = setting("", "PEM file of the CA; clients trust servers with its certificates alone")
    tls_certificate: str = setting("", "PEM file of the server's certificate; for the server alone")
    tls_key: str = setting("", "PEM file of its private key; for the server alone")
    allow_insecure_network: bool = setting(False, "use addresses other than loopback without TLS")
    enrolled_clients: str = setting("", "enrolled.json; updates must be signed by a client in it")
    client_identity: str = setting("", "a client's private key file; {client_id} is filled in")
    pinned_key_fingerprint: str = setting("", "public key that clients insist on, SHA-256 in hex")

    # Local training
    local_epochs: int = setting(5, "passes over a client's own data in a round", low=1, high=10_000)
    batch_size: int = setting(32, "rows", low=1, high=1_000_000)
    learning_rate: float = setting(0.05, "step size of SGD with momentum", low=1e-9, high=100.0)
    proximal_mu: float = setting(0.0, "FedProx: pull of local training towards the global model", low=0.0, high=100.0)
    class_balance: str = setting("none", "how rare classes weigh in a client's loss", choices=CLASS_BALANCES)

    # The model
    num_features: int = setting(20, "width of the input", low=1, high=1_000_000)
    num_hidden_units: tuple[int, ...] = setting((16,), "width of each hidden layer", low=1, high=1_000_000)
    num_classes: int = setting(2, "classes; class 0 is benign", low=2, high=10_000)

    # The data
    data_source: str = setting("synthetic", "where rows come from", choices=("synthetic", "nsl_kdd", *FILE_SOURCES))
    data_path: str = setting("", "file or folder, with {client_id} one for each client; unused by synthetic")
    test_path: str = setting("", "files of the common test set; empty: `test_fraction` of data_path")
    test_fraction: float = setting(0.2, "share of data_path that is the common test set", low=0.01, high=0.9)
    num_samples_per_client: int = setting(1000, "synthetic rows per client", low=10, high=100_000_000)
    data_skewness: float = setting(
        0.5, "synthetic: 0 = all clients alike, towards 1 = one class each", low=0.0, high=1.0
    )
    partition: str = setting("family", "how one data set is split", choices=PARTITIONS)
    partition_column: str = setting("", "field whose values make the parts of `natural`")
    dirichlet_alpha: float = setting(0.5, "skew of `dirichlet` and `quantity`: small = skewed", low=1e-3, high=1e6)
    holdout_fraction: float = setting(0.1, "share of a client's rows kept for its own evaluation", low=0.01, high=0.5)
    seed: int = setting(42, "of data, initial weights, shuffling and client choice; never of keys", low=0, high=2**31)

    # Reading files: csv, cloudtrail, vpc_flow
    csv_label_column: str = setting("", "csv: column that holds the label")
    csv_benign_values: tuple[str, ...] = setting(("benign", "normal", "0"), "csv: labels that mean benign")
    csv_family_column: str = setting("", "csv: column that names the kind of attack")
    csv_drop_columns: tuple[str, ...] = setting((), "csv: columns that are no feature")
    csv_categorical_columns: tuple[str, ...] = setting((), "csv: columns of names; empty: those that hold texts")
    csv_drop_duplicates: bool = setting(False, "csv: keep one of several equal rows")
    label_path: str = setting("", "logs: CSV file of labels")
    label_field: str = setting("", "logs: field that tells an attack")
    label_patterns: tuple[str, ...] = setting((), "logs: patterns of `label_field` that mean attack")
    window_minutes: int = setting(5, "logs: length of the window that makes one row", low=1, high=1440)
    vpc_fields: str = setting("", "vpc_flow: fields of a line; empty: by the header line, else the default format")
    hash_width: int = setting(16, "columns that a hashed field becomes", low=1, high=4096)
    max_broken_share: float = setting(0.01, "share of broken lines that is skipped", low=0.0, high=1.0)

    # Homomorphic encryption
    he_scheme: str = setting("paillier", "HE scheme", choices=("paillier", "ckks", "none"))
    he_key_length: int = setting(3072, "bits of n", low=128, high=16_384)
    he_key_kind: str = setting("blum", "how the primes are made", choices=("blum", "subgroup"))
    he_packing: bool = setting(True, "many values per ciphertext; False is the slow reference")
    he_precision_bits: int = setting(16, "fractional bits of a fixed-point value", low=1, high=48)
    he_integer_bits: int = setting(1, "a value saturates at ± 2**he_integer_bits", low=0, high=32)
    he_key_file: str = setting("", "the private key's file, see orchestrator/keys.py; empty: a new key for each run")
    allow_insecure_key: bool = setting(False, "accept keys below 2048 bits (tests only)")

    # Aggregation
    secure_aggregation: str = setting("", "who can open a single update", choices=("", "masked", "none"))
    weighting: str = setting("uniform", "how much a client counts", choices=("uniform", "examples"))
    max_examples: int = setting(100_000, "rows that give the full weight under `examples`", low=1, high=10**12)
    server_momentum: float = setting(0.0, "FedAvgM: share of the last step in the next one", low=0.0, high=0.99)
    early_stopping_rounds: int = setting(0, "rounds without a better validation loss; 0: off", low=0, high=100_000)

    # When the finished model alerts
    alert_fpr: float = setting(0.01, "share of benign records that may alert", low=1e-7, high=0.5)
    alerts_per_day: float = setting(0.0, "instead: false alerts a day; 0: by alert_fpr", low=0.0, high=1e12)
    records_per_day: float = setting(0.0, "records (of logs: windows) that alerts_per_day is about", low=0.0, high=1e15)

    # Where a run leaves its files
    log_dir: str = setting("logs", "folder that holds one folder per run")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_range(field, getattr(self, field.name))
        _check_combinations(self)

    @property
    def masked(self) -> bool:
        """Whether updates are masked; where identities exist they are, unless the settings say `none`."""
        by_default = self.secure_aggregation == "" and bool(self.enrolled_clients or self.client_identity)
        return by_default or self.secure_aggregation == "masked"

    @property
    def fewest_contributors(self) -> int:
        """Updates that a sum must hold before it is decrypted."""
        return max(self.min_contributors, MIN_MASKED_COHORT) if self.masked else self.min_contributors

    @property
    def alert_rate(self) -> float:
        """The share of benign records that may alert, 0 to 0.5."""
        return self.alerts_per_day / self.records_per_day if self.alerts_per_day else self.alert_fpr

    def as_yaml(self) -> str:
        """The resolved settings as YAML that `load_config` reads back to an equal `Config`."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return yaml.safe_dump(plain, sort_keys=False)


def load_config(path: str | Path) -> Config:
    """Read and check a YAML file.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, or holds a setting that can't work.
    """
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give --config a YAML file such as config/config.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(raw).__name__}; see config/config.yaml")
    try:
        return parse_config(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(raw: dict[Any, Any]) -> Config:
    """Check names and types of plain values, then build the `Config`, which checks ranges and combinations.

    Raises:
        ConfigError: at the first setting that is wrong.
    """
    hints = typing.get_type_hints(Config)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.6)
            advice = f"did you mean {near[0]!r}?" if near else "config/config.yaml lists every key"
            raise ConfigError(f"{key}: unknown key (value {value!r}); {advice}")
        values[key] = coerce(key, value, hints[key])
    return Config(**values)


def _check_range(field: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = field.metadata["low"], field.metadata["high"], field.metadata["choices"]
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(choice or '""' for choice in choices)
        raise ConfigError(f"{field.name} = {value!r}: expected one of {shown}{advice}")
    for item in value if isinstance(value, tuple) else (value,):
        # Written so that NaN, which compares False with everything, is refused too.
        if low is not None and not low <= item <= high:
            raise ConfigError(f"{field.name} = {value!r}: expected {low:g} to {high:g}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port.

    Raises:
        ConfigError: no such form, or a port outside 1 to 65535.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})", address)
    if not match or not 1 <= int(match["port"]) <= 65_535:
        raise ConfigError(f"server_address = {address!r}: expected host:port with a port from 1 to 65535")
    return match["v6"] or match["host"], int(match["port"])


def _check_combinations(c: Config) -> None:
    host, _ = split_address(c.server_address)
    if not is_loopback(host) and not c.tls_ca and not c.allow_insecure_network:
        raise ConfigError(
            f"server_address = {c.server_address!r}: other machines can reach it, and TLS is off; set tls_ca, "
            "tls_certificate and tls_key (orchestrator/provision.py makes them), or allow_insecure_network: true"
        )
    if bool(c.tls_certificate) != bool(c.tls_key) or (c.tls_certificate and not c.tls_ca):
        raise ConfigError(
            f"tls_certificate = {c.tls_certificate!r}: the server needs tls_ca, tls_certificate and tls_key, a client "
            "tls_ca alone"
        )
    if c.pinned_key_fingerprint and not re.fullmatch("[0-9a-f]{64}", c.pinned_key_fingerprint):
        raise ConfigError(
            f"pinned_key_fingerprint = {c.pinned_key_fingerprint!r}: expected 64 lower-case hex digits, as "
            "`orchestrator/keys.py show` prints them"
        )
    for key in ("min_available_clients", "min_fit_clients", "min_evaluate_clients", "min_contributors"):
        if getattr(c, key) > c.num_clients:
            raise ConfigError(f"{key} = {getattr(c, key)}: at most num_clients, which is {c.num_clients}")
    if c.min_contributors > c.min_fit_clients:
        raise ConfigError(
            f"min_contributors = {c.min_contributors}: at most min_fit_clients, which is {c.min_fit_clients}; "
            "a round of fewer clients could never be decrypted"
        )
    if c.min_fit_clients > c.min_available_clients:
        raise ConfigError(
            f"min_fit_clients = {c.min_fit_clients}: at most min_available_clients, which is {c.min_available_clients}"
        )
    if c.he_scheme == "paillier" and c.he_key_length < MIN_SECURE_KEY_BITS and not c.allow_insecure_key:
        raise ConfigError(
            f"he_key_length = {c.he_key_length}: expected at least {MIN_SECURE_KEY_BITS} bits; "
            "a shorter key can be factored (allow_insecure_key: true lifts this, for tests)"
        )
    # The packing's own check, at the start instead of after the first round of training.
    slot_bits = 1 + c.he_integer_bits + c.he_precision_bits + (c.num_clients - 1).bit_length()
    if slot_bits > MAX_SLOT_BITS:
        raise ConfigError(
            f"he_precision_bits = {c.he_precision_bits}: with he_integer_bits and num_clients a slot of {slot_bits} "
            f"bits; expected at most {MAX_SLOT_BITS}, so that a sum is exact in a float64"
        )
    if c.weighting == "examples" and c.he_integer_bits < 1:
        raise ConfigError("he_integer_bits = 0: weighting examples sends a weight of up to 1; expected at least 1")
    if c.masked:
        _check_masked(c)
    if c.he_key_length % 16:
        raise ConfigError(f"he_key_length = {c.he_key_length}: expected a multiple of 16")
    if bool(c.alerts_per_day) != bool(c.records_per_day) or not 1e-7 <= c.alert_rate <= 0.5:
        raise ConfigError(
            f"alerts_per_day = {c.alerts_per_day:g}, records_per_day = {c.records_per_day:g}: give both or none; their "
            "ratio is the share of records that may alert, expected 1e-07 to 0.5"
        )
    _check_data(c)


def _check_data(c: Config) -> None:
    if c.data_source == "nsl_kdd":
        if not c.data_path:
            raise ConfigError(
                "data_path = '': data_source nsl_kdd needs the folder with KDDTrain+.txt and KDDTest+.txt"
            )
        if (c.num_features, c.num_classes) != (122, 2):
            raise ConfigError(
                f"num_features = {c.num_features}, num_classes = {c.num_classes}: "
                "data_source nsl_kdd has 122 features and 2 classes"
            )
    if c.data_source in FILE_SOURCES:
        _check_file_source(c)
    if c.data_source != "synthetic" and (c.partition == "natural") != bool(c.partition_column):
        raise ConfigError(
            f"partition = {c.partition!r}, partition_column = {c.partition_column!r}: natural needs the name of a "
            "column, and no other partition has a use for it"
        )


def _check_file_source(c: Config) -> None:
    if not c.data_path:
        raise ConfigError(f"data_path = '': data_source {c.data_source} needs a file or a folder")
    if CLIENT_ID in c.data_path and not c.test_path:
        raise ConfigError(
            f"test_path = '': with {CLIENT_ID} in data_path each client has files of its own, so the common test set "
            "needs a path too"
        )
    if CLIENT_ID in c.test_path:
        raise ConfigError(
            f"test_path = {c.test_path!r}: there is one test set, the same for all; leave out {CLIENT_ID}"
        )
    if c.num_classes != 2:
        raise ConfigError(f"num_classes = {c.num_classes}: data_source {c.data_source} has 2, benign and attack")
    if c.data_source == "csv":
        if not c.csv_label_column or not c.csv_benign_values:
            raise ConfigError(
                f"csv_label_column = {c.csv_label_column!r}, csv_benign_values = {list(c.csv_benign_values)}: "
                "data_source csv needs the column of the label, and which of its values mean benign"
            )
    elif bool(c.label_path) == bool(c.label_field) or bool(c.label_field) != bool(c.label_patterns):
        raise ConfigError(
            f"label_path = {c.label_path!r}, label_field = {c.label_field!r}, label_patterns = "
            f"{list(c.label_patterns)}: data_source {c.data_source} needs a file of labels, or else a field and its "
            "patterns"
        )


def _check_masked(c: Config) -> None:
    without = "or set secure_aggregation: none, with which the orchestrator could open each single update"
    if not c.enrolled_clients:
        raise ConfigError(
            f"secure_aggregation = {c.secure_aggregation!r}: masked updates need enrolled_clients, the public keys of "
            f"all clients (orchestrator/provision.py makes them); set it, {without}"
        )
    if c.he_scheme != "paillier":
        raise ConfigError(f"he_scheme = {c.he_scheme!r}: masked updates need paillier; set it, {without}")
    if c.num_clients < MIN_MASKED_COHORT:
        raise ConfigError(
            f"num_clients = {c.num_clients}: masked updates need at least {MIN_MASKED_COHORT}; set more, {without}"
        )
