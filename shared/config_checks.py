"""Settings that can't work together, each fine by itself, and the limits that they are checked by."""

import re
from typing import TYPE_CHECKING

from shared.addresses import is_loopback, split_address
from shared.errors import ConfigError
from shared.he.rlwe import modulus_bits

if TYPE_CHECKING:  # the model of the settings calls this module
    from shared.config import Config

MIN_SECURE_KEY_BITS = 2048  # NIST SP 800-57 part 1, table 2: below this a modulus gives less than 112 bits of strength
MAX_SLOT_BITS = 54  # a float64 holds integers up to 2**53 exactly; `shared/he/packing.py` sizes its slots by it
MIN_MASKED_COHORT = 3  # what `shared/masking` asks for: of a sum of two, each of the two knows the other's update
CLIENT_ID = "{client_id}"  # stands for the client's number in a path
MASKABLE = ("paillier", "kahe")  # schemes whose ciphertexts are Paillier's, which masks are made for
FILE_SOURCES = ("csv", "cloudtrail", "vpc_flow", "audit", "ocsf")
CALL_SOURCES = ("cloudtrail", "audit", "ocsf")  # whose rows are of principals, ocsf with `ocsf_events: calls`
JOINED_SOURCES = ("cloudtrail", "vpc_flow")  # that findings are joined to
MAX_DENSITY_FEATURES = 1000  # half a million numbers from each tenant
MIN_NODE_ROWS, MIN_NODE_HESSIAN = 10, 1.0  # of a forest: what smaller nodes would show is in docs/privacy.md


def check_combinations(c: "Config") -> None:
    """Refuse settings that are each in their range and can't work together.

    Raises:
        ConfigError: at the first such combination.
    """
    _check_network(c)
    _check_cohort(c)
    _check_encryption(c)
    if c.masked:
        _check_masked(c)
    elif c.audit:  # tenants see each other's ciphertexts: whoever can multiply one could make a sum of it alone
        raise ConfigError(
            "audit = True: what tenants are shown of each other is harmless where it is masked alone; set "
            "secure_aggregation: masked, with enrolled_clients and client_identity, or audit: false"
        )
    if bool(c.alerts_per_day) != bool(c.records_per_day) or not 1e-7 <= c.alert_rate <= 0.5:
        raise ConfigError(
            f"alerts_per_day = {c.alerts_per_day:g}, records_per_day = {c.records_per_day:g}: give both or none; their "
            "ratio is the share of records that may alert, expected 1e-07 to 0.5"
        )
    if c.model == "forest":
        _check_forest(c)
    if c.privacy == "records":
        _check_privacy(c)
    if c.makes_density:
        _check_density(c)
    if c.groups > 1:
        _check_groups(c)
    _check_monitoring(c)
    _check_data(c)


def _check_network(c: "Config") -> None:
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
    if bool(c.tls_client_certificate) != bool(c.tls_client_key) or (c.tls_client_certificate and not c.tls_ca):
        raise ConfigError(
            f"tls_client_certificate = {c.tls_client_certificate!r}: a client needs tls_client_key as well, and tls_ca"
        )
    if c.client_certificates == "required" and not c.tls_ca:
        raise ConfigError("client_certificates = 'required': without TLS there are none; set tls_ca and the others")
    for pin in c.pinned_key_fingerprint:
        if not re.fullmatch("[0-9a-f]{64}", pin):
            raise ConfigError(
                f"pinned_key_fingerprint = {pin!r}: expected 64 lower-case hex digits, as `orchestrator/keys.py show` "
                "prints them"
            )
    if c.roster_signer and not re.fullmatch("[0-9a-f]{64}", c.roster_signer):
        raise ConfigError(
            f"roster_signer = {c.roster_signer!r}: expected 64 lower-case hex digits, as orchestrator/provision.py "
            "prints them"
        )


def _check_cohort(c: "Config") -> None:
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


