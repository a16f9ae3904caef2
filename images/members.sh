#!/bin/sh
# Second step of an image's build: our own packages, bytecode, the inventory; no network is used.
# Usage: members.sh operator|puller
set -eu
export PYTHONDONTWRITEBYTECODE=1
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INDEX=1

/build/tools/bin/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir /build/wheels \
    ./contract "./$1"
/build/tools/bin/pip --python /opt/trainedmodel/bin/python install --quiet --no-compile --no-deps \
    /build/wheels/*.whl

# Tests and type stubs of libraries are never run here.
site=$(/opt/trainedmodel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find "$site" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) -delete

# The client's parts are imported by name at the first report only.
/opt/trainedmodel/bin/python images/bytecode.py /build/base trainedmodel_contract "trainedmodel_$1" \
    kubernetes.aio.client kubernetes.aio.config.incluster_config
/opt/trainedmodel/bin/python images/inventory.py "trainedmodel-$1" /usr/share/trainedmodel
