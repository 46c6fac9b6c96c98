#!/usr/bin/env bash
# Installs one wheel under the oldest torch and the newest that pip finds, and runs a part of the tests with each. Takes a
# virtual environment for each (5 GB where the package index has CUDA builds alone).
#
#   scripts/test_wheel.sh [WHEEL]    without one it is built, against the oldest torch
set -euo pipefail
wheel=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
oldest=$(sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml).0
folder=$PWD/build/wheel
export PIP_DISABLE_PIP_VERSION_CHECK=1 CONVINIT_CUDA=${CONVINIT_CUDA:-0}
rm -rf "$folder/tests" "$folder/dist"
mkdir -p "$folder"
cp -r tests "$folder/tests" # the package's folder stays behind: it would hide the one that is installed
cp pyproject.toml "$folder"

for torch in "torch==$oldest" torch; do
    echo "== $torch (${SECONDS} s)"
    python=$folder/${torch//=/-}/bin/python
    [ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/${torch//=/-}"
    "$python" -m pip install --quiet --upgrade 'pip>=25.1'
    "$python" -m pip install --quiet "$torch" 'pytest>=8' safetensors --group build
    if [ -z "$wheel" ]; then
        "$python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$folder/dist" .
        wheel=$(ls "$folder"/dist/*.whl)
    fi
    "$python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
    (cd "$folder" && "$python" -c 'import convinit_ext, torch; print("torch", torch.__version__, convinit_ext.__file__)' &&
        "$python" -m pytest -q tests/test_binary.py tests/engine/test_golden.py tests/engine/test_ops.py \
            tests/engine/test_reading.py tests/init/test_init.py tests/model/test_model.py tests/test_threads.py)
done
