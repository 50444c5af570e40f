"""One client that goes wrong in a given round: it raises, exits, hangs or blames a script.

python tests/faulty_client.py CONFIG CLIENT_ID FAULT ROUND
"""

import os
import sys
import time

from client.connection import run_client
from client.flower_client import FlowerClient
from client.tenant import Tenant
from shared.config import load_config
from shared.console import setup_logging
from shared.data_utils import load_client_data
from shared.exchange import Kind, Refusal, Reply, Request

# What a client may send in its own words: a script for the report, a forged line for the log, codes for the screen.
FORGED = "2026-01-01 00:00:00,000 INFO    all is well"
BLAME = f"<script>document.title = 'mine'</script>\x1b[2J\u202e\n{FORGED}\n{'x' * 100_000}"


class FaultyTenant(Tenant):
    fault, fault_round = "", 0

    def answer(self, request: Request) -> Reply | Refusal:
        if request.kind is not Kind.TRAIN or request.values["round"] != self.fault_round:
            return super().answer(request)
        print(f"fault: {self.fault}", flush=True)
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "script":
            return Refusal(BLAME)
        rows, self._rows = self._rows, None  # type: ignore[assignment]  # "raise"
        try:
            return super().answer(request)
        finally:
            self._rows = rows


if __name__ == "__main__":
    setup_logging()
    config = load_config(sys.argv[1])
    tenant = FaultyTenant(config, int(sys.argv[2]), load_client_data(config, int(sys.argv[2])))
    tenant.fault, tenant.fault_round = sys.argv[3], int(sys.argv[4])
    run_client(FlowerClient(tenant))
    os._exit(0)
