#!/usr/bin/env bash
# A study on the nodes of one Slurm allocation:
#
#   sbatch --nodes 4 jobs/slurm.sh CONFIG --store /shared/STORE [further arguments of flatscale run]
#
# The first node is Ray's head, every node a worker with the CPUs and GPUs that Slurm gave it. They
# trust each other by a token of this job's own, in a file that only its user can read. The
# environment of the submitting shell, with its flatscale, must exist on every node. The same line
# submitted again continues the study.
#SBATCH --job-name=flatscale
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

config=${1:?usage: sbatch jobs/slurm.sh CONFIG --store /shared/STORE}
shift

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000))
folder=$(mktemp -d "$PWD/.flatscale-token-XXXXXX") # on a disk that every node sees
trap 'rm -rf "$folder"; kill $(jobs -p) 2>/dev/null || true' EXIT
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"

gpus=${SLURM_GPUS_ON_NODE:-0}
resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "$gpus" --disable-usage-stats --block)

srun --nodes 1 --ntasks 1 --nodelist "$head" \
  ray start --head --port "$port" "${resources[@]}" &
for _ in $(seq 60); do
  ray status --address "$head:$port" > /dev/null 2>&1 && break
  sleep 2
done
for node in "${nodes[@]:1}"; do
  srun --nodes 1 --ntasks 1 --nodelist "$node" \
    ray start --address "$head:$port" "${resources[@]}" &
done

# Slurm tells this shell that time is nearly over; flatscale ends its trials in order.
flatscale run "$config" --address "$head:$port" "$@" &
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run" || wait "$run"
