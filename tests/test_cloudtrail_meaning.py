"""What a CloudTrail record says: whether the call failed, was denied, and by whom it was made."""

import itertools
from typing import Any

import pytest

from shared.data_sources.cloudtrail_identity import principal_key
from shared.data_sources.cloudtrail_outcome import failed, is_denial

ISSUER = {"type": "Role", "principalId": "AROAISSUER", "arn": "arn:aws:iam::1:role/r", "accountId": "1"}
OIDC = "arn:aws:iam::1:oidc-provider/"
STORE = "arn:aws:identitystore::1:identitystore/d-1"
# Each is a principal of its own; the forms are those of the reference, with invented names.
PRINCIPALS: dict[str, dict[str, Any]] = {
    "root": {"type": "Root", "principalId": "111122223333", "accountId": "111122223333"},
    "root of another account": {"type": "Root", "principalId": "444455556666", "accountId": "444455556666"},
    "user": {"type": "IAMUser", "principalId": "AIDAALICE", "userName": "alice"},
    "federated user": {"type": "FederatedUser", "principalId": "111122223333:bob", "accountId": "111122223333"},
    "another federated user": {"type": "FederatedUser", "principalId": "111122223333:eve", "accountId": "111122223333"},
    "role": {"type": "AssumedRole", "principalId": "AROAONE:session", "sessionContext": {"sessionIssuer": ISSUER}},
    "another role": {"type": "AssumedRole", "principalId": "AROATWO:session"},
    "role by its issuer": {"type": "AssumedRole", "sessionContext": {"sessionIssuer": ISSUER}},
    "service account": {
        "type": "WebIdentityUser",
        "principalId": f"{OIDC}oidc.eks.eu-west-1.amazonaws.com/id/X:sts.amazonaws.com:system:serviceaccount:ns:app",
    },
    "another service account": {
        "type": "WebIdentityUser",
        "principalId": f"{OIDC}oidc.eks.eu-west-1.amazonaws.com/id/X:sts.amazonaws.com:system:serviceaccount:ns:db",
    },
    "repository": {
        "type": "WebIdentityUser",
        "principalId": f"{OIDC}token.actions.githubusercontent.com:sts.amazonaws.com:repo:a/b:ref:refs/heads/main",
    },
    "web identity of a bare issuer": {"type": "WebIdentityUser", "principalId": "accounts.google.com:app:1"},
    "another of it": {"type": "WebIdentityUser", "principalId": "accounts.google.com:app:2"},
    "SAML": {"type": "SAMLUser", "principalId": "bdGOnTesti4+=:jdoe", "identityProvider": "bdGOnTesti4+="},
    "SAML, another subject": {"type": "SAMLUser", "principalId": "bdGOnTesti4+=:", "identityProvider": "bdGOnTesti4+="},
    "SAML, another provider": {"type": "SAMLUser", "principalId": "x:jdoe", "identityProvider": "x"},
    "SAML, a qualifier in capitals": {"type": "SAMLUser", "principalId": "ABCDEF:jdoe"},
    "SAML, the same qualifier": {"type": "SAMLUser", "principalId": "ABCDEF:eve"},
    "Identity Center": {
        "type": "IdentityCenterUser", "accountId": "1", "onBehalfOf": {"userId": "u1", "identityStoreArn": STORE},
    },
    "Identity Center, another user": {
        "type": "IdentityCenterUser", "accountId": "1", "onBehalfOf": {"userId": "u2", "identityStoreArn": STORE},
    },
    "Identity Center, another store": {
        "type": "IdentityCenterUser", "accountId": "1", "onBehalfOf": {"userId": "u1", "identityStoreArn": f"{STORE}2"},
    },
    "unknown sign-in": {"type": "Unknown", "principalId": "111122223333", "accountId": "111122223333", "userName": "a"},
    "another unknown": {"type": "Unknown", "principalId": "111122223333", "accountId": "111122223333", "userName": "b"},
    "service": {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"},
    "another service": {"type": "AWSService", "invokedBy": "s3.amazonaws.com"},
    "account": {"type": "AWSAccount", "accountId": "777788889999", "principalId": "AIDAOTHER"},
    "anonymous": {"type": "AWSAccount", "principalId": "", "accountId": "ANONYMOUS_PRINCIPAL"},
    "directory": {"type": "Directory", "principalId": "d-1:x"},
    "a domain in capitals": {"type": "Directory", "principalId": "CORP:jane"},
    "another of the domain": {"type": "Directory", "principalId": "CORP:eve"},
    "of a provider in capitals": {"type": "Unknown", "principalId": "GOOGLE:jane"},
    "another of the provider": {"type": "Unknown", "principalId": "GOOGLE:eve"},
    "of no type": {"principalId": "GOOGLE:jane"},
    "another of no type": {"principalId": "GOOGLE:eve"},
    "sign-in without an id": {"type": "IAMUser", "accountId": "1", "userName": "alice"},
    "another without an id": {"type": "IAMUser", "accountId": "1", "userName": "bob"},
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PRINCIPALS, 2)))
def test_no_two_principals_have_one_key(one: str, other: str) -> None:
    assert principal_key(PRINCIPALS[one]) != principal_key(PRINCIPALS[other])


