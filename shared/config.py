"""The YAML file as one frozen, validated model.

`load_config(path)` is the only way in for a file. Whatever can't work is refused, in one line that names the key, the
value and what is allowed, before any key is made or port opened; `shared/config_checks.py` has the combinations.
`config/config.yaml` explains each setting to a person, and `python -m shared.settings_docs` makes the reference of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from shared.bounded_files import read_bounded
from shared.config_checks import CLIENT_ID, MIN_MASKED_COHORT, check_combinations
from shared.errors import ConfigError
from shared.setting_forms import refusal
from shared.yaml_values import found, parse_yaml

MIN_CONTRIBUTORS = 2  # a sum of one update is that update
MOST_CLIENT_IDS = 10**9  # numbers that a name may have
_MOST_BYTES = 1 << 20  # of a file; all settings with their explanations are some kilobytes
ClassBalance = Literal["none", "inverse"]
MLP, FOREST, DENSITY = (
    "mlp",
    "forest",
    "density",
)  # the models of `shared/model.py`; other names are classes of the operator's own


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _texts(value: Any) -> Any:
    # In a list YAML's false is the label False; by itself it would rather be a switch that somebody took for a list.
    plain = (int, bool) if isinstance(value, list | tuple) else (int,)
    return tuple(str(item) if type(item) in plain else item for item in _listed(value))


Width = Annotated[int, Field(ge=1, le=1_000_000)]
Widths = Annotated[
    tuple[Width, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Width | Annotated[list[Width], Field(min_length=1)]),
]
_NAME = "[A-Za-z_][A-Za-z0-9_]*"
# Names of code of the operator's own. To read one imports nothing: `shared/plugins.py` does that, when it is used.
OwnClass = Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME})*:{_NAME}$", title="package.module:Class")]
OwnModule = Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME})+$", title="package.module")]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts, json_schema_input_type=str | int | list[str | int])]


def listed_pins(value: Any) -> Any:
    """A fingerprint or several as a list; an empty text is none."""
    return () if value == "" else _listed(value)


# One public key, or several of which one is the server's: the present one and the next.
Pins = Annotated[tuple[str, ...], BeforeValidator(listed_pins, json_schema_input_type=str | list[str])]


def setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with its meaning and its inclusive range beside it."""
    return Field(default=default, description=doc, ge=low, le=high)


