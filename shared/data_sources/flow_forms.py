"""Flows of sensors and of OCSF, with the fields that AWS's flow logs have: Zeek's connections, Suricata's `flow` events
and OCSF's Network Activity.

| here | Zeek `conn` | Suricata `flow` | OCSF 4001 |
|---|---|---|---|
| `srcaddr`, `srcport` | `id.orig_h`, `id.orig_p` | `src_ip`, `src_port` | `src_endpoint` |
| `dstaddr`, `dstport` | `id.resp_h`, `id.resp_p` | `dest_ip`, `dest_port` | `dst_endpoint` |
| `protocol` | `proto` | `proto` | `connection_info.protocol_num` |
| `packets`, `bytes` | `orig_pkts`, `orig_ip_bytes` | `flow.pkts_toserver`, `flow.bytes_toserver` | `traffic` |
| `start`, `end` | `ts`, and `duration` later | `flow.start`, `flow.end` | `start_time`, `end_time` |
| `action` REJECT | `conn_state` REJ | `flow.action` drop or reject | `action_id` 2, `disposition_id` 2 |

A sensor sees both ways of a flow: its source is who opened it, and what that one sent counts, as AWS counts each way
by itself. Zeek: https://docs.zeek.org/en/master/logs/conn.html; Suricata:
https://docs.suricata.io/en/latest/output/eve/eve-json-format.html; OCSF: https://schema.ocsf.io
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from shared.data_sources.envelopes import LeftOut
from shared.data_sources.record_fields import Field, seconds_of
from shared.data_sources.times import epoch_seconds

NETWORK_ACTIVITY = 4001  # of OCSF
# IANA's numbers of the names that sensors write.
_PROTOCOLS = {
    "icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmp6": 58, "ipv6-icmp": 58,
    "sctp": 132, "unknown_transport": 255, "-1": 255,
}  # fmt: skip
_UNSET = ("", "-", "(empty)")  # Zeek's two
ZEEK_NEEDS = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto")
_KIND = re.compile("[a-z_0-9]{1,20}")


def is_flow_object(record: Mapping[str, Any]) -> bool:
    """Whether an object is one of Zeek's or Suricata's records itself."""
    return "id.orig_h" in record or "event_type" in record or "orig_h" in _inner(record, "id")


def flow_of(record: dict[str, Any]) -> dict[str, str] | LeftOut | None:
    """A record of Zeek or Suricata as a flow, or what it is instead; None where it is of neither.

    Raises:
        ValueError: a field is missing or malformed.
    """
    if "event_type" in record:
        return _suricata(record)
    if is_flow_object(record):
        flat = {**record, **{f"id.{name}": value for name, value in _inner(record, "id").items()}}
        if "conn_state" not in flat and "orig_pkts" not in flat:
            return LeftOut("records of Zeek's logs that are no connections")
        return zeek_flow({name: _cell(value) for name, value in flat.items()})
    return None


def zeek_flow(record: Mapping[str, str]) -> dict[str, str]:
    """A connection of Zeek, by the names of its log.

    Raises:
        ValueError: a field is missing or malformed.
    """
    for name in ZEEK_NEEDS:
        if record.get(name, "") in _UNSET:
            raise ValueError(f"{name} = {record.get(name, '')!r:.60}, expected a value")
    start = _zeek_time(record["ts"])
    duration = record.get("duration", "")
    length = 0.0 if duration in _UNSET else float(duration)
    if not 0 <= length < math.inf:
        raise ValueError(f"duration = {duration!r:.60}, expected seconds")
    size = next((record[name] for name in ("orig_ip_bytes", "orig_bytes") if record.get(name, "") not in _UNSET), "0")
    packets = record.get("orig_pkts", "")
    return {
        "srcaddr": record["id.orig_h"],
        "dstaddr": record["id.resp_h"],
        "srcport": record["id.orig_p"],
        "dstport": record["id.resp_p"],
        "protocol": _protocol(record["proto"]),
        "packets": "0" if packets in _UNSET else packets,
        "bytes": size,
        "start": str(math.floor(start)),
        "end": str(math.floor(start + length)),
        "action": "REJECT" if record.get("conn_state") == "REJ" else "ACCEPT",
    }


def _zeek_time(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:  # JSON may have ISO 8601
        return float(seconds_of(text))
    if not 0 <= seconds < math.inf:
        raise ValueError(f"ts = {text!r:.60}, expected seconds since 1970")
    return epoch_seconds(seconds)  # Zeek can write JSON with milliseconds, and has the duration in seconds all the same


def _suricata(record: dict[str, Any]) -> dict[str, str] | LeftOut:
    kind, flow = str(record["event_type"]), record.get("flow")
    if kind != "flow":
        return LeftOut(f"Suricata's {kind if _KIND.fullmatch(kind) else 'other'} events")
    if not isinstance(flow, dict):
        raise ValueError("no flow, which Suricata's flow events have")
    start = seconds_of(_cell(flow.get("start") or record.get("timestamp")))
    end = seconds_of(_cell(flow.get("end") or record.get("timestamp") or flow.get("start")))
    return {
        "srcaddr": _there(record, "src_ip"),
        "dstaddr": _there(record, "dest_ip"),
        "srcport": _cell(record.get("src_port") or 0),
        "dstport": _cell(record.get("dest_port") or 0),
        "protocol": _protocol(_there(record, "proto")),
        "packets": _cell(flow.get("pkts_toserver", 0)),
        "bytes": _cell(flow.get("bytes_toserver", 0)),
        "start": str(start),
        "end": str(end),
        "action": "REJECT" if flow.get("action") in ("drop", "reject") else "ACCEPT",
    }


_OCSF = {
    name: Field.of(paths)
    for name, paths in {
        "srcaddr": ("src_endpoint.ip",),
        "dstaddr": ("dst_endpoint.ip",),
        "srcport": ("src_endpoint.port", "=0"),
        "dstport": ("dst_endpoint.port", "=0"),
        "protocol": ("connection_info.protocol_num", "connection_info.protocol_name"),
        "packets": ("traffic.packets", "traffic.packets_out", "=0"),
        "bytes": ("traffic.bytes", "traffic.bytes_out", "=0"),
        "start": ("start_time", "start_time_dt", "time", "time_dt"),
        "end": ("end_time", "end_time_dt", "time", "time_dt"),
        "status": ("status_code", "=OK"),
        "action": ("action_id", "=0"),
        "disposition": ("disposition_id", "=0"),
        "activity": ("activity_id", "=0"),
    }.items()
}
# Denied, Blocked, Refuse, and what AWS writes.
_REFUSED = {("action", "2"), ("disposition", "2"), ("activity", "5"), ("status", "REJECT")}


def ocsf_flow(record: Any) -> dict[str, str]:
    """An event of OCSF's class Network Activity.

    Raises:
        ValueError: a field is missing or malformed.
    """
    found = {name: field.text(record) for name, field in _OCSF.items()}
    if found["status"] in ("NODATA", "SKIPDATA"):
        return dict.fromkeys(("srcaddr", "dstaddr"), "-") | {"log-status": found["status"]}
    if missing := [name for name in ("srcaddr", "dstaddr", "protocol", "start") if not found[name]]:
        raise ValueError(f"no {', '.join('/'.join(_OCSF[name].names) for name in missing)}")
    return {
        **{name: found[name] for name in ("srcaddr", "dstaddr", "srcport", "dstport", "packets", "bytes")},
        "protocol": _protocol(found["protocol"]),
        "start": str(seconds_of(found["start"])),
        "end": str(seconds_of(found["end"])),
        "action": "REJECT" if _REFUSED & found.items() else "ACCEPT",
        "log-status": "OK",
    }


def _protocol(name: str) -> str:
    """The number of a protocol; what is no known name is left as it is, to be refused as a number."""
    return str(_PROTOCOLS.get(name.casefold(), name))


def _inner(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _there(record: Mapping[str, Any], name: str) -> str:
    if not (text := _cell(record.get(name))):
        raise ValueError(f"no {name}, which Suricata's flow events have")
    return text


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
