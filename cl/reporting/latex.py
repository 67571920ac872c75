"""Tables in LaTeX, for the package booktabs."""

# Also what is no command: < and > are other signs in some encodings, -- is a dash, and [ or * after \\ is its option.
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\char34{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"$\pm$", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def escaped(text: str) -> str:
    """The text as LaTeX that prints it."""
    return "".join(ESCAPES.get(letter, letter) for letter in text).replace("--", "-{}-")


def table(heading: list[str], cells: list[list[str]], names: int, caption: str) -> str:
    r"""A table environment, to be read with \input: the first `names` columns are words, the others numbers."""
    numbers = [[*map(escaped, row[:names]), *map(_number, row[names:])] for row in cells]
    lines = [[escaped(title) for title in heading], *numbers]
    first, *rest = (" & ".join(line) + r" \\" for line in lines)
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(heading) - names)}}}",
        r"\toprule", first, r"\midrule", *rest, r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _number(cell: str) -> str:
    """A number with the sign for minus and not a hyphen; no number is a dash."""
    if cell == "-":
        return "--"
    return f"$-${escaped(cell[1:])}" if cell.startswith("-") else escaped(cell)
