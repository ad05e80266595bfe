"""Write the plain equations of the table of details and of docstrings as TeX."""

import re

GREEK = {"gamma", "lambda", "delta", "rho", "pi", "mu", "eps"}
FUNCTIONS = {"log", "exp", "min", "max"}
OPERATORS = {"mean", "clip", "sign", "std", "var"}
WORDS = {"where", "or", "the", "game", "is", "over", "stop", "if", "at", "first", "impossible"}
WORDS |= {"of", "processes", "with", "gradient", "noise"}
"""Words of a sentence, set upright with spaces around them."""
SYMBOLS = {
    "<-": r" \leftarrow ",
    ">=": r" \ge ",
    "*": r"\,",
    "~": r" \sim ",
    "|s": r" \mid s",
    ";": r";\ \ ",
    ",": r",\ ",
    "1/2": r"\tfrac{1}{2}",
}
TOKEN = re.compile(
    r"""(?P<number>\d+e-?\d+)
    | (?P<name>[A-Za-z]+(?:[._][A-Za-z]+)*)
    | (?P<power>\^\w+)
    | (?P<norm>\|\w\|)
    | (?P<symbol><-|>=|\*|~|\|s|;|,|1/2)
    | (?P<space>\s+)
    | (?P<other>.)""",
    re.VERBOSE,
)


def tex(equation: str) -> str:
    """Return a plain equation such as `A_t = delta_t + gamma * A_{t+1}` as TeX."""
    parts = [_token(match.lastgroup or "", match[0]) for match in TOKEN.finditer(equation)]
    text = re.sub(r" \} +\\text\{ ", " ", "".join(parts))  # words of one sentence together
    return re.sub(r" {2,}", " ", _roots(text)).strip()


def _token(kind: str, text: str) -> str:
    if kind == "number":
        factor, _, exponent = text.partition("e")
        return ("" if factor == "1" else rf"{factor} \cdot ") + f"10^{{{int(exponent)}}}"
    if kind == "name":
        return _name(text)
    if kind == "power":
        return f"^{{{text[1:]}}}"
    if kind == "norm":
        return rf"\lVert {text[1]} \rVert "
    if kind == "symbol":
        return SYMBOLS[text]
    return " " if kind == "space" else text


def _name(text: str) -> str:
    """Return a variable, a function or a word; what follows the first `_` is a subscript."""
    base, _, index = text.partition("_")
    if len(base) > 1 and len(index) > 1 and base not in GREEK | {"sum"}:
        return rf"\mathrm{{{text.replace('_', chr(92) + '_')}}}"
    if text in WORDS:
        return rf"\text{{ {text} }}"
    below = rf"\mathrm{{{index}}}" if len(index) > 1 and index not in GREEK else _symbol(index)
    return _symbol(base) + (f"_{{{below}}}" if index else "")


def _symbol(word: str) -> str:
    if word in GREEK:
        return r"\varepsilon " if word == "eps" else rf"\{word} "
    if word in FUNCTIONS:
        return rf"\{word} "
    if word in OPERATORS:
        return rf"\operatorname{{{word}}}"
    if word == "sum":
        return r"\sum"
    if word == "N":
        return r"\mathcal{N}"
    return word if len(word) == 1 or word == "sqrt" else rf"\mathrm{{{word}}}"


def _roots(text: str) -> str:
    r"""Replace `sqrt(x)` with `\sqrt{x}`, to the bracket that closes it."""
    while (start := text.find("sqrt(")) >= 0:
        depth, end = 1, start + len("sqrt(")
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        text = rf"{text[:start]}\sqrt{{{text[start + 5 : end - 1]}}}{text[end:]}"
    return text
