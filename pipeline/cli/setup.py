"""`ingot setup`: what Ingot can install for itself beside Python packages."""

from __future__ import annotations

import click


@click.command("setup", short_help="Set up what checks of a target need, such as arm-emulation.")
@click.argument("what", type=click.Choice(["arm-emulation"]))
@click.option("--force", is_flag=True, help="Set it up again although it is there.")
def setup_command(what: str, force: bool) -> None:
    """Set up WHAT, and say what is installed where.

    arm-emulation: a sandbox of Debian packages and aarch64 wheels in the user's cache, in which artifacts for
    phones run on emulated ARM processors. Nothing is installed into the system, and no root is needed. What
    is there is kept while its libraries are of the versions that this environment has.
    """
    from ...targets.emulated import sandbox
    from ...targets.emulated.setup import set_up, wanted

    present = sandbox.installed()
    if present != wanted() or force:
        click.echo(f"{what}: into {sandbox.directory()}")
        set_up(click.echo)
        present = sandbox.installed()
    listed = ", ".join(f"{name} {version}" for name, version in (present or {}).items())
    click.echo(f"{what} is ready: {listed}; processors {', '.join(sandbox.PROCESSORS)}")
