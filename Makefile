# `make run` and `make test` each do all their own set-up, in .venv, on a machine with Python >= 3.10 and a C++17 compiler.
# They say in one line what is missing where something is, and set up again only what changed.
#
#   TORCH=2.11.0 make test    another PyTorch: the one that is installed and built against
#   PYTHON=python3.12 make    another Python, for a .venv that does not exist yet
#   CXX=clang++ make          another compiler
#   make run ARGS="--recipe he --seed 7"    arguments for the command behind the target

TORCH ?= 2.13.0
VENV ?= .venv
PYTHON ?= $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && exit; \
	done; echo python3)
ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP := sh scripts/pip_install.sh $(VENV)/bin/python
WORKERS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
INSTALL := $(PIP) --no-build-isolation --editable '.[progress]'
COMPILE := $(VENV)/bin/python scripts/compile.py
CXX_SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h csrc/*/*.inl csrc/*/*.cu)
CXX_TESTS := $(wildcard tests/*/*.cpp tests/*/*.h tests/*/*.cu benchmarks/*/*.cpp benchmarks/*/*.c)
# Without contraction, as setup.py has it. Formulas are called, not copied (csrc/core/macros.h). GCC's own AVX-512 headers
# set off its warnings about uninitialised variables.
CHECKED := -std=c++17 -ffp-contract=off -DCONVINIT_INLINE='__attribute__((unused))' -Wall -Wextra -Wno-psabi -pthread -Icsrc
# The kernels alone, without torch: every access watched, every race of threads, every line counted.
NATIVE_sanitize := -fsanitize=address,undefined -fno-sanitize-recover=all
NATIVE_races := -fsanitize=thread
NATIVE_coverage := --coverage
NATIVE := $(CXX) $(CHECKED) -O1 -g1 -Wno-uninitialized -Wno-maybe-uninitialized
NATIVE_TESTS := tests/sanitize/fill_everything tests/cuda/kernels
NATIVE_SOURCES := $(wildcard csrc/cpu/*.cpp) tests/cuda/engine_on_cpu.cpp $(NATIVE_TESTS:%=%.cpp)
ARM := aarch64-linux-gnu-g++ $(CHECKED) -O2 -Werror -static
ARM_ENGINE := $(patsubst %.cpp,build/arm/%.o,$(wildcard csrc/cpu/*.cpp))
ARM_PROGRAMS := build/arm/fill_everything build/arm/engine_rows
# A GPU's code for one generation, and the formulas of the oldest as nvcc's intermediate code: they differ (cuda/convert.h).
NVCC := nvcc -std=c++17 --fmad=false -Icsrc -gencode arch=compute_75,code=compute_75 -gencode arch=compute_90,code=sm_90
CUDA_OBJECTS := $(patsubst %.cu,build/%.o,$(wildcard csrc/cuda/*.cu) tests/cuda/core_compiles.cu)
# Their intermediate code (PTX), of which that for ARCHS is run. Neither compiler may fuse what it does not.
ARCHS ?= 90
PTX_ARCHS := 75 80 90 100
PTX_NVCC := nvcc -std=c++17 --fmad=false -O1 -Icsrc --threads 2 \
	$(foreach arch,$(PTX_ARCHS),-gencode arch=compute_$(arch),code=compute_$(arch))
PTX_CXX := $(CXX) -std=c++17 -ffp-contract=off -O1 -Wall -Wextra -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized \
	-Icsrc -Itests/cuda -Itests/fake_cuda -Itests/ptx
PTX_KERNELS := $(patsubst csrc/cuda/%.cu,%,$(wildcard csrc/cuda/*.cu))
PTX_HOST := $(PTX_KERNELS:%=build/ptx/%.o) build/ptx/runtime.o \
	$(patsubst %.cpp,build/ptx/%.o,$(wildcard csrc/cpu/*.cpp) tests/ptx/machine.cpp)
PTX_PROGRAMS := $(foreach arch,$(ARCHS),build/ptx/$(arch)/kernels build/ptx/$(arch)/launcher)
PTX_ROWS := $(ARCHS:%=build/ptx/%/engine_rows)

# Stops with the sentence that scripts/missing_tool.sh prints, if it prints one. Expanded before a recipe's first line runs.
stop_if_a_tool_is_missing = $(eval missing := $(shell sh scripts/missing_tool.sh '$(PYTHON)' '$(CXX)'))$(if \
	$(missing),$(error $(missing)))

.PHONY: run test test-slow test-install test-wheel coverage test-clients with-clients fuzz test-zoo with-zoo bench docs lint format sanitize check-races check-arm check-cuda check-ptx test-cuda-build clean
.DELETE_ON_ERROR:

run: $(VENV)/built
	$(VENV)/bin/python -m convinit_ext run $(ARGS)

# In a process for each core. make test ARGS="tests/test_keys.py -n 0" runs them in one, which starts sooner.
test: $(VENV)/built $(VENV)/test-tools
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Those that take minutes or many GiB of memory, and those of properties with 1,000 examples each: 10,000 cases.
test-slow: $(VENV)/built $(VENV)/test-tools
	HYPOTHESIS_PROFILE=many $(VENV)/bin/python -m pytest -m 'slow or hypothesis' $(ARGS)

# Of those, the ones that install the package as a user does. What `built` compiled is not compiled again.
test-install: $(VENV)/built $(VENV)/test-tools
	$(VENV)/bin/python -m pytest -m slow tests/test_build.py tests/test_packages.py

# One wheel under the oldest torch and the newest, in virtual environments of their own (10 GB with CUDA's libraries).
test-wheel:
	scripts/test_wheel.sh

# How many of the lines the tests run: 95 of 100 of the Python's, 90 of those of csrc/cpu and csrc/core. With GCC.
coverage: $(VENV)/built $(VENV)/test-tools $(NATIVE_TESTS:%=run/coverage/%)
	rm -f .coverage*
	$(VENV)/bin/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile $(ARGS)
	$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python scripts/native_coverage.py build/coverage 90
	$(VENV)/bin/python -m coverage report

# With other frameworks' own code, and the pages about them, on two processes without a GPU, in a virtual environment of
# its own (3 GB).
test-clients:
	$(MAKE) VENV=.venv-clients with-clients

with-clients: export DS_ACCELERATOR := cpu
with-clients: $(VENV)/built $(VENV)/clients
	$(VENV)/bin/python -m pytest -W default tests/clients tests/test_docs.py -k clients $(ARGS)

# Hostile arguments and files for as many minutes: what ends a process, hangs or says nothing goes into a corpus.
fuzz: $(VENV)/built $(VENV)/test-tools
	PYTHONPATH=. $(VENV)/bin/python tests/fuzz/fuzz.py --minutes $(or $(MINUTES),60) $(ARGS)

# The model types of transformers, timm, diffusers and torchtitan under every recipe, in a virtual environment of its own
# (3 GB): most of an hour. ARGS="-k transformers-bert" for some. What is wrong fails; the counts come at the end.
test-zoo:
	$(MAKE) VENV=.venv-zoo with-zoo

with-zoo: $(VENV)/built $(VENV)/zoo
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) tests/zoo $(ARGS)

# Threads that wait do not take the core of those that work, since there are more of them than cores.
test test-slow test-install coverage with-clients with-zoo: export OMP_WAIT_POLICY := passive

bench: $(VENV)/built $(VENV)/test-tools
	$(VENV)/bin/python -m pytest benchmarks $(ARGS)

# The site of docs/ and the docstrings: build/docs/index.html.
docs: $(VENV)/built $(VENV)/docs-tools
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

lint: $(VENV)/lint-tools
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES) $(CXX_TESTS)

format: $(VENV)/lint-tools
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $(CXX_SOURCES) $(CXX_TESTS)

# The CPU kernels, and the GPU kernels' bodies on the CPU, alone, without torch, under AddressSanitizer and
# UndefinedBehaviorSanitizer. The CPU kernels' threads under ThreadSanitizer, which takes minutes.
sanitize: $(NATIVE_TESTS:%=run/sanitize/%)
check-races: run/races/tests/sanitize/fill_everything

run/%: build/%
	$<

define native
$(NATIVE_TESTS:%=build/$(1)/%): %: %.o $(patsubst %.cpp,build/$(1)/%.o,$(filter-out $(NATIVE_TESTS:%=%.cpp),$(NATIVE_SOURCES)))
	$(NATIVE) $(NATIVE_$(1)) $$^ -o $$@
$(patsubst %.cpp,build/$(1)/%.o,$(NATIVE_SOURCES)): build/$(1)/%.o: %.cpp $(CXX_SOURCES) $(wildcard tests/*/*.h)
	@mkdir -p $$(@D)
	$(NATIVE) $(NATIVE_$(1)) -c $$< -o $$@
endef
$(foreach kind,sanitize races coverage,$(eval $(call native,$(kind))))

# The CPU kernels for 64-bit Arm, compiled on another machine and run in an emulator: its vectors against one value at a time.
check-arm:
	@if command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null; then set -x; \
		$(MAKE) build/arm/fill_everything && qemu-aarch64 build/arm/fill_everything neon; \
	else echo "check-arm: left out, there is no aarch64-linux-gnu-g++ or no qemu-aarch64 on PATH"; fi

build/arm/fill_everything: build/arm/tests/sanitize/fill_everything.o
build/arm/engine_rows: build/arm/benchmarks/quality/engine_rows.o
$(ARM_PROGRAMS): $(ARM_ENGINE)
	$(ARM) $^ -o $@

build/arm/%.o: %.cpp $(CXX_SOURCES)
	@mkdir -p $(@D)
	$(ARM) -c $< -o $@

# nvcc takes the kernels, and every header and formula of csrc/core. And CUDA's ops compile against any torch, since they
# see its stable ABI alone. Needs no GPU.
check-cuda: $(VENV)/torch-$(TORCH)
	$(CXX) -std=c++17 -fvisibility=hidden -Wall -Wextra -Werror -Wno-unused-parameter -Icsrc \
		-isystem $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch/include \
		-fsyntax-only csrc/torch/ops_cuda.cpp
	@if command -v nvcc >/dev/null; then $(MAKE) $(CUDA_OBJECTS); \
	else echo "check-cuda: left out, there is no nvcc on PATH"; fi

