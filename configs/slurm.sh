#!/bin/bash
# A run on a Slurm cluster, from the folder of the project, in an environment where cdedu is installed:
#
#   sbatch configs/slurm.sh distill imagenet64 --data /path/to/imagenet.zip --size 64
#   sbatch --nodes=1 configs/slurm.sh distill cifar10
#
# Submit a training once: ten minutes before the time is up the run saves its state and ends, and the job queues again by itself
# until the run has reached its end. Jobs of one name wait for each other: give another run another --job-name. The folder of the
# project, and CDEDU_CACHE where that is set, must be shared by the machines.
#SBATCH --job-name=cdedu
#SBATCH --dependency=singleton
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Every GPU has a task of its own, started by srun and not by torchrun: Slurm signals tasks directly and leaves them all of the ten
# minutes, while torchrun kills its workers after thirty seconds.

set -euo pipefail

if [ $# -lt 2 ]; then
  echo "slurm.sh: give a command and a recipe, such as: sbatch configs/slurm.sh distill cifar10" >&2
  exit 2
fi

# A training run continues where the previous job stopped.
case "$1" in train | distill) set -- "$@" --go-on ;; esac

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500 WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=4

ended=0
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-4}" bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python -m cdedu.cli "$@"' cdedu "$@" || ended=$?

# 128 + the signal that ended it: USR1 (10) or TERM (15).
if [ "$ended" = 138 ] || [ "$ended" = 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$ended"
