"""The graph of a soak: several panels, one below the other, in one SVG. Pure."""

from collections.abc import Sequence
from html import escape

from tests.soak.trends import ResourceSample

_WIDTH, _HEIGHT, _LEFT, _TOP = 860, 110, 64, 34
_PLOT_HEIGHT = _HEIGHT - 46
_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #334155 }
.title { font-weight: 600 }
.line { fill: none; stroke-width: 1.5 }
.base { stroke: #cbd5e1 }
.strike { stroke: #f1a5a5; stroke-width: 0.6 }
rect { fill: #fff }
@media (prefers-color-scheme: dark) {
  text { fill: #cbd5e1 }
  rect { fill: #0f172a }
  .base { stroke: #475569 }
  .strike { stroke: #7f1d1d }
}
"""


def draw_graph(
    samples: Sequence[ResourceSample],
    panels: Sequence[tuple[str, Sequence[str]]],
    *,
    title: str,
    strikes_s: Sequence[float] = (),
) -> str:
    """Return an SVG of the panels (title and line names), with thin vertical lines for kills."""
    duration_s = max((sample.at_s for sample in samples), default=0.0) or 1.0
    height = _TOP + len(panels) * _HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>',
    ]
    for index, (name, lines) in enumerate(panels):
        top = _TOP + index * _HEIGHT + 20
        parts += _draw_panel(samples, name, lines, top=top, duration_s=duration_s)
        parts += [
            f'<path class="strike" d="M{_x_position(strike_s, duration_s):.1f} {top}'
            f'v{_PLOT_HEIGHT}"/>'
            for strike_s in strikes_s
        ]
    parts += [
        f'<text x="{_x_position(duration_s * fraction, duration_s):.0f}" y="{height - 8}"'
        f' text-anchor="middle">'
        f"{duration_s * fraction / 60:.0f} min</text>"
        for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    return "\n".join([*parts, "</svg>", ""])


def _draw_panel(
    samples: Sequence[ResourceSample],
    name: str,
    lines: Sequence[str],
    *,
    top: int,
    duration_s: float,
) -> list[str]:
    points_by_line = {
        line: [(sample.at_s, sample.values[line]) for sample in samples if line in sample.values]
        for line in lines
    }
    highest = (
        max((value for points in points_by_line.values() for _, value in points), default=0.0)
        or 1.0
    )
    parts = [
        f'<text class="title" x="{_LEFT}" y="{top - 6}">{escape(name)}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:,.4g}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _PLOT_HEIGHT}" text-anchor="end">0</text>',
        f'<path class="base" d="M{_LEFT} {top + _PLOT_HEIGHT}H{_WIDTH - 24}"/>',
    ]
    for index, (line, points) in enumerate(points_by_line.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        coordinates = " ".join(
            f"{_x_position(at_s, duration_s):.1f},{top + _PLOT_HEIGHT * (1 - value / highest):.1f}"
            for at_s, value in points
        )
        legend = _WIDTH - 24 - (len(points_by_line) - 1 - index) * 92
        parts += [
            f'<polyline class="line" stroke="{colour}" points="{coordinates}"/>',
            (
                f'<text x="{legend}" y="{top - 6}" text-anchor="end" style="fill:{colour}">'
                f"{escape(line.rpartition(' ')[2])}</text>"
            ),
        ]
    return parts


def _x_position(at_s: float, duration_s: float) -> float:
    return _LEFT + at_s / duration_s * (_WIDTH - 24 - _LEFT)
