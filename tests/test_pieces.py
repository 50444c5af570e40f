"""Long messages in pieces: each arrives whole, a stranger's never does, and what it may bring before that is little."""

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage

from benchmarks.half_messages import HalfMessage, connect
from orchestrator import doors as doors_module
from orchestrator.streams import GREETING_BYTES, Stream
from shared.config import Config
from shared.errors import FrameError
from shared.pieces import PIECE_BYTES, Joiner, cut
from tests.conftest import Start
from tests.processes import free_port, read_metrics, write_config
from tests.test_doors import METHOD, Hall, port_of
from tests.test_seats import wait_until

LONGEST = 6 << 20  # about that of a million parameters
STRANGERS = 30


@pytest.fixture
def hall() -> Iterator[Hall]:
    config = Config(server_address=f"127.0.0.1:{free_port()}", max_streams_per_address=STRANGERS)
    made = Hall(config, longest=LONGEST)
    yield made
    made.doors.close()


class Guest:
    """A client that says one message for each thing that it hears: its name first.

    Attributes:
        end: gRPC's code and details, when the server has ended the stream.
    """

    def __init__(self, hall: Hall, name: bytes) -> None:
        self.said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.end: tuple[str, str] = ("", "")
        self._channel = grpc.insecure_channel(hall.config.server_address, [("grpc.use_local_subchannel_pool", 1)])
        self._stream = self._channel.stream_stream(METHOD)(iter(self.said.get, None))
        self._thread = threading.Thread(target=self._listen, args=(name,), daemon=True)
        self._thread.start()

    def _listen(self, name: bytes) -> None:
        try:
            next(self._stream)
            self.said.put(name)
            for _ in self._stream:
                pass
        except grpc.RpcError as error:
            self.end = (error.code().name, str(error.details()))

    def close(self) -> None:
        self.said.put(None)
        self._channel.close()
        self._thread.join(20)


def seated(hall: Hall, name: bytes) -> tuple[Guest, Stream]:
    guest = Guest(hall, name)
    wait_until(lambda: name in hall.inside)
    return guest, hall.inside[name]


def answer(guest: Guest, stream: Stream, pieces: list[bytes]) -> bytes | str:
    """What the server gets, that asks for something and is sent this; or why it gets nothing."""
    got: list[bytes | str] = []

    def ask() -> None:
        try:
            got.append(stream.ask(b"?", 60))
        except ConnectionError as error:
            got.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_until(lambda: stream._asked)
    for piece in pieces:
        guest.said.put(piece)
    asking.join(60)
    return got[0]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 1_000_000])
@pytest.mark.parametrize("first", [b"\0", b"\x0a"], ids=["as the mark", "as Flower's"])
def test_what_was_cut_is_the_message_again(size: int, first: bytes) -> None:
    message = (first + b"x" * size)[:size] if size else b""
    joiner = Joiner()
    for _ in range(2):  # nothing is left of the last one
        *early, last = list(cut(message))
        assert all(len(piece) <= PIECE_BYTES for piece in [*early, last])
        assert [joiner.take(piece, LONGEST) for piece in early] == [None] * len(early)
        assert joiner.take(last, LONGEST) == message


def test_no_message_of_flower_begins_with_the_mark() -> None:
    for field in ClientMessage.DESCRIPTOR.fields:
        assert field.number > 0
    with pytest.raises(Exception, match="pars"):
        ClientMessage.FromString(b"\0" + bytes(8))


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([b"\0"], "1 bytes that announce no message"),
        ([b"\0" + bytes(8)], "9 bytes that announce no message"),
        ([b"\0" + b"\xff" * 9], "10 bytes that announce no message"),
        ([b"\0" + b"\xff" * 8], "18446744073709551615 bytes, expected at most"),
        ([b"\0" + (LONGEST + 1).to_bytes(8, "big")], "expected at most 6291456"),
        ([b"\0" + (100_000).to_bytes(8, "big"), b""], "a piece of 0 bytes; expected 65536, as 100000 are missing"),
        ([b"\0" + (100_000).to_bytes(8, "big"), b"x"], "a piece of 1 bytes"),
        ([b"\0" + (100_000).to_bytes(8, "big"), b"x" * PIECE_BYTES, b"x" * PIECE_BYTES], "expected 34464"),
        ([b"x" * (LONGEST + 1)], "expected at most"),
    ],
)
def test_pieces_that_make_no_message_are_refused(pieces: list[bytes], words: str) -> None:
    joiner, last = Joiner(), pieces.pop()
    for piece in pieces:
        assert joiner.take(piece, LONGEST) is None
    with pytest.raises(FrameError, match=words):
        joiner.take(last, LONGEST)


