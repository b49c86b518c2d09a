"""Samples to figures: medians, ratios and the bars they are held against. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: ``value`` must not be above ``limit``."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def p(samples: Sequence[float], percent: int) -> float:
    """A percentile by the nearest rank: the answer is always one of the samples."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(samples: Sequence[float], unit: str = "s") -> str:
    """Median and range, as people read them."""
    return f"{statistics.median(samples):.3g} {unit} ({min(samples):.3g}–{max(samples):.3g}, n={len(samples)})"


def table(bars: Sequence[Bar]) -> Table:
    """The bars, kept or missed."""
    out = Table(title="Bars")
    for column in ("what", "measured", "bar", ""):
        out.add_column(column, justify="left" if column in ("what", "") else "right")
    for bar in bars:
        verdict = "[green]kept[/green]" if bar.kept else "[red]missed[/red]"
        out.add_row(bar.name, f"{bar.value:.3g} {bar.unit}", f"≤ {bar.limit:g} {bar.unit}", verdict)
    return out
