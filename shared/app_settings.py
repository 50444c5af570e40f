"""What a Flower app is told: four keys, of which the YAML file is the one that has settings.

Flower's own configuration holds flat scalars and nothing else, so it names the file, and changes to it as `--set` does.
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from shared.config import Config, load_config
from shared.errors import ConfigError

Engine = Literal["simulation", "deployment"]
_COMMA = re.compile(r",(?![^\[]*\])")  # between changes; not in a list


def app_config(run_config: Mapping[str, object], tenants: int | None) -> Config:
    """The settings that an app's configuration names.

    Args:
        run_config: has `config`, the YAML file, and `set`, such as `num_rounds=3,num_hidden_units=[64, 32]`.
        tenants: of a simulation, which is made for as many as there are nodes, and waits for all; None: by the file.

    Raises:
        ConfigError: the file or a change is wrong.
    """
    changes = [change.strip() for change in _COMMA.split(str(run_config.get("set", ""))) if change.strip()]
    config = load_config(str(run_config.get("config", "")), changes)
    if tenants is None:
        return config
    return config.replace(num_clients=tenants, min_available_clients=tenants)


def check_engine(run_config: Mapping[str, object], found: Engine) -> None:
    """Refuse an engine that is not the one that the operator has named.

    Raises:
        ConfigError: it is another, or none of the two.
    """
    asked = str(run_config.get("engine", ""))
    if asked not in ("", *get_args(Engine)):
        raise ConfigError(f"engine = {asked!r}: expected simulation, deployment, or nothing for whichever it is")
    if asked and asked != found:
        raise ConfigError(f"engine = {asked!r}: this is Flower's {found}; run it on the other, or leave engine empty")
