"""What Snakemake's core does with a software deployment plugin, in small, until a release of it can load one.

Written after how the core's own manager behaves (snakemake/snakemake pull request 3339): plugins by their registry,
settings from the command line, one factory for each kind, environments that are equal taken for one, made without
`envvars`; pin, cache what is not there, deploy what is not there, run by bash.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake_interface_software_deployment_plugins import EnvBase, EnvSpecBase, ShellExecutable
from snakemake_interface_software_deployment_plugins.registry import SoftwareDeploymentPluginRegistry


class Core:
    """One run of Snakemake in the working directory, with the options of its command line that are the plugin's."""

    def __init__(self, *argv: str) -> None:
        registry = SoftwareDeploymentPluginRegistry()
        self.plugin = registry.get_plugin("hpcc")
        parser = argparse.ArgumentParser()
        self.plugin.register_cli_args(parser, "software deployment")
        self.settings = self.plugin.get_settings(parser.parse_args(argv))
        self.plugin.validate_settings(self.settings)
        kind = self.plugin.common_settings.provides
        self.deployments = (Path(".snakemake/deployments") / kind).absolute()
        self.cache, self.pins = Path(".snakemake/cache") / kind, Path(".snakemake/pins") / kind
        for prefix in (self.deployments, self.cache, self.pins):
            prefix.mkdir(parents=True, exist_ok=True)
        self.instances: dict[EnvBase, EnvBase] = {}

    def hpcc(self, **attributes: Any) -> EnvSpecBase:
        """What `hpcc(…)` in a Snakefile makes."""
        spec = self.plugin.env_spec_cls(**attributes)
        spec.technical_init()
        return spec

    def env(self, spec: EnvSpecBase, wildcards: Callable[[str], str] = str, **more: Any) -> Any:
        env = spec.modify_identity_attributes(wildcards).env_cls()(
            spec=spec.modify_identity_attributes(wildcards),
            within=None,
            settings=self.settings,
            shell_executable=ShellExecutable(executable="/bin/bash", command_arg="-c"),
            tempdir=Path(tempfile.gettempdir()),
            mountpoints=[Path(".snakemake/source-cache"), Path(os.getcwd())],
            cache_prefix=self.cache,
            deployment_prefix=self.deployments,
            pinfile_prefix=self.pins,
            **more,
        )
        return self.instances.setdefault(env, env)

    def prepare(self, *envs: Any, pin: bool = True, cache: bool = True) -> None:
        asyncio.run(self._prepare(envs, pin, cache))

    async def _prepare(self, envs: tuple[Any, ...], pin: bool, cache: bool) -> None:
        for env in envs:
            if pin and env.is_pinnable() and not env.pinfile.exists():
                await env.pin()
        assets = {}
        for env in envs:
            if cache and env.is_cacheable():
                assets |= {a: env for a in await env.get_cache_assets() if not (env.cache_path / a).exists()}
        for asset, env in assets.items():
            await env.managed_cache_asset(asset)
        for env in envs:
            if env.is_deployable() and not env.deployment_path.exists():
                await env.managed_deploy()

    def run(self, env: Any, cmd: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        options = {"capture_output": True, "text": True, **options}
        return env.shell_executable.run(env.managed_decorate_shellcmd(cmd), **options)


def left(directory: str = ".snakemake") -> list[str]:
    """Each file below, links that lead nowhere too; sorted."""
    return sorted(str(path) for path in Path(directory).rglob("*") if path.is_symlink() or not path.is_dir())
