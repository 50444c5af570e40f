"""Audit events as services write them, one of each and what to change in it."""

import copy
import json
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
START = 1_767_600_000  # 2026-01-05 08:00:00 UTC


def iso(second: int, ending: str = "Z") -> str:
    return f"2026-01-05T{8 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{ending}"


def kubernetes(second: int = 0, **changes: Any) -> Event:
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": f"k8s-{second}",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/default/pods",
        "verb": "list",
        "user": {"username": "jane", "uid": "u-1", "groups": ["system:authenticated"]},
        "sourceIPs": ["198.51.100.7", "10.0.0.1"],
        "userAgent": "kubectl/v1.31",
        "objectRef": {"resource": "pods", "namespace": "default", "name": "web", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": iso(second, ".123456Z"),
        "stageTimestamp": iso(second, ".223456Z"),
        "annotations": {"authorization.k8s.io/decision": "allow"},
    }
    return changed(event, changes)


def aks(second: int = 0, **changes: Any) -> Event:
    """The same event as Azure Monitor brings it: as a text."""
    return {
        "category": "kube-audit",
        "operationName": "Microsoft.ContainerService/managedClusters/diagnosticLogs/Read",
        "resourceId": changes.pop("resourceId", "/SUBSCRIPTIONS/1/MANAGEDCLUSTERS/ONE"),
        "time": iso(second),
        "properties": {"log": json.dumps(kubernetes(second, **changes)), "stream": "stdout"},
    }


def gcp(second: int = 0, **changes: Any) -> Event:
    event = {
        "logName": "projects/p-1/logs/cloudaudit.googleapis.com%2Factivity",
        "insertId": f"gcp-{second}",
        "timestamp": iso(second, ".123456789Z"),
        "resource": {"type": "gce_instance", "labels": {"project_id": "p-1", "zone": "europe-west1-b"}},
        "severity": "NOTICE",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "authenticationInfo": {"principalEmail": "jane@example.com"},
            "authorizationInfo": [{"permission": "compute.instances.delete", "granted": True}],
            "methodName": "v1.compute.instances.delete",
            "requestMetadata": {"callerIp": "198.51.100.7"},
            "resourceName": "projects/p-1/zones/europe-west1-b/instances/web",
            "serviceName": "compute.googleapis.com",
            "status": {},
        },
    }
    return changed(event, changes)


def okta(second: int = 0, **changes: Any) -> Event:
    event = {
        "uuid": f"okta-{second}",
        "published": iso(second, ".123Z"),
        "eventType": "user.session.start",
        "version": "0",
        "severity": "INFO",
        "actor": {"id": "00u1", "type": "User", "alternateId": "jane@example.com", "displayName": "Jane"},
        "client": {"ipAddress": "198.51.100.7", "geographicalContext": {"country": "Germany"}},
        "outcome": {"result": "SUCCESS", "reason": None},
        "target": [{"id": "0oa1", "type": "AppInstance"}, {"id": "0oa2", "type": "AppUser"}],
        "debugContext": {"debugData": {"requestUri": "/"}},
    }
    return changed(event, changes)


def entra(second: int = 0, **changes: Any) -> Event:
    event = {
        "time": iso(second, ".1234567Z"),
        "resourceId": "/tenants/t-1/providers/Microsoft.aadiam",
        "operationName": "Sign-in activity",
        "category": "SignInLogs",
        "tenantId": "t-1",
        "resultType": "0",
        "callerIpAddress": "198.51.100.7",
        "properties": {
            "id": f"entra-{second}",
            "createdDateTime": iso(second, ".1234567+00:00"),
            "userId": "u-1",
            "userPrincipalName": "jane@example.com",
            "ipAddress": "198.51.100.7",
            "location": {"countryOrRegion": "DE"},
            "resourceId": "r-1",
            "appId": "a-1",
            "status": {"errorCode": 0},
        },
    }
    return changed(event, changes)


def entra_graph(second: int = 0, **changes: Any) -> Event:
    event = {
        "id": f"graph-{second}",
        "createdDateTime": iso(second),
        "userId": "u-1",
        "userPrincipalName": "jane@example.com",
        "appId": "a-1",
        "resourceId": "r-1",
        "ipAddress": "198.51.100.7",
        "homeTenantId": "t-1",
        "location": {"countryOrRegion": "DE"},
        "status": {"errorCode": 0},
    }
    return changed(event, changes)