@pytest.mark.parametrize("name", PRINCIPALS)
def test_no_key_is_a_part_that_many_share(name: str) -> None:
    assert principal_key(PRINCIPALS[name]) not in ("arn", "", "|||", "accounts.google.com", "ABCDEF")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "AssumedRole", "principalId": "AROAX:laptop"}, {"type": "AssumedRole", "principalId": "AROAX:tool"}),
        ({"type": "AssumedRole", "principalId": "AROAX:s"}, {"type": "AWSAccount", "principalId": "AROAX:s"}),
        ({"type": "AssumedRole", "principalId": "AROAX:s"}, {"principalId": "AROAX:another"}),
        (PRINCIPALS["role by its issuer"], {"type": "AssumedRole", "principalId": "AROAISSUER:session"}),
        (
            PRINCIPALS["user"] | {"sessionContext": {"attributes": {"mfaAuthenticated": "true"}}},
            PRINCIPALS["user"] | {"accessKeyId": "AKIAX", "userName": "renamed"},
        ),
        (
            PRINCIPALS["role"],
            PRINCIPALS["role"] | {"onBehalfOf": {"userId": "u1", "identityStoreArn": STORE}},
        ),
    ],
)
def test_one_principal_has_one_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert principal_key(one) == principal_key(other)


@pytest.mark.parametrize(
    "identity",
    [{}, {"type": 3}, {"principalId": ["x"]}, {"type": "AssumedRole", "sessionContext": "x"}, {"onBehalfOf": "x"},
     {"type": "AssumedRole", "principalId": None, "sessionContext": {"sessionIssuer": None}}],
)  # fmt: skip
def test_an_identity_of_any_form_has_a_key(identity: dict[str, Any]) -> None:
    assert isinstance(principal_key(identity), str)


@pytest.mark.parametrize(
    ("record", "is_failure"),
    [
        ({"errorCode": "AccessDenied"}, True),
        ({"errorMessage": "Failed authentication", "responseElements": {"ConsoleLogin": "Failure"}}, True),
        ({"errorMessage": "No username found in supplied account"}, True),
        ({"responseElements": {"ConsoleLogin": "Failure"}}, True),
        ({"responseElements": {"SwitchRole": "Failure"}}, True),
        ({"responseElements": {"CheckMfa": "Failure"}}, True),
        ({"serviceEventDetails": {"CredentialVerification": "Failure"}}, True),
        ({"serviceEventDetails": {"UserAuthentication": "Success"}}, False),
        ({"responseElements": {"ConsoleLogin": "Success"}}, False),
        ({"responseElements": {"nested": {"status": "Failure"}}}, False),
        ({"responseElements": None, "errorCode": None, "errorMessage": ""}, False),
        ({"responseElements": "Failure"}, False),
        ({"responseElements": {"list": ["Failure"], "more": {}}}, False),
        ({}, False),
    ],
)
def test_a_failure_is_told_by_code_message_or_answer(record: dict[str, Any], is_failure: bool) -> None:
    assert failed(record) is is_failure


