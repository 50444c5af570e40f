"""Makes example files for docs/tutorial.md: CloudTrail logs and GuardDuty findings of three tenants.

    python benchmarks/example_cloudtrail.py --out data/example-aws

`0`, `1` and `2` are what each tenant has: a folder `cloudtrail` as S3 delivers it, and a folder `guardduty` with the
findings about it, as GuardDuty exports them. Each tenant was attacked in one way. `test` is what the orchestrator
judges by, attacked in all three, and `today` is tenant 1's new day. A few of the tenants' findings are missing, or
about something else, as in life. The logs are made up: they show how things fit together, not how good a detector is.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

# What an attacker calls, and the type of GuardDuty's finding about it.
ATTACKS = {
    "persistence": (
        ("iam:CreateUser", "iam:CreateAccessKey", "iam:AttachUserPolicy", "iam:CreateLoginProfile"),
        "Persistence:IAMUser/AnomalousBehavior",
    ),
    "defense evasion": (
        ("cloudtrail:StopLogging", "cloudtrail:DeleteTrail", "ec2:DeleteFlowLogs", "guardduty:DeleteDetector"),
        "Stealth:IAMUser/CloudTrailLoggingDisabled",
    ),
    "credential access": (
        (
            "secretsmanager:ListSecrets",
            "secretsmanager:GetSecretValue",
            "ssm:GetParametersByPath",
            "sts:GetSessionToken",
        ),
        "CredentialAccess:IAMUser/AnomalousBehavior",
    ),
}
_WORK = {
    "reader": ("s3:ListBuckets", "ec2:DescribeInstances", "ec2:DescribeVolumes", "cloudwatch:GetMetricData"),
    "builder": ("ec2:RunInstances", "ec2:CreateTags", "s3:PutBucketTagging", "lambda:UpdateFunctionConfiguration"),
    "deployer": ("cloudformation:DescribeStacks", "cloudformation:UpdateStack", "ecr:GetAuthorizationToken"),
    "admin": ("iam:ListUsers", "iam:GetUser", "iam:ListRoles", "iam:CreateUser", "secretsmanager:GetSecretValue"),
}
_READS = ("Get", "List", "Describe")
_DAY, _WINDOW = 86_400, 300
_START = 1_760_054_400  # 2025-10-10 00:00 UTC, seconds since 1970
_USERS = 16
Record = dict[str, Any]


def account_of(owner: str) -> str:
    """Twelve digits."""
    return f"{100_000_000_000 + int.from_bytes(owner.encode()) % 10**9:012d}"


def event(owner: str, user: int, call: str, second: float, address: str, number: int) -> Record:
    """One call of a user, as CloudTrail writes it."""
    service, _, name = call.partition(":")
    return {
        "eventVersion": "1.08",
        "eventTime": f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": f"{service}.amazonaws.com",
        "eventName": name,
        "awsRegion": "eu-west-1",
        "sourceIPAddress": address,
        "userAgent": "aws-cli/2.17",
        "readOnly": name.startswith(_READS),
        "eventID": f"{owner}-{second:.0f}-{number}",
        "eventType": "AwsApiCall",
        "recipientAccountId": account_of(owner),
        "userIdentity": {
            "type": "IAMUser",
            "principalId": f"AIDA{owner.upper()}{user:04d}",
            "arn": f"arn:aws:iam::{account_of(owner)}:user/{list(_WORK)[user % len(_WORK)]}-{user}",
            "accountId": account_of(owner),
            "accessKeyId": f"AKIA{owner.upper()}{user:04d}",
            "userName": f"{list(_WORK)[user % len(_WORK)]}-{user}",
        },
    }


def finding(kind: str, about: Sequence[Record], number: int) -> Record:
    """What GuardDuty says of some calls, as it exports it to S3."""
    first, last = about[0], about[-1]
    identity = first["userIdentity"]
    return {
        "schemaVersion": "2.0",
        "accountId": first["recipientAccountId"],
        "region": first["awsRegion"],
        "id": f"finding-{first['recipientAccountId']}-{number}",
        "type": kind,
        "severity": 5.0,
        "createdAt": last["eventTime"],
        "updatedAt": last["eventTime"],
        "resource": {
            "resourceType": "AccessKey",
            "accessKeyDetails": {name: identity[name] for name in ("accessKeyId", "principalId", "userName")},
        },
        "service": {
            "action": {
                "actionType": "AWS_API_CALL",
                "awsApiCallAction": {
                    "api": last["eventName"],
                    "serviceName": last["eventSource"],
                    "remoteIpDetails": {"ipAddressV4": last["sourceIPAddress"]},
                },
            },
            "eventFirstSeen": first["eventTime"],
            "eventLastSeen": last["eventTime"],
            "archived": False,
            "count": len(about),
        },
    }


def work(owner: str, begin: int, days: int, rng: np.random.Generator) -> list[Record]:
    """What users do on working days."""
    found: list[Record] = []
    for user in range(_USERS):
        calls = _WORK[list(_WORK)[user % len(_WORK)]]
        for window in range(days * _DAY // _WINDOW):
            hour = window * _WINDOW % _DAY // 3600
            if not 7 <= hour < 18 or rng.random() > 0.35:
                continue
            for second in np.sort(rng.integers(0, _WINDOW, rng.integers(1, 7))):
                call = calls[min(int(rng.exponential(1.0)), len(calls) - 1)]
                moment = begin + window * _WINDOW + float(second)
                found.append(event(owner, user, call, moment, f"198.51.100.{user}", len(found)))
    return found


def attacks(
    owner: str, kinds: Sequence[str], episodes: int, start: int, days: int, rng: np.random.Generator
) -> tuple[list[Record], list[Record]]:
    """Episodes by stolen keys, and the findings about them: of a tenant's own nine of ten."""
    records: list[Record] = []
    findings: list[Record] = []
    for episode in range(episodes):
        calls, kind = ATTACKS[kinds[episode % len(kinds)]]
        user = int(rng.integers(0, _USERS))
        begin = start + int(rng.integers(0, days * _DAY // _WINDOW)) * _WINDOW + int(rng.integers(0, 60))
        address = f"203.0.113.{rng.integers(1, 255)}"
        own = []
        for step in range(int(rng.integers(4, 14))):
            call = calls[int(rng.integers(0, len(calls)))]
            own.append(event(owner, user, call, begin + 9 * step, address, 10**6 + 100 * episode + step))
        records += own
        if episode % 10 != 9 or owner == "test":
            findings.append(finding(kind, own, episode))
    strange = event(f"{owner}x", 0, "s3:ListBuckets", start, "203.0.113.1", 0)
    return records, [*findings, finding("Recon:IAMUser/MaliciousIPCaller", [strange], 10**6)]


def write(folder: Path, records: list[Record], findings: list[Record]) -> None:
    """As S3 has both: a file of records for each two hours, and findings one a line."""
    (folder / "cloudtrail").mkdir(parents=True, exist_ok=True)
    (folder / "guardduty").mkdir(exist_ok=True)
    records.sort(key=lambda record: record["eventTime"])
    parts: dict[str, list[Record]] = {}
    for record in records:
        moment = record["eventTime"]
        parts.setdefault(f"{moment[:10]}T{int(moment[11:13]) // 2 * 2:02d}00Z".replace("-", ""), []).append(record)
    for name, part in parts.items():
        path = folder / "cloudtrail" / f"{part[0]['recipientAccountId']}_CloudTrail_eu-west-1_{name}_example.json.gz"
        path.write_bytes(gzip.compress(json.dumps({"Records": part}).encode(), mtime=0))
    lines = "".join(json.dumps(each) + "\n" for each in findings)
    (folder / "guardduty" / "findings.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the CloudTrail files of docs/tutorial.md.")
    parser.add_argument("--out", type=Path, default=Path("data/example-aws"), help="folder (default: %(default)s)")
    parser.add_argument("--days", type=int, default=1, help="of each tenant (default: %(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(11)
    kinds = list(ATTACKS)
    parts = [(str(tenant), str(tenant), [kind], _START, args.days, 40) for tenant, kind in enumerate(kinds)]
    parts += [("test", "test", kinds, _START, 2 * args.days, 140), ("today", "1", kinds, _START + 7 * _DAY, 1, 12)]
    for folder, owner, own, start, days, each_day in parts:
        records, findings = attacks(owner, own, each_day * days, start, days, rng)
        write(args.out / folder, work(owner, start, days, rng) + records, findings)
    print(f"{args.out}: three tenants, test and today")


if __name__ == "__main__":
    main()
