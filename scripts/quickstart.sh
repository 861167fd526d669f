#!/usr/bin/env bash
# From a bare clone to a result: installs, makes data and a tiny model, trains it with GRPO, SetPO and Poly-EPO through
# verl's own entrypoint on the CPU, and shows what that did to accuracy and diversity. A second run reuses what is there.
#   scripts/quickstart.sh          METHODS="grpo set_loo poly_epo", STEPS, WORK_DIR, VENV can be set.
set -euo pipefail
cd "$(dirname "$0")/.."

METHODS=${METHODS:-grpo set_loo poly_epo}
STEPS=${STEPS:-40}
WORK_DIR=${WORK_DIR:-runs/quickstart}
VENV=${VENV:-.venv}
export VENV

started=$SECONDS
say() { echo; echo "== $1  ($((SECONDS - started)) s)"; }

say "1. Install into $VENV"
scripts/install.sh
# Ray's workers start the python of the launching process; the path serves tools that are called by name.
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH
installed=$SECONDS

say "2. Data and a tiny model, warm-started so that it is diverse and often wrong"
if [ ! -f "$WORK_DIR/data/test.parquet" ]; then
    verl-setpo data polynomial --out "$WORK_DIR/data" --test-size 32
fi
if [ ! -f "$WORK_DIR/model/config.json" ]; then
    verl-setpo data tiny-model --task polynomial --data "$WORK_DIR/data" --out "$WORK_DIR/model" --target 0.35
fi

run=""
stop_run() {
    # Ray and vLLM leave children behind when they are interrupted: end the whole session of the run, and no other.
    if [ -n "$run" ]; then
        pkill -TERM --session "$run" 2>/dev/null || true
        sleep 2
        pkill -KILL --session "$run" 2>/dev/null || true
        run=""
    fi
}
trap stop_run EXIT
trap 'exit 130' INT TERM

train() {
    local method=$1 dir=$WORK_DIR/$1
    if [ "$(cat "$dir/done" 2>/dev/null)" = "$STEPS steps" ]; then
        echo "$method: $STEPS steps are there already ($dir); delete the folder to train again"
        return
    fi
    rm -rf "$dir" && mkdir -p "$dir"
    mkfifo "$dir/output"
    METHOD=$method STEPS=$STEPS RUN_DIR=$dir DATA_DIR=$WORK_DIR/data MODEL_PATH=$WORK_DIR/model \
        setsid recipes/cpu/run_tiny_fsdp.sh trainer.val_before_train="$first" > "$dir/output" 2>&1 < /dev/null &
    run=$!
    # Both in the background: a trap runs at once in a `wait`, but only after a foreground command.
    python scripts/progress.py --label "$method" --steps "$STEPS" --log "$dir/train.log" < "$dir/output" &
    local progress=$! status=0
    wait "$run" || status=$?
    wait "$progress" || true
    stop_run
    rm -f "$dir/output"
    if [ "$status" != 0 ]; then
        echo "quickstart: $method stopped with status $status; the end of $dir/train.log:" >&2
        grep -v -i -E "warning|^ *$" "$dir/train.log" | tail -n 15 >&2
        exit 1
    fi
    echo "$STEPS steps" > "$dir/done"
}

runs=()
first=True # the starting model is the same for all, so the first run evaluates it
for method in $METHODS; do
    say "3. Train: $method, $STEPS steps, through python -m verl.trainer.main_ppo"
    train "$method"
    runs+=("$WORK_DIR/$method")
    [ -f "$WORK_DIR/$method/validation/0.jsonl" ] || cp "${runs[0]}/validation/0.jsonl" "$WORK_DIR/$method/validation/"
    first=False
done

say "4. What it did, on held-out prompts"
verl-setpo report "${runs[@]}" --ks 1,4,16,32 --out "$WORK_DIR/report"

say "Done; without the install it took $((SECONDS - installed)) s"
