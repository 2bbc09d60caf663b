#!/usr/bin/env python3
"""Writes unicode_data.c: character properties for the CLIP tokenizer, as transformers 5 sees them.

Its normaliser, regular expressions and lower-casing come from three libraries with different
Unicode versions, so the tables do too (measured over all code points against tokenizers 0.23):
normalisation form C as of Unicode 9, categories as of 16, lower case as of 16 (theirs is 17, which
differs in 28 rare capitals).

Origin: the Unicode Character Database, by way of Python's unicodedata (14.0, Python 3.11) and the
package unicodedata2 (16.0.0). Usage: unicode_data.py > unicode_data.c
"""

import unicodedata as old
import unicodedata2 as new

assert old.unidata_version == "14.0.0" and new.unidata_version == "16.0.0"
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
# What Unicode 10 to 14 added to normalisation: combining marks and one composition.
AFTER_9 = [
    (0x7FD, 0x7FD),
    (0x898, 0x89F),
    (0x8CA, 0x8D3),
    (0x9FE, 0x9FE),
    (0xC3C, 0xC3C),
    (0xD3B, 0xD3C),
    (0xEBA, 0xEBA),
    (0x1715, 0x1715),
    (0x1ABF, 0x1ACE),
    (0x1DF6, 0x1DFA),
    (0xA82C, 0xA82C),
    (0x10D24, 0x10D27),
    (0x10EAB, 0x10EAC),
    (0x10F46, 0x10F50),
    (0x10F82, 0x10F85),
    (0x11070, 0x11070),
    (0x1133B, 0x1133B),
    (0x1145E, 0x1145E),
    (0x11839, 0x1183A),
    (0x11938, 0x11938),
    (0x1193D, 0x1193E),
    (0x11943, 0x11943),
    (0x119E0, 0x119E0),
    (0x11A34, 0x11A34),
    (0x11A47, 0x11A47),
    (0x11A99, 0x11A99),
    (0x11D42, 0x11D42),
    (0x11D44, 0x11D45),
    (0x11D97, 0x11D97),
    (0x16FF0, 0x16FF1),
    (0x1E130, 0x1E136),
    (0x1E2AE, 0x1E2AE),
    (0x1E2EC, 0x1E2EF),
]


def is_new(c):
    return any(a <= c <= b for a, b in AFTER_9)


def ranges(keep):
    out = []
    for c in filter(keep, SCALARS):
        if out and c == out[-1][1] + 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def lower(c):
    """Lower case as Python has it; for letters newer than its data, by name."""
    text = chr(c).lower()
    name = new.name(chr(c), "")
    if text == chr(c) and old.category(chr(c)) == "Cn" and " CAPITAL " in name:
        try:
            text = new.lookup(name.replace(" CAPITAL ", " SMALL "))
        except KeyError:
            pass
    return text


def lower_runs():
    """[first, last, stride, delta]: every stride-th code point of the run moves by delta."""
    runs = []
    for c in SCALARS:
        text = lower(c)
        if text == chr(c) or len(text) != 1:
            continue
        delta = ord(text) - c
        last = runs[-1] if runs else None
        step = c - last[1] if last else 0
        if last and last[3] == delta and step in (1, 2) and last[2] in (0, step):
            last[1], last[2] = c, step
        else:
            runs.append([c, c, 0, delta])
    return [[a, b, s or 1, d] for a, b, s, d in runs]


def decompositions():
    """[code point, first, second or 0, composes]: one canonical step, Hangul left to arithmetic."""
    rows = []
    for c in SCALARS:
        parts = old.decomposition(chr(c)).split()
        if not parts or parts[0].startswith("<") or is_new(c):
            continue
        parts = [int(p, 16) for p in parts] + [0] * (2 - len(parts))
        full = old.normalize("NFD", chr(c))
        rows.append([c, *parts, int(parts[1] != 0 and old.normalize("NFC", full) == chr(c))])
    return rows


def table(kind, name, rows, fmt):
    print(f"const {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " " + fmt(row) + ","
        if len(line) + len(cell) > 99:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};")
    count = f"const size_t {name}_count ="
    value = f"sizeof {name} / sizeof *{name};"
    print(f"{count} {value}\n" if len(count + value) < 100 else f"{count}\n    {value}\n")


def main():
    multi = [c for c in SCALARS if len(lower(c)) != 1]
    assert multi == [0x130]  # unicode.c has it by hand
    span = lambda r: f"{{0x{r[0]:X}, 0x{r[1]:X}}}"
    rows = decompositions()
    order = sorted((i for i, r in enumerate(rows) if r[3]), key=lambda i: rows[i][1:3])
    classes = {c: old.combining(chr(c)) for c in SCALARS if old.combining(chr(c)) and not is_new(c)}
    runs = []
    for c, k in classes.items():
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == k:
            runs[-1][1] = c
        else:
            runs.append([c, c, k])
    print("/* Made by unicode_data.py, which says from what; not to be edited. */")
    print('#include "worker/model/text/unicode_data.h"\n')
    table(
        "npo_unicode_range",
        "npo_unicode_letters",
        ranges(lambda c: new.category(chr(c))[0] == "L"),
        span,
    )
    table(
        "npo_unicode_range",
        "npo_unicode_numbers",
        ranges(lambda c: new.category(chr(c))[0] == "N"),
        span,
    )
    table(
        "npo_unicode_range",
        "npo_unicode_spaces",
        ranges(lambda c: chr(c).isspace() and not 0x1C <= c <= 0x1F),
        span,
    )
    table(
        "npo_unicode_lower_run",
        "npo_unicode_lower_runs",
        lower_runs(),
        lambda r: f"{{0x{r[0]:X}, 0x{r[1]:X}, {r[2]}, {r[3]}}}",
    )
    table(
        "npo_unicode_class_run",
        "npo_unicode_class_runs",
        runs,
        lambda r: f"{{0x{r[0]:X}, 0x{r[1]:X}, {r[2]}}}",
    )
    table(
        "npo_unicode_decomposition",
        "npo_unicode_decompositions",
        rows,
        lambda r: f"{{0x{r[0]:X}, 0x{r[1]:X}, 0x{r[2]:X}}}",
    )
    table("uint16_t", "npo_unicode_compositions", order, str)


main()
