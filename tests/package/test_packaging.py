import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_wheel_contains_the_package_and_the_zoo_and_nothing_else(tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packed = {n.removeprefix("intraq_cli/_zoo/") for n in names if n.startswith("intraq_cli/_zoo/")}
    shipped = [p for part in ("recipes", "models", "results") for p in (ROOT / "zoo" / part).rglob("*") if p.is_file()]
    assert packed == {str(path.relative_to(ROOT / "zoo")) for path in shipped}
    assert {"intraq_cli/publish/card.md.jinja", "intraq_cli/reports/page.html.jinja"} <= set(names)
    assert {n.split("/")[0].split("-")[0] for n in names} == {"intraq_cli", "intraq"}


def test_bundled_model_is_smaller_than_1500_kb():
    folder = ROOT / "zoo/models/resnet20_digits"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
