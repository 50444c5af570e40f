"""Elasticsearch and OpenSearch by their bulk API: the alert's id is the document's, so that none is there twice.

https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
"""

import json
from collections.abc import Sequence
from typing import Any

from client.sinks.http import Endpoint, NoAnswerError
from client.sinks.sink import Alert, Outcome
from shared.printable import printable

_THERE_ALREADY = 409  # a document of this id; it is this alert, of a batch whose answer was lost


class Elasticsearch:
    """A sink that is an index or a data stream.

    Args:
        name: of the sink.
        url: of the index, `https://host:9200/alerts`.
        authorization: the header's value; empty without.
        variable: that it came from.
    """

    def __init__(self, name: str, url: str, authorization: str, variable: str) -> None:
        self.name, self.where = name, url
        headers = {"Authorization": authorization} if authorization else {}
        self._endpoint = Endpoint(f"{url.rstrip('/')}/_bulk", headers, variable)

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        """Post the documents, and take the answer of each by itself: status 200 says nothing about any of them."""
        try:
            answer = self._endpoint.post(b"".join(map(_document, batch)), "application/x-ndjson")
        except NoAnswerError as error:
            return Outcome(problem=str(error))
        if outcome := self._endpoint.outcome(answer, batch):
            return outcome
        items = _items(answer.body, batch)
        if items is None:
            return Outcome(problem=f"{answer.told}: no answer of a bulk API to these alerts", wait=answer.wait)
        accepted, refused, again = set(), {}, ""
        for alert, item in zip(batch, items, strict=True):
            status = item["status"]
            if 200 <= status < 300 or status == _THERE_ALREADY:
                accepted.add(alert.id)
            elif status in (400, 413, 422):
                refused[alert.id] = f"status {status}: {_reason(item)}"
            else:
                again = f"status {status} of an alert: {_reason(item)}"
        return Outcome(frozenset(accepted), refused, again, answer.wait)


def _document(alert: Alert) -> bytes:
    """An action and its document, with the field that data streams insist on and Kibana sorts by."""
    action = json.dumps({"create": {"_id": alert.id}})
    document = {"@timestamp": json.loads(alert.body)["time"]} | json.loads(alert.body)
    return f"{action}\n{json.dumps(document)}\n".encode()


def _items(body: bytes, batch: Sequence[Alert]) -> list[dict[str, Any]] | None:
    """What the answer says of each alert; None if it is not about exactly these."""
    try:
        items = [item["create"] for item in json.loads(body)["items"]]
        fits = [item["_id"] for item in items] == [alert.id for alert in batch]
        return items if fits and all(type(item["status"]) is int for item in items) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _reason(item: dict[str, Any]) -> str:
    return printable(json.dumps(item.get("error", "")), 200)