@pytest.mark.parametrize(
    "code",
    [
        "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation", "UnauthorizedOperation",
        "UnauthorizedException", "NotAuthorizedException", "NotAuthorized", "AuthorizationError",
        "AuthorizationErrorException", "AuthFailure", "Client.AuthFailure", "Forbidden", "ForbiddenException",
        "KMS.AccessDeniedException", "KMSAccessDeniedException", "com.amazonaws.x#AccessDeniedException",
        "AccessDeniedForDependencyException", "InvalidAccessException", "AllAccessDisabled",
        "UnauthorizedClientException", "accessdenied", " AccessDenied ",
    ],
)  # fmt: skip
def test_denials(code: str) -> None:
    assert is_denial(code)


@pytest.mark.parametrize(
    "code",
    ["", "ThrottlingException", "NoSuchBucket", "ValidationException", "Client.InstanceLimitExceeded", "Exception",
     "InvalidClientTokenId", "Error", "Failed authentication", "Client.DryRunOperation", "ResourceNotFoundException"],
)  # fmt: skip
def test_no_denials(code: str) -> None:
    assert not is_denial(code)


WITHOUT_ID: dict[str, dict[str, Any]] = {
    "a user's arn": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/alice"},
    "another user's arn": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/bob"},
    "a role's arn": {"type": "AssumedRole", "arn": "arn:aws:sts::1:assumed-role/deploy/i-1"},
    "another role's arn": {"type": "AssumedRole", "arn": "arn:aws:sts::1:assumed-role/admin/i-1"},
    "an issuer's arn": {"type": "AssumedRole", "sessionContext": {"sessionIssuer": {"arn": "arn:aws:iam::1:role/x"}}},
    "another issuer's arn": {
        "type": "AssumedRole", "sessionContext": {"sessionIssuer": {"arn": "arn:aws:iam::1:role/y"}},
    },
    "an access key": {"type": "IAMUser", "accessKeyId": "AKIAONE"},
    "another access key": {"type": "IAMUser", "accessKeyId": "AKIATWO"},
    "a credential": {"type": "IdentityCenterUser", "credentialId": "c-1"},
    "another credential": {"type": "IdentityCenterUser", "credentialId": "c-2"},
    "a provider": {"type": "WebIdentityUser", "identityProvider": "accounts.google.com"},
    "another provider": {"type": "WebIdentityUser", "identityProvider": "cognito-identity.amazonaws.com"},
    "a part with the mark between parts": {"type": "SAMLUser", "identityProvider": "a|b", "principalId": "c"},
    "a part with it elsewhere": {"type": "SAMLUser", "identityProvider": "a", "principalId": "b|c"},
}  # fmt: skip


def test_who_has_no_principal_id_is_told_apart_all_the_same() -> None:
    """They were all of one principal, `type` and nothing else."""
    assert len({principal_key(identity) for identity in WITHOUT_ID.values()}) == len(WITHOUT_ID)
    sessions: list[dict[str, Any]] = [
        {"type": "AssumedRole", "arn": f"arn:aws:sts::1:assumed-role/deploy/{name}"} for name in ("a", "b")
    ]
    assert len({principal_key(identity) for identity in sessions}) == 1, "the session's name is the caller's choice"


@pytest.mark.parametrize(
    "code",
    [
        "EC2AccessDeniedException", "S3AccessDeniedFault", "SNSNoAuthorizationFault", "Client.UnauthorizedOperation",
        "AccessDeniedException:http://internal.amazon.com/coral/com.amazon.coral.service/",
        "com.amazonaws.kms#AccessDeniedException",
    ],
)  # fmt: skip
def test_a_denial_is_known_by_its_code(code: str) -> None:
    assert is_denial(code)


@pytest.mark.parametrize("code", ["", "-", "null", "None", "N/A", "(null)", "\\N", float("nan"), None])
def test_what_an_export_writes_for_no_error_is_none(code: str | float | None) -> None:
    assert not failed({"errorCode": code})
