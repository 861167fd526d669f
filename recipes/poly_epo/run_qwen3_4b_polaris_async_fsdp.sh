#!/usr/bin/env bash
# Poly-EPO (arXiv 2604.17654), fully asynchronous | Qwen3-4B-Base | POLARIS-53K | FSDP, vLLM | 4 GPUs that train, 4 that
# generate all the time (verl's separate_async), and 1 for the judge. Not a run of the paper: its settings, off-policy.
# METHOD=poly_epo, or a baseline: grpo, gspo, grpo_div (verl filters no groups in this mode, so no dapo).
#
# JUDGE says who tells strategies apart (METHOD=poly_epo and grpo_div):
#   pool      Qwen3-4B-Instruct-2507 on JUDGE_POOL_GPUS GPUs of verl's reward-model pool, on top of NGPUS_PER_NODE:
#             8 GB of weights in bfloat16; its cache takes 147 KB a token, 6 GB for a prompt of 40,960 tokens (by count,
#             not measured). Works while rollouts still generate.
#   colocated the same model on the training GPUs; judges after generation, asleep in the rest of a step
#   endpoint  a server at JUDGE_URL (vllm serve ... --max-model-len 40960, or a provider): nothing here
#   answer    no judge: equal final answers are one strategy
# `verl-setpo doctor judge base_url=... model=...` tells how good a judge is before you pay for a run.
# Data: verl-setpo data polaris --out ~/data/polaris, and beyond-aime, aime25, aime26, hmmt-feb25, hmmt-nov25 and minerva
# likewise.
set -xeuo pipefail

########################### user-adjustable ###########################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen3-4B-Base}
DATA_DIR=${DATA_DIR:-$HOME/data}
TRAIN_FILES=${TRAIN_FILES:-$DATA_DIR/polaris/train.parquet}
VAL_FILES=${VAL_FILES:-"['$DATA_DIR/beyond-aime/test.parquet','$DATA_DIR/aime25/test.parquet','$DATA_DIR/aime26/test.parquet','$DATA_DIR/hmmt-feb25/test.parquet','$DATA_DIR/hmmt-nov25/test.parquet','$DATA_DIR/minerva/test.parquet']"}
METHOD=${METHOD:-poly_epo}              # poly_epo | grpo | gspo | grpo_div

JUDGE=${JUDGE:-pool}                    # pool | colocated | endpoint | answer
JUDGE_PATH=${JUDGE_PATH:-Qwen/Qwen3-4B-Instruct-2507}
JUDGE_POOL_GPUS=${JUDGE_POOL_GPUS:-1}
JUDGE_TP=${JUDGE_TP:-1}                 # GPUs that share one judge
JUDGE_URL=${JUDGE_URL:-}                # endpoint: http://host:8000/v1
JUDGE_API_KEY_ENV=${JUDGE_API_KEY_ENV:-} # endpoint: name of the variable that holds its key
JUDGE_MAX_MODEL_LEN=${JUDGE_MAX_MODEL_LEN:-40960}
JUDGE_MAX_PROMPT_TOKENS=${JUDGE_MAX_PROMPT_TOKENS:-32000}
DIV_COEF=${DIV_COEF:-0.1}               # grpo_div: weight of its bonus

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-128} # prompts
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-64}
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-1024}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-4096}
ROLLOUT_N=${ROLLOUT_N:-8}
SET_SIZE=${SET_SIZE:-4}                 # of the 70 sets of 4 among 8 rollouts all are used, in closed form
TEMPERATURE=${TEMPERATURE:-1.0}
LR=${LR:-1e-6}
CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-}      # empty: 0.2, for gspo 3e-4
CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-}    # empty: 0.28, for gspo 4e-4
TOTAL_EPOCHS=${TOTAL_EPOCHS:-2}
VAL_N=${VAL_N:-8}
PPO_MAX_TOKEN_LEN_PER_GPU=${PPO_MAX_TOKEN_LEN_PER_GPU:-20480}
ROLLOUT_TP=${ROLLOUT_TP:-1}
ROLLOUT_GPU_MEM_UTIL=${ROLLOUT_GPU_MEM_UTIL:-0.6}
ROLLOUT_NNODES=${ROLLOUT_NNODES:-1}       # nodes that only generate, on top of NNODES
ROLLOUT_NGPUS_PER_NODE=${ROLLOUT_NGPUS_PER_NODE:-4}
MAX_OFF_POLICY=${MAX_OFF_POLICY:-8}       # weights' versions that a rollout may be behind
WEIGHT_TRANSFER=${WEIGHT_TRANSFER:-nccl}  # verl's checkpoint engine; zmq on the CPU platform
PARAMETER_SYNC_STEP=$((TRAIN_BATCH_SIZE / PPO_MINI_BATCH_SIZE)) # verl: batch = mini batch x steps between two syncs
REMOVE_PADDING=${REMOVE_PADDING:-True}    # False on the CPU platform, which has no FlashAttention

