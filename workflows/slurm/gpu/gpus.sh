#!/bin/sh
#SBATCH --job-name=gpus
#SBATCH --output=gpus-%j.txt
#SBATCH --time=5
#HPCC image=docker://debian:12 compat
if command -v nvidia-smi >/dev/null; then
    nvidia-smi -L
else
    echo "no GPU was given to this job"
fi
