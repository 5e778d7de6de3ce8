"""``intraq report``."""

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json, print_table
from intraq_cli.words import file_size


def report(
    folders: options.Folders,
    out: options.PageFile = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write an HTML report of how a checkpoint was made, or of several side by side.

    intraq report resnet18-w4a4
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import report as api

    result = api.report(**given)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    else:
        print_table(result.path, [("of", ", ".join(result.checkpoints)), ("size", file_size(result.bytes))])
        print_hint("next: open it in a browser; it works offline")
