"""The tables of docs/performance.md that come from a recorded race, see benchmarks/race.py.

    python -m scripts.documentation.races            compare the page with docs/recorded/race.json
    python -m scripts.documentation.races --write    write the tables into the page

They stand between the two lines `BEGIN` and `END` of the page. A new race is recorded with
`make race RACE_ARGS="--data PATH --output docs/recorded/race.json"`.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.race import BUFFER_PARTS, PARTS, SIDES, ratios

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, RECORDED = ROOT / "docs" / "performance.md", ROOT / "docs" / "recorded" / "race.json"
BEGIN = "<!-- race: made from recorded/race.json by scripts/documentation/races.py -->"
END = "<!-- end of the race -->"


def tables(content: dict) -> str:
    """The Markdown of a race: where and when, and a table for each size of the memory."""
    torch, avalanche = content["versions"]["remerge"]["torch"], content["versions"]["avalanche"]["avalanche-lib"]
    lines = [
        f"{content['date']}, one of {content['machine']}, Python {content['python']}, torch {torch} on both sides, "
        f"Avalanche {avalanche}; medians over seeds 0 to {content['pairs'] - 1}. Load of the machine at the start: "
        f"{content['load']}" + (", so times by the clock scatter." if content["load"] > 0.5 else ".")
    ]
    for race in content["races"]:
        rows = [_row(what, race["runs"], name) for name, what in PARTS.items()]
        rows += [_row(f"{what}, us", race["buffers"], name) for name, what in BUFFER_PARTS.items()]
        heading = f"memory of {race['capacity']}, learning rate {race['lr']}"
        means = [[pair[side]["accuracy"] for pair in race["runs"]] for side in SIDES]
        rows.append("| final accuracy, % | " + " | ".join(map(_spread, means)) + " | | |")
        lines.append(
            "\n".join(
                [f"| {heading} | remerge | Avalanche | ratio | lowest to highest |", "|---|---|---|---|---|", *rows]
            )
        )
        lines += [f"**Not fair**: {reason}." for reason in race["unfair"]]
    return "\n\n".join(lines)


def _row(what: str, pairs: list[dict], name: str) -> str:
    ours, theirs = (statistics.median(pair[side][name] for pair in pairs) for side in SIDES)
    found = ratios(pairs, name)
    median = _ratio(statistics.median(found))
    shown = f"**{median}**" if statistics.median(found) > 1 else median
    return f"| {what} | {_number(ours)} | {_number(theirs)} | {shown} | {_ratio(found[0])} to {_ratio(found[-1])} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def rewritten(page: str, content: dict) -> str:
    """A page with the tables of a race; raises ValueError unless it has one place for them."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected the line {BEGIN} once, and below it {END}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(content)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    arguments = parser.parse_args()
    page = PAGE.read_text()
    now = rewritten(page, json.loads(RECORDED.read_text()))
    if arguments.write:
        PAGE.write_text(now)
    elif now != page:
        sys.exit(f"{PAGE.name} is not what {RECORDED.name} says: run python -m scripts.documentation.races --write")


if __name__ == "__main__":
    main()
