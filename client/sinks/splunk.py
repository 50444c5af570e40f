"""Splunk's HTTP Event Collector: one event for each alert, with its id as an indexed field.

https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector
"""

import json
import uuid
from collections.abc import Sequence

from client.sinks.http import Endpoint, NoAnswerError
from client.sinks.sink import Alert, Outcome, all_accepted

PATH = "/services/collector/event"
_SUCCESS = 0
_TOKENS_FAULT = (7, 10, 11)  # an index that it may not write to, a channel that is missing or wrong: not the alert's


class SplunkHec:
    """A sink that is Splunk.

    Args:
        name: of the sink.
        url: of the collector, without a path or with its own.
        token: of HEC.
        variable: that the token came from.
    """

    def __init__(self, name: str, url: str, token: str, variable: str) -> None:
        self.name, self.where = name, url
        # Tokens with acknowledgement take nothing without a channel; others ignore it.
        headers = {"Authorization": f"Splunk {token}", "X-Splunk-Request-Channel": str(uuid.uuid4())}
        self._endpoint = Endpoint(url, headers, variable)

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        """Post the events; taken are they where Splunk says so in its own words, not by any page with status 200."""
        try:
            answer = self._endpoint.post(b"\n".join(map(_event, batch)), "application/json")
        except NoAnswerError as error:
            return Outcome(problem=str(error))
        code = _code(answer.body)
        if answer.status == 400 and code in _TOKENS_FAULT:
            return Outcome(problem=f"{answer.told}: mend the token's settings", wait=answer.wait)
        if outcome := self._endpoint.outcome(answer, batch):
            return outcome
        if code == _SUCCESS:
            return all_accepted(batch)
        return Outcome(problem=f"{answer.told}: no answer of Splunk's event collector", wait=answer.wait)


def _code(body: bytes) -> int | None:
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if type(code) is int else None


def _event(alert: Alert) -> bytes:
    finding = json.loads(alert.body)
    event = {
        "time": finding["time"] / 1000,
        "source": "cloud-security-orchestrator",
        "sourcetype": "ocsf:detection_finding",
        "fields": {"finding_id": alert.id},
        "event": finding,
    }
    return json.dumps(event).encode()
