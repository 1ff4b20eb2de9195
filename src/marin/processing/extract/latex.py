"""Formulas as LaTeX: from what a page keeps of its source, else from presentation MathML.

Pages that were made from LaTeX usually carry it (an annotation, the attribute alttext, a script of type math/tex, the
alternative text of an image). Where only MathML is left it is written as LaTeX by structure; what has no rule is
written as the text it shows, so nothing is lost but layout.
"""

import re
from collections.abc import Callable

from selectolax.lexbor import LexborHTMLParser, LexborNode

_TEX_ENCODINGS = ("application/x-tex", "application/x-latex", "tex", "latex")
_WRAPPED = re.compile(r"^\{\\(?:displaystyle|textstyle|scriptstyle) ?(.*)\}$", re.DOTALL)
_DELIMITED = re.compile(r"^(?:\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\])$", re.DOTALL)
# Images that show formulas, by the way they are made; their alternative text is LaTeX.
_FORMULA_IMAGES = (
    "img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display, img.tex, img.latex, img.math, "
    'img[src*="latex.codecogs.com"], img[src*="/math/render/"]'
)
# What a browser's script makes of a formula whose source stands beside it.
_RENDERED = ".MathJax_Preview, .MathJax, .MathJax_Display, .MathJax_SVG, .MathJax_CHTML, .katex-html"
_SYMBOLS = {
    "±": r"\pm", "×": r"\times", "÷": r"\div", "⋅": r"\cdot", "·": r"\cdot", "∗": "*", "−": "-", "≤": r"\leq",
    "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "≡": r"\equiv", "∼": r"\sim", "∝": r"\propto", "∞": r"\infty",
    "∂": r"\partial", "∇": r"\nabla", "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "∮": r"\oint", "√": r"\surd",
    "∈": r"\in", "∉": r"\notin", "⊂": r"\subset", "⊆": r"\subseteq", "∪": r"\cup", "∩": r"\cap", "∅": r"\emptyset",
    "∀": r"\forall", "∃": r"\exists", "¬": r"\neg", "∧": r"\land", "∨": r"\lor", "→": r"\to", "←": r"\leftarrow",
    "⇒": r"\Rightarrow", "⇔": r"\Leftrightarrow", "↦": r"\mapsto", "…": r"\ldots", "⋯": r"\cdots", "′": "'",
    "⟨": r"\langle", "⟩": r"\rangle", "‖": r"\|", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta",
    "ϵ": r"\epsilon", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ι": r"\iota",
    "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho",
    "σ": r"\sigma", "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi", "ϕ": r"\phi", "χ": r"\chi", "ψ": r"\psi",
    "ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi",
    "Σ": r"\Sigma", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega", "ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}",
    "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "ℓ": r"\ell", "ℏ": r"\hbar",
    "\u2061": "", "\u2062": "", "\u2063": "", "\u2064": "",  # invisible: application, times, separator, plus
    "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#",
}  # fmt: skip
# That LaTeX has commands of their own for.
_FUNCTIONS = frozenset(
    (
        "arccos",
        "arcsin",
        "arctan",
        "cos",
        "cosh",
        "cot",
        "det",
        "dim",
        "exp",
        "gcd",
        "inf",
        "ker",
        "lim",
        "ln",
        "log",
        "max",
        "min",
        "sin",
        "sinh",
        "sup",
        "tan",
        "tanh",
    )
)
_ACCENTS = {"¯": "bar", "‾": "overline", "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "→": "vec", "˙": "dot",
            "¨": "ddot", "_": "underline", "⏞": "overbrace", "⏟": "underbrace"}  # fmt: skip


def latex_of(math: LexborNode) -> str:
    """The LaTeX of an element `math`, without dollar signs."""
    for annotation in math.css("annotation"):
        if (annotation.attributes.get("encoding") or "").lower() in _TEX_ENCODINGS and (text := annotation.text()):
            return clean_latex(text)
    if alternative := math.attributes.get("alttext"):
        return clean_latex(alternative)
    try:
        return " ".join(_presentation(math).split())
    except RecursionError:  # nested as no formula is
        return " ".join(math.text().split())


def clean_latex(source: str) -> str:
    """LaTeX on one line, without the delimiters and the outer display style that some pages add."""
    source = " ".join(source.split())
    if delimited := _DELIMITED.match(source):
        source = next(part for part in delimited.groups() if part is not None).strip()
    if wrapped := _WRAPPED.match(source):
        source = wrapped[1].strip()
    return source.removeprefix("\\displaystyle").strip()


