"""Numbers as text: a zero has no sign of its own, and no p-value is 0."""

import math

SMALLEST_P = 0.0001  # four digits show no smaller one


def formatted(value: float, form: str = ".2f") -> str:
    """A number in a format of Python's; -0.004 is 0.00, or +0.00 where the format has a plus."""
    text = f"{value:{form}}"
    zero = math.isfinite(value) and not any(digit in text for digit in "123456789")
    return f"{0.0:{form}}" if zero else text


def p_text(p: float) -> str:
    """A p-value with four digits: `p = 0.0213`, or `p < 0.0001`."""
    return f"p < {SMALLEST_P:.4f}" if p < SMALLEST_P / 2 else f"p = {p:.4f}"


def mde_text(mde: float | None) -> str:
    """A minimum detectable effect; rounded to 0.00 it would promise that nothing can be missed."""
    if mde is None:
        return "n/a"
    return "below 0.01" if 0 < mde < 0.005 else formatted(mde, ".2f")