def _check_encryption(c: "Config") -> None:
    if c.he_scheme in MASKABLE and c.he_key_length < MIN_SECURE_KEY_BITS and not c.allow_insecure_key:
        raise ConfigError(
            f"he_key_length = {c.he_key_length}: expected at least {MIN_SECURE_KEY_BITS} bits; "
            "a shorter key can be factored (allow_insecure_key: true lifts this, for tests)"
        )
    if c.he_key_length % 16:
        raise ConfigError(f"he_key_length = {c.he_key_length}: expected a multiple of 16")
    # The packing's own check, at the start instead of after the first round of training.
    slot_bits = 1 + c.he_integer_bits + c.he_precision_bits + (c.num_clients - 1).bit_length()
    if slot_bits > MAX_SLOT_BITS:
        raise ConfigError(
            f"he_precision_bits = {c.he_precision_bits}: with he_integer_bits and num_clients a slot of {slot_bits} "
            f"bits; expected at most {MAX_SLOT_BITS}, so that a sum is exact in a float64"
        )
    if c.he_scheme == "kahe":
        modulus_bits(slot_bits, c.num_clients)
        if not c.he_packing:
            raise ConfigError("he_packing = False: he_scheme kahe packs its key always; set it to true")
    if c.weighting == "examples" and c.he_integer_bits < 1:
        raise ConfigError("he_integer_bits = 0: weighting examples sends a weight of up to 1; expected at least 1")


def _check_monitoring(c: "Config") -> None:
    taken = {c.server_address: "server_address"}
    for name, address in (("metrics_address", c.metrics_address), ("live_address", c.live_address)):
        if not address:
            continue
        host, _ = split_address(address, name)
        if not is_loopback(host) and not c.allow_open_monitoring:
            raise ConfigError(
                f"{name} = {address!r}: other machines can reach it, and it asks nobody who they are; expected an "
                "address such as 127.0.0.1:9464, or allow_open_monitoring: true where only friends reach it"
            )
        if address in taken:
            raise ConfigError(f"{name} = {address!r}: {taken[address]} is the same; expected a port of its own")
        taken[address] = name


def _check_forest(c: "Config") -> None:
    if c.forest_min_rows < MIN_NODE_ROWS or c.forest_min_hessian < MIN_NODE_HESSIAN:
        raise ConfigError(
            f"forest_min_rows = {c.forest_min_rows}, forest_min_hessian = {c.forest_min_hessian:g}: expected at least "
            f"{MIN_NODE_ROWS} and {MIN_NODE_HESSIAN:g}; the sums of a node of few rows show what these rows are"
        )
    if c.fraction_fit < 1:
        raise ConfigError(
            f"fraction_fit = {c.fraction_fit:g}: model forest needs 1; the sums of a tree are over the same clients "
            "from its root to its leaves, as the difference of two would show who changed"
        )
    if c.forest_trees % c.forest_parallel:
        raise ConfigError(
            f"forest_trees = {c.forest_trees}: expected a multiple of forest_parallel, which is {c.forest_parallel}"
        )
    if c.scaling != "quantile" or c.num_classes != 2:
        raise ConfigError(
            f"scaling = {c.scaling!r}, num_classes = {c.num_classes}: model forest takes its bins from quantile "
            "scaling, and knows 2 classes, benign and attack"
        )
    if useless := _set(c, weighting="uniform", class_balance="none", server_momentum=0):
        raise ConfigError(f"{useless}: model forest has no deltas to weigh and no steps to carry on; leave that out")


def _set(c: "Config", **unset: object) -> str:
    """Those of some settings that are not what is given here, with their values, for a message; empty: none."""
    return ", ".join(f"{name} = {getattr(c, name)!r}" for name, value in unset.items() if getattr(c, name) != value)