def gather_formulas(tree: LexborHTMLParser) -> None:
    """Make every formula of a page one element `math` that is seen, and take away what else shows the same formula.

    Changes the parser's tree. Formulas come as MathML that is hidden behind an image, as scripts that a browser would
    typeset, and as images with LaTeX as their alternative text.
    """
    if b"math" not in tree.raw_html and b"latex" not in tree.raw_html:
        return
    for script in tree.css('script[type^="math/tex"]'):
        display = "mode=display" in (script.attributes.get("type") or "")
        script.replace_with(formula_node(script.text(), display=display))
    for math in tree.css("math"):
        holder = math.parent
        while holder is not None and holder.tag == "span":
            if "style" in holder.attributes:
                holder.attrs["style"] = ""
            if "aria-hidden" in holder.attributes:
                holder.attrs["aria-hidden"] = "false"
            holder = holder.parent
    for image in tree.css(_FORMULA_IMAGES):
        parent = image.parent
        if parent is not None and parent.tag == "span" and parent.css_first("math") is not None:
            image.decompose()
        elif alternative := image.attributes.get("alt"):
            display = "display" in (image.attributes.get("class") or "")
            image.replace_with(formula_node(alternative, display=display))
    for rendered in tree.css(_RENDERED):
        if rendered.css_first("math") is None:
            rendered.decompose()


def formula_node(latex: str, *, display: bool) -> LexborNode:
    """A parser's element `math` that says no more than this LaTeX."""
    math = LexborHTMLParser("<math></math>").css_first("math")
    assert math is not None
    math.attrs["alttext"] = latex
    if display:
        math.attrs["display"] = "block"
    return math


def _presentation(node: LexborNode) -> str:
    """Presentation MathML as LaTeX, by structure."""
    rule = _RULES.get(node.tag or "")
    return rule(node) if rule else _row(node)


def _row(node: LexborNode) -> str:
    return " ".join(filter(None, (_presentation(child) for child in node.iter())))


def _symbols(node: LexborNode) -> str:
    return " ".join(filter(None, (_SYMBOLS.get(character, character) for character in node.text().split())))


def _identifier(node: LexborNode) -> str:
    text = node.text().strip()
    if text in _FUNCTIONS:
        return "\\" + text
    if len(text) > 1 and text.isalpha() and text.isascii():
        return rf"\mathrm{{{text}}}"
    return "".join(_SYMBOLS.get(character, character) for character in text)


def _quoted(node: LexborNode) -> str:
    return rf"\text{{{node.text().strip()}}}" if node.text().strip() else ""


def _parts(node: LexborNode, count: int) -> list[str]:
    parts = [_presentation(child) for child in node.iter()]
    return (parts + [""] * count)[:count]


def _braced(text: str) -> str:
    return text if len(text) == 1 else f"{{{text}}}"


def _fraction(node: LexborNode) -> str:
    above, below = _parts(node, 2)
    return rf"\frac{{{above}}}{{{below}}}"


def _root(node: LexborNode) -> str:
    base, degree = _parts(node, 2)
    return rf"\sqrt[{degree}]{{{base}}}"


def _scripts(*signs: str) -> Callable[[LexborNode], str]:
    def rule(node: LexborNode) -> str:
        base, *scripts = _parts(node, 1 + len(signs))
        base = base if len(base) == 1 or base.startswith("\\") else f"{{{base}}}"
        return base + "".join(sign + _braced(script) for sign, script in zip(signs, scripts, strict=True))

    return rule


def _accent(node: LexborNode) -> str:
    base, mark = _parts(node, 2)
    marks = [child.text().strip() for child in node.iter()][1:2]
    if marks and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"{base}{'_' if node.tag == 'munder' else '^'}{_braced(mark)}"


def _table(node: LexborNode) -> str:
    rows = [" & ".join(_row(cell) for cell in row.iter()) for row in node.iter()]
    return r"\begin{matrix} " + r" \\ ".join(rows) + r" \end{matrix}"


def _fenced(node: LexborNode) -> str:
    attributes = node.attributes
    separator = attributes.get("separators") or ","
    inside = f"{separator[0]} ".join(_presentation(child) for child in node.iter())
    return f"{attributes.get('open') or '('}{inside}{attributes.get('close') or ')'}"


def _nothing(node: LexborNode) -> str:
    return ""


_RULES: dict[str, Callable[[LexborNode], str]] = {
    "mi": _identifier,
    "mn": lambda node: node.text().strip(),
    "mo": _symbols,
    "mtext": _quoted,
    "ms": _quoted,
    "mspace": _nothing,
    "annotation": _nothing,
    "annotation-xml": _nothing,
    "mphantom": _nothing,
    "mfrac": _fraction,
    "msqrt": lambda node: rf"\sqrt{{{_row(node)}}}",
    "mroot": _root,
    "msup": _scripts("^"),
    "msub": _scripts("_"),
    "msubsup": _scripts("_", "^"),
    "munderover": _scripts("_", "^"),
    "mover": _accent,
    "munder": _accent,
    "mtable": _table,
    "mfenced": _fenced,
}
