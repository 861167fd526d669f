#!/usr/bin/env bash
# The papers' claims with tiny models on the CPU: trains and evaluates what is missing in the results.
#   scripts/reproduce.sh polynomial [--method poly_epo --seed 1 ...]      VENV can be set; see scripts/reproduce.py.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
export VENV
scripts/install.sh --dev
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH
python scripts/reproduce.py run "$@"