class Config(BaseModel):
    """All settings. `config/config.yaml` explains each to a person; the one-liners here are for the reader of code.

    Raises:
        ConfigError: when made with a setting that can't work.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    # Who takes part
    server_address: str = setting("127.0.0.1:8080", "host:port the server listens on and clients connect to")
    num_rounds: int = setting(5, "rounds of training", low=1, high=100_000)
    num_clients: int = setting(
        3, "clients that take part at once, and the most that one sum may hold", low=2, high=10_000
    )
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
    tls_client_certificate: str = setting("", "PEM file of a client's certificate; {client_id} is filled in")
    tls_client_key: str = setting("", "PEM file of its private key; {client_id} is filled in")
    client_certificates: Literal["", "required", "none"] = setting(
        "", "whether the server asks each client for one; empty: where tls_client_certificate is set"
    )
    max_streams_per_address: int = setting(
        0, "streams that one address may have at once; 0: num_clients and 8 more", low=0, high=100_000
    )
    allow_insecure_network: bool = setting(False, "use addresses other than loopback without TLS")
    enrolled_clients: str = setting("", "enrolled.json; updates must be signed by a client in it")
    roster_signer: str = setting("", "public key that must have signed enrolled.json, in hex")
    client_identity: str = setting("", "a client's private key file; {client_id} is filled in")
    tenant_policy: str = setting("", "file of a tenant's own rules; {client_id} is filled in")
    pinned_key_fingerprint: Pins = setting((), "public keys that clients insist on, SHA-256 in hex; empty: any")

    # Local training
    local_epochs: int = setting(5, "passes over a client's own data in a round", low=1, high=10_000)
    batch_size: int = setting(32, "rows", low=1, high=1_000_000)
    optimizer: Literal["sgd", "adam"] = setting("sgd", "of local training; begins anew in each round")
    learning_rate: float = setting(0.05, "step size of the optimiser", low=1e-9, high=100.0)
    proximal_mu: float = setting(0.0, "FedProx: pull of local training towards the global model", low=0.0, high=100.0)
    class_balance: ClassBalance = setting("none", "how rare classes weigh in a client's loss")

    # The model
    model: Literal["mlp", "forest", "density"] | OwnClass = setting(
        MLP, "or a class of your own as package.module:Class"
    )
    num_features: int = setting(20, "width of the input", low=1, high=1_000_000)
    num_hidden_units: Widths = setting((16,), "mlp: width of each hidden layer")
    num_classes: int = setting(2, "classes; class 0 is benign", low=2, high=10_000)

    # The forest
    forest_trees: int = setting(36, "trees in all", low=1, high=10_000)
    forest_parallel: int = setting(6, "trees that are grown at once", low=1, high=1_000)
    forest_depth: int = setting(5, "levels of splits", low=1, high=8)
    forest_bins: int = setting(16, "bins of a numeric column", low=2, high=64)
    forest_columns: float = setting(0.3, "share of the columns that one tree may split by", low=0.001, high=1.0)
    forest_learning_rate: float = setting(1.0, "share of each batch's Newton step", low=1e-3, high=1.0)
    forest_min_rows: int = setting(20, "rows of all clients on either side of a split", low=1, high=10**9)
    forest_min_hessian: float = setting(5.0, "sum of hessians on either side of a split", low=0.0, high=1e9)

    # The data
    data_source: Literal["synthetic", "nsl_kdd", "csv", "cloudtrail", "vpc_flow", "audit", "ocsf"] | OwnModule = (
        setting("synthetic", "where rows come from; or a module of your own as package.module")
    )
    data_path: str = setting("", "file, folder or URL, with {client_id} one for each client; unused by synthetic")
    test_path: str = setting("", "files of the common test set; empty: `test_fraction` of data_path")
    test_fraction: float = setting(0.2, "share of data_path that is the common test set", low=0.01, high=0.9)
    num_samples_per_client: int = setting(1000, "synthetic rows per client", low=10, high=100_000_000)
    data_skewness: float = setting(
        0.5, "synthetic: 0 = all clients alike, towards 1 = one class each", low=0.0, high=1.0
    )
    partition: Literal["even", "dirichlet", "family", "quantity", "natural"] = setting(
        "family", "how one data set is split"
    )
    partition_column: str = setting("", "field whose values make the parts of `natural`")
    dirichlet_alpha: float = setting(0.5, "skew of `dirichlet` and `quantity`: small = skewed", low=1e-3, high=1e6)
    holdout_fraction: float = setting(0.1, "share of a client's rows kept for its own evaluation", low=0.01, high=0.5)
    seed: int = setting(42, "of data, initial weights, shuffling and client choice; never of keys", low=0, high=2**31)

    # Reading files: csv, cloudtrail, vpc_flow, audit, ocsf
    csv_label_column: str = setting("", "csv: column that holds the label")
    csv_benign_values: Texts = setting(
        ("benign", "normal", "0"), "csv: labels that mean benign, * and ? as in file names"
    )
    csv_column_names: Texts = setting((), "csv: names of the columns of files without a header line")
    csv_family_column: str = setting("", "csv: column that names the kind of attack")
    csv_drop_columns: Texts = setting((), "csv: columns that are no feature")
    csv_categorical_columns: Texts = setting((), "csv: columns of names; empty: those that hold texts")
    csv_drop_duplicates: bool = setting(False, "csv: keep one of several equal rows")
    label_path: str = setting("", "logs: CSV file of labels")
    label_field: str = setting("", "logs: field that tells an attack")
    label_patterns: Texts = setting((), "logs: patterns of `label_field` that mean attack")
    label_ignored: Texts = setting((), "cloudtrail, audit, ocsf: rules field=pattern & … for records of neither class")
    labels: Literal["", "rules", "findings", "none"] = setting(
        "",
        "logs: rules = hits of Sigma rules are the labels; findings = those of other detectors; none = no label is "
        "used, the density is the detector",
    )
    rules_path: str = setting("", "cloudtrail, audit: folder of Sigma rules, for `labels: rules` and under findings")
    findings_path: str = setting("", "logs: file or folder of findings, for `labels: findings`")
    feedback_path: str = setting("", "csv, logs: CSV file of analysts' verdicts on alerts, which stand over all labels")
    window_minutes: int = setting(5, "logs: length of the window that makes one row", low=1, high=1440)
    vpc_fields: str = setting("", "vpc_flow: fields of a line; empty: by the header line, else the default format")
    audit_map: str = setting("", "audit: your own table of a service's fields, or a folder of such tables")
    ocsf_events: Literal["calls", "flows"] = setting("calls", "ocsf: which events make rows")
    hash_width: int = setting(16, "columns that a hashed field becomes", low=1, high=4096)
    max_broken_share: float = setting(0.01, "share of broken lines that is skipped", low=0.0, high=1.0)

    # Features
    scaling: Literal["quantile", "zscore"] = setting(
        "quantile", "what numeric features are scaled by, over all clients' rows together"
    )
    input_noise: float = setting(
        0.0, "deviation of noise that is added to scaled features in training", low=0.0, high=10.0
    )

    density: bool = setting(False, "a density of benign rows, from one sum, beside the model where it is good enough")

    # Homomorphic encryption
    he_scheme: Literal["paillier", "kahe", "none"] = setting("paillier", "HE scheme")
    he_key_length: int = setting(3072, "bits of n", low=128, high=16_384)
    he_packing: bool = setting(True, "many values per ciphertext; False is the slow reference")
    he_precision_bits: int = setting(16, "fractional bits of a fixed-point value", low=1, high=48)
    he_integer_bits: int = setting(1, "a value saturates at ± 2**he_integer_bits", low=0, high=32)
    he_key_file: str = setting("", "the private key's file, see orchestrator/keys.py; empty: a new key for each run")
    allow_insecure_key: bool = setting(False, "accept keys below 2048 bits (tests only)")

    # Aggregation
    secure_aggregation: Literal["", "masked", "none"] = setting("", "who can open a single update")
    privacy: Literal["none", "records"] = setting("none", "whether the sums hide single records, by noise")
    dp_target_epsilon: float = setting(4.0, "epsilon of a whole run", low=0.01, high=1000.0)
    dp_delta: float = setting(1e-6, "delta of a whole run", low=1e-11, high=0.01)
    dp_sampling_rate: float = setting(0.01, "chance of each record to be in a round", low=1e-6, high=1.0)
    dp_clip: float = setting(1.0, "L2 norm that a record's gradient is cut to", low=1e-6, high=1e6)
    dp_rows: int = setting(0, "rows of all clients together, by a public estimate", low=0, high=10**12)
    dp_statistics_share: float = setting(0.1, "share of epsilon for the features' counts", low=0.001, high=0.9)
    dp_force: bool = setting(False, "go on where the noise drowns the first sums")
    audit: bool = setting(False, "each tenant checks the proof of each round's sum")
    weighting: Literal["uniform", "examples"] = setting("uniform", "how much a client counts")
    max_examples: int = setting(100_000, "rows that give the full weight under `examples`", low=1, high=10**12)
    groups: int = setting(1, "sums that a round is split into, over tenants drawn by all; 1: one sum", low=1, high=1000)
    group_rule: Literal["validation", "median", "trimmed_mean"] = setting(
        "validation",
        "what becomes of the groups' means; validation leaves out those that are gate_loss worse than others",
    )
    regroupings: int = setting(5, "new draws of groups in a session, each after a bad sum", low=0, high=20)
    gate_loss: float = setting(0.0, "rise of the validation loss that undoes a round; 0: off", low=0.0, high=1e6)
    server_momentum: float = setting(0.0, "FedAvgM: share of the last step in the next one", low=0.0, high=0.99)
    early_stopping_rounds: int = setting(0, "rounds without a better validation loss; 0: off", low=0, high=100_000)

    # When the finished model alerts
    alert_fpr: float = setting(0.01, "share of benign records that may alert", low=1e-7, high=0.5)
    alert_min_score: float = setting(0.5, "attack score below which nothing alerts", low=0.0, high=1.0)
    alerts_per_day: float = setting(0.0, "instead: false alerts a day; 0: by alert_fpr", low=0.0, high=1e12)
    records_per_day: float = setting(0.0, "records (of logs: windows) that alerts_per_day is about", low=0.0, high=1e15)

    # Who looks on while the server runs
    metrics_address: str = setting("", "host:port where Prometheus reads the run's figures; empty: nowhere")
    live_address: str = setting("", "host:port of a page that shows the run while it goes on; empty: none")
    allow_open_monitoring: bool = setting(False, "let both be addresses that other machines reach")
    tensorboard_dir: str = setting("", "folder for TensorBoard's event files; empty: none")
    mlflow_tracking_uri: str = setting("", "where MLflow's runs are: a database or a server; empty: nowhere")

    # Where a run leaves its files
    log_dir: str = setting("logs", "folder that holds one folder per run")
    log_format: Literal["text", "json"] = setting("text", "of log lines, on the screen and in files")
    keep_runs: int = setting(0, "runs' folders that stay in log_dir; 0: all", low=0, high=1_000_000)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        check_combinations(self)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_line(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return build(values)
        except ValidationError as error:
            raise ConfigError(refusal(error.errors()[0], values, Config.model_json_schema()["properties"])) from None

    def replace(self, **changes: Any) -> "Config":
        """A copy with these settings changed, checked like any other.

        Raises:
            ConfigError: at the first setting that can't work.
        """
        return Config(**(dict(self) | changes))

    def check_client_id(self, client_id: int) -> None:
        """Whether there are rows for a client of this number.

        Clients with files or a source of their own may have any number: whoever was revoked is replaced under a new
        one, and `num_clients` stays, as it is of how many take part at once.

        Raises:
            ConfigError: it is below 0, or beyond the parts of one data set that all clients share.
        """
        own = CLIENT_ID in self.data_path or "." in self.data_source
        most = (MOST_CLIENT_IDS if own else self.num_clients) - 1
        if not 0 <= client_id <= most:
            shared = (
                f"; num_clients = {self.num_clients} share one data set: for larger numbers give each client files of "
                f"its own, with {CLIENT_ID} in data_path"
            )
            raise ConfigError(f"client_id = {client_id}: expected 0 to {most}{'' if own else shared}")

    @property
    def makes_density(self) -> bool:
        """Whether the tenants add up what a density of their benign rows is made from."""
        return self.density or self.density_alone

    @property
    def density_alone(self) -> bool:
        """Whether that is the whole detector, and nothing is trained."""
        return self.model == DENSITY or self.labels == "none"

    @property
    def masked(self) -> bool:
        """Whether updates are masked; where identities exist they are, unless the settings say `none`."""
        by_default = self.secure_aggregation == "" and bool(self.enrolled_clients or self.client_identity)
        return by_default or self.secure_aggregation == "masked"

    @property
    def asks_client_certificates(self) -> bool:
        """Whether a client without a certificate gets no further than the TLS handshake."""
        by_default = self.client_certificates == "" and bool(self.tls_client_certificate)
        return bool(self.tls_ca) and (by_default or self.client_certificates == "required")

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
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a YAML file.

    Args:
        path: the file.
        overrides: `key=value` as `--set` takes them, the value as YAML; each stands in place of what the file says.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, or it or an override holds a wrong setting.
    """
    try:
        raw = parse_yaml(read_bounded(path, _MOST_BYTES).decode("utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"expected 'key: value' lines, found {found(raw, 'mapping')}; see config/config.yaml")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give --config a YAML file such as config/config.yaml") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}; expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected a YAML file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    changes = _parse_overrides(overrides)
    try:
        return parse_config(raw | changes)
    except ConfigError as error:
        source = " ".join((str(path), *(f"--set {override}" for override in overrides)))
        raise ConfigError(f"{source}: {error}") from None


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        try:
            if not key or not equals or key in changes:
                raise ValueError("expected key=value, and no key twice, such as --set num_rounds=3")
            changes[key] = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {override}: {error}") from None
    return changes


def parse_config(raw: dict[Any, Any]) -> Config:
    """Plain values, as YAML gives them, as a `Config`.

    Raises:
        ConfigError: at the first setting that is wrong.
    """
    return Config.model_validate(raw)