NNODES=${NNODES:-1}                      # more than 1: start Ray on all nodes first (recipes/README.md)
NGPUS_PER_NODE=${NGPUS_PER_NODE:-4}
LOGGER=${LOGGER:-'["console","wandb"]'}
PROJECT_NAME=${PROJECT_NAME:-verl-setpo}
EXPERIMENT_NAME=${EXPERIMENT_NAME:-qwen3_4b_polaris_async-${METHOD/+/_}}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/$PROJECT_NAME/$EXPERIMENT_NAME} # checkpoints, validation and rollouts; a new start resumes
SAVE_FREQ=${SAVE_FREQ:-50}
TEST_FREQ=${TEST_FREQ:-50}
MAX_CHECKPOINTS=${MAX_CHECKPOINTS:-3}
PYTHON=${PYTHON:-python3}
export VERL_FILE_LOGGER_PATH=${VERL_FILE_LOGGER_PATH:-$OUTPUT_DIR/metrics.jsonl} # where LOGGER names "file"
########################### end user-adjustable ###########################

# What the methods differ in: the loss. Poly-EPO's, also for its GRPO baselines: no standard deviation, a sum over tokens
# over a constant length (Dr.GRPO), clip-higher, no KL.
case $METHOD in
    poly_epo | grpo | grpo_div)
        LOSS=(
            algorithm.norm_adv_by_std_in_grpo=False
            actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm
            actor_rollout_ref.actor.loss_scale_factor="$MAX_RESPONSE_LENGTH"
        ) ;;
    gspo)
        CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-3e-4} CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-4e-4}
        LOSS=(
            actor_rollout_ref.actor.policy_loss.loss_mode=gspo
            actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
            actor_rollout_ref.actor.clip_ratio_c=10.0
        ) ;;
    *) echo "METHOD=$METHOD is unknown: use poly_epo, grpo, gspo or grpo_div." >&2 && exit 2 ;;
esac
CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-0.2}
CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-0.28}

case $JUDGE in
    pool | colocated)
        SIGNAL=(
            +set_rl/signal=judge_reward_model
            algorithm.set_rl.signal.max_prompt_tokens="$JUDGE_MAX_PROMPT_TOKENS"
            reward.reward_model.enable_resource_pool="$([ "$JUDGE" = pool ] && echo True || echo False)"
            reward.reward_model.n_gpus_per_node="$JUDGE_POOL_GPUS"
            reward.reward_model.model_path="$JUDGE_PATH"
            reward.reward_model.rollout.tensor_model_parallel_size="$JUDGE_TP"
            reward.reward_model.rollout.max_model_len="$JUDGE_MAX_MODEL_LEN"
            reward.reward_model.rollout.free_cache_engine="$([ "$JUDGE" = pool ] && echo False || echo True)"
        ) ;;
    endpoint)
        SIGNAL=(
            +set_rl/signal=judge
            algorithm.set_rl.signal.base_url="${JUDGE_URL:-null}"
            algorithm.set_rl.signal.model="$JUDGE_PATH"
            algorithm.set_rl.signal.api_key_env="${JUDGE_API_KEY_ENV:-null}"
            algorithm.set_rl.signal.max_prompt_tokens="$JUDGE_MAX_PROMPT_TOKENS"
        ) ;;
    answer) SIGNAL=(algorithm.set_rl.signal.name=answer +algorithm.set_rl.signal.equal=math) ;;
    *) echo "JUDGE=$JUDGE is unknown: use pool, colocated, endpoint or answer." >&2 && exit 2 ;;
