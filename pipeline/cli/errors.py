"""How an error reaches a person: what is wrong, where, what to do; and with which code the process ends."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback

import click

from ...artifacts.errors import IngotError, Interrupted, to_json
from .streams import colour, silence

# What a shell says of a program that Ctrl-C ended: 128 and the number of SIGINT.
STOPPED = 130
# A fault of Ingot itself counts as a failed stage: no verdict, and nothing the person could have put right.
CRASHED = 4


class PipeClosedError(Exception):
    """Whoever read what the command wrote has closed the pipe."""


def show_error(error: IngotError) -> None:
    """Prints one error on standard error: `error:`, and below it `where:` and `fix:` where they are known."""
    click.echo(click.style("error: ", fg="red", bold=True) + error.what, err=True, color=colour())
    if error.where:
        click.echo(f"  where: {error.where}", err=True)
    if error.fix:
        click.echo(f"  fix:   {error.fix}", err=True)


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Tells a person why the command ended with ``error``; the exit code.

    as_json: a script reads standard output, so it gets an object there too. A closed pipe on standard output
    ends quietly, as for any filter.
    """
    if isinstance(error, PipeClosedError):
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        return 0
    if isinstance(error, KeyboardInterrupt | click.Abort | Interrupted):
        click.echo("stopped; run the same command again to go on from here", err=True)
        return STOPPED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        told, code = of_usage(error), error.exit_code
    elif isinstance(error, IngotError):
        told, code = error, error.exit_code
    else:
        told, code = of_crash(error), CRASHED
    if as_json:
        value = {"verdict": "error", "exit_code": code, "error": to_json(told)}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    show_error(told)
    return code


def of_usage(error: click.ClickException) -> IngotError:
    """What click says of a wrong command line, with the page that explains the command."""
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    page = context.command_path if context is not None else "ingot"
    return IngotError(message[:1].lower() + message[1:], fix=f"see `{page} --help`")


def of_crash(error: BaseException) -> IngotError:
    """A fault of Ingot itself: the traceback goes to a file, for whoever mends it."""
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="ingot-fault-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return IngotError(
        f"Ingot itself failed: {type(error).__name__}: {error}".rstrip(": "),
        where=f"traceback: {file.name}",
        fix="run the same command again; if it fails again, report it with that file",
    )
