# The commands of ramnas, for people and for .ci/run alike. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
TORCH := $(shell grep ^torch== constraints.txt)
# make PYTHON=/path/to/python3.12 ... takes another Python; TORCH_INDEX=URL another index for torch
PYTHON ?=
TORCH_INDEX ?=
FRESH ?=

# tests by a Python, of some folders: most of them in workers, each of which takes whole files, then
# those that watch a clock
JOBS ?= 2
tests = OMP_NUM_THREADS=1 $(1) -m pytest -n $(JOBS) --dist loadfile $(3) -m "not alone" $(2) && \
  OMP_NUM_THREADS=1 $(1) -m pytest -m alone $(2)

# one for each ROS 2 that is sourced, one for that from PyPI
ROS_VENV := .venv-ros$(addprefix -,$(ROS_DISTRO))

.PHONY: help demo test test38 test-demo test-engines test-ros ros-env check bench bench-ros bench-torchvision clean

help:  ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | column -t -s:

demo: .venv/.ready  ## the whole main line on real digits, in runs/demo (FRESH=1 starts over)
	.venv/bin/python -m ramnas_host demo --out runs/demo $(if $(FRESH),--fresh)

test: .venv/.ready .venv38/.ready  ## all tests
	$(call tests,.venv/bin/python,,--no-loadscope-reorder)

check: .venv/.ready  ## ruff, mypy (strict), vermin (Python 3.8 on the device)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/vermin --no-tips --violations --eval-annotations -t=3.8- $(DEVICE_FILES)

test38: .venv38/.ready  ## the tests of the device rooms under a real Python 3.8, if there is one
	@if [ -x .venv38/bin/python ]; then \
	  $(call tests,.venv38/bin/python,tests/models tests/edge tests/ros2); \
	else echo "no Python 3.8 on this machine: test38 is skipped (pyenv install 3.8 gives one)"; fi

test-demo: demo  ## the demo whole, and the tests that read a demo run on it
	RAMNAS_DEMO=runs/demo .venv/bin/python -m pytest tests/host/cli/test_demo.py

test-engines: .venv-engines/.ready  ## our graphs through NVIDIA's ONNX parser and OpenVINO (x86), in .venv-engines (180 MB to download)
	.venv-engines/bin/python -m pytest -m engines tests/models tests/edge/engines

test-ros: ros-env  ## the tests against real ROS 2: the one that is sourced, else Jazzy from PyPI
	@# of a sourced ROS 2 come plugins that pytest's newer versions do not take
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(ROS_VENV)/bin/python -m pytest -p pytest_timeout tests/ros2/real

ros-env: $(ROS_VENV)/.ready  ## the environment of test-ros, in .venv-ros (a minute, once)

bench: .venv/.ready  ## all benchmarks against their peers -> benchmarks.json
	.venv/bin/python -m tests.benchmarks

bench-ros: ros-env  ## the ROS 2 node against one written the usual way, in .venv-ros
	$(ROS_VENV)/bin/python -m tests.benchmarks ros_node

bench-torchvision: .venv/.ready .venv-torchvision/.ready  ## detection and segmentation against torchvision, in .venv-torchvision (5 GB on x86)
	.venv/bin/python -m tests.benchmarks torchvision

clean:  ## remove the environments and what the tools left (runs/ stays)
	rm -rf .venv .venv38 .venv-engines .venv-ros* .venv-torchvision build install log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# all of the device but the files that torch has to itself
DEVICE_FILES := $(filter-out %/supernet.py %/recalibration.py %/heads.py,$(wildcard models/ramnas_models/*.py)) \
  models/ramnas_models/ready/__init__.py \
  $(shell find edge/ramnas_edge ros2_pkg/ramnas_ros -name "*.py")

# -- the environments: made once, made again only when what they need has changed -----------------

# first Python of the given versions that really starts (a pyenv shim may not)
define find_python
for candidate in $(1); do \
  if version=$$($$candidate -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then \
    case " $(2) " in *" $$version "*) found=$$candidate; break;; *) seen="$$seen $$candidate=$$version";; esac; \
  fi; \
done
endef
HOST_VERSIONS := 3.10 3.11 3.12 3.13
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions

.venv/.ready: setup.py constraints.txt
	@$(call find_python,$(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 \
	  $(wildcard $(PYENV)/3.1[0-3].*/bin/python)),$(HOST_VERSIONS)); \
	if [ -z "$$found" ]; then \
	  echo "ramnas needs Python $(HOST_VERSIONS) on the host (torch has wheels for these); found:$${seen:- none}." >&2; \
	  echo "Install one (apt install python3.12 python3.12-venv, or pyenv install 3.12) or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	  exit 2; \
	fi; \
	if [ -x .venv/bin/python ] && ! .venv/bin/python -c ''; then rm -rf .venv; fi; \
	if [ ! -x .venv/bin/python ]; then \
	  echo "making .venv with $$found"; rm -rf .venv; \
	  $$found -m venv .venv || { echo "python3 -m venv failed: apt install python3-venv" >&2; exit 2; }; \
	fi
ifneq ($(TORCH_INDEX),)
	.venv/bin/python -m pip install --quiet --index-url $(TORCH_INDEX) $(TORCH)
else
	@.venv/bin/python -c 'import torch' 2>/dev/null || .venv/bin/python .ci/say_download.py $(TORCH)
	.venv/bin/python -m pip install --quiet $(TORCH)
endif
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

.venv38/.ready: setup.py
	@mkdir -p .venv38; \
	$(call find_python,python3.8 $(wildcard $(PYENV)/3.8.*/bin/python),3.8); \
	if [ -n "$$found" ]; then \
	  echo "making .venv38 with $$found" && $$found -m venv .venv38 && \
	  .venv38/bin/python -m pip install --quiet -e '.[cpu,test]' jetson-stats && touch $@; \
	fi

# NVIDIA's parser and builder (TensorRT-RTX) need no GPU; onnxruntime-openvino takes the place of onnxruntime
.venv-engines/.ready: setup.py | .venv/.ready
	.venv/bin/python -m venv --clear .venv-engines
	.venv-engines/bin/python -m pip install --quiet -e '.[edge,test]' \
	  tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings nvidia-cuda-runtime-cu12 onnxruntime-openvino
	@touch $@

# under a sourced ROS 2 its own python3, else 3.12 first: it is Jazzy's
$(ROS_VENV)/.ready: setup.py $(wildcard tests/ros2/env/*.sh tests/ros2/env/vision_msgs/*.* tests/ros2/env/vision_msgs/msg/*)
	@$(call find_python,$(if $(ROS_DISTRO),/usr/bin/python3,$(or $(PYTHON),python3.12 \
	  $(wildcard $(PYENV)/3.12.*/bin/python) python3.11 python3.10 python3.13 python3)),$(HOST_VERSIONS)); \
	if [ -z "$$found" ]; then \
	  echo "ROS 2 needs Python $(HOST_VERSIONS); found:$${seen:- none}. make PYTHON=/path/to/python3.12 ..." >&2; exit 2; \
	fi; \
	echo "making $(ROS_VENV) with $$found" && tests/ros2/env/ros2_env.sh $$found $(ROS_VENV)
	@touch $@

# its wheels want a newer torch than ours, of the same index: on PyPI for x86 that is the CUDA build
.venv-torchvision/.ready: | .venv/.ready
	$(if $(TORCH_INDEX),,@.venv/bin/python .ci/say_download.py torchvision==0.29.1)
	.venv/bin/python -m venv --clear .venv-torchvision
	.venv-torchvision/bin/python -m pip install --quiet \
	  $(addprefix --index-url ,$(TORCH_INDEX)) torch==2.14.1 torchvision==0.29.1
	.venv-torchvision/bin/python -m pip install --quiet onnx
	@touch $@