esac

ALGORITHM=(algorithm.use_kl_in_reward=False)
case $METHOD in
    poly_epo)
        ALGORITHM+=(
            +set_rl=poly_epo
            algorithm.set_rl.set_size="$SET_SIZE"
            algorithm.set_rl.rollout_log="$OUTPUT_DIR/rollouts"
            "${SIGNAL[@]}"
        ) ;;
    grpo_div)
        ALGORITHM+=(
            +set_rl=grpo_div
            algorithm.set_rl.coef="$DIV_COEF"
            algorithm.set_rl.rollout_log="$OUTPUT_DIR/rollouts"
            "${SIGNAL[@]}"
        ) ;;
    *) ALGORITHM+=(+set_rl=off algorithm.adv_estimator=grpo) ;;
esac

DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.filter_overlong_prompts=True
    data.truncation=error
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    actor_rollout_ref.model.use_remove_padding="$REMOVE_PADDING"
    actor_rollout_ref.model.enable_gradient_checkpointing=True
)

ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PPO_MINI_BATCH_SIZE"
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu="$PPO_MAX_TOKEN_LEN_PER_GPU"
    actor_rollout_ref.actor.clip_ratio_low="$CLIP_RATIO_LOW"
    actor_rollout_ref.actor.clip_ratio_high="$CLIP_RATIO_HIGH"
    actor_rollout_ref.actor.use_kl_loss=False
    actor_rollout_ref.actor.entropy_coeff=0
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="$ROLLOUT_N"
    actor_rollout_ref.rollout.temperature="$TEMPERATURE"
    actor_rollout_ref.rollout.tensor_model_parallel_size="$ROLLOUT_TP"
    actor_rollout_ref.rollout.gpu_memory_utilization="$ROLLOUT_GPU_MEM_UTIL"
    actor_rollout_ref.rollout.max_model_len=$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))
    actor_rollout_ref.rollout.val_kwargs.n="$VAL_N"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
)

REWARD=(
    reward.custom_reward_function.path=pkg://verl_setpo.tasks.rewards
    reward.custom_reward_function.name=compute_score
)

TRAINER=(
    trainer.logger="$LOGGER"
    trainer.project_name="$PROJECT_NAME"
    trainer.experiment_name="$EXPERIMENT_NAME"
    trainer.default_local_dir="$OUTPUT_DIR/checkpoints"
    trainer.validation_data_dir="$OUTPUT_DIR/validation"
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$NGPUS_PER_NODE"
    trainer.save_freq="$SAVE_FREQ"
    trainer.max_actor_ckpt_to_keep="$MAX_CHECKPOINTS"
    trainer.resume_mode=auto
    trainer.test_freq="$TEST_FREQ"
    trainer.total_epochs="$TOTAL_EPOCHS"
    hydra.run.dir="$OUTPUT_DIR/hydra"
)

ASYNC=(
    trainer.v1.trainer_mode="$([[ $METHOD = poly_epo || $METHOD = grpo_div ]] && echo set_separate_async || echo separate_async)"
    trainer.v1.separate_async.parameter_sync_step="$PARAMETER_SYNC_STEP"
    trainer.v1.sampler.max_off_policy_threshold="$MAX_OFF_POLICY"
    data.gen_batch_size=1
    actor_rollout_ref.rollout.nnodes="$ROLLOUT_NNODES"
    actor_rollout_ref.rollout.n_gpus_per_node="$ROLLOUT_NGPUS_PER_NODE"
    actor_rollout_ref.rollout.checkpoint_engine.backend="$WEIGHT_TRANSFER"
    actor_rollout_ref.actor.optim.lr_warmup_steps=-1
)

"$PYTHON" -m verl.trainer.main_ppo \
    "${ALGORITHM[@]}" "${LOSS[@]}" "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" \
    "${TRAINER[@]}" "${ASYNC[@]}" "$@"
