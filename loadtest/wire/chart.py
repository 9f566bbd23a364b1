"""A bar chart of stacked bars as SVG, readable on light and dark ground; nothing but the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH = 860
LABEL = 224
RIGHT = 78
BAR = 22
STEP = 34
TOP = 84
COLOURS = ("#8e6bbf", "#3d7edb", "#2a9d8f", "#e0a030", "#d9603b", "#b04a7a")
"""In the middle of the scale of brightness: they stand out from white and from black."""

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.grid { stroke: #8c959f; stroke-opacity: .35 }
.ours { font-weight: 700 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
}
"""


def bars(
    title: str, note: str, rows: Mapping[str, Mapping[str, float]], categories: Sequence[str], ours: Sequence[str]
) -> str:
    """One bar of `rows` per line, parts in the order of `categories`; labels in `ours` are bold. Values are bytes."""
    most = max(sum(parts.values()) for parts in rows.values())
    step = next(unit for unit in (5_000, 10_000, 20_000, 50_000, 10**9) if most / unit <= 7)
    scale = (WIDTH - LABEL - RIGHT) / most
    height = TOP + STEP * len(rows) + 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="t">',
        f'<title id="t">{escape(title)}</title><style>{_STYLE}</style>',
        f'<text class="title" x="8" y="24">{escape(title)}</text>',
        f'<text class="small" x="8" y="44">{escape(note)}</text>',
    ]
    left = 8.0
    for category, colour in zip(categories, COLOURS, strict=True):
        out.append(f'<rect x="{left:.0f}" y="56" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text class="small" x="{left + 17:.0f}" y="66">{escape(category)}</text>')
        left += 34 + 7 * len(category)
    bottom = TOP + STEP * len(rows)
    for mark in range(0, int(most) + 1, step):
        x = LABEL + mark * scale
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
        out.append(f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{mark // 1000} kB</text>')
    for number, (name, parts) in enumerate(rows.items()):
        y = TOP + STEP * number
        strong = ' class="ours"' if name in ours else ""
        out.append(f'<text{strong} x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        x = float(LABEL)
        for category, colour in zip(categories, COLOURS, strict=True):
            wide = parts[category] * scale
            label = f"{name}, {category}: {parts[category]:,.0f} B"
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" fill="{colour}">'
                f"<title>{escape(label)}</title></rect>"
            )
            x += wide
        out.append(f'<text{strong} x="{x + 6:.1f}" y="{y + 16}">{sum(parts.values()):,.0f} B</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
