"""What a bench says in the end: Markdown for people, JSON for programs, SVG for the eye."""

import json
from html import escape
from pathlib import Path

# Colours of the series, dark for user mode and light for the kernel's; told apart by the
# colour-blind, too.
COLOURS = (("#0b5fa5", "#8cc0ec"), ("#b34700", "#f5b183"))

ROW = 16
LABEL_WIDTH = 150
BAR_WIDTH = 210
PANEL_WIDTH = LABEL_WIDTH + BAR_WIDTH + 70
MARGIN = 24


def table(head: list, rows: list, texts: int = 1) -> str:
    """A table in Markdown: the first columns are texts, the others are numbers."""
    widths = [max(len(str(row[index])) for row in [head, *rows]) for index in range(len(head))]

    def line(cells: list) -> str:
        padded = []
        for index, (cell, width) in enumerate(zip(cells, widths)):
            padded.append(str(cell).ljust(width) if index < texts else str(cell).rjust(width))
        return f"| {' | '.join(padded)} |"

    ruler = ["-" * width if index < texts else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([line(head), line(ruler), *map(line, rows)]) + "\n"


def facts(values: dict) -> str:
    """What was measured on, as a list."""
    return "".join(f"- {name}: {value}\n" for name, value in values.items())


def write(directory: Path, name: str, markdown: str, data: dict, svg: str | None = None) -> None:
    """Leaves the results in the directory, and shows the tables."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.md").write_text(markdown)
    (directory / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    if svg is not None:
        (directory / f"{name}.svg").write_text(svg)
    print(markdown)


def bars(title: str, unit: str, series: list, panels: list) -> str:
    """Panels of horizontal bars, all on one scale.

    A panel is `(title, groups)`, a group `(label, bars)` with a bar for each of `series`, a bar its
    two parts: user mode, kernel."""
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return ""
    longest = max(sum(bar) for _, groups in panels for _, group in groups for bar in group) or 1
    columns = min(3, len(panels))
    height = max(len(groups) for _, groups in panels) * (ROW * len(series) + 6) + 2 * MARGIN
    width = columns * PANEL_WIDTH + MARGIN
    total = -(-len(panels) // columns) * height + 3 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" '
        f'height="{total}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        text(MARGIN, MARGIN, f"{title} ({unit}; less is better)", "font-size='14' font-weight='bold'"),
        legend(series),
    ]
    for index, (panel_title, groups) in enumerate(panels):
        x = MARGIN + index % columns * PANEL_WIDTH
        y = 3 * MARGIN + index // columns * height
        parts += panel(x, y, panel_title, groups, BAR_WIDTH / longest)
    return "\n".join([*parts, "</svg>", ""])


def panel(x: int, y: int, title: str, groups: list, scale: float) -> list:
    """The parts of one panel, its top left corner at `x`, `y`."""
    parts = [text(x, y, title, "font-weight='bold'")]
    y += 10
    for label, group in groups:
        parts.append(text(x, y + len(group) * ROW / 2 + 4, label))
        for colours, bar in zip(COLOURS, group):
            at = x + LABEL_WIDTH
            for colour, part in zip(colours, bar):
                size = part * scale
                parts.append(f'<rect x="{at:.1f}" y="{y}" width="{size:.1f}" height="{ROW - 3}" fill="{colour}"/>')
                at += size
            parts.append(text(at + 4, y + ROW - 6, f"{sum(bar):.2f}"))
            y += ROW
        y += 6
    return parts


def legend(series: list) -> str:
    """Which colour is what."""
    parts, x = [], MARGIN
    for name, colours in zip(series, COLOURS):
        for colour, mode in zip(colours, ("user", "kernel")):
            parts.append(f'<rect x="{x}" y="{MARGIN + 12}" width="10" height="10" fill="{colour}"/>')
            parts.append(text(x + 14, MARGIN + 21, f"{name}, {mode}"))
            x += 110
    return "\n".join(parts)


def text(x: float, y: float, content: str, more: str = "") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(content)}</text>'
