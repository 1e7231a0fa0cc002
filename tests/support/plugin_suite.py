"""The tests that Snakemake's interface for software deployment plugins brings, on hpcc's plugin.

Run by pytest in the plugin's virtual environment: see tests/e2e/test_snakemake_plugin.py, which gives the images. An
image of a registry is deployable, so its `test_shellcmd` skips itself; a local one is not, so the others do.
"""

import os
import shlex

from snakemake_interface_software_deployment_plugins import EnvBase, EnvSpecBase
from snakemake_interface_software_deployment_plugins.settings import SoftwareDeploymentSettingsBase
from snakemake_interface_software_deployment_plugins.tests import TestSoftwareDeploymentBase

from snakemake_software_deployment_plugin_hpcc import Env, EnvSpec, Settings


class _OfHpcc(TestSoftwareDeploymentBase):
    image: str

    def get_env_spec(self) -> EnvSpecBase:
        return EnvSpec(image_uri=os.environ[self.image], binds=["/etc:/mnt/of host"], env={"SAID": "it's"})

    def get_env_cls(self) -> type[EnvBase]:
        return Env

    def get_test_cmd(self) -> str:
        here = shlex.quote(os.getcwd())
        return f'test "$SAID" = "it\'s" -a -e "/mnt/of host/passwd" -a -d {here} -a "$PWD" = {here} -a ! -e {__file__}'

    def get_settings(self) -> SoftwareDeploymentSettingsBase | None:
        return Settings(contain=True)

    def get_settings_cls(self) -> type[SoftwareDeploymentSettingsBase] | None:
        return Settings

    def get_contained_executable(self) -> str:
        return "bash"


class TestOfRegistry(_OfHpcc):
    __test__ = True
    image = "TEST_IMAGE"


class TestLocal(_OfHpcc):
    __test__ = True
    image = "TEST_FILE"
