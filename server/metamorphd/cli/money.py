"""Amounts of money, as people read them."""

NANOS = 1_000_000_000
DIGITS = 3


def usd(nanos: int) -> str:
    """Returns an amount of billionths of a US dollar in dollars.

    It has two decimals, and below a dollar as many as its first three digits need: `1,234.50`, `0.0123`, `0.000021`.
    """
    if abs(nanos) >= NANOS:
        return f"{nanos / NANOS:,.2f}"
    shown = f"{float(f'{nanos / NANOS:.{DIGITS}g}'):.9f}".rstrip("0")
    whole, _, decimals = shown.partition(".")
    return f"{whole}.{decimals:0<2}"


def dollars(nanos: int) -> str:
    """Returns an amount as a part of a sentence: that of `usd` after a dollar sign."""
    return f"${usd(nanos)}"
