#!/bin/sh
# Installs MLServer into /opt/mlserver from its pinned requirements, in an image's build.
set -eu
[ -s /run/secrets/pip.conf ] && export PIP_CONFIG_FILE=/run/secrets/pip.conf
[ -s /run/secrets/ca.crt ] && export PIP_CERT=/run/secrets/ca.crt
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
python3 -m venv /opt/mlserver
/opt/mlserver/bin/pip install --quiet --require-hashes -r /build/requirements.txt
rm -rf /opt/mlserver/lib/python3.11/site-packages/pip
find /opt/mlserver -type d -name tests -prune -exec rm -rf {} +