def _check_groups(c: "Config") -> None:
    needed = c.groups * c.fewest_contributors
    if c.num_clients < needed:
        raise ConfigError(
            f"groups = {c.groups}: each of at least {c.fewest_contributors} clients takes num_clients of {needed}, "
            f"which is {c.num_clients}"
        )
    if c.fraction_fit < 1:
        raise ConfigError(f"fraction_fit = {c.fraction_fit:g}: groups are kept from round to round; expected 1")
    if c.model in ("forest", "density") or c.density_alone:
        raise ConfigError(f"groups = {c.groups}: rules over groups are for the deltas of models trained by gradients")
    if c.privacy != "none" or c.audit:
        raise ConfigError(
            f"groups = {c.groups}: expected 1 with privacy: records, whose noise is sized for the sum of all, and with "
            "audit: true, whose proofs are of one sum a round"
        )
    if c.group_rule == "validation" and not c.gate_loss:
        raise ConfigError("gate_loss = 0: group_rule validation leaves out groups by it; expected more, such as 0.05")


def _check_privacy(c: "Config") -> None:
    if not c.masked:
        raise ConfigError(
            "privacy = 'records': each client adds a share of the noise, which is too little to hide its own records; "
            "set secure_aggregation: masked, with enrolled_clients and client_identity, so that sums alone are opened"
        )
    if c.fraction_evaluate:
        raise ConfigError(
            f"fraction_evaluate = {c.fraction_evaluate:g}: figures of clients' held-out rows have no noise; expected 0 "
            "with privacy: records"
        )
    for name, value, only in (
        ("weighting", c.weighting, "uniform"),
        ("class_balance", c.class_balance, "none"),
        ("scaling", c.scaling, "quantile"),
        ("proximal_mu", c.proximal_mu, 0.0),
        ("input_noise", c.input_noise, 0.0),
    ):
        if value != only:
            raise ConfigError(f"{name} = {value!r}: expected {only!r} with privacy: records")
    if c.model == "forest":
        raise ConfigError("model = 'forest': privacy: records is for models that are trained by gradients")
    if not c.dp_rows:
        raise ConfigError(
            "dp_rows = 0: privacy: records divides its sums by the rows that are expected in them; set it to about how "
            "many rows all clients have together, by a figure that may be known to all"
        )
    if c.makes_density:
        raise ConfigError("density = True: privacy: records has no noise for the sums that it is made of; leave it out")


def _check_density(c: "Config") -> None:
    asked = f"labels = {c.labels!r}, density = {c.density}"
    if c.scaling != "quantile" or c.num_classes != 2:
        raise ConfigError(
            f"{asked}: a density takes scaling: quantile, which bounds each value, and num_classes: 2, benign and "
            f"attack; found {c.scaling} and {c.num_classes}"
        )
    if c.num_features > MAX_DENSITY_FEATURES:
        raise ConfigError(
            f"{asked}: num_features = {c.num_features}, expected at most {MAX_DENSITY_FEATURES}; the sum grows with "
            "its square"
        )
    model = "density" if c.model == "density" else "mlp"  # the latter is the default
    if c.density_alone and (useless := _set(c, model=model, audit=False, early_stopping_rounds=0)):
        why = "labels: none" if c.labels == "none" else "model: density"
        raise ConfigError(f"{useless}: with {why} nothing is trained, the density is the detector; leave that out")


def _check_data(c: "Config") -> None:
    files = ("data_path", "test_path", "csv_label_column", "label_path", "label_field")
    if c.data_source == "synthetic" and (given := [name for name in files if getattr(c, name)]):
        raise ConfigError(
            f"{given[0]} = {getattr(c, given[0])!r}: data_source synthetic makes its rows up and reads no file; set "
            f"data_source to one of nsl_kdd, {', '.join(FILE_SOURCES)}, or leave {', '.join(given)} out"
        )
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
    if (c.labels == "rules" or c.rules_path) and (
        c.data_source not in ("cloudtrail", "audit") or c.labels not in ("rules", "findings") or not c.rules_path
    ):
        raise ConfigError(
            f"labels = {c.labels!r}, rules_path = {c.rules_path!r}: give both or none, and with data_source cloudtrail "
            "or audit alone; for alerts rules are an option of client/score.py, --rules_path"
        )
    if bool(c.findings_path) != (c.labels == "findings") or (c.findings_path and c.data_source not in JOINED_SOURCES):
        raise ConfigError(
            f"labels = {c.labels!r}, findings_path = {c.findings_path!r}: give labels: findings and the path, or "
            f"neither, and with data_source {' or '.join(JOINED_SOURCES)} alone, whose records have times and addresses"
        )
    if c.feedback_path and (c.data_source not in FILE_SOURCES or c.labels == "none"):
        raise ConfigError(
            f"feedback_path = {c.feedback_path!r}: verdicts are labels of {', '.join(FILE_SOURCES)}, and with labels: "
            "none there are none; leave it out, and give client/score.py --feedback for suppressions"
        )
    if c.data_source in FILE_SOURCES:
        _check_file_source(c)
    if c.data_source != "synthetic" and (c.partition == "natural") != bool(c.partition_column):
        raise ConfigError(
            f"partition = {c.partition!r}, partition_column = {c.partition_column!r}: natural needs the name of a "
            "column, and no other partition has a use for it"
        )


