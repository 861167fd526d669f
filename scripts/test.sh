#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment that it makes by itself.
#   scripts/test.sh [pytest arguments]      VENV can be set.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
export VENV
scripts/install.sh --dev
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH

# The report's page is looked at in a real browser: the system's, else Debian's, else playwright's own.
if [ -z "${VERL_SETPO_CHROMIUM:-}$(type -P chromium chromium-browser google-chrome)" ]; then
    echo "test: Chromium"
    if [ "$(id -u)" = 0 ] && type -P apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
            > /dev/null || echo "test: no Chromium from apt; the tests of the report's page will say what is missing" >&2
    else
        python -m playwright install chromium
    fi
fi

echo "test: ruff"
ruff check .
ruff format --check .
echo "test: mypy"
mypy
echo "test: pytest"
# No accelerator and no network: a test that needs either would be a mistake.
# Two files at a time: most of a training's time on a CPU is spent waiting for another of its processes.
HF_HUB_OFFLINE=1 WANDB_MODE=disabled python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
