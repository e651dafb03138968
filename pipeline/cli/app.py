"""The command group, its lazily imported commands, and how an error ends the process."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from ...artifacts.errors import Interrupted, RecipeError, nearest
from .streams import colour, never_fail

# name: (module, one line of help). The line stands here so that `ingot --help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "The whole thing on the bundled model, for this machine: about a minute."),
    "run": ("run", "Build every target of a recipe, gate it and deliver it."),
    "plan": ("plan", "What would run, why, and what is cached."),
    "explain": ("plan", "Why a stage (re)ran: the parts of its key that changed."),
    "history": ("history", "Past runs: what they built, took and found; or a node in all of them."),
    "inspect": ("inspect", "What a checkpoint holds and what each target needs, from headers alone."),
    "report": ("results", "Open a run's report, or print it as Markdown, JUnit or JSON."),
    "gate": ("results", "Exit with a run's verdict: 0 pass, 1 fail, 3 inconclusive, 4 a stage failed."),
    "validate": ("validate", "Measure a delivery on this machine, such as one whose device was missing."),
    "baseline": ("baseline", "Pin what a run measured, and hold later runs against it."),
    "generate": ("use", "Continue a prompt with a delivery or an exported artifact."),
    "bench": ("bench", "Measure load, prefill, decode and memory of a delivery."),
    "setup": ("setup", "Set up what checks of a target need, such as arm-emulation."),
    "targets": ("catalogue", "The target profiles, or all that one of them decides."),
    "stages": ("catalogue", "The stages, or one with its parameters, defaults and meanings."),
    "ls": ("store", "List what is in the store."),
    "show": ("store", "Show an artifact, an action or a run."),
    "verify": ("store", "Hash the store again and set corrupt artifacts aside."),
    "gc": ("store", "Delete what is least recently used, down to a size."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All command names, in the order a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports the command; None for a name that does not exist."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        found = getattr(module, f"{cmd_name}_command")
        if not isinstance(found, click.Command):
            raise TypeError(f"{cmd_name}_command is not a command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command of ``args``; an unknown one is answered with the nearest name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            guess = nearest(args[0], COMMANDS)
            fix = f"did you mean `ingot {guess}`?" if guess else "see `ingot --help`"
            raise RecipeError(f"there is no command {args[0]!r}", fix=fix)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a closed pipe leaves under another name, since click makes it exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from .errors import PipeClosedError

            raise PipeClosedError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Lists the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="ingot", message="ingot %(version)s")
def ingot() -> None:
    """From a trained checkpoint to a deployable artifact for your device, with proof of what it cost.

    Start with `ingot demo`, then `ingot run --model ./checkpoint --target cpu`.
    """


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits with its code; no traceback reaches a person."""
    signal.signal(signal.SIGTERM, _terminated)
    never_fail()
    try:
        code = ingot.main(args=args, prog_name="ingot", standalone_mode=False, color=colour())
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, a person must be told
        if isinstance(error, KeyboardInterrupt | Interrupted):
            _end_in_peace()
        from .errors import report_error

        code = report_error(error, as_json="--json" in (sys.argv[1:] if args is None else args))
    sys.exit(code if isinstance(code, int) else 0)


def _end_in_peace() -> None:
    """Keeps whoever presses Ctrl-C again from seeing where in its end the process was."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminated(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt
