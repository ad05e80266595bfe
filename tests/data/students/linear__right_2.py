# STYLE: exact fractions
from fractions import Fraction


def linear(a: float, b: float, k: int, n: int) -> float:
    rest = 1 - Fraction(k, n)
    return float(Fraction(b) + (Fraction(a) - Fraction(b)) * rest)
