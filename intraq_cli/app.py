"""The ``intraq`` command: builds the typer app, and turns errors into messages and exit codes."""

import os
import signal
import sys
from typing import Annotated

import typer

from intraq_cli import __version__
from intraq_cli.commands import calls, zoo
from intraq_cli.commands.compare import compare
from intraq_cli.commands.evaluate import evaluate
from intraq_cli.commands.export import export
from intraq_cli.commands.images import images
from intraq_cli.commands.inspect import inspect
from intraq_cli.commands.interruption import Terminated, raise_on_signals
from intraq_cli.commands.parsing import readable
from intraq_cli.commands.predict import predict
from intraq_cli.commands.printing import StdoutFailed, checked_stdout, print_error, print_json, stderr
from intraq_cli.commands.push import push
from intraq_cli.commands.quantize import quantize
from intraq_cli.commands.report import report
from intraq_cli.commands.sensitivity import sensitivity
from intraq_cli.commands.synthesize import synthesize
from intraq_cli.errors import DeviceError, IntraqError, OutputError, UsageError, interruption
from intraq_cli.runtime.launch import launched

INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143
GOING_ON = ("quantize", "synthesize", "sensitivity")
"""Commands that keep their finished work when they are interrupted."""

app = typer.Typer(
    name="intraq",
    help="Quantize a pretrained image classifier to 2 to 8 bits without any data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = (quantize, synthesize, images, evaluate, export, predict, push, inspect, sensitivity, compare, report)
for command in COMMANDS:
    app.command()(command)
app.add_typer(zoo.app, name="zoo")


def _print_version(value: bool) -> None:
    if value:
        print(f"intraq {__version__}")
        raise typer.Exit


@app.callback()
def _intraq(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


def main(argv: list[str] | None = None) -> int:
    """Run the command line like the console script, and return the exit code. A bug raises."""
    args = sys.argv[1:] if argv is None else argv
    calls.TYPED[:] = args
    if sys.stderr is None:  # closed before the start: discard the output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    rank = _rank()
    if rank:  # under torchrun only the first process prints
        sys.stdout, stderr.quiet = open(os.devnull, "w"), True  # noqa: SIM115 - until the process ends
    raise_on_signals()
    try:
        with checked_stdout():
            code = _exit_code(args, rank)
            if argv is None and code in (INTERRUPTED, TERMINATED):  # the process is ending: ignore further signals
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.stdout.flush()  # detect a closed pipe here, not at interpreter exit
            return code
    except StdoutFailed as failed:
        if failed.closed:
            return BROKEN_PIPE
        error = OutputError(f"cannot write to standard output: {failed.reason}")
        print_error(error, as_json=False)
        return error.exit_code


def _exit_code(args: list[str], rank: int) -> int:
    as_json = "--json" in args
    try:
        _check_empty(args)
        code = app(args=args, prog_name="intraq", standalone_mode=False)
        if code == INTERRUPTED:  # typer turned a KeyboardInterrupt into this code
            return _stopped(False, as_json)
        return code if isinstance(code, int) else 0
    except IntraqError as error:
        print_error(error, as_json)
        if rank and isinstance(error, DeviceError):  # perhaps only this process has it
            print(f"process {rank}: error: {error.message}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        error.message = readable(error.message)
        if not as_json:
            error.show() if hasattr(error, "show") else stderr.print(str(error))
        else:
            print_error(UsageError(error.format_message(), "see --help"), as_json)
        return error.exit_code
    except (KeyboardInterrupt, Terminated) as stop:
        return _stopped(isinstance(stop, Terminated), as_json)
    except Exception as error:
        cause = interruption(error)
        if cause is None:
            raise
        return _stopped(isinstance(cause, Terminated), as_json)


def _check_empty(args: list[str]) -> None:
    """Refuse empty arguments: as a path, an empty one would mean the working folder.

    Raises:
        UsageError: an argument is empty.
    """
    for k, word in enumerate(args):
        if not word or (word.startswith("--") and word.endswith("=")):
            after = f"the value after {word or args[k - 1]}" if word or k else "the first argument"
            raise UsageError(f"{after} is empty", "check whether a shell variable in the command is empty")


def _rank() -> int:
    try:
        return launched().rank
    except UsageError:  # commands that run in several processes report it; others ignore it
        return 0


def _stopped(terminated: bool, as_json: bool) -> int:
    word = "terminated" if terminated else "interrupted"
    if as_json:
        goes_on = calls.TYPED[:1] and calls.TYPED[0] in GOING_ON
        hint = "run the same command again to resume" if goes_on else ""
        print_json({"error": {"code": "interrupted", "message": word, "hint": hint}})
    stderr.print(word)
    return TERMINATED if terminated else INTERRUPTED