$(CUDA_OBJECTS): build/%.o: %.cu $(CXX_SOURCES)
	@mkdir -p $(@D)
	$(NVCC) -Werror all-warnings -c $< -o $@

# What nvcc makes of the kernels, without a GPU: its intermediate code as C++, every thread of it run on a machine that
# watches them, against the CPU kernels (tests/ptx). Of every generation no instruction may be unknown.
check-ptx:
	@if command -v nvcc >/dev/null; then set -e; \
		$(MAKE) $(foreach arch,$(PTX_ARCHS),$(PTX_KERNELS:%=build/ptx/$(arch)/%.cpp)) $(PTX_PROGRAMS); \
		for program in $(PTX_PROGRAMS); do echo "$$program"; "$$program"; done; \
	else echo "check-ptx: left out, there is no nvcc on PATH"; fi

$(filter %/kernels,$(PTX_PROGRAMS)): build/ptx/tests/cuda/kernels.o
$(filter %/launcher,$(PTX_PROGRAMS)): build/ptx/tests/cuda/launcher.o
$(PTX_ROWS): build/ptx/benchmarks/quality/engine_rows.o
$(foreach name,kernels launcher engine_rows,$(ARCHS:%=build/ptx/%/$(name))): build/ptx/%: $(PTX_HOST)
	$(PTX_CXX) $^ -o $@
