#!/bin/sh
# First step of an image's build: the environment with everything that is not ours.
# Usage: install.sh operator|puller
set -eu
[ -s /run/secrets/pip.conf ] && export PIP_CONFIG_FILE=/run/secrets/pip.conf
[ -s /run/secrets/ca.crt ] && export PIP_CERT=/run/secrets/ca.crt
# Nothing is written into the base's own library: what bytecode it lacks is looked at later.
export PYTHONDONTWRITEBYTECODE=1
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# pip and the build back end stay in an environment that no image gets.
python3 -m venv /build/tools
/build/tools/bin/pip install --quiet --require-hashes -r requirements/build.txt
python3 -m venv --without-pip /opt/trainedmodel
/build/tools/bin/pip --python /opt/trainedmodel/bin/python install --quiet --no-compile \
    --require-hashes --only-binary :all: -r "requirements/$1.txt"
