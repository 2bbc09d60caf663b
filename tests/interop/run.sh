#!/bin/sh
# Real diffusers and peft load what `npoctl export` writes (interop.py) and draw the pictures of
# `npoctl sample` (samples.py).
#
#   tests/interop/run.sh [BUILD]      BUILD: build/release, made where it is not there
#
# INTEROP_PYTHON names a Python with torch, diffusers, transformers, peft and safetensors; otherwise
# a virtual environment with the newest of PyPI is made in BUILD/interop-venv. Not part of CI.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/release}
[ -d "$build" ] || meson setup "$build" "$root" -Dtests=enabled --buildtype release
ninja -C "$build"
python=${INTEROP_PYTHON:-}
if [ -z "$python" ]; then
    venv=$build/interop-venv
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch diffusers transformers peft safetensors accelerate pillow
    python=$venv/bin/python
fi
"$python" "$root/tests/interop/interop.py" "$build"
exec "$python" "$root/tests/interop/samples.py" "$build"
