"""The documentation: its links resolve, and the commands and options that it names exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from intraq_cli.app import app
from intraq_cli.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "zoo/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {
    " ".join(path): {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for path, command in [
        *(((name,), command) for name, command in typer.main.get_command(app).commands.items()),
        *((("zoo", name), command) for name, command in typer.main.get_command(app).commands["zoo"].commands.items()),
    ]
}


def commands_on(page: str) -> list[list[str]]:
    """The words of every ``intraq ...`` command on a page, without pipes, redirections and other shell syntax."""
    inline = re.findall(r"`(intraq [^`]+)`", page)
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    lines = re.findall(r"(?:^|\$ |\$\(|do |; )(intraq [^#\n|>]*)", blocks, re.MULTILINE)
    return [shlex.split(text.replace('"$(', "").rstrip(") ;"), posix=False) for text in (*inline, *lines)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_resolve(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_and_options_exist(page):
    for words in commands_on(page.read_text(encoding="utf-8")):
        name = " ".join(words[1:3]) if words[1] == "zoo" and len(words) > 2 else words[1]
        if name.startswith("-"):
            continue
        assert name in COMMANDS or name == "zoo", words
        for word in words[2:]:
            if re.fullmatch(r"--?[a-z][a-z-]*", word):
                assert word in COMMANDS[name] | {"--help"}, (name, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_recipe_settings_exist(page):
    tables = Recipe().to_dict()
    for table, key in re.findall(r"--set (\w+)\.(\w+)[=.]", page.read_text(encoding="utf-8")):
        assert key in tables[table], (table, key)


def test_readme_has_at_most_150_lines():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150
