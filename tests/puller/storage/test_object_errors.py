from __future__ import annotations

import pytest
from obstore import exceptions
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.storage.backends.object_errors import source_fault
from trainedmodel_puller.storage.backends.request_signing import can_sign, has_metadata_service

_DUMP = "\n\nDebug source:\nGeneric {\n    source: RetryError(secret)\n}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            exceptions.GenericError(
                "Generic MicrosoftAzure error: Error performing GET "
                "https://a.blob.core.windows.net/c?sig=secret in 1ms - Server returned non-2xx "
                "status code: 403 Forbidden: <Error><Code>AuthenticationFailed</Code>" + _DUMP
            ),
            Reason.ACCESS_DENIED,
        ),
        (
            exceptions.GenericError(
                "Generic GCS error: Error performing token request: Error performing GET "
                "http://169.254.169.254/token?audience=secret in 1ms - Server returned non-2xx "
                "status code: 404 Not Found: " + _DUMP
            ),
            Reason.ACCESS_DENIED,
        ),
        (
            exceptions.GenericError("error sending request"),
            Reason.SOURCE_UNREACHABLE,
        ),
        (exceptions.GenericError("error decoding response body"), Reason.SOURCE_UNREACHABLE),
        (exceptions.PreconditionError("x?sig=secret status code: 412"), Reason.SOURCE_CHANGED),
        (
            FileNotFoundError("status code: 404 <Code>XNoSuchUser</Code>"),
            Reason.ACCESS_DENIED,
        ),
        (FileNotFoundError("status code: 404 <Code>NoSuchBucket</Code>"), Reason.OBJECT_NOT_FOUND),
        (exceptions.GenericError("status code: 416"), Reason.SIZE_MISMATCH),
        (
            exceptions.GenericError(
                "Received redirect without LOCATION from https://x/?sig=secret: wrong region"
                + _DUMP
            ),
            Reason.SOURCE_ERROR,
        ),
    ],
)
def test_the_clients_words_become_a_reason_and_no_secret(error: Exception, reason: Reason) -> None:
    fault = source_fault(error, "s3://bucket/m")
    assert fault.reason is reason
    assert "secret" not in str(fault)
    assert fault.message.startswith("s3://bucket/m: ")
    assert len(fault.message) < 400


@pytest.mark.parametrize(
    ("provider", "variables", "signs"),
    [
        ("s3", {}, False),
        ("s3", {"AWS_ACCESS_KEY_ID": "a"}, False),
        ("s3", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, True),
        (
            "s3",
            {
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
                "AWS_SKIP_SIGNATURE": "True",
            },
            False,
        ),
        ("s3", {"AWS_ROLE_ARN": "a", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}, True),
        ("s3", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}, True),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, True),
        ("gs", {}, False),
        ("az", {"AZURE_CLIENT_ID": "a", "AZURE_FEDERATED_TOKEN_FILE": "/t"}, True),
        ("az", {"AZURE_CLIENT_ID": "a"}, False),
        ("az", {"AZURE_STORAGE_ACCOUNT_KEY": ""}, False),
    ],
)
def test_requests_are_signed_if_there_is_something_to_sign_with(
    provider: str, variables: dict[str, str], *, signs: bool
) -> None:
    assert can_sign(provider, variables) is signs


async def test_a_metadata_service_that_is_not_there_is_found_out_at_once() -> None:
    assert not await has_metadata_service("127.0.0.1", 1)
