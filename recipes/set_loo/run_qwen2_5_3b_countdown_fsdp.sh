#!/usr/bin/env bash
# SetPO (arXiv 2602.01062) on Countdown | Qwen2.5-3B | FSDP, vLLM | 4 GPUs of 80 GB
# ROLLOUT_N=7, and 3, the fewest that leave-one-out credit takes. KL_LOSS_COEF=1e-3, and 5e-3, in the paper.
# METHOD=set_loo+grpo; without diversity grpo, gspo, dapo; or the baseline grpo_div.
#
# EMBEDDER says where the kernel's embeddings are made (METHOD=set_loo+...); all work while rollouts still generate:
#   local         Qwen3-Embedding-0.6B in an actor of the run on each node, on a share of a GPU: 1.2 GB of weights in
#                 bfloat16, and working memory for EMBEDDER_BATCH_TOKENS; about 3 GB by count, not measured on a GPU
#   endpoint      a server at EMBEDDER_URL (vllm serve Qwen/Qwen3-Embedding-0.6B --runner pooling): nothing here
#   reward_model  verl's own server on EMBEDDER_POOL_GPUS GPUs, which come on top of NGPUS_PER_NODE
# Data: verl-setpo data countdown --out ~/data/countdown --source hub --train-size 86400 --test-size 1024
set -xeuo pipefail

########################### user-adjustable ###########################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-3B}
DATA_DIR=${DATA_DIR:-$HOME/data}
TRAIN_FILES=${TRAIN_FILES:-$DATA_DIR/countdown/train.parquet}
VAL_FILES=${VAL_FILES:-"$DATA_DIR/countdown/test.parquet"}
METHOD=${METHOD:-set_loo+grpo}             # set_loo+grpo | set_loo+gspo | set_loo+dapo | grpo | gspo | dapo | grpo_div

EMBEDDER=${EMBEDDER:-local}                   # local | endpoint | reward_model
EMBEDDER_PATH=${EMBEDDER_PATH:-Qwen/Qwen3-Embedding-0.6B}
EMBEDDER_TOKENIZER=${EMBEDDER_TOKENIZER:-$EMBEDDER_PATH}
EMBEDDER_URL=${EMBEDDER_URL:-}                # endpoint: http://host:8000/v1
EMBEDDER_DEVICE=${EMBEDDER_DEVICE:-cuda}      # local: cuda | cpu
EMBEDDER_GPU_SHARE=${EMBEDDER_GPU_SHARE:-0.1} # local: of one GPU a node; 0 with EMBEDDER_DEVICE=cpu
EMBEDDER_BATCH_TOKENS=${EMBEDDER_BATCH_TOKENS:-16384}
EMBEDDER_POOL_GPUS=${EMBEDDER_POOL_GPUS:-1}   # reward_model
DIV_COEF=${DIV_COEF:-0.1}                   # grpo_div: weight of its bonus

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-128}          # prompts
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-128}
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-512}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-2048}
ROLLOUT_N=${ROLLOUT_N:-7}
TEMPERATURE=${TEMPERATURE:-1.0}
KL_LOSS_COEF=${KL_LOSS_COEF:-1e-3}
TOTAL_EPOCHS=${TOTAL_EPOCHS:-1}
VAL_N=${VAL_N:-64}
PPO_MAX_TOKEN_LEN_PER_GPU=${PPO_MAX_TOKEN_LEN_PER_GPU:-20480}
ROLLOUT_TP=${ROLLOUT_TP:-1}
ROLLOUT_GPU_MEM_UTIL=${ROLLOUT_GPU_MEM_UTIL:-0.6}
REMOVE_PADDING=${REMOVE_PADDING:-True}       # False on the CPU platform, which has no FlashAttention

NNODES=${NNODES:-1}                      # more than 1: start Ray on all nodes first (recipes/README.md)
NGPUS_PER_NODE=${NGPUS_PER_NODE:-4}
LOGGER=${LOGGER:-'["console","wandb"]'}
PROJECT_NAME=${PROJECT_NAME:-verl-setpo}
EXPERIMENT_NAME=${EXPERIMENT_NAME:-qwen2_5_3b_countdown-${METHOD/+/_}}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/$PROJECT_NAME/$EXPERIMENT_NAME} # checkpoints, validation and rollouts; a new start resumes
SAVE_FREQ=${SAVE_FREQ:-100}
TEST_FREQ=${TEST_FREQ:-100}
MAX_CHECKPOINTS=${MAX_CHECKPOINTS:-3}
PYTHON=${PYTHON:-python3}
export VERL_FILE_LOGGER_PATH=${VERL_FILE_LOGGER_PATH:-$OUTPUT_DIR/metrics.jsonl} # where LOGGER names "file"
########################### end user-adjustable ###########################

