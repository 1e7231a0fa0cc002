# For Spack's builtin repository: var/spack/repos/builtin/packages/hpcc/package.py
from spack.package import *


class Hpcc(PythonPackage):
    """Docker and OCI images on HPC clusters: no Docker, no root, one pull per cluster."""

    pypi = "hpcc/hpcc-0.1.0.tar.gz"

    license("Apache-2.0")

    # a release has the sha256 of its sdist here: `spack checksum hpcc`
    version("0.1.0")

    variant("snakemake", default=False, description="The workflow engine that `hpcc snakemake` drives")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-hatchling@1.25:1", type="build")
    depends_on("py-requests@2.31:2", type=("build", "run"))
    depends_on("py-filelock@4.2:4", type=("build", "run"))
    depends_on("py-isal@1.7:1", type=("build", "run"))
    depends_on("py-zstandard@0.22:0", type=("build", "run"))
    depends_on("py-rich@13.7:15", type=("build", "run"))
    depends_on("snakemake@8:9", when="+snakemake", type="run")

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        Executable(self.prefix.bin.hpcc)("demo")
