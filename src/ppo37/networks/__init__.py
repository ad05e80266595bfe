"""Networks: observations in, a distribution over actions and a value out."""

import re
from pathlib import Path


def names() -> list[str]:
    """Return the names of the built-in networks. They are read from the source, without PyTorch."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(
        name
        for file in files
        for name in re.findall(r'^@register\(\s*"(\w+)"', file.read_text(), re.M)
    )
