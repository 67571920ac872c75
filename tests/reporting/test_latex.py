"""Tables in LaTeX print what their cells say."""

import pytest

from cl.reporting import latex


@pytest.mark.parametrize(
    "text, written",
    [
        ("a_b 5 % & #1 $x$", r"a\_b 5 \% \& \#1 \$x\$"),
        (r"C:\x{y}~^", r"C:\textbackslash{}x\{y\}\textasciitilde{}\textasciicircum{}"),
        ("[400,200]", "{[}400,200{]}"),
        ("A[i,j] < 2 > 1 | *", r"A{[}i,j{]} \textless{} 2 \textgreater{} 1 \textbar{} {*}"),
        ("1.00 ± 0.10", r"1.00 $\pm$ 0.10"),
        ("a--b", "a-{}-b"),
    ],
)
def test_latex_prints_what_the_cell_says(text, written):
    assert latex.escaped(text) == written


def test_a_table_in_latex():
    text = latex.table(["strategy", "a_b %"], [["er", "-25.00 ± 1.00"], ["joint", "-"]], 1, "Caption_1.")
    assert text.splitlines() == [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\caption{Caption\_1.}",
        r"\begin{tabular}{lr}", r"\toprule", r"strategy & a\_b \% \\", r"\midrule", r"er & $-$25.00 $\pm$ 1.00 \\",
        r"joint & -- \\", r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
