#!/bin/bash
# Ray on the nodes of a Slurm job, and a command of the project on the first of them.
#
# Needs this folder and its .venv (`make setup` on a login node) on a file system that all nodes
# share, as also clip stores and results. Change the lines below to what your cluster has, or give
# the same options to sbatch, which win. Then, in this folder:
#   sbatch cluster-slurm.sh python -m study.run --address auto --space stilt \
#     --data "$SCRATCH/stores/ucf101" --results "$SCRATCH/results" --gpus-per-worker 1 --gpu-memory 80
#   tail -f two-stream-study-*-node0.log      (the study; the other nodes' logs hold Ray's words)
#
# A job that ends before the study does loses what trainings did since their last checkpoint. The
# same command goes on from there.

#SBATCH --job-name=two-stream-study
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
if [ $# = 0 ]; then
  echo "give the command to run, such as: sbatch $0 python -m study.run --address auto …" >&2
  exit 2
fi
cd "$SLURM_SUBMIT_DIR"
. .venv/bin/activate

read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Seconds for all nodes to start; a shared file system reads Python's many files slowly.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
ulimit -n "$(ulimit -H -n)"

# srun doesn't take --cpus-per-task over from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --output=%x-%j-node%t.log --open-mode=append \
  ray symmetric-run \
  --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- "$@"
