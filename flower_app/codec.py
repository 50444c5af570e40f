"""Frames (`shared/frames.py`) as the content of Flower's messages.

The body travels as an array, which Flower sends in chunks, and stores once where many messages have the same one: the
global model is uploaded once a round and not once a tenant.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared.frames import Frame


def pack_body(body: bytes) -> ArrayRecord:
    """A body as the record that messages may share."""
    return ArrayRecord({"body": Array(dtype="uint8", shape=(len(body),), stype="bytes", data=body)})


def pack(head: bytes, body: ArrayRecord) -> RecordDict:
    """A frame as a message's content."""
    return RecordDict({"head": ConfigRecord({"head": head}), "body": body})


def unpack(content: RecordDict) -> Frame:
    """The frame in a message's content; a content of another form has an empty one, which is no request or answer."""
    heads, bodies = content.get("head"), content.get("body")
    if isinstance(heads, ConfigRecord) and isinstance(bodies, ArrayRecord):
        head, body = heads.get("head"), bodies.get("body")
        if isinstance(head, bytes) and isinstance(body, Array):
            return head, body.data
    return b"", b""
