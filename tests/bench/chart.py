# SPDX-License-Identifier: GPL-2.0-or-later
"""A chart of horizontal bars, as SVG."""
from html import escape

COLOURS = ["#9aa0a6", "#bdb76b", "#8d6e63", "#1a73e8", "#63a4ff", "#d93025"]
BAR, GAP, LABEL, PLOT = 11, 14, 330, 480
TOP = 60


def bars(title, groups, series):
    """groups: (name, [a value or None for each of the series])"""
    most = max([v for _, values in groups for v in values if v] + [1])
    scale = PLOT / most
    out = [legend(series)]
    y = TOP
    for name, values in groups:
        height = BAR * len(values)
        out.append(text(LABEL - 8, y + height / 2 + 4, name, "end"))
        for i, v in enumerate(values):
            if v:
                out.append(bar(y + i * BAR, v, v * scale, COLOURS[i]))
        y += height + GAP
    x = LABEL + scale
    out.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#000" '
               'stroke-dasharray="3 3"/>' % (x, TOP - 6, x, y - GAP + 6))
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif" font-size="11">\n'
            '<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n%s\n</svg>\n'
            % (LABEL + PLOT + 60, y, text(12, 20, title, "start", 14),
               "\n".join(out)))


def text(x, y, words, anchor, size=11):
    return ('<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">%s</text>'
            % (x, y, anchor, size, escape(words)))


def bar(y, value, width, colour):
    return ('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>\n%s'
            % (LABEL, y, width, BAR - 1, colour,
               text(LABEL + width + 4, y + 9, "%.2f" % value, "start", 9)))


def legend(series):
    out, x = [], 12
    for name, colour in zip(series, COLOURS):
        out.append('<rect x="%d" y="32" width="11" height="11" fill="%s"/>\n%s'
                   % (x, colour, text(x + 16, 42, name, "start")))
        x += 40 + 7 * len(name)
    return "\n".join(out)
