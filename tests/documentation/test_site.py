"""The site builds without a warning and without a network, and nothing in it leads nowhere."""

import html
import html.parser
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
import yaml
from support import ROOT

from cl import __version__
from scripts.documentation import blocks, options, races
from scripts.documentation.hooks import from_top


class Page(html.parser.HTMLParser):
    """What a built page links to and loads, the names of its places, and the text of its paragraphs."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.places, self.paragraphs = [], [], set(), []
        self._in_paragraph = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[name] for name in ("id", "name") if name in given and tag != "meta"}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "iframe") and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(given["href"])
        if tag == "p":
            self._in_paragraph = True
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        if tag == "p":
            self._in_paragraph = False

    def handle_data(self, data):
        if self._in_paragraph:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def built(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_no_link_is_broken(site, built):
    broken, followed = [], 0
    for path, page in built.items():
        if path.name == "404.html":  # its links are from the server's root
            continue
        for link in page.links + page.loaded:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            followed += 1
            if not target.exists():
                broken.append((path.name, link))
            elif parts.fragment and urllib.parse.unquote(parts.fragment) not in built[target].places:
                broken.append((path.name, link))
    assert broken == [] and followed > 3000


def test_nothing_is_loaded_from_elsewhere(built):
    foreign = {address for page in built.values() for address in page.loaded if re.match(r"(https?:)?//", address)}
    assert foreign == set()


def test_lists_and_tables_are_such(built):
    """GitHub takes a list without an empty line before it, Python-Markdown does not."""
    flat = [
        (path.name, line)
        for path, page in built.items()
        for text in page.paragraphs
        for line in text.splitlines()
        if re.match(r"\s*([-*] |\d+\. |\|)", line)
    ]
    assert flat == []


def test_every_page_is_in_the_menu():
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written | set(options.pages()) <= named
    assert named - written - set(options.pages()) == {"changelog.md", "contributing.md"}


def test_the_reference_has_every_file_and_every_key(site):
    missing, counted = [], 0
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group = path.relative_to(ROOT / "conf").parts[0].removesuffix(".yaml")
        if group == "hydra" or (ROOT / "conf" / group).is_dir() and group not in options.GROUPS:
            continue
        shown = html.unescape(re.sub(r"<[^>]*>", "", (site / "options" / f"{group}.html").read_text()))
        listed = path.parent.name != "recipe" and group != "experiment"  # the others are shown as they are
        assert path.parent == ROOT / "conf" or re.search(rf"^(recipe/)?{path.stem}", shown, re.MULTILINE), path
        content = yaml.safe_load(path.read_text())
        prefix = "" if path.parent == ROOT / "conf" or not listed else options.prefix_of(path)
        for key, value in leaves(content):
            counted += 1
            told = value if key.endswith("_target_") else prefix + key if listed else key.rpartition(".")[2]
            in_braces = re.escape(key.rpartition(".")[2]) + ": "  # {drop_rate: 0.5} is one value of the table
            if not re.search(rf"(?<![\w.]){re.escape(told)}(?![\w])|[{{ ]{in_braces}", shown):
                missing.append((path.name, told))
    assert missing == [] and counted > 400


def leaves(content: dict, prefix: str = "") -> list[tuple[str, object]]:
    """The dotted names and the values of all keys, without what Hydra and the program read for themselves."""
    found = []
    for key, value in content.items():
        if prefix == "" and key in ("defaults", "hydra") or key in ("name", "memory", "version"):
            continue
        nested = isinstance(value, dict) and value
        found += leaves(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return found


def test_the_reference_says_what_a_key_is():
    strategy, run, buffer = (options.pages()[f"options/{name}.md"] for name in ("strategy", "run", "buffer"))
    row = (
        "| `strategy.alpha` | `0.5` | a number of at least 0 | weight of the distance between the logits and the stored"
    )
    assert row in strategy
    assert "Experience Replay (Chaudhry et al. 2019)\n\nCode: `cl.strategies.er.Er`" in strategy
    assert "| `reduce.fp16` | `false` | true or false | send them as float16 (Horovod) |" in run
    assert "| `buffer.insertion` | `reservoir` | candidates, class_balanced or reservoir |" in buffer
    assert "[metrics](../metrics.md)" in run


def test_every_option_has_a_meaning():
    rows = [line for text in options.pages().values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 300 and [row for row in rows if row.endswith("|  |")] == []


def test_placeholders_in_angle_brackets_are_shown():
    pages = options.pages()
    assert "&lt;root>/imagenet/" in pages["options/dataset.md"] and "conf/&lt;group>/" in pages["options/run.md"]


def test_every_group_of_the_configuration_has_a_page():
    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and list(path.glob("*.yaml"))}
    assert folders - {"hydra"} == set(options.GROUPS)


def test_the_reference_is_made_without_torch():
    program = (
        "import sys; from scripts.documentation import options; options.pages(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_links_of_files_at_the_top_lead_to_pages():
    text = "[a](docs/metrics.md#x) [b](README.md) [c](CHANGELOG.md) [d](https://example.org)"
    assert from_top(text) == "[a](metrics.md#x) [b](index.md) [c](changelog.md) [d](https://example.org)"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "multirun/README.md"])
def test_links_of_pages_outside_the_site_lead_to_files(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["license"] == "MIT" and cited["type"] == "software"
    assert {"message", "title", "authors"} <= cited.keys() and all("name" in author for author in cited["authors"])
    released = re.search(r"^## ([\d.]+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (cited["version"], str(cited["date-released"])) == released.groups()
    assert cited["version"] == __version__


def test_figures_on_other_pages_are_from_the_results():
    """Every number with a fraction in running text: measured once, in docs/results.md."""
    results = (ROOT / "docs" / "results.md").read_text()
    for page in ("README.md", "docs/performance.md", "docs/index.md"):
        text = (ROOT / page).read_text()
        before, _, recorded = text.partition(races.BEGIN)  # these come from a record of their own
        text = before + recorded.partition(races.END)[2]
        lines = text.splitlines()
        inside = {number for block in blocks.fenced(text) for number in range(block.start - 1, block.end + 1)}
        told = "\n".join(line for number, line in enumerate(lines) if number not in inside and line[:4] != "    ")
        told = re.sub(r"\]\([^)]*\)|`[^`]*`|Python 3\.\d+", "", told)
        numbers = re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.])|(?<![\w.])\d{1,3}(?:,\d{3})+", told)
        assert [number for number in numbers if number not in results] == [], page
