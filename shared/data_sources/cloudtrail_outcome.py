"""Whether a call failed, and whether it was denied, by what its CloudTrail record says."""

from typing import Any

from shared.data_sources.cloudtrail_keys import is_blank

# Codes by which services refuse for want of a permission: in lower case, of a dotted code the last part, and without a
# trailing "Exception", "Fault" or "Error". From the lists of errors in the API references: IAM's common errors, EC2,
# S3, SNS, SQS and Kinesis (KMS's refusals), IoT, Cognito, API Gateway, Organizations, Elastic Beanstalk, Security Hub,
# SSO OIDC and WorkDocs.
DENIALS = frozenset(
    """
    accessdenied accessdeniedfordependency allaccessdisabled authfailure authorization forbidden
    insufficientprivileges invalidaccess kmsaccessdenied notauthorized unauthorized unauthorizedaccess
    unauthorizedclient unauthorizedoperation unauthorizedresourceaccess
    """.split()  # noqa: SIM905 (one value per line would fill a screen)
)


def failed(record: dict[str, Any]) -> bool:
    """Whether the call failed. Sign-in events have no error code: they say so in a message, or in what they answer."""
    if not all(is_blank(record.get(name)) for name in ("errorCode", "errorMessage")):
        return True
    for name in ("responseElements", "serviceEventDetails"):
        answer = record.get(name)
        if isinstance(answer, dict) and "Failure" in [value for value in answer.values() if isinstance(value, str)]:
            return True
    return False


def is_denial(code: str) -> bool:
    """Whether an error code says that the caller lacks a permission: the code alone, not what a message says."""
    # com.amazonaws.kms#AccessDeniedException, AccessDeniedException:http://internal.amazon.com/coral/...
    bare = code.strip().casefold().rpartition("#")[2].partition(":http")[0].rpartition(":")[2].rpartition(".")[2]
    for ending in ("exception", "fault", "error"):
        bare = bare.removesuffix(ending)
    # Some services put their own name before it: EC2AccessDenied, S3AccessDenied, SNSNoAuthorization.
    return bare in DENIALS or bare.endswith(("accessdenied", "noauthorization"))
