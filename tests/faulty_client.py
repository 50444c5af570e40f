"""One client that goes wrong in a given round: it raises, exits, hangs or blames a script.

python tests/faulty_client.py CONFIG CLIENT_ID FAULT ROUND
"""

import os
import sys
import time

from flwr.common import Code, FitIns, FitRes, Parameters, Status

from client.connection import run_client
from client.flower_client import TenantClient
from shared.config import load_config
from shared.console import setup_logging
from shared.data_utils import load_client_data

# What a client may send in its own words: a script for the report, a forged line for the log, codes for the screen.
FORGED = "2026-01-01 00:00:00,000 INFO    all is well"
BLAME = f"<script>document.title = 'mine'</script>\x1b[2J\u202e\n{FORGED}\n{'x' * 100_000}"


class FaultyClient(TenantClient):
    fault, fault_round = "", 0

    def fit(self, ins: FitIns) -> FitRes:
        if ins.config["round"] == self.fault_round:
            print(f"fault: {self.fault}", flush=True)
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "script":
                status = Status(Code.FIT_NOT_IMPLEMENTED, BLAME)
                return FitRes(status, Parameters([], ""), 0, {})
            if self.fault == "raise":
                data, self._data = self._data, None  # type: ignore[assignment]
                try:
                    return super().fit(ins)
                finally:
                    self._data = data
        return super().fit(ins)


if __name__ == "__main__":
    setup_logging()
    config = load_config(sys.argv[1])
    client = FaultyClient(config, int(sys.argv[2]), load_client_data(config, int(sys.argv[2])))
    client.fault, client.fault_round = sys.argv[3], int(sys.argv[4])
    run_client(client)
    os._exit(0)
