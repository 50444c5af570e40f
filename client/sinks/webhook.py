"""A generic webhook: a POST with some findings as JSON; any status of success means that all of them were taken."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from client.sinks.http import Endpoint, NoAnswerError
from client.sinks.sink import Alert, Outcome, all_accepted


class Webhook:
    """A sink that is a URL. What it is sent: `{"findings": [{"id": …, "finding": {…}}, …]}`.

    Args:
        name: of the sink.
        url: with its path and query, which may themselves be a secret and are never shown.
        token: sent as a bearer token; empty without.
        variable: that the token came from.
    """

    def __init__(self, name: str, url: str, token: str, variable: str) -> None:
        parts = urlsplit(url)
        self.name, self.where = name, f"{parts.scheme}://{parts.netloc}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._endpoint = Endpoint(url, headers, variable)

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        """Post the findings."""
        findings = b",".join(b'{"id":"%s","finding":%s}' % (alert.id.encode(), alert.body) for alert in batch)
        try:
            answer = self._endpoint.post(b'{"findings":[' + findings + b"]}", "application/json")
        except NoAnswerError as error:
            return Outcome(problem=str(error))
        return self._endpoint.outcome(answer, batch) or all_accepted(batch)
