"""What the figures of a phase diagram share: names of the axes, and words about what is left out."""

import xarray as xr

GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
GAMMA_PRIME = GAMMA + "'"


def left_out(values: xr.DataArray, words: str, things: str = "networks") -> str:
    """``3 of 20 networks WORDS`` for the values that are true; nothing if none is."""
    count = int(values.sum())
    return f"{count} of {values.size} {things} {words}" if count else ""


def positive(value: float) -> float:
    """The value, or 1 if it is not above 0: an end for scales and lengths."""
    return float(value) if value > 0 else 1.0
