#!/bin/sh
#SBATCH --job-name=squares
#SBATCH --array=0-9
#SBATCH --output=squares-%a.txt
#SBATCH --time=5
#HPCC image=docker://debian:12 compat
first=$((${1:-0} + SLURM_ARRAY_TASK_ID * 10))
. /etc/os-release
for number in $(seq $first $((first + 9))); do
    echo "$number $((number * number)) ($ID)"
done
