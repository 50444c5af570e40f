"""Servers on loopback that speak as much of Google Cloud Storage and Azure Blob Storage as listing and reading takes.

The clients are the real ones (gcsfs, adlfs). No emulator of either store comes as a Python package; what these answer
is after the stores' own references: https://cloud.google.com/storage/docs/json_api/v1/objects and
https://learn.microsoft.com/rest/api/storageservices/list-blobs and `get-blob`.
"""

import contextlib
import hashlib
import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT = "account"
PAGE = 2  # objects in one answer to a listing, so that each has to be gone on with
_DATE = "Sat, 28 Nov 2026 10:00:00 GMT"  # of every object: no time tells a new one


@dataclass
class Store:
    """One bucket, or container, called `logs`.

    Attributes:
        scheme: `gs` or `az`.
        address: `http://127.0.0.1:port`.
        objects: by name, each with the number of its writing.
        refuses: whether it answers each request with 403.
        listings: requests for a listing so far.
    """

    scheme: str
    address: str = ""
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    refuses: bool = False
    listings: int = 0
    _written: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """With it the store's own client finds this server."""
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": self.address, "GOOGLE_CLOUD_PROJECT": "of-the-test"}
        key = b64encode(b"of-the-test").decode()
        parts = {
            "DefaultEndpointsProtocol": "http", "AccountName": ACCOUNT, "AccountKey": key,
            "BlobEndpoint": f"{self.address}/{ACCOUNT}",
        }  # fmt: skip
        return {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{name}={value}" for name, value in parts.items())}

    def put(self, name: str, data: bytes) -> None:
        """Write an object, or write it again."""
        self._written += 1
        self.objects[name] = data, self._written

    def page(self, prefix: str, begin: str) -> tuple[list[str], str]:
        """Names with this prefix, from one on; and where the next page begins, empty at the end."""
        self.listings += 1
        names = sorted(name for name in self.objects if name.startswith(prefix) and name >= begin)
        return names[:PAGE], names[PAGE] if len(names) > PAGE else ""


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.store.refuses:
            self.refuse(403)
        else:
            self.answer(url.path, query)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, path: str, query: dict[str, str]) -> None:
        """As the store does."""
        raise NotImplementedError

    def refuse(self, status: int) -> None:
        """Say so in the store's way."""
        raise NotImplementedError

    def send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # gcsfs takes the head of some answers alone
                self.wfile.write(body)

    def part(self, data: bytes, asked: str | None) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers of an object, or of the range of it that was asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
        if wanted is None:
            return 200, data, {}
        begin, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if begin >= len(data):
            return 416, b"", {"Content_Range": f"bytes */{len(data)}"}
        return 206, data[begin : end + 1], {"Content_Range": f"bytes {begin}-{end}/{len(data)}"}


class _Google(_Handler):
    def answer(self, path: str, query: dict[str, str]) -> None:
        named = re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", path)
        if named is None or named[2] != "logs":
            self.refuse(404)
        elif named[3] is None and path.endswith("/o"):
            names, following = self.store.page(query.get("prefix", ""), query.get("pageToken", ""))
            listing = {"kind": "storage#objects", "items": [self.described(name) for name in names]}
            self.send(200, json.dumps(listing | ({"nextPageToken": following} if following else {})).encode(), _JSON)
        elif named[3] is None:
            self.send(200, json.dumps({"name": "logs", "id": "logs"}).encode(), _JSON)
        elif (name := unquote(named[3])) not in self.store.objects:
            self.refuse(404)
        elif query.get("alt") == "media":
            status, part, headers = self.part(self.store.objects[name][0], self.headers.get("Range"))
            self.send(status, part, "application/octet-stream", **headers)
        else:
            self.send(200, json.dumps(self.described(name)).encode(), _JSON)

    def described(self, name: str) -> dict[str, object]:
        data, number = self.store.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": "logs", "size": str(len(data)), "generation": str(number),
            "etag": f"CO{number}=", "md5Hash": b64encode(hashlib.md5(data).digest()).decode(),
            "updated": "2026-11-28T10:00:00.000Z", "timeCreated": "2026-11-28T10:00:00.000Z",
        }  # fmt: skip

    def refuse(self, status: int) -> None:
        self.send(status, json.dumps({"error": {"code": status, "message": "no", "errors": []}}).encode(), _JSON)


class _Azure(_Handler):
    def answer(self, path: str, query: dict[str, str]) -> None:
        named = re.fullmatch(rf"/{ACCOUNT}/logs(?:/(.+))?", unquote(path))
        name = named[1] if named else None
        if named is None:
            self.refuse(404)
        elif query.get("comp") == "list":
            names, following = self.store.page(query.get("prefix", ""), query.get("marker", ""))
            blobs = "".join(self.described(found) for found in names)
            self.send(200, (
                f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="{self.store.address}" '
                f'ContainerName="logs"><Blobs>{blobs}</Blobs><NextMarker>{escape(following)}</NextMarker>'
                "</EnumerationResults>"
            ).encode(), "application/xml")  # fmt: skip
        elif name is None:
            self.send(200, b"", "application/xml", ETag='"0x1"', Last_Modified=_DATE)
        elif name not in self.store.objects:
            self.refuse(404)
        else:
            data, number = self.store.objects[name]
            status, part, headers = self.part(data, self.headers.get("x-ms-range"))
            same = {"ETag": f'"0x{number}"', "Last_Modified": _DATE, "x-ms-blob-type": "BlockBlob"}
            self.send(status, part, "application/octet-stream", **same, **headers)

    def described(self, name: str) -> str:
        data, number = self.store.objects[name]
        return (
            f"<Blob><Name>{escape(name)}</Name><Properties><Creation-Time>{_DATE}</Creation-Time><Last-Modified>{_DATE}"
            f"</Last-Modified><Etag>0x{number}</Etag><Content-Length>{len(data)}</Content-Length><Content-Type>"
            "application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
        )

    def refuse(self, status: int) -> None:
        code = {403: "AuthorizationFailure", 404: "BlobNotFound"}[status]
        body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'
        self.send(status, body.encode(), "application/xml", x_ms_error_code=code)


_JSON = "application/json"
_HANDLERS: dict[str, type[_Handler]] = {"gs": _Google, "az": _Azure}


@contextmanager
def store(scheme: str) -> Iterator[Store]:
    """A store of that kind, as long as the block lasts."""
    found = Store(scheme)
    handler = type("Handler", (_HANDLERS[scheme],), {"store": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()