# What the methods differ in: learning rate, clip, weight of diversity, loss.
case ${METHOD#set_loo+} in
    grpo)
        LR=${LR:-1e-6} CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-0.2} CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-0.2} COEF=${COEF:-0.5}
        LOSS=(
            actor_rollout_ref.actor.loss_agg_mode=token-mean
        ) ;;
    gspo)
        LR=${LR:-1e-6} CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-3e-4} CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-4e-4} COEF=${COEF:-0.5}
        LOSS=(
            actor_rollout_ref.actor.policy_loss.loss_mode=gspo
            actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
            actor_rollout_ref.actor.clip_ratio_c=10.0
        ) ;;
    dapo)
        LR=${LR:-1e-6} CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-0.2} CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-0.28} COEF=${COEF:-0.5}
        LOSS=(
            actor_rollout_ref.actor.loss_agg_mode=token-mean
            actor_rollout_ref.actor.clip_ratio_c=10.0
            algorithm.filter_groups.enable=True
            algorithm.filter_groups.metric=acc
        ) ;;
    grpo_div)
        LR=${LR:-1e-6} CLIP_RATIO_LOW=${CLIP_RATIO_LOW:-0.2} CLIP_RATIO_HIGH=${CLIP_RATIO_HIGH:-0.2} COEF=${COEF:-0}
        LOSS=(
            actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm
            actor_rollout_ref.actor.loss_scale_factor="$MAX_RESPONSE_LENGTH"
        ) ;;
    *) echo "METHOD=$METHOD is unknown: use set_loo+grpo, set_loo+gspo, set_loo+dapo, grpo, gspo, dapo or grpo_div." >&2 && exit 2 ;;
esac

case $EMBEDDER in
    local)
        SIGNAL=(
            +set_rl/signal=embedding_local
            algorithm.set_rl.signal.model="$EMBEDDER_PATH"
            algorithm.set_rl.signal.device="$EMBEDDER_DEVICE"
            algorithm.set_rl.signal.num_gpus="$EMBEDDER_GPU_SHARE"
            algorithm.set_rl.signal.batch_tokens="$EMBEDDER_BATCH_TOKENS"
        ) ;;
    endpoint)
        SIGNAL=(
            +set_rl/signal=embedding
            algorithm.set_rl.signal.base_url="${EMBEDDER_URL:-null}"
            algorithm.set_rl.signal.model="$EMBEDDER_PATH"
            algorithm.set_rl.signal.tokenizer="$EMBEDDER_TOKENIZER"
        ) ;;
    reward_model)
        SIGNAL=(
            +set_rl/signal=embedding_reward_model
            algorithm.set_rl.signal.tokenizer="$EMBEDDER_TOKENIZER"
            reward.reward_model.model_path="$EMBEDDER_PATH"
            reward.reward_model.n_gpus_per_node="$EMBEDDER_POOL_GPUS"
        ) ;;
    *) echo "EMBEDDER=$EMBEDDER is unknown: use local, endpoint or reward_model." >&2 && exit 2 ;;
esac

ALGORITHM=(algorithm.use_kl_in_reward=False)
case $METHOD in
    set_loo+*)
        ALGORITHM+=(
            +set_rl=set_loo
            algorithm.set_rl.base_estimator=grpo
            algorithm.set_rl.coef="$COEF"
            algorithm.set_rl.rollout_log="$OUTPUT_DIR/rollouts"
            "${SIGNAL[@]}"
        ) ;;
    grpo_div)
        ALGORITHM+=(
            +set_rl=grpo_div
            algorithm.set_rl.coef="$DIV_COEF"
            algorithm.set_rl.rollout_log="$OUTPUT_DIR/rollouts"
            algorithm.set_rl.signal.name=answer
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
    actor_rollout_ref.actor.use_kl_loss=True
    actor_rollout_ref.actor.kl_loss_coef="$KL_LOSS_COEF"
    actor_rollout_ref.actor.kl_loss_type=low_var_kl
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

"$PYTHON" -m verl.trainer.main_ppo \
    "${ALGORITHM[@]}" "${LOSS[@]}" "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" \
    "${TRAINER[@]}" "$@"
