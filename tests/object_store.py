"""A real S3 server on loopback, moto's, and what copying the objects of any store takes."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "of-the-test",
    "AWS_SECRET_ACCESS_KEY": "of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Bucket:
    """A bucket of the server.

    Attributes:
        environment: with it any client of S3 finds the server.
    """

    def __init__(self, client: Any, environment: dict[str, str]) -> None:
        self._client, self.environment = client, environment

    def put(self, key: str, body: bytes) -> None:
        self._client.put_object(Bucket="logs", Key=key, Body=body)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket="logs", Key=key)


@contextmanager
def bucket() -> Iterator[Bucket]:
    """An empty bucket called `logs`."""
    moto = pytest.importorskip("moto.server", reason="moto's server is of the extra dev")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="of-the-test", aws_secret_access_key="of-the-test",
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="logs")
        yield Bucket(client, {**ENVIRONMENT, "AWS_ENDPOINT_URL": url})
        client.close()
    finally:
        server.stop()


_COPY = """
import sys
from pathlib import Path
from shared.data_sources.stores import place_of
place = place_of(sys.argv[1])
for entry in sorted(place.listed(), key=lambda entry: entry.size):
    place.put(entry, Path(sys.argv[2]) / entry.name)
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def peaks_of_copying(url: str, folder: Path) -> list[int]:
    """Of a process that copies all objects of a URL to a folder, the smallest first: its peak after each, kB."""
    command = [sys.executable, "-c", _COPY, url, str(folder)]
    return list(map(int, subprocess.check_output(command, cwd=ROOT).split()))
