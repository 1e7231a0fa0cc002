#!/bin/sh
#SBATCH --job-name=ring
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --output=ring-%j.txt
#SBATCH --time=5
# sbatch ring.sh IMAGE [ROUNDS]
exec srun --mpi=pmi2 hpcc exec --contain --job-env "$1" ring "${2:-10}"