def _check_file_source(c: "Config") -> None:
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
    of_calls = c.data_source in CALL_SOURCES and (c.data_source != "ocsf" or c.ocsf_events == "calls")
    if c.label_ignored and not of_calls:
        raise ConfigError(
            f"label_ignored = {list(c.label_ignored)}: data_source cloudtrail, audit and ocsf with its calls read "
            "it; leave it out"
        )
    if c.audit_map and c.data_source != "audit":
        raise ConfigError(f"audit_map = {c.audit_map!r}: data_source audit alone reads it; leave it out")
    for rule in c.label_ignored:
        if not all(field and pattern for field, pattern in conditions_of(rule)):
            raise ConfigError(
                f"label_ignored = {rule!r}: expected field=pattern, or several joined by ' & ', such as "
                "'userAgent=*HashiCorp*'"
            )
    _check_labels(c)


def _check_labels(c: "Config") -> None:
    if c.data_source == "csv":
        if c.labels != "none" and (not c.csv_label_column or not c.csv_benign_values):
            raise ConfigError(
                f"csv_label_column = {c.csv_label_column!r}, csv_benign_values = {list(c.csv_benign_values)}: "
                "data_source csv needs the column of the label, and which of its values mean benign; or labels: none"
            )
    elif c.labels:
        if c.label_path or c.label_field or c.label_patterns:
            raise ConfigError(
                f"labels = {c.labels!r}: for where there are no others; leave out label_path, label_field and "
                "label_patterns"
            )
    elif bool(c.label_path) == bool(c.label_field) or bool(c.label_field) != bool(c.label_patterns):
        raise ConfigError(
            f"label_path = {c.label_path!r}, label_field = {c.label_field!r}, label_patterns = "
            f"{list(c.label_patterns)}: data_source {c.data_source} needs a file of labels, or else a field and its "
            "patterns; cloudtrail and audit can do with labels: rules, cloudtrail and vpc_flow with findings, all with "
            "none"
        )


def conditions_of(rule: str) -> list[tuple[str, str]]:
    """The conditions of one rule of `label_ignored`: each a field and its pattern, empty where one is missing."""
    parts = (condition.partition("=") for condition in rule.split(" & "))
    return [(field.strip(), pattern.strip()) for field, _, pattern in parts]


def _check_masked(c: "Config") -> None:
    without = "or set secure_aggregation: none, with which the orchestrator could open each single update"
    if not c.enrolled_clients:
        raise ConfigError(
            f"secure_aggregation = {c.secure_aggregation!r}: masked updates need enrolled_clients, the public keys of "
            f"all clients (orchestrator/provision.py makes them); set it, {without}"
        )
    if c.he_scheme not in MASKABLE:
        raise ConfigError(f"he_scheme = {c.he_scheme!r}: masked updates need paillier or kahe; set one, {without}")
    if c.num_clients < MIN_MASKED_COHORT:
        raise ConfigError(
            f"num_clients = {c.num_clients}: masked updates need at least {MIN_MASKED_COHORT}; set more, {without}"
        )
