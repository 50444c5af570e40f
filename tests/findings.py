"""Findings as their products write them, for tests: GuardDuty in both spellings, Security Hub, OCSF."""

from typing import Any

Plain = dict[str, Any]
ACCOUNT = "111111111111"


def guardduty(
    user: str = "AIDABOB",
    api: str = "DeleteTrail",
    first: str = "2024-05-01T10:00:00Z",
    last: str = "2024-05-01T10:00:00Z",
    address: str = "198.51.100.7",
    kind: str = "Stealth:IAMUser/CloudTrailLoggingDisabled",
    **more: Any,
) -> Plain:
    """A finding about a call, as GuardDuty exports it to S3."""
    return {
        "schemaVersion": "2.0",
        "accountId": ACCOUNT,
        "region": "eu-west-1",
        "id": f"{kind}-{user}-{first}-{api}",
        "type": kind,
        "severity": 5.0,
        "createdAt": "2024-05-01T11:00:00.000Z",
        "updatedAt": "2024-05-01T11:00:00.000Z",
        "resource": {
            "resourceType": "AccessKey",
            "accessKeyDetails": {"accessKeyId": "AKIANONE", "principalId": user, "userName": f"user-{user}"},
        },
        "service": {
            "serviceName": "guardduty",
            "action": {
                "actionType": "AWS_API_CALL",
                "awsApiCallAction": {
                    "api": api,
                    "serviceName": "cloudtrail.amazonaws.com",
                    "remoteIpDetails": {"ipAddressV4": address},
                },
            },
            "eventFirstSeen": first,
            "eventLastSeen": last,
            "archived": False,
            "count": 1,
            **more,
        },
    }


def probe(
    remote: str = "203.0.113.9",
    local: str = "10.0.1.1",
    first: str = "2024-05-01T10:00:00Z",
    last: str = "2024-05-01T10:30:00Z",
) -> Plain:
    """A finding about flows: somebody outside tries ports."""
    found = guardduty(first=first, last=last, kind="Recon:EC2/PortProbeUnprotectedPort")
    found["id"] = f"probe-{remote}-{first}"
    found["resource"] = {
        "resourceType": "Instance",
        "instanceDetails": {"instanceId": "i-1", "networkInterfaces": [{"privateIpAddress": local}]},
    }
    found["service"]["action"] = {
        "actionType": "PORT_PROBE",
        "portProbeAction": {
            "blocked": False,
            "portProbeDetails": [
                {"localPortDetails": {"port": 22}, "remoteIpDetails": {"ipAddressV4": remote}},
            ],
        },
    }
    return found


def as_api(value: Any) -> Any:
    """The same as `get-findings` prints it: keys begin with a capital."""
    if isinstance(value, dict):
        return {key[:1].upper() + key[1:]: as_api(item) for key, item in value.items()}
    return [as_api(item) for item in value] if isinstance(value, list) else value


def asff(user: str = "AIDABOB", api: str = "DeleteTrail", **more: Any) -> Plain:
    """The same call as Security Hub has it."""
    return {
        "SchemaVersion": "2018-10-08",
        "Id": f"asff-{user}-{api}",
        "ProductArn": "arn:aws:securityhub:eu-west-1::product/aws/guardduty",
        "GeneratorId": "arn:aws:guardduty:eu-west-1:1:detector/d",
        "AwsAccountId": ACCOUNT,
        "Types": ["TTPs/Defense Evasion/Stealth:IAMUser-CloudTrailLoggingDisabled"],
        "FirstObservedAt": "2024-05-01T10:00:00Z",
        "LastObservedAt": "2024-05-01T10:00:00Z",
        "Severity": {"Label": "MEDIUM", "Normalized": 50},
        "Resources": [
            {
                "Type": "AwsIamAccessKey",
                "Id": "AWS::IAM::AccessKey:AKIANONE",
                "Details": {"AwsIamAccessKey": {"PrincipalId": user, "PrincipalName": f"user-{user}"}},
            }
        ],
        "Action": {
            "ActionType": "AWS_API_CALL",
            "AwsApiCallAction": {"Api": api, "RemoteIpDetails": {"IpAddressV4": "198.51.100.7"}},
        },
        "Workflow": {"Status": "NEW"},
        "RecordState": "ACTIVE",
        **more,
    }


def ocsf(user: str = "AIDABOB", api: str = "DeleteTrail", **more: Any) -> Plain:
    """The same call as an OCSF Detection Finding."""
    return {
        "class_uid": 2004,
        "time": 1714557600000,
        "severity_id": 3,
        "metadata": {"product": {"name": "Some EDR"}, "version": "1.5.0"},
        "cloud": {"account": {"uid": ACCOUNT}, "provider": "AWS"},
        "finding_info": {
            "uid": f"ocsf-{user}-{api}",
            "title": "Trail deleted",
            "types": ["Audit tampering"],
            "attacks": [
                {"tactic": {"name": "Defense Evasion", "uid": "TA0005"}, "technique": {"uid": "T1562"}},
            ],
        },
        "evidences": [
            {
                "actor": {"user": {"uid": user}},
                "api": {"operation": api, "service": {"name": "cloudtrail.amazonaws.com"}},
                "src_endpoint": {"ip": "198.51.100.7"},
            }
        ],
        **more,
    }
