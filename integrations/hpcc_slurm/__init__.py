"""hpcc for Slurm: jobs in images, and what its administrators need."""
