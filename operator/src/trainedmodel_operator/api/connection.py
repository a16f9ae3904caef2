"""The connection: the address of the API server and the identity of the operator.

It is read once, at start, from KUBECONFIG, the pod's service account, or `~/.kube/config`, as
`kubectl` and in-cluster clients do. The operator's clients and kopf's watches share it, so they
always use one identity.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import kopf
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from trainedmodel_operator.errors import ConfigurationError


async def load_configuration() -> kubernetes_client.Configuration:
    """Read how to reach the API: KUBECONFIG, the pod's service account, or ~/.kube/config.

    Raises:
        ConfigurationError: none of them is usable.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    except (kubernetes_config.ConfigException, OSError) as error:
        raise ConfigurationError(f"cannot reach the Kubernetes API: {error}") from error
    configuration.proxy = configuration.proxy or _proxy_of_environment(configuration.host)
    # aiohttp would look for a proxy and a .netrc, in a thread, before each request.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


def _proxy_of_environment(server: str) -> str | None:
    """Return the proxy that HTTPS_PROXY and its like name for a server, if NO_PROXY does not."""
    parts = urlsplit(server)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


async def kopf_login(configuration: kubernetes_client.Configuration) -> kopf.ConnectionInfo:
    """Give kopf the login that our own client has; asked again when a token has expired."""
    key = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (key or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme.capitalize() or None,
        token=token or None,
    )