def azure(second: int = 0, **changes: Any) -> Event:
    event = {
        "time": iso(second, ".1234567Z"),
        "resourceId": "/SUBSCRIPTIONS/1/RESOURCEGROUPS/A/PROVIDERS/MICROSOFT.COMPUTE/VIRTUALMACHINES/WEB",
        "operationName": "MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE",
        "category": "Administrative",
        "resultType": "Success",
        "resultSignature": "Succeeded.",
        "callerIpAddress": "198.51.100.7",
        "correlationId": f"azure-{second}",
        "tenantId": "t-1",
        "location": "westeurope",
        "identity": {
            "claims": {
                "http://schemas.microsoft.com/identity/claims/objectidentifier": "o-1",
                "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn": "jane@example.com",
            }
        },
    }
    return changed(event, changes)


def cloudtrail(second: int = 0, **changes: Any) -> Event:
    event = {
        "eventVersion": "1.09",
        "eventID": f"aws-{second}",
        "eventTime": iso(second),
        "eventSource": "s3.amazonaws.com",
        "eventName": "ListBuckets",
        "awsRegion": "eu-west-1",
        "sourceIPAddress": "198.51.100.7",
        "userAgent": "aws-cli",
        "readOnly": True,
        "recipientAccountId": "1",
        "userIdentity": {"type": "IAMUser", "principalId": "AIDAJANE", "arn": "arn:aws:iam::1:user/jane"},
    }
    return changed(event, changes)


MAKERS: dict[str, Callable[..., Event]] = {
    "kubernetes": kubernetes,
    "kubernetes_aks": aks,
    "gcp_audit": gcp,
    "okta": okta,
    "entra_signin": entra,
    "entra_signin_graph": entra_graph,
    "azure_activity": azure,
    "cloudtrail": cloudtrail,
}


def api_activity(second: int = 0, **changes: Any) -> Event:
    """OCSF 1.1, as Amazon Security Lake maps CloudTrail."""
    event = {
        "class_uid": 6003,
        "class_name": "API Activity",
        "category_uid": 6,
        "activity_id": 2,
        "activity_name": "Read",
        "type_uid": 600302,
        "time": 1000 * (START + second),
        "message": "a text, and no carrier",
        "metadata": {
            "uid": f"ocsf-{second}",
            "version": "1.1.0",
            "product": {"name": "CloudTrail", "vendor_name": "AWS", "feature": {"name": "Management"}},
        },
        "actor": {
            "user": {"type": "IAMUser", "uid": "arn:aws:iam::1:user/jane", "uid_alt": "AIDAJANE", "name": "jane",
                     "account": {"uid": "1"}},
            "session": {"issuer": None},
            "invoked_by": None,
        },
        "api": {"operation": "ListBuckets", "service": {"name": "s3.amazonaws.com"}, "response": {"error": None}},
        "src_endpoint": {"ip": "198.51.100.7", "domain": None},
        "cloud": {"provider": "AWS", "region": "eu-west-1", "account": {"uid": "1"}},
        "resources": [{"uid": "arn:aws:s3:::one"}],
        "status_id": 1,
        "status": "Success",
    }  # fmt: skip
    return changed(event, changes)


def authentication(second: int = 0, **changes: Any) -> Event:
    event = {
        "class_uid": 3002,
        "class_name": "Authentication",
        "activity_id": 1,
        "activity_name": "Logon",
        "time": 1000 * (START + second),
        "metadata": {"uid": f"auth-{second}", "product": {"name": "Directory", "vendor_name": "Example"}},
        "user": {"uid": "u-1", "name": "jane", "account": {"uid": "1"}},
        "src_endpoint": {"ip": "198.51.100.7"},
        "dst_endpoint": {"ip": "192.0.2.1"},
        "cloud": {"region": "eu-west-1", "account": {"uid": "1"}},
        "status_id": 1,
    }
    return changed(event, changes)


def network(second: int = 0, **changes: Any) -> Event:
    event = {
        "class_uid": 4001,
        "class_name": "Network Activity",
        "activity_id": 6,
        "activity_name": "Traffic",
        "action_id": 1,
        "time": 1000 * (START + second),
        "start_time": 1000 * (START + second),
        "end_time": 1000 * (START + second + 30),
        "metadata": {"uid": f"net-{second}", "product": {"name": "Amazon VPC", "vendor_name": "AWS"}},
        "src_endpoint": {"ip": "192.0.2.1", "port": 40000},
        "dst_endpoint": {"ip": "198.51.100.1", "port": 443},
        "connection_info": {"protocol_num": 6},
        "traffic": {"packets": 5, "bytes": 500},
        "status_code": "OK",
        "cloud": {"region": "eu-west-1", "account": {"uid": "1"}},
    }
    return changed(event, changes)


def changed(event: Event, changes: dict[str, Any]) -> Event:
    """The event with other values: `a__b` is b within a, None takes it away."""
    event = copy.deepcopy(event)
    for name, value in changes.items():
        *outer, last = name.split("__")
        inner = event
        for key in outer:
            inner = inner.setdefault(key, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return event
