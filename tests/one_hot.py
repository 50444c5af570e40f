"""Clients whose updates can be told apart in the global model, and the faults that befall them.

Client i's delta of round r is 1 at one position that no other (client, round) uses and 0 elsewhere. So in the global
model, less the initial one and times the round's contributors, each entry says how often that update was counted: any
entry other than 0 or 1 is a loss or a double count.
"""

import contextlib
import copy
import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import grpc
import numpy as np
from flwr.common import FitIns, FitRes, serde
from flwr.proto.transport_pb2 import ClientMessage, Reason
from flwr.proto.transport_pb2_grpc import FlowerServiceStub
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn

from client import learning
from client.connection import run_client
from client.flower_client import FlowerClient
from client.tenant import Tenant
from client.training import TrainingSettings
from shared.config import Config, load_config
from shared.console import setup_logging
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError
from shared.model import build_model, flatten, get_parameters, set_parameters, unflatten


def position(config: Config, client_id: int, round_number: int) -> int:
    """Where in the flattened model the update of this client and round shows."""
    return client_id + config.num_clients * (round_number - 1)


def counts(config: Config, model: Path, contributors: Mapping[int, int]) -> NDArray[np.float64]:
    """How often each client's update of each round is in a model, (rounds, num_clients).

    Args:
        config: of the run.
        model: a file with the global model.
        contributors: round -> number of its contributors, by which the round's sum was divided.

    Raises:
        AssertionError: the model moved somewhere else as well.
    """
    moved = flatten(list(_in_order(config, model))) - flatten(get_parameters(build_model(config)))
    used = config.num_clients * config.num_rounds
    np.testing.assert_array_equal(moved[used:], 0.0)
    scale = np.array([[contributors.get(r + 1, 0)] for r in range(config.num_rounds)])
    grid: NDArray[np.float64] = moved[:used].reshape(config.num_rounds, config.num_clients) * scale
    return grid


def _in_order(config: Config, model: Path) -> list[NDArray[np.float32]]:
    tensors = load_file(model)
    return [tensors[name] for name in build_model(config).state_dict()]


def _train_one_hot(
    config: Config,
    pause: float,
    model: nn.Module,
    rows: Dataset,
    settings: TrainingSettings,
    seed: tuple[int, ...],
    on_epoch: Callable[[int], None],
) -> None:
    """Stands in for `client.training.train`; its seed names the client and the round."""
    _, client_id, round_number = seed
    parameters = get_parameters(model)
    vector = flatten(parameters)
    vector[position(config, client_id, round_number)] += 1.0
    set_parameters(model, unflatten(vector, like=parameters))
    time.sleep(pause)


class FaultyClient(FlowerClient):
    """Does its part but for one fault in one round: `killed`, `killed after`, `hung`, `late`, `twice` or `replay`."""

    fault, fault_round = "", 0
    _before: FitRes

    def fit(self, ins: FitIns) -> FitRes:
        number = ins.config["round"]
        if number == self.fault_round and self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.fault_round and self.fault == "hung":
            threading.Event().wait()
        if number == self.fault_round + 1 and self.fault == "replay":
            return self._before
        answer = super().fit(ins)
        self._before = copy.deepcopy(answer)  # Flower empties what it sends
        if number == self.fault_round and self.fault == "late":
            time.sleep(self.tenant.config.round_timeout + 3.0)
        if number == self.fault_round and self.fault == "killed after":
            threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return answer

    def serve(self) -> None:
        """Take part until the run is over."""
        if self.fault == "twice":
            with contextlib.suppress(grpc.RpcError):  # the server ends the stream of whoever says more than it asked
                _join_and_answer_twice(self)
        run_client(self)


def _join_and_answer_twice(client: FaultyClient) -> None:
    """A client written by hand: in its fault round one request gets two answers, which Flower's own never does."""
    answers: queue.Queue[ClientMessage] = queue.Queue()
    with grpc.insecure_channel(client.tenant.config.server_address) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        for request in FlowerServiceStub(channel).Join(iter(answers.get, None)):
            match request.WhichOneof("msg"):
                case "get_properties_ins":
                    properties = client.get_properties(serde.get_properties_ins_from_proto(request.get_properties_ins))
                    answers.put(ClientMessage(get_properties_res=serde.get_properties_res_to_proto(properties)))
                case "fit_ins":
                    ins = serde.fit_ins_from_proto(request.fit_ins)
                    answer = ClientMessage(fit_res=serde.fit_res_to_proto(client.fit(ins)))
                    for _ in range(2 if ins.config["round"] == client.fault_round else 1):
                        answers.put(answer)
                case "reconnect_ins":
                    answers.put(ClientMessage(disconnect_res=ClientMessage.DisconnectRes(reason=Reason.ACK)))
                    return


def run_clients(config_path: str, faults: dict[int, tuple[str, int]], pause: float = 0.0, address: str = "") -> int:
    """Run one-hot clients as threads of this process; 0 if all but the hung got to the end of the run.

    Args:
        config_path: the YAML file.
        faults: client id -> (fault, round); ("", 0) for a client that does well.
        pause: seconds that one training takes.
        address: of the server, if not the one of the config.
    """
    setup_logging(bars=False)
    config = load_config(config_path)
    if address:
        config = config.replace(server_address=address)
    mock.patch.object(learning, "train", functools.partial(_train_one_hot, config, pause)).start()
    finished: set[int] = set()

    def serve(client_id: int) -> None:
        client = FaultyClient(Tenant(config, client_id, load_client_data(config, client_id)))
        client.fault, client.fault_round = faults[client_id]
        try:
            client.serve()
        except OrchestratorError as error:
            client.tenant.log.error("%s", error)
        else:
            finished.add(client_id)

    threads = {i: threading.Thread(target=serve, args=(i,), daemon=True) for i in faults}
    for thread in threads.values():
        thread.start()
    awaited = {i: thread for i, thread in threads.items() if faults[i][0] != "hung"}
    for thread in awaited.values():
        thread.join()
    return 0 if finished == set(awaited) else 1
