"""Reads the region of a bucket from S3.

A store answers a request for a bucket of another region with a redirect without a target, and its
client does not pass on the rest of the answer. The answer to an unsigned HEAD of the bucket has the
region in a header, whether the HEAD is allowed or not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.address_guard import AddressRule
from trainedmodel_puller.storage.backends.outbound import WayOut
from trainedmodel_puller.storage.backends.profiles import S3_ENDPOINTS
from trainedmodel_puller.storage.settings import StorageSettings

_HEADER: Final = "x-amz-bucket-region"
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


async def bucket_region(bucket: str, values: Mapping[str, str], settings: StorageSettings) -> str:
    """Return a bucket's region; "" if its store does not say."""
    endpoint = next((values[name] for name in S3_ENDPOINTS if values.get(name)), "")
    region = values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION") or "us-east-1"
    way = WayOut(settings, AddressRule(()))  # the endpoint is its owner's to name, not a model's
    try:
        url = URL(endpoint or f"https://s3.{region}.amazonaws.com") / bucket
        await asyncio.to_thread(way.read, values)
        async with asyncio.timeout(settings.connect_timeout_s):
            answer = await way.request("HEAD", url, {})
            answer.close()
            found = answer.headers.get(_HEADER, "")
    except (aiohttp.ClientError, OSError, ValueError, SourceFault):
        return ""  # a TimeoutError is an OSError
    finally:
        await way.close()
    return found if _REGION.fullmatch(found) else ""
