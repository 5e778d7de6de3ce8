"""``intraq push``."""

from pathlib import Path
from typing import Annotated

import typer

from intraq_cli.commands import options
from intraq_cli.commands.printing import file_size, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `quantize` wrote.", show_default=False)],
    repo_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; made if needed.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default main.", show_default=False)] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.", show_default=False)] = None,
    token: Annotated[
        str | None, typer.Option(help="With write access; default HF_TOKEN, or `hf auth login`.", show_default=False)
    ] = None,
    timm: Annotated[
        bool, typer.Option("--timm", help="A plain timm repository: dequantized weights, float activations.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.QuietName = False,
) -> None:
    """Upload a checkpoint folder with its model card to the Hugging Face Hub.

    intraq push resnet18-w4a4 my-name/resnet18-w4a4
    """
    from intraq_cli.api import publishing as api

    with progress(quiet) as report:
        result = api.push(
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            message=message,
            token=token,
            timm=timm,
            dry_run=dry_run,
            report=report,
        )
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
