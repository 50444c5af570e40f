"""A tenant's privacy budget: what was released about its rows, over all runs, kept on the disk.

The tenant keeps it, not the orchestrator, which may ask for a round twice, or call a run a new one. Every release
counts, whatever the settings made of the rows: another `seed`, split or window has most of the same records in it, and
no program can tell that none of them was there before. So only a person says that, by moving the file away. A line of
Rényi divergences, one for each order, is all that has to be added up. It is on the disk before the answer that it is
about leaves.
"""

import json

import numpy as np

from client.state import state_folder
from shared.atomic import replace_file
from shared.bounded_files import read_bounded
from shared.config import Config
from shared.dp.accountant import ORDERS, Rdp, epsilon_of
from shared.dp.plan import OVERFLOW
from shared.errors import PrivacyBudgetError
from shared.identity import client_number
from shared.private_files import make_private_folder
from shared.strict_json import parse_strict_json

_MOST_BYTES = 1 << 16
_ROUNDING = 1e-9
_SPENT = "spent"


class Budget:
    """Of one tenant.

    Args:
        config: its settings: epsilon, delta, and where its state lies.
        client_id: its name.
    """

    def __init__(self, config: Config, client_id: str) -> None:
        self._path = state_folder(config, client_number(client_id)) / f"{client_id}-budget.json"
        self._epsilon, self._delta = config.dp_target_epsilon, config.dp_delta - OVERFLOW

    def pay(self, rdp: Rdp) -> float:
        """Take a release from the budget; what is spent with it, as epsilon.

        Raises:
            PrivacyBudgetError: it would be more than there is, or the file can't be read or written; nothing was paid.
        """
        after = self._read() + rdp
        epsilon = epsilon_of(after, self._delta)
        if epsilon > self._epsilon * (1 + _ROUNDING):
            raise PrivacyBudgetError(
                f"with this epsilon would be {epsilon:.3f}; expected at most {self._epsilon:g} (dp_target_epsilon) of "
                f"all that was released of this tenant's records, which {self._path} keeps; once none of them is in "
                "its rows any more, move that file away"
            )
        try:
            make_private_folder(self._path.parent)
            replace_file(self._path, json.dumps({_SPENT: after.tolist()}).encode(), mode=0o600)
        except OSError as error:
            raise PrivacyBudgetError(f"{self._path}: can't be written: {error.strerror}; check the disk") from None
        return epsilon

    def _read(self) -> Rdp:
        try:
            raw = parse_strict_json(read_bounded(self._path, _MOST_BYTES))
        except FileNotFoundError:
            return np.zeros(len(ORDERS))
        except (OSError, ValueError) as error:
            raise PrivacyBudgetError(f"{self._path}: {error}; restore it from a backup") from None
        line = raw.get(_SPENT) if isinstance(raw, dict) and len(raw) == 1 else None
        if not isinstance(line, list) or len(line) != len(ORDERS) or not all(type(x) is float and x >= 0 for x in line):
            raise PrivacyBudgetError(f"{self._path}: no budget of this version; restore it from a backup")
        return np.array(line)
