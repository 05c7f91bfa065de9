# SPDX-License-Identifier: Apache-2.0
"""The report as a picture: times as bars on a logarithmic scale, in SVG."""

from html import escape
from math import log10

LEFT, BAR, GAP, WIDTH, TOP = 330, 16, 12, 860, 58
LOWEST, HIGHEST = 10, 1e6  # ns
COLOURS = {"limit": "#b8b8b8", "quotalite": "#2a6f97", "other": "#d98f4e"}


def groups(raw):
    """(title, [(label, colour, ns)]) of what the report has."""

    def both(key, title):
        r = raw.get(key)
        if r:
            yield (
                title,
                [("bare limit", "limit", r["limit_ns"]), ("quotalite", "quotalite", r["ns"])],
            )

    yield from both("hot_admit_settle", "C: admit + settle, one hot subject")
    yield from both("hot_four_calls", "C: check + acquire + charge + release")
    yield from both("million_admit_settle", "C: admit + settle, 1,000,000 subjects")
    stores = [
        (name, "quotalite", raw[f"store_{name}"][field])
        for field in ("p50_ns", "p999_ns")
        for name in ("memory", "tmpfs", "disk")
        if f"store_{name}" in raw
    ]
    if len(stores) == 6:
        yield "C: admit + settle, median of single calls", stores[:3]
        yield "C: admit + settle, 99.9th percentile", stores[3:]
    python = [
        (label, colour, raw[key]["ns"])
        for key, label, colour in (
            ("python_package", "quotalite", "quotalite"),
            ("python_plain", "plain tracker", "other"),
            ("python_sqlite", "SQLite", "other"),
        )
        if "ns" in raw.get(key, {})
    ]
    yield "Python: check + acquire + record", python


def x_of(value):
    share = (log10(min(max(value, LOWEST), HIGHEST)) - log10(LOWEST)) / log10(HIGHEST / LOWEST)
    return LEFT + share * (WIDTH - LEFT - 80)


def text_of(value):
    for unit, size in (("ms", 1e6), ("µs", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} ns"


def axis(bottom):
    for exponent in range(1, 7):
        x = x_of(10**exponent)
        yield f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>'
        label = text_of(10**exponent)
        yield f'<text x="{x:.1f}" y="{TOP - 13}" text-anchor="middle">{label}</text>'


def plot(report):
    bars = []
    y = TOP
    for title, group in groups(report["raw"]):
        bars.append(f'<text x="12" y="{y + 12}">{escape(title)}</text>')
        for label, colour, value in group:
            width = x_of(value) - LEFT
            bars.append(
                f'<text x="{LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(label)}</text>'
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}"'
                f' fill="{COLOURS[colour]}"/>'
                f'<text x="{LEFT + width + 5:.1f}" y="{y + 11}">{text_of(value)}</text>'
            )
            y += BAR
        y += GAP
    body = "\n".join([*axis(y), *bars])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}"'
        ' font-family="sans-serif" font-size="11" fill="#222">\n'
        f'<rect width="{WIDTH}" height="{y + 8}" fill="#fff"/>\n'
        f'<text x="12" y="20" font-size="14">Time per operation, logarithmic:'
        f" {escape(report['machine'])}</text>\n{body}\n</svg>\n"
    )
