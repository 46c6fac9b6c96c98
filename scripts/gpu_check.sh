#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under 8 minutes: builds for the GPU that is here, runs its tests and
# benchmarks, and a part of the tests under compute-sanitizer. Installs nothing; needs torch with CUDA, nvcc,
# ninja, safetensors and pytest.
# Every step runs whatever became of the others; the end says which failed.
#
#   scripts/gpu_check.sh
#   PYTHON=python3    which Python
#   OUT=FOLDER        where result files go (default: benchmarks/results)
#   LIMIT=470         seconds for everything
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
limit=${LIMIT:-470}
failed=()
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# step NAME COMMAND...: runs it within the time that is left, and remembers whether it failed.
step() {
    local name=$1 left=$((limit - SECONDS))
    shift
    echo "== $name (${SECONDS} s)"
    if [ "$left" -le 0 ]; then
        echo "left out: no time is left"
    elif timeout "$left" "$@"; then
        return 0
    fi
    failed+=("$name")
    return 1
}

capability='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
if ! TORCH_CUDA_ARCH_LIST=$("$python" -c "$capability" 2>/dev/null); then
    echo "gpu_check: $python has no torch that sees a CUDA device" >&2
    exit 1
fi
export TORCH_CUDA_ARCH_LIST CONVINIT_CUDA=1

# In place and without pip, which may not be there.
step "build for sm_$TORCH_CUDA_ARCH_LIST" "$python" setup.py --quiet build_ext --inplace || exit 1
step "build info" "$python" -m convinit_ext info
step "tests" "$python" -m pytest -q -m gpu --durations=5
if "$python" -c "import hypothesis" 2>/dev/null; then
    step "tests of properties" "$python" -m pytest -q tests/engine/test_properties.py
else
    echo "== left out: tests of properties; there is no hypothesis"
fi
step "benchmarks" "$python" benchmarks/gpu_against_torch.py --output "$out/gpu.json" --repeats 5

if command -v compute-sanitizer >/dev/null; then
    part=(tests/engine/test_cuda.py tests/engine/test_cuda_digest.py tests/engine/test_cuda_compare.py)
    part+=(-k "a_list_equals or test_layouts or digests_of_layouts or lists_are_one_launch")
    for tool in memcheck racecheck initcheck; do
        # Every tensor an allocation of its own, so that its end is the end.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" -m pytest -q "${part[@]}"
    done
else
    echo "== left out: memcheck, racecheck and initcheck; there is no compute-sanitizer on PATH"
fi

echo "== done (${SECONDS} s)"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "every step passed; bars missed: $(grep -c '"met": false' "$out/gpu.json"); figures are in $out/gpu.json"
