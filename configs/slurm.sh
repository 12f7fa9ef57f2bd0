#!/bin/bash
# A run on a SLURM cluster, from the folder of the project, in an environment where cdedu is installed:
#
#   sbatch configs/slurm.sh distill imagenet64 --data /path/to/imagenet.zip --size 64
#   sbatch --nodes=1 configs/slurm.sh distill cifar10
#
# Submit it as often as the run needs allocations: jobs of one name run one after another, and each goes on where the one before
# stopped. Give another run another --job-name. With --out, add --resume yourself.
#SBATCH --job-name=cdedu
#SBATCH --dependency=singleton
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --output=%x-%j.log
# The signal comes three minutes before the end: the step under way is finished and the state is saved.

set -euo pipefail

if [ $# -lt 2 ]; then
  echo "slurm.sh: give a command and a recipe, such as: sbatch configs/slurm.sh distill cifar10" >&2
  exit 2
fi

role=student
if [ "$1" = train ]; then role=teacher; fi
if [ -f "runs/$2/$role.state.safetensors" ]; then set -- "$@" --resume; fi

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=4

srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$host:29500" \
  -m cdedu.cli "$@"
