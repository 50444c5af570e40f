"""A masked client that goes wrong as planned: it hangs, is killed (and starts again), or gets a message that is forged.

python tests/faulty_masked_client.py CONFIG CLIENT_ID 2:advertise:hang,3:train:kill,4:confirm:forge
"""

import os
import sys
import time
from dataclasses import replace

from client.connection import run_client
from client.flower_client import FlowerClient
from client.tenant import Tenant
from shared.config import load_config
from shared.console import setup_logging
from shared.data_utils import load_client_data
from shared.exchange import Kind, Refusal, Reply, Request
from shared.identity import ClientIdentity
from shared.masking import RoundTerms

KILLED = 7


class FaultyTenant(Tenant):
    plan: dict[tuple[int, str], str]
    round_number = 0

    def answer(self, request: Request) -> Reply | Refusal:
        payload = request.values.get("payload")
        if request.kind is Kind.ADVERTISE and isinstance(payload, bytes):
            self.round_number = RoundTerms.decode(payload).round_number
        c = self.config
        patience = c.round_timeout if request.kind is Kind.TRAIN else c.stage_timeout
        if self.go_wrong(request.kind, patience) == "forge" and isinstance(payload, bytes):
            forged = payload[:-1] + bytes([payload[-1] ^ 1])
            request = replace(request, values={**request.values, "payload": forged})
        return super().answer(request)

    def go_wrong(self, stage: str, patience: float) -> str:
        fault = self.plan.get((self.round_number, stage), "")
        if fault == "kill":
            os._exit(KILLED)
        if fault == "hang":
            time.sleep(patience + 1)
        return fault


def serve(config_path: str, client_id: str, plan: str) -> None:
    setup_logging()
    config = load_config(config_path)
    identity = ClientIdentity.load(config.client_identity.format(client_id=client_id), f"client-{client_id}")
    tenant = FaultyTenant(config, int(client_id), load_client_data(config, int(client_id)), identity)
    faults = [fault.split(":") for fault in plan.split(",")]
    tenant.plan = {(int(number), stage): fault for number, stage, fault in faults}
    run_client(FlowerClient(tenant))


if __name__ == "__main__":
    while True:
        child = os.fork()  # before gRPC or torch have started a thread, so that a new life costs no new imports
        if child == 0:
            serve(*sys.argv[1:4])
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != KILLED:
            os._exit(0)
