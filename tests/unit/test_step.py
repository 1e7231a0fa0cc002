"""Ranks that belong together."""

import pytest

from hpcc.runtime.step import step_of, tasks_here


@pytest.mark.parametrize(
    ("counts", "node", "tasks"),
    [
        ("8", "0", 8), ("8(x2),4", "0", 8), ("8(x2),4", "1", 8), ("8(x2),4", "2", 4), ("1(x100),2", "99", 1),
        ("1(x100),2", "100", 2), ("8", "1", 1), ("", "0", 1), ("x", "0", 1), ("8(y2)", "0", 1), ("8", "one", 1),
    ],
)  # fmt: skip
def test_tasks_here(counts: str, node: str, tasks: int) -> None:
    assert tasks_here(counts, node) == tasks


@pytest.mark.parametrize(
    ("environ", "step"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, ""),  # a batch script
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "8"}, "slurm 7.0"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_NODEID": "2"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}, ""),
        ({"PMIX_NAMESPACE": "prterun-h-1@1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "pmix prterun-h-1@1"),
        ({"PMIX_NAMESPACE": "prterun-h-1@1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, ""),
        ({"PMIX_NAMESPACE": "n"}, ""),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, ""),
    ],
)
def test_step_of(environ: dict[str, str], step: str) -> None:
    assert step_of(environ) == step
