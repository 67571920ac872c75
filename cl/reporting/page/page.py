"""Writes the page of a study, or of any runs, and the same in other forms, into the folder `report`."""

from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from cl.atomic import atomic_write
from cl.checksums import read_json
from cl.reporting import screen
from cl.reporting.groups import Group
from cl.reporting.page import answer, cells, comparison, files, pictures, rules, study

HERE = Path(__file__).parent
FOLDER, PAGE = "report", "index.html"
STUDY = "study.json"
FORMATS = ("png", "svg")
MOST_NAMED = 6  # rows that a caption names


@dataclass(frozen=True)
class Drawn:
    """A picture: its name and caption, and the files of it."""

    picture: pictures.Picture
    title: str
    caption: str
    svg: Markup  # to stand in the page
    content: dict[str, bytes]  # format -> file


def write(folder: Path, content: dict) -> Path:
    """The page of a study: `folder` holds its study.json, `content` is what that says. Returns the path of the page.

    Raises ValueError for what is no study or no result, OSError for a result that is not there and a full disk.
    """
    return _write(folder, study.read(folder, content))


def write_studies(paths: list[Path]) -> list[Path]:
    """The page of each path that is a study.json or its folder; returns the other paths."""
    others = []
    for path in paths:
        file = path if path.name == STUDY else path / STUDY
        if not file.is_file():
            others.append(path)
            continue
        write(file.parent, read_json(file, remedy="run the study again; what it has finished is not done again"))
    return others


def write_groups(folder: Path, groups: list[Group]) -> Path:
    """The page of any set of runs, with one table and no budgets."""
    return _write(folder, study.of_groups(groups))


def _write(folder: Path, of: study.Study) -> Path:
    tables = comparison.tables(of)
    says = answer.answer(of)
    found = {picture: pictures.points(of, picture) for picture in (pictures.MEMORY, pictures.COMPUTE)}
    shown = pictures.series(of, tables, says, list(found.values()))
    drawn = [_draw(of, picture, points, shown) for picture, points in found.items() if points]
    sections = _sections(of, says)
    told = {
        "study": of, "tables": tables, "pictures": drawn, "main": sections[0][1], "more": sections[1:],
        "columns": {table.budget.name: cells.columns(of, table) for table in tables},
        "details": lambda table, line: cells.details(of, table, line),
        "tries": lambda row: cells.tries(row, of.measure), "edge": rules.edge(of),
        "failed": [(row, failure) for row in of.rows for failure in row.failed],
        "spare": rules.spare_networks(tables), "counted": rules.counted(of), "of_answer": rules.of_answer(of),
        "of_statistics": rules.of_statistics(of, tables), "of_search": rules.of_search(of),
        "versions": rules.versions(of),
        "markdown_table": lambda table: files.markdown_table(of, table),
    }  # fmt: skip
    written = {
        PAGE: _template("page.html", True).render(told, css=_text("page.css"), script=_text("page.js")),
        "report.md": _template("page.md", False).render(told),
        "report.csv": files.as_csv(of, tables),
        "report.tex": files.as_latex(of, tables),
    }
    report = folder / FOLDER
    for picture in drawn:
        for form, content in picture.content.items():
            with atomic_write(report / f"{picture.picture.name}.{form}") as file:
                file.write(content)
    for name in reversed(written):  # the page last: it speaks of the others
        with atomic_write(report / name) as file:
            file.write(written[name].encode())
    print()
    for heading, lines in sections:
        for line in lines:
            screen.say(f"{heading}: {line}" if heading else line)
    beside = [*sorted(written.keys() - {PAGE}), *(f"{each.picture.name}.{form}" for each in drawn for form in FORMATS)]
    screen.say(f"written: {screen.place(report / PAGE)} and beside it {', '.join(beside)}")
    return report / PAGE


def _sections(of: study.Study, says: answer.Answer) -> list[tuple[str, list[str]]]:
    """Headings of the answer and the sentences below each."""
    in_bytes = any(budget.kind == "bytes" for budget in of.budgets)  # with fewer networks, more samples
    same = "with the same bytes" if in_bytes else "on the same stored samples"
    return [
        ("", answer.sentences(of, says.main)),
        ("At equal bytes", answer.sentences(of, says.equal_bytes, at_bytes=True, above=says.main)),
        ("Both at once: replay and merge", answer.sentences(of, says.both)),
        ("Without training: statistics of frozen features", answer.sentences(of, says.features)),
        (f"Against an untrained network {same}", answer.sentences(of, says.control)),
    ]


def _draw(of: study.Study, picture: pictures.Picture, found: list, shown: pictures.Series) -> Drawn:
    """A picture with its caption."""
    drawn = pictures.figure(of, picture, found, shown)
    content = {form: pictures.render(drawn, form) for form in FORMATS}
    scale = ", logarithmic" if drawn.axes[0].get_xscale() == "log" else ""
    cut = ", cut at 0 and 100 %" if of.measure.unit else ""
    title = f"{of.measure.heading.capitalize()} against {picture.axis.split(' (')[0]}"
    caption = (
        f"Vertical: {of.measure.heading}{' in %' if of.measure.unit else ''}, mean over seeds. Horizontal: "
        f"{picture.axis}{scale}. Bands and bars: 95 % interval of the mean{cut}. A line joins the budgets of one row; "
        "coloured rows of the same cost stand side by side, centred on it."
    )
    if beyond := dict.fromkeys(point.row.name for point in pictures.outside(of, found, shown)):
        names = list(beyond) if len(beyond) <= MOST_NAMED else [f"{len(beyond)} rows"]
        caption += f" Beyond the vertical axis, see the tables: {'; '.join(names)}."
    labels = [pictures.describe(of, picture, found, point) for point in found]
    svg = pictures.inline(content["svg"], picture.name, title, caption, labels)
    return Drawn(picture, title, caption, Markup(svg), content)


def _template(name: str, escape: bool) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=escape, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(name)


def _text(name: str) -> Markup:
    return Markup((HERE / name).read_text())
