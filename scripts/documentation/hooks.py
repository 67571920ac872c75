"""What MkDocs calls while it builds the site: adds the pages that are made, not written.

Named in mkdocs.yml. The options reference comes from the configuration (scripts/documentation/options.py), and the
changelog and the page for contributors from the files at the top of the repository, where GitHub looks for them. Files
of the repository that pages link to, such as examples, are copied into the folder `repository` of the site.
"""

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:  # `mkdocs build` does not look into the current folder
    sys.path.insert(0, str(ROOT))

from scripts.documentation import options  # noqa: E402

OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)(?=[)#])")  # a link from docs/ to a file beside it
AT_THE_TOP = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, config) -> Files:
    made = options.pages() | {page: from_top((ROOT / name).read_text()) for page, name in AT_THE_TOP.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    for page in (ROOT / "docs").glob("*.md"):
        for path in OUTSIDE.findall(page.read_text()):
            place = f"repository/{path}"
            if (ROOT / path).is_file() and place not in files.src_uris:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    if "/" in page.file.src_uri:  # not a page of docs/ itself
        return markdown
    return OUTSIDE.sub(lambda link: f"](repository/{link[1]}" if (ROOT / link[1]).is_file() else link[0], markdown)


def from_top(text: str) -> str:
    """A page of the repository's top folder, with its links as they are from within docs/."""
    pages = {name: page for page, name in AT_THE_TOP.items()} | {"README.md": "index.md"}
    return re.sub(r"\]\((?:docs/)?([\w.]+)", lambda link: f"]({pages.get(link[1], link[1])}", text)