@pytest.mark.parametrize("size", [PIECE_BYTES, PIECE_BYTES + 1, LONGEST])
def test_a_tenants_long_answer_arrives_whole(hall: Hall, size: int) -> None:
    guest, stream = seated(hall, b"tenant")
    message = bytes(range(1, 251)) * (size // 250) + b"x" * (size % 250)
    assert answer(guest, stream, list(cut(message))) == message
    assert answer(guest, stream, [b"short"]) == b"short"
    guest.close()


def test_a_tenants_answer_is_no_longer_than_an_honest_one(hall: Hall) -> None:
    guest, stream = seated(hall, b"tenant")
    said = answer(guest, stream, [next(cut(b"x" * (LONGEST + 1)))])
    assert said == f"in answer to a request: {LONGEST + 1} bytes, expected at most {LONGEST}"
    wait_until(lambda: guest.end == ("INVALID_ARGUMENT", said))
    guest.close()


def test_a_strangers_long_message_is_refused_before_it_comes(hall: Hall) -> None:
    for message in (b"x" * LONGEST, b"x" * (GREETING_BYTES + 1)):
        guest = Guest(hall, next(cut(message)))
        wait_until(lambda guest=guest: guest.end[0] != "")  # type: ignore[misc]
        assert (guest.end[0], f"expected at most {GREETING_BYTES}" in guest.end[1]) == ("INVALID_ARGUMENT", True)
        guest.close()
    whole = Guest(hall, b"x" * (PIECE_BYTES + 1))
    wait_until(lambda: whole.end[0] != "")
    assert whole.end[0] == "RESOURCE_EXHAUSTED", "gRPC itself refuses it, by its head"
    whole.close()
    assert hall.inside == {}


@pytest.mark.long
def test_a_model_of_more_than_one_piece_is_trained_by_real_processes(start: Start, tmp_path: Path) -> None:
    wide = {"num_features": 100, "num_hidden_units": 300, "num_rounds": 1, "he_scheme": "none"}
    config = str(write_config(tmp_path, **wide))
    server = start("orchestrator/run_server.py", "--config", config)
    clients = start("client/run_clients.py", "--config", config)
    ends = clients.finish(), server.finish()
    assert [end.code for end in ends] == [0, 0], "\n".join(end.output for end in ends)
    (record,) = read_metrics(tmp_path)
    assert record["contributors"] == 3
    assert record["upload_bytes_per_client"] > PIECE_BYTES


def bring(hall: Hall, size: int, seconds: float) -> tuple[int, int]:
    """Strangers with half a message each: how many the server ends meanwhile, and of how many it has all but a byte."""
    strangers = [HalfMessage(connect(port_of(hall.config), None), METHOD, size) for _ in range(STRANGERS)]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(one.ended for one in strangers):
        for one in strangers:
            one.step()
        time.sleep(0.002)
    found = sum(one.ended for one in strangers), sum(one.sent == size - 1 and not one.ended for one in strangers)
    for one in strangers:
        one.close()
    return found


def test_half_messages_of_strangers_are_short(hall: Hall) -> None:
    """A server of a million parameters held 6 MB for each: gRPC has one limit for all."""
    assert bring(hall, LONGEST, 20.0) == (STRANGERS, 0)
    assert bring(hall, PIECE_BYTES + 1, 20.0) == (STRANGERS, 0)
    assert bring(hall, PIECE_BYTES, 2.0) == (0, STRANGERS)


@pytest.mark.long
def test_with_grpcs_limit_at_the_longest_message_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin."""
    monkeypatch.setattr(doors_module, "PIECE_BYTES", LONGEST)
    config = Config(server_address=f"127.0.0.1:{free_port()}", max_streams_per_address=STRANGERS)
    hall = Hall(config, longest=LONGEST)
    assert bring(hall, LONGEST, 5.0) == (0, STRANGERS)
    hall.doors.close()
