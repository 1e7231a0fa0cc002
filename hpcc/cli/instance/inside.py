"""hpcc exec, run, shell of instance://NAME."""

from hpcc.cli import say
from hpcc.cli.arguments import Arguments
from hpcc.cli.run import show_plan
from hpcc.runtime.enter import caller
from hpcc.runtime.join import join_instance
from hpcc.runtime.plan import plan_join
from hpcc.runtime.register import Register
from hpcc.runtime.spec import Options, container_spec
from hpcc.settings import Settings

_DECIDED = (
    "apply_cgroups", "backend", "bind", "blkio_weight", "blkio_weight_device", "compat", "contain", "containall",
    "cpu_shares", "cpus", "cpuset_cpus", "cpuset_mems", "device", "fakeroot", "home", "hostname", "ipc", "memory",
    "memory_reservation", "memory_swap", "mount", "mpi", "net", "network", "no_home", "no_mount", "nv", "nvccli",
    "overlay", "pid", "pids_limit", "rocm", "scratch", "userns", "uts", "workdir", "writable", "writable_tmpfs",
)  # fmt: skip


def run_inside(command: str, arguments: Arguments, options: Options) -> int:
    """Do `command`, one of exec, run and shell, in the instance that the first argument names; the status."""
    uri, *rest = arguments.positional
    name = uri.removeprefix("instance://")
    settings = Settings.from_environ()
    register = Register.of_caller(settings.environ)
    instance = register.find(name)
    late = [f"--{key.replace('_', '-')}" for key in _DECIDED if arguments.options.get(key)]
    if late and not arguments.quiet and not arguments.silent:
        say("WARNING", f"{', '.join(late)}: what an instance mounts was decided when it started")
    user = caller(settings)._replace(home=instance.home)
    # Of the options only those count that say how a command runs.
    options = Options(
        env=options.env, pwd=options.pwd, cleanenv=options.cleanenv, no_umask=options.no_umask, shell=options.shell,
        job_env=options.job_env, contain=options.contain, containall=options.containall, compat=options.compat,
        security=options.security, app=options.app,
    )  # fmt: skip
    if settings.bind_paths:
        from hpcc.runtime.sitebinds import site_binds

        options = options._replace(passed=site_binds(settings).env)
    container = container_spec(instance.image, instance.path, instance.config, options, command, tuple(rest), user)
    ops = plan_join(container, name, instance.pid)
    if arguments.dry_run:
        show_plan(ops)
        return 0
    if settings.audit:
        from hpcc.audit import audit

        audit(command, instance.path, next(iter(rest), "") if command == "exec" else "", user.environ, instance=name)
    return join_instance(instance, register, ops, settings, lambda text: say("WARNING", text))
