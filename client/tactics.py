"""MITRE ATT&CK tactics of CloudTrail calls, where the call alone says what it is good for.

The table is short on purpose. Most calls (a `Describe…`, a `RunInstances`) serve an attacker and an administrator
alike, and many serve several tactics; those are left out, and an alert without a tactic is no lesser alert. The calls
are those that the ATT&CK matrix for IaaS, version 16, names as examples of a technique, or that do the same thing.
"""

from collections.abc import Iterable

from shared.data_sources.cloudtrail_features import TAMPERING

ATTACK_VERSION = "16.0"
PERSISTENCE, PRIVILEGES = ("TA0003", "Persistence"), ("TA0004", "Privilege Escalation")
EVASION, CREDENTIALS = ("TA0005", "Defense Evasion"), ("TA0006", "Credential Access")
DISCOVERY, EXECUTION = ("TA0007", "Discovery"), ("TA0002", "Execution")
EXFILTRATION, IMPACT, ACCESS = ("TA0010", "Exfiltration"), ("TA0040", "Impact"), ("TA0001", "Initial Access")

# By the name that Sigma's tags give a tactic. Those of versions after 16 that are not here have no id in an alert.
TACTIC_IDS = {
    name.lower().replace(" ", "-"): uid
    for uid, name in (
        PERSISTENCE, PRIVILEGES, EVASION, CREDENTIALS, DISCOVERY, EXECUTION, EXFILTRATION, IMPACT, ACCESS,
        ("TA0008", "Lateral Movement"), ("TA0009", "Collection"), ("TA0011", "Command and Control"),
        ("TA0042", "Resource Development"), ("TA0043", "Reconnaissance"),
    )
}  # fmt: skip

# eventName -> tactic, for any service.
_CALLS: dict[tuple[str, str], str] = {
    ACCESS: "ConsoleLogin",
    EXECUTION: "SendCommand StartSession SendSSHPublicKey SendSerialConsoleSSHPublicKey",
    PERSISTENCE: """
        CreateUser CreateAccessKey CreateLoginProfile UpdateLoginProfile CreateServiceSpecificCredential
        ImportKeyPair CreateKeyPair UpdateAssumeRolePolicy CreateTrustAnchor CreateProfile AddPermission20150331v2
        UpdateFunctionCode20150331v2
    """,
    PRIVILEGES: """
        AttachUserPolicy AttachRolePolicy AttachGroupPolicy PutUserPolicy PutRolePolicy PutGroupPolicy
        CreatePolicyVersion SetDefaultPolicyVersion AddUserToGroup
    """,
    CREDENTIALS: """
        GetSecretValue BatchGetSecretValue GetPasswordData GetParameter GetParameters GetParametersByPath
        GetFederationToken
    """,
    DISCOVERY: "GetAccountAuthorizationDetails SimulatePrincipalPolicy DescribeInstanceAttribute",
    EXFILTRATION: "ModifySnapshotAttribute ModifyImageAttribute ModifyDBSnapshotAttribute PutBucketPolicy",
    IMPACT: "ScheduleKeyDeletion DeleteBucket DeleteObjects TerminateInstances DeleteDBInstance DeleteDBCluster",
}
TACTIC_OF = {
    **{name: tactic for tactic, names in _CALLS.items() for name in names.split()},
    # The same calls that the feature `tampering_events` counts.
    **dict.fromkeys(TAMPERING, EVASION),
}


def tactics_of(apis: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """(id, name) of each tactic that the calls are known for, and which calls those are.

    Args:
        apis: calls as `eventSource:eventName`.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for api in apis:
        if tactic := TACTIC_OF.get(api.rpartition(":")[2]):
            found.setdefault(tactic, []).append(api)
    return found
