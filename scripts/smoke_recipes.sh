#!/usr/bin/env bash
# Proves that every recipe starts: all of them are composed and pass verl's validation and ours, for every method and
# signal; those for FSDP then train 2 steps on the CPU with a tiny model (10 GB of memory at most; 21 minutes on 2 cores
# that did other work too).
#   scripts/smoke_recipes.sh [--compose-only] [--only PART_OF_A_NAME]        VENV can be set.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
export VENV
scripts/install.sh --dev
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH
exec python scripts/smoke_recipes.py "$@"
