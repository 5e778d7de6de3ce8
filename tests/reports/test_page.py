"""The report page: what it shows, that it loads nothing from elsewhere, and that untrusted text is escaped."""

import html
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from intraq_cli import report
from intraq_cli.errors import OutputError
from intraq_cli.reports.folder import read_record
from intraq_cli.reports.page import MOST_BYTES, html_page
from tests.reports.runs import EVALUATION, folder_of, layer, run_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECTIONS = [
    "Size against divergence",
    "Sensitivity by layer",
    "Quantization noise by depth",
    "Ranges of the worst activations",
    "Synthetic images",
    "Losses",
    "What is quantized",
    "Accuracy",
    "Export",
    "Reproducing this run",
]


class Page(html.parser.HTMLParser):
    """The tags, figures and headings of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.figures, self.open, self.headings = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "figure":
            self.figures.append([])
        elif self.figures and "figure" in self.open:
            self.figures[-1].append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def words(text):
    """The visible text, without tags."""
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_page_has_every_section_and_a_table_for_every_chart(folder):
    page = Page(html_page(read_record(folder)))
    assert page.headings == SECTIONS
    assert len(page.figures) == 7  # two of them show losses
    for tags in page.figures:
        assert tags.count("svg") >= 2  # for wide and for narrow screens
        assert (tags.count("details"), tags.count("table")) == (1, 1)
    assert sum(tag == "svg" for tag, _ in page.tags) == sum(tags.count("svg") for tags in page.figures)
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg" and "role" in attributes)


def test_page_shows_the_figures_of_the_manifest(folder):
    text = words(html_page(read_record(folder)))
    for figure in (
        "Top-1 on digits goes from 99.50 % (float) to 98.50 %, measured on 600 images; the file is 6.2 times smaller.",
        "160.0 kB float 1.00 MB: 6.2 times smaller",
        "96.9 % of 32 held-out synthetic images; divergence 0.013 nats",
        "34 s on cpu (1 thread): synthesis 7.0 s, tuning 22 s",
        "intraq quantize net --w 4 --a 4",
        "Lowest: 15.2 dB, at layer.bn2.",
        "this one",
        "4 bits, 1.25 % clipped, 15.0 dB",
        "dog 90 %, predicted as cat",
        "fixed conv2d 50.00 computed from the input",
        "1 of 2 layers run on integers in onnxruntime, 2.00 times as fast as float32",
        "torch 2.15.0",
    ):
        assert figure in text, figure


def test_page_without_an_evaluation_summarises_the_agreement_instead(tmp_path):
    text = words(html_page(read_record(folder_of(tmp_path / "a", evaluations=[]))))
    assert "Top-1 predictions equal the float network's on 96.9 % of 32 synthetic images" in text
    assert "Accuracy on real images was not measured yet" in text
    bare = {"bytes_float": 1_000_000, "bytes_quantized": 250_000}
    gone = {"ranges": [], "samples": [], "frontier": [], "sensitivity": [], "losses": {}, "export": None}
    instant = folder_of(tmp_path / "b", evaluations=[], measured=bare, **gone)
    (instant / "metrics.jsonl").unlink()
    (instant / "samples.png").unlink()
    page = Page(html_page(read_record(instant)))
    assert page.headings == ["What is quantized", "Reproducing this run"]
    assert "Quantized without images; the file is 4.0 times smaller." in words(html_page(read_record(instant)))


def assert_self_contained(text):
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed", "base", "form")]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "srcset", "background"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_pages_load_nothing_from_elsewhere(folder, tmp_path):
    assert_self_contained(html_page(read_record(folder)))
    other = folder_of(tmp_path / "other")
    assert_self_contained(html_page(read_record(folder), read_record(other)))


EVIL = "<script>alert('\"&')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


def test_untrusted_text_is_escaped_on_pages(tmp_path):
    ranges = [{**row, "site": EVIL} for row in run_of()["ranges"]]
    evil = folder_of(
        tmp_path / "evil",
        labels=(EVIL, EVIL),
        name=EVIL,
        command=EVIL,
        device=EVIL,
        recipe={"name": EVIL, "tuning": {"steps": 1}},
        teacher={"source": EVIL, "revision": EVIL},
        versions={EVIL: EVIL},
        stages={EVIL: 1.0},
        measured={**run_of()["measured"], "sqnr": {EVIL: 3.0, f"{EVIL}2": 9.0}},
        inspection={**run_of()["inspection"], "act_placement": EVIL, "layers": [layer(EVIL, EVIL, kind=EVIL)]},
        ranges=ranges,
        sensitivity=[{"name": EVIL, "weights": {"4": 1.0}, "inputs": {"4": 2.0}}],
        evaluations=[{**EVALUATION, "data": EVIL, "date": EVIL}],
        export={**run_of()["export"], "processor": EVIL, "layers_float": [{"name": EVIL, "reason": EVIL}]},
        losses={EVIL: {EVIL: 1.0}},
    )
    (evil / "metrics.jsonl").write_text(
        json.dumps({"stage": "tuning", "step": 1, "images": 1, "seconds": 0.1, EVIL: 0.5}) + "\n"
    )
    (tmp_path / "<b>bold").mkdir()
    shutil.copytree(evil, tmp_path / "<b>bold" / "<i>")
    for text in (
        html_page(read_record(evil)),
        html_page(read_record(evil), read_record(tmp_path / "<b>bold" / "<i>")),
    ):
        tags = {tag for tag, _ in Page(text).tags}
        assert not tags & {"script", "i", *(() if "Synthetic images" in text else "b")}
        assert [a for tag, a in Page(text).tags if tag == "img" and not a["src"].startswith("data:")] == []
        assert not [name for _, a in Page(text).tags for name in a if name.startswith("on")]
        assert "alert" in text  # shown as text


def test_legend_shows_only_widths_that_were_measured(tmp_path):
    """The chosen 6 and 7 bits were not measured for any layer."""
    tried = {"weights": {"2": 0.5, "8": 0.1}, "inputs": {"2": 0.75, "4": 0.25, "8": 0.125}}
    inspection = {**run_of()["inspection"], "w_bits": 6, "a_bits": 7}
    folder = folder_of(tmp_path / "a", inspection=inspection, sensitivity=[{"name": "conv", **tried}])
    text = words(html_page(read_record(folder)))
    assert "weight at 8 bits" in text
    assert "input at 8 bits" in text
    assert not re.search(r"at [67] bits", text)
    assert "layer W2 W8 A2 A4 A8 conv 0.5000 0.1000 0.7500 0.2500 0.1250" in text


def test_page_of_a_very_large_network_stays_small(tmp_path):
    names = {f"stages.{k}.blocks.{k}.some.long.name.of.a.batch.norm": 10.0 + k % 7 for k in range(3000)}
    layers = [layer(f"stages.{k}.blocks.{k}.some.long.name.of.a.layer", "why not") for k in range(3000)]
    moves = [{"name": f"layer{k}", "weights": {"4": 0.1 * k}, "inputs": {"4": 0.2}} for k in range(3000)]
    large = folder_of(
        tmp_path / "large",
        measured={**run_of()["measured"], "sqnr": names},
        inspection={**run_of()["inspection"], "layers": layers},
        sensitivity=moves,
        ranges=run_of()["ranges"] * 20,
        frontier=run_of()["frontier"] * 1000,
    )
    steps = [{"stage": "tuning", "step": k, "images": k, "seconds": 1.0, "kl": 1.0 / k} for k in range(1, 20_000)]
    (large / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert len(html_page(read_record(large)).encode()) < MOST_BYTES


def test_report_overwrites_only_the_folders_own_report_without_force(folder, tmp_path, intraq, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert intraq("report", folder, "-q").out == f"{folder}/report.html\n"
    made = json.loads(intraq("report", folder, "--json").out)
    assert made == {
        "path": str(folder / "report.html"),
        "bytes": (folder / "report.html").stat().st_size,
        "checkpoints": [str(folder)],
    }
    report(folder, out=tmp_path / "mine.html")
    with pytest.raises(OutputError, match="already exists"):
        report(folder, out=tmp_path / "mine.html")
    report(folder, out=tmp_path / "mine.html", force=True)
    other = folder_of(tmp_path / "other")
    assert intraq("report", folder, other, "-q").out == "report.html\n"
    assert "side by side" in (tmp_path / "report.html").read_text()
    assert intraq("report", folder, other).code == 1
    assert intraq("report", tmp_path).code == 1
    assert "no folder" in intraq("report", tmp_path / "nowhere").err


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1280])
def test_browser_shows_every_chart_and_table_without_errors(folder, tmp_path, width):
    """Every chart has its table, nothing is wider than the page, and the console shows no error."""
    report([folder], out=tmp_path / "page.html")
    probe = (
        f"<script>document.body.style.width = '{width}px'</script>"
        + """<script>document.title = JSON.stringify({
      wide: document.body.scrollWidth,
      charts: [...document.querySelectorAll("figure .panels svg[role]")].filter(s => s.getClientRects().length).length,
      tables: [...document.querySelectorAll("figure")].filter(f => f.querySelector("details table tbody tr")).length,
      low: [...document.querySelectorAll("svg[role]")].filter(s => s.getBoundingClientRect().height < 40
        && s.getClientRects().length).length,
      images: [...document.images].filter(i => i.complete && i.naturalWidth).length})</script>"""
    )
    page = (tmp_path / "page.html").read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy".*?>', page)[0]
    (tmp_path / "probed.html").write_text(page.replace(policy, "").replace("</body>", probe + "</body>"))

    def browse(name):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        user = [
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={max(width, 500) + 20},900",
        ]  # windows cannot be narrower than 500 pixels
        return subprocess.run(
            [*command, *user, f"file://{tmp_path / name}"], capture_output=True, text=True, timeout=120, check=True
        )

    as_made = browse("page.html")
    assert as_made.stdout.count("<figure") == 7
    assert "CONSOLE" not in as_made.stderr  # violations of the page's content security policy, and all errors
    seen = json.loads(re.search(r"<title>(.*?)</title>", browse("probed.html").stdout)[1])
    assert seen == {"wide": width, "charts": 14, "tables": 7, "low": 0, "images": 8}
