"""One request to a place that takes alerts: over TLS that is checked, bounded in time and bytes, without redirects."""

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import urllib3

from client.sinks.sink import Alert, Outcome, refused_whole
from shared.printable import printable

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
MOST_ANSWER_BYTES = 8 << 20  # Elasticsearch answers each alert by itself
MOST_WAIT = 3600.0  # seconds; whoever asks for a longer pause is asked again after it
# The alert's own fault, whoever sends it. All else says something about the place, the way there or the rights.
_REFUSALS = (400, 413, 415, 422)
_BUSY = (408, 425, 429)


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        body: at most `MOST_ANSWER_BYTES`.
        wait: of `Retry-After`, in seconds; 0 without it.
    """

    status: int
    body: bytes
    wait: float

    @property
    def told(self) -> str:
        """For a log line: the status and the first words."""
        return f"HTTP {self.status}: {printable(self.body[:600].decode(errors='replace'), 200)}".rstrip(": ")


class NoAnswerError(Exception):
    """Nobody answered, or not to the end; whether the batch arrived is not known."""


class Endpoint:
    """Where batches are posted to.

    Args:
        url: `https://`, or `http://` of this machine unless its user insisted.
        headers: of each request, with the secret.
        secret_name: the environment variable that the secret is in, for messages.
    """

    def __init__(self, url: str, headers: Mapping[str, str], secret_name: str) -> None:
        self._url, self._headers, self._secret_name = url, dict(headers), secret_name
        # The machine's own certificates, and those of SSL_CERT_FILE; host names are checked.
        self._pool = urllib3.PoolManager(
            ssl_context=ssl.create_default_context() if url.startswith("https") else None,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )
        self._retry = urllib3.Retry(retry_after_max=int(MOST_WAIT))

    def post(self, body: bytes, content_type: str) -> Answer:
        """Send a body and read the answer.

        Raises:
            NoAnswerError: there was none, or it broke off, took too long or would not end.
        """
        # A connection for each batch: one that was kept may be closed by now, and to send again is to send twice.
        own = {"Content-Type": content_type, "Accept-Encoding": "identity", "Connection": "close"}
        deadline = time.monotonic() + CONNECT_SECONDS + 2 * READ_SECONDS
        try:
            response = self._pool.request(
                "POST", self._url, body=body, headers=self._headers | own, retries=False, redirect=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
            try:
                got = b""
                while part := response.read1(1 << 16):
                    got += part
                    if len(got) > MOST_ANSWER_BYTES:
                        raise NoAnswerError(f"it answers with more than {MOST_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise NoAnswerError("its answer does not end")
                whole = response.headers.get("Content-Length")
                if whole is not None and whole.isdecimal() and len(got) < int(whole):
                    raise NoAnswerError("its answer breaks off")
            finally:
                response.close()
                self._pool.clear()
            return Answer(response.status, got, self._wait(response))
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise NoAnswerError(printable(f"{type(error).__name__}: {error}", 200)) from None

    def _wait(self, response: urllib3.BaseHTTPResponse) -> float:
        try:
            return float(self._retry.get_retry_after(response) or 0.0)
        except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
            return 0.0  # neither seconds nor a date

    def outcome(self, answer: Answer, batch: Sequence[Alert]) -> Outcome | None:
        """What a status means that is no success; None where it is one."""
        if 200 <= answer.status < 300:
            return None
        if answer.status in _REFUSALS:
            return refused_whole(batch, answer.told)
        if answer.status in _BUSY or answer.status >= 500:
            return Outcome(problem=answer.told, wait=answer.wait)
        if answer.status in (401, 403):
            secret = f"; look at {self._secret_name}" if self._secret_name else ""
            return Outcome(problem=f"{answer.told}: it refuses the sender{secret}", wait=answer.wait)
        return Outcome(problem=f"{answer.told}: is the URL right? redirects are not followed", wait=answer.wait)
