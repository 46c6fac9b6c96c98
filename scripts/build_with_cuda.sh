#!/usr/bin/env bash
# Builds the whole extension against a CUDA build of PyTorch, imports it, and runs the CPU's tests with it. Needs nvcc
# but no GPU; takes a virtual environment of its own, 7 GB, from the package registry.
#
#   scripts/build_with_cuda.sh [FOLDER]    where everything goes (default: build/cuda)
#   TORCH_CUDA=2.11.0                      which PyTorch; PyPI's is built for CUDA
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v nvcc >/dev/null; then
    echo "build_with_cuda: there is no nvcc on PATH" >&2
    exit 1
fi
mkdir -p "${1:-build/cuda}"
folder=$(cd "${1:-build/cuda}" && pwd)
python=$folder/venv/bin/python
export CONVINIT_CUDA=1 PIP_DISABLE_PIP_VERSION_CHECK=1

step() { echo "== $1 (${SECONDS} s)"; }

step "environment"
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
"$python" -m pip install --quiet --upgrade 'pip>=25.1'
"$python" -m pip install --quiet "torch==${TORCH_CUDA:-2.11.0}" --group build --group test

step "build"
# A copy, since the extension built here would take the place of the one without CUDA.
mkdir -p "$folder/source"
tar --exclude=./build --exclude='./.[!.]*' --exclude='*.so' --exclude='*.egg-info' -cf - . | tar -xf - -C "$folder/source"
cd "$folder/source"
"$python" setup.py --quiet build_ext --inplace

step "import"
"$python" - <<'PYTHON'
import torch
from convinit_ext import _C, init

cuda = _C.build_info()["cuda"]
print(f"torch {torch.__version__}, convinit_ext built with CUDA {cuda}")
assert cuda.startswith(torch.version.cuda.split(".")[0] + "."), cuda
for name in ("fill_", "fill_one_", "fill_part_", "digest", "compare"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"convinit_ext::{name}", "CUDA"), name
init.normal_(torch.empty(9))
PYTHON

step "tests"
"$python" -m pytest -q
step "done"
