"""Where a tenant keeps what it must not forget: ledger, counts, budget, proofs, heads, and the rosters that it saw.

A tenant with a policy keeps it where the policy says (`state_dir`), and else in `state` beside the policy's file:
`log_dir` stands in the common YAML file, and whoever writes that could give the tenant an empty memory by another
`log_dir`. A tenant without a policy agrees to whatever the common file says, so it keeps it in `<log_dir>/state`.
"""

import glob
import shlex
from pathlib import Path
from typing import Final

from client.policy import Policy
from shared.config import Config
from shared.config_checks import CLIENT_ID
from shared.errors import ConfigError
from shared.identity import identity_name

_KEPT: Final = (".jsonl", "-policy.jsonl", "-budget.json", "-audit", "-run_log")  # after the tenant's name
_ROSTERS: Final = "rosters.jsonl"


def state_folder(config: Config, number: int | str) -> Path:
    """The folder of one tenant's memory, which may not be there yet.

    Args:
        config: its settings.
        number: the tenant's.

    Raises:
        ConfigError: its policy is not to be had, or what it remembers is in `<log_dir>/state`, where it was before it
            had a policy.
    """
    common = Path(config.log_dir) / "state"
    if not config.tenant_policy:
        return common
    own = _folder_of(Path(config.tenant_policy.replace(CLIENT_ID, str(number))))
    left = [name for end in _KEPT if _is_left((name := identity_name(str(number)) + end), common, own)]
    if left:
        raise ConfigError(
            f"{own}: lacks what this tenant remembers, which is in {common}: {', '.join(left)}; stop its other "
            f"processes and run: {_how_to_move(left, common, own)}"
        )
    return own


def proof_folders(config: Config) -> list[Path]:
    """The folders of one run's proofs each, of all tenants of this machine.

    Raises:
        ConfigError: a policy is not to be had.
    """
    pattern = CLIENT_ID.join(map(glob.escape, config.tenant_policy.split(CLIENT_ID))).replace(CLIENT_ID, "*")
    policies = sorted(glob.glob(pattern)) if pattern else []  # noqa: PTH207  (the path may be an absolute one)
    states = dict.fromkeys([Path(config.log_dir) / "state", *(_folder_of(Path(path)) for path in policies)])
    return [folder for state in states for folder in sorted(state.glob("*-audit/*"))]


def _folder_of(policy: Path) -> Path:
    return policy.absolute().parent / (Policy.load(policy).state_dir or "state")


def _is_left(name: str, common: Path, own: Path) -> bool:
    old = common / name
    if (own / name).exists() or not old.exists():
        return False
    return old.is_dir() or old.stat().st_size > 0  # a ledger in which nothing is written says nothing


def _how_to_move(names: list[str], common: Path, own: Path) -> str:
    commands = [["mkdir", "-p", "-m", "700", str(own)], ["mv", *(str(common / name) for name in names), str(own)]]
    if (common / _ROSTERS).exists() and not (own / _ROSTERS).exists():  # others of this machine may need theirs
        commands.append(["cp", "-p", str(common / _ROSTERS), str(own)])
    return " && ".join(map(shlex.join, commands))
