"""Formulas as LaTeX, from what a page keeps of their source, or from MathML."""

import pytest

from marin.processing.extract.latex import clean_latex, latex_of
from marin.processing.extract.markdown import Style
from marin.processing.extract.page import write_fragment
from marin.processing.extract.tree import parse


def latex(math: str) -> str:
    node = parse(f"<p><math>{math}</math></p>").css_first("math")
    assert node is not None
    return latex_of(node)


@pytest.mark.parametrize(
    ("math", "expected"),
    [
        ("<mi>x</mi><mo>+</mo><mn>1</mn>", "x + 1"),
        ("<msup><mi>x</mi><mn>12</mn></msup>", "x^{12}"),
        ("<msub><mi>x</mi><mi>i</mi></msub>", "x_i"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "x_i^2"),
        ("<msup><mrow><mi>a</mi><mi>b</mi></mrow><mn>2</mn></msup>", "{a b}^2"),
        ("<mfrac><mi>a</mi><mi>b</mi></mfrac>", r"\frac{a}{b}"),
        ("<msqrt><mi>x</mi><mo>-</mo><mn>1</mn></msqrt>", r"\sqrt{x - 1}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        ("<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>", r"\sum_i^n"),
        ("<mover><mi>x</mi><mo>¯</mo></mover>", r"\bar{x}"),
        ("<mi>sin</mi><mi>α</mi><mo>≤</mo><mi>rank</mi>", r"\sin \alpha \leq \mathrm{rank}"),
        ("<mtext>if even</mtext>", r"\text{if even}"),
        (
            "<mtable><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr></mtable>",
            r"\begin{matrix} a & b \end{matrix}",
        ),
        ('<mfenced open="["><mi>a</mi><mi>b</mi></mfenced>', "[a, b)"),
        ("<mfrac><mi>a</mi></mfrac>", r"\frac{a}{}"),
        ("<unknown><mi>a</mi></unknown>", "a"),
        ('<semantics><mi>q</mi><annotation encoding="application/x-tex">\\alpha</annotation></semantics>', r"\alpha"),
    ],
)
def test_mathml_is_written_as_latex(math: str, expected: str):
    assert latex(math) == expected


@pytest.mark.parametrize(
    "source", ["x^2", "$x^2$", "$$x^2$$", r"\(x^2\)", r"\[x^2\]", r"{\displaystyle x^2}", r"\displaystyle x^2", " x^2 "]
)
def test_delimiters_and_display_styles_are_taken_off(source: str):
    assert clean_latex(source) == "x^2"


def test_a_formula_nested_too_deep_is_written_as_its_text():
    assert latex("<mrow>" * 5000 + "<mi>x</mi>") == "x"


def test_a_displayed_formula_stands_by_itself():
    html = '<p>so <math display="block" alttext="a"></math> and <math alttext="b"></math>.</p>'
    assert write_fragment(html, Style(markdown=True)) == "so\n\n$$\na\n$$\n\nand $b$."
