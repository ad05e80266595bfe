#!/bin/bash
# The runs of a suite as an array of SLURM jobs. A job that reaches its time limit saves a
# checkpoint, is queued again, and resumes its run with the same result to the bit.
#
#   ppo37 suite plan.toml --out /shared/suite --prepare     # the settings of all runs
#   sbatch --array=0-14 suite.sh plan.toml /shared/suite 15 # 15 jobs, each with every 15th run
#                           a plan with `threads = N` also needs --cpus-per-task=N
#   ppo37 suite plan.toml --out /shared/suite               # when all have ended: the results
#
#SBATCH --job-name=ppo37
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ppo37 suite "$1" --out "$2" --part "$SLURM_ARRAY_TASK_ID/$3"
code=$?
if [ "$code" -eq 143 ]; then # stopped by the signal, with a checkpoint
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
