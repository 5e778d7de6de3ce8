"""``intraq push``."""

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.words import file_size


def push(
    folder: options.Folder,
    repo_id: options.Repository,
    private: options.Private = False,
    revision: options.Branch = None,
    create_pr: options.CreatePr = False,
    message: options.Message = None,
    token: options.Token = None,
    timm: options.Timm = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.QuietName = False,
) -> None:
    """Upload a checkpoint folder with its model card to the Hugging Face Hub.

    intraq push resnet18-w4a4 my-name/resnet18-w4a4
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import push as api

    with progress(quiet) as report:
        result = api.push(**given, report=report)
    if as_json:
        print_json(result)
        return
    if quiet:
        print(result.repo_id)
        return
    where = result.pull_request or result.url
    print_table(
        f"would send to {where}" if dry_run else where, [(file.path, file_size(file.bytes)) for file in result.files]
    )
    if result.left_out:
        print_hint(f"not sent: {', '.join(result.left_out)}")
    if dry_run:
        print(f"\n{result.card.rstrip()}")
    elif not timm:
        print_hint(f"next: intraq evaluate {repo_id} --data DATA")