define ptx_arch
$(filter build/ptx/$(1)/%,$(PTX_PROGRAMS) $(PTX_ROWS)): $(PTX_KERNELS:%=build/ptx/$(1)/%.o)
build/ptx/$(1)/%.cpp: build/ptx/%.o $(wildcard tests/ptx/*.py)
	@mkdir -p $$(@D)
	$$(PYTHON) tests/ptx/translate.py build/ptx/$$*.compute_$(1).ptx > $$@
endef
$(foreach arch,$(PTX_ARCHS),$(eval $(call ptx_arch,$(arch))))

$(foreach arch,$(PTX_ARCHS),$(PTX_KERNELS:%=build/ptx/$(arch)/%.o)): %.o: %.cpp tests/ptx/machine.h
	$(PTX_CXX) -march=native -Wno-unused-variable -Wno-unused-but-set-variable -c $< -o $@

$(PTX_KERNELS:%=build/ptx/%.o): build/ptx/%.o: csrc/cuda/%.cu $(CXX_SOURCES)
	@mkdir -p $(@D)
	$(PTX_NVCC) --keep --keep-dir $(@D) -c $< -o $@

build/ptx/runtime.o: tests/fake_cuda/runtime.cpp $(wildcard tests/*/*.h)
	@mkdir -p $(@D)
	nvcc -std=c++17 -O1 -Itests/cuda -Itests/ptx -c $< -o $@

build/ptx/%.o: %.cpp $(CXX_SOURCES) $(wildcard tests/*/*.h)
	@mkdir -p $(@D)
	$(PTX_CXX) -DCONVINIT_INLINE='__attribute__((unused))' -c $< -o $@

# The whole extension with CUDA, in a virtual environment of its own (7 GB). Needs nvcc, but no GPU.
test-cuda-build:
	scripts/build_with_cuda.sh

clean:
	rm -rf $(VENV) .venv-clients .venv-zoo build dist *.egg-info convinit_ext/*.so convinit_ext/_build.py

# What follows are stamps: empty files that say when a step of the set-up was done.

$(VENV)/created:
	$(stop_if_a_tool_is_missing)
	@echo "Setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/torch-$(TORCH): $(VENV)/created
	@echo "Installing torch $(TORCH) and what the build needs"
	@rm -f $(VENV)/torch-*
	@$(PIP) 'torch==$(TORCH)' --group build
	@touch $@

# Where only sources changed, what did not is not compiled again.
$(VENV)/built: $(VENV)/torch-$(TORCH) setup.py pyproject.toml $(CXX_SOURCES)
	$(stop_if_a_tool_is_missing)
	@echo "Building convinit_ext"
	@$(COMPILE)
	@$(if $(filter-out $(CXX_SOURCES),$?),$(INSTALL))
	@touch $@

$(VENV)/test-tools: $(VENV)/torch-$(TORCH) pyproject.toml
	@$(PIP) --group test
	@touch $@

# DeepSpeed builds what it needs when it needs it. mup asks for torchvision, which nothing here needs, and which others import
# where it is: built for CUDA, it does not load beside a torch for the CPU.
$(VENV)/clients: $(VENV)/torch-$(TORCH) pyproject.toml
	@echo "Installing the frameworks that the tests of clients run"
	@DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) --no-build-isolation 'torch==$(TORCH)' --group clients
	@$(VENV)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

$(VENV)/zoo: $(VENV)/torch-$(TORCH) pyproject.toml
	@echo "Installing the libraries whose models are swept"
	@$(PIP) 'torch==$(TORCH)' --group zoo
	@touch $@

$(VENV)/lint-tools: $(VENV)/torch-$(TORCH) pyproject.toml
	@$(PIP) --group test --group lint
	@touch $@

$(VENV)/docs-tools: $(VENV)/torch-$(TORCH) pyproject.toml
	@$(PIP) --group docs
	@touch $@
