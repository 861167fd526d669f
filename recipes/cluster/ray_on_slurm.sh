#!/usr/bin/env bash
#SBATCH --job-name=verl-setpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
# Starts Ray on all nodes of a Slurm job, runs a recipe on the first, and ends Ray with it:
#   sbatch --nodes=2 recipes/cluster/ray_on_slurm.sh recipes/set_loo/run_qwen2_5_32b_fsdp.sh [overrides]
# The recipe trains on all nodes; a judge's or an embedder's pool needs GPUs of its own: ask for a node more, and set
# NNODES to the nodes that train. Variables of the recipe are passed on by sbatch: METHOD=grpo sbatch ...
set -euo pipefail

RAY_PORT=${RAY_PORT:-6379}
START_SECONDS=${START_SECONDS:-300} # that all nodes may take to join

[ $# -ge 1 ] || { echo "usage: sbatch recipes/cluster/ray_on_slurm.sh RECIPE [overrides]" >&2; exit 2; }
[ -f "$1" ] || { echo "there is no recipe $1: run sbatch in the folder that the path starts from." >&2; exit 2; }
nodes=${SLURM_JOB_NUM_NODES:?start this with sbatch}
export NNODES=${NNODES:-$nodes} NGPUS_PER_NODE=${NGPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --overlap --nodes=1 --ntasks=1 -w "${hosts[0]}" hostname -I | awk '{print $1}')
export RAY_ADDRESS=$head_ip:$RAY_PORT
# Ray asks for a token where it finds one in a home folder; this one is the job's own, on all of its nodes.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN
resources=(--num-gpus "$NGPUS_PER_NODE" --num-cpus "${SLURM_CPUS_PER_TASK:-16}" --disable-usage-stats --block)

servers=()
stop_ray() {
    # Each srun ends the `ray start --block` that it runs, and that its node's processes.
    kill "${servers[@]}" 2>/dev/null || true
    wait "${servers[@]}" 2>/dev/null || true
}
trap stop_ray EXIT
trap 'exit 130' INT TERM

srun --overlap --nodes=1 --ntasks=1 -w "${hosts[0]}" \
    ray start --head --node-ip-address="$head_ip" --port="$RAY_PORT" "${resources[@]}" &
servers+=($!)
for host in "${hosts[@]:1}"; do
    # A worker that is there before the head tries again for a while by itself.
    srun --overlap --nodes=1 --ntasks=1 -w "$host" ray start --address="$RAY_ADDRESS" "${resources[@]}" &
    servers+=($!)
done

deadline=$((SECONDS + START_SECONDS))
joined() {
    "${PYTHON:-python3}" -c 'import ray; ray.init(log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))' 2>/dev/null \
        || echo 0
}
until [ "$(joined)" -ge "$nodes" ]; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "of $nodes nodes only $(joined) joined Ray at $RAY_ADDRESS within $START_SECONDS s: see above what ray start says." >&2
        exit 1
    fi
    sleep 5
done

bash "$@"
