#!/usr/bin/env bash
# A tiny model on polynomial solving (Poly-EPO section 6.2) or Countdown (SetPO section 5.2), without a GPU: verl, FSDP2, vLLM.
# TASK=polynomial|countdown METHOD=grpo|set_loo|poly_epo|coverage|grpo_div recipes/cpu/run_tiny_fsdp.sh [any verl override]; 7 GB.
# SIGNAL=embedding_local adds sentence-transformers in a process of the run; SIGNAL=judge and embedding ask a server.
set -xeuo pipefail

############################# user-adjustable #############################
TASK=${TASK:-polynomial}
METHOD=${METHOD:-set_loo}                # grpo is verl's own trainer; coverage pays sets for distinct correct answers
DATA_DIR=${DATA_DIR:-runs/$TASK/data}    # verl-setpo data $TASK --out $DATA_DIR
REWARD_PATH=${REWARD_PATH:-pkg://verl_setpo.tasks.rewards} # of a task of your own: the file of its compute_score
MODEL_PATH=${MODEL_PATH:-runs/$TASK/model} # verl-setpo data tiny-model --task $TASK --data $DATA_DIR --out $MODEL_PATH
RUN_DIR=${RUN_DIR:-runs/$TASK/$METHOD}
STEPS=${STEPS:-40}
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-16} # prompts a step
ROLLOUT_N=${ROLLOUT_N:-8}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-24}
LR=${LR:-1e-3}
COEF=${COEF:-5}                          # set_loo, grpo_div: weight of diversity
SET_SIZE=${SET_SIZE:-4}                  # poly_epo, coverage: rollouts in a set
SIGNAL=${SIGNAL:-answer}                 # answer, ngram, or a file of verl_setpo/config/set_rl/signal
VAL_N=${VAL_N:-32}                       # samples a held-out prompt
TEST_FREQ=${TEST_FREQ:-20}
SEED=${SEED:-1}
PYTHON=${PYTHON:-python}
###########################################################################

DATA=(
    data.train_files="$DATA_DIR/train.parquet"
    data.val_files="$DATA_DIR/test.parquet"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length=32
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.seed="$SEED"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
)

ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$TRAIN_BATCH_SIZE"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=$((TRAIN_BATCH_SIZE * ROLLOUT_N))
    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm
    actor_rollout_ref.actor.loss_scale_factor="$MAX_RESPONSE_LENGTH"
    actor_rollout_ref.actor.fsdp_config.seed="$SEED"
)

ROLLOUT=(
    actor_rollout_ref.rollout.n="$ROLLOUT_N"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.seed="$SEED"
    actor_rollout_ref.rollout.max_model_len=64
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=$((TRAIN_BATCH_SIZE * ROLLOUT_N))
    actor_rollout_ref.rollout.val_kwargs.n="$VAL_N"
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
)

REWARD=(
    reward.custom_reward_function.path="$REWARD_PATH"
    reward.custom_reward_function.name=compute_score
)

case $SIGNAL in
    answer | ngram) MEASURE=(algorithm.set_rl.signal.name="$SIGNAL") ;;
    *) MEASURE=(+set_rl/signal="$SIGNAL") ;;
esac

case $METHOD in
    grpo) ALGORITHM=(algorithm.adv_estimator=grpo) ;;
    set_loo) ALGORITHM=(+set_rl=set_loo "${MEASURE[@]}" algorithm.set_rl.coef="$COEF") ;;
    poly_epo) ALGORITHM=(+set_rl=poly_epo "${MEASURE[@]}" algorithm.set_rl.set_size="$SET_SIZE") ;;
    coverage) ALGORITHM=(+set_rl=pass_at_n "${MEASURE[@]}" algorithm.set_rl.objective=coverage
        algorithm.set_rl.set_size="$SET_SIZE") ;;
    grpo_div) ALGORITHM=(+set_rl=grpo_div "${MEASURE[@]}" algorithm.set_rl.coef="$COEF") ;;
    *) echo "METHOD=$METHOD is unknown: use grpo, set_loo, poly_epo, coverage or grpo_div." >&2 && exit 1 ;;
esac

RUN_DIR=$(mkdir -p "$RUN_DIR" && cd "$RUN_DIR" && pwd)
export VERL_FILE_LOGGER_PATH="$RUN_DIR/metrics.jsonl"

TRAINER=(
    trainer.logger='[console,file]'
    trainer.project_name=verl-setpo
    trainer.experiment_name="$TASK-$METHOD"
    trainer.default_local_dir="$RUN_DIR/checkpoints"
    trainer.validation_data_dir="$RUN_DIR/validation"
    trainer.total_epochs=100000
    trainer.total_training_steps="$STEPS"
    trainer.test_freq="$TEST_FREQ"
    trainer.save_freq=-1
    trainer.resume_mode=disable
    hydra.run.dir="$RUN_DIR/hydra"
)

"$PYTHON" -m verl.trainer.main_ppo +platform=cpu \
    "${ALGORITHM[@]}" "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" "${TRAINER[@]}" "$@"
