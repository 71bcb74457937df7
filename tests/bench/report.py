#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the cells that tests/bench/guest has measured, one JSON object a line;
prints tables of them, and how they differ from an earlier result, and writes
all numbers as one JSON document.

usage: report.py [--commit C] [--against JSON] [--more] [--svg FILE] CELLS JSON
"""
import argparse
import json
import os

import chart

DEVICES = {
    "linear": "dm-linear",
    "loop": "loop",
    "linear-file": "dm-linear, file",
    "thin": "dm-thin",
    "snapshot": "dm-snapshot",
    "qcow-bdev": "qcow",
    "qcow-file": "qcow, file",
    "nbd-bdev": "qemu-nbd",
    "nbd-file": "qemu-nbd, file",
}

CELLS = {
    "randread": "4K random read",
    "randwrite": "4K random write, mapped",
    "syncwrite": "4K random write, mapped, each with a flush",
    "alloc-ahead": "4K write, allocating, granted ahead",
    "alloc-all": "4K write, allocating, all of a new image",
    "syncalloc": "4K write, allocating, each with a flush",
    "cold": "4K read, mapping not in memory",
    "read64": "64K random read",
    "write64": "64K random write, mapped",
    "seqread": "1M sequential read",
    "seqwrite": "1M sequential write, mapped",
    "seqalloc": "1M sequential write, new image",
    "chain-1": "4K random read, 1 layer",
    "chain-8": "4K random read, 8 layers",
    "chain-64": "4K random read, 64 layers",
    "cow": "4K write, copying from a base",
    "extl2-read": "4K random read, extended L2",
    "extl2-write": "4K random write, mapped, extended L2",
    "zlib-seq": "128K sequential read, zlib",
    "zlib-rand": "4K random read, zlib",
    "zstd-seq": "128K sequential read, zstd",
    "zstd-rand": "4K random read, zstd",
    "discard": "64K discard",
}

# Those that are of the chart: cell, queue depth, jobs.
CHARTED = [("randread", 1, 1), ("randread", 32, 1), ("randwrite", 1, 1),
           ("randwrite", 32, 1), ("alloc-ahead", 1, 1), ("syncalloc", 1, 1),
           ("seqread", 1, 1), ("seqwrite", 1, 1), ("seqalloc", 1, 1)]

# The qemu-nbd that does what a device does.
RIVAL = {"qcow-bdev": "nbd-bdev", "qcow-file": "nbd-file"}

MOVED = 0.02

NOTES = """
IOPS, and their ratio to dm-linear's. All devices stand on the same null_blk,
which keeps its data in memory; "file" and loop: in a file on ext4 on it, with
direct I/O ("dm-linear, file" is over that loop device). A billion instructions of the guest's only CPU are one second, for
fio, kernel and daemons together; waits cost nothing, which flatters what waits
much, such as qemu-nbd. Deep queues are submitted and reaped in batches of up to
32. fio counts milliseconds: the cells of a fixed number of writes
(allocating, new image) and of 1M are right to 1 or 2 %.

The images have clusters of 64K, as have dm-thin and dm-snapshot (of a disk of
zeroes). Allocating: every write is the first one to its cluster, in random
order. "Granted ahead" is what a guest sees whose bursts the daemon can follow:
the clusters have been granted before, and zeroed where the disk cannot do that
itself, as null_blk cannot. So they may be faster than dm-linear, whose writes
are the first ones to null_blk's pages. "All of a new image": every cluster of
192 MiB, with all work of the daemon, and zeroing all of them. The others do all
of their work in both.

Mapping not in memory: of images with clusters of 4K, one read in each 2 MiB,
which is what one block of an L2 table describes. What fio itself does is not
counted there.

Layers: all data is in the lowest one, and everything has been read before.
Copying: every write is the first one to its cluster, whose rest is copied.
Compressed: 64K of data are about 45K in the image; every 4K of a random read
are in a cluster of their own, mostly. These images are in files.
"""


def read_cells(path):
    with open(path, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    for c in lines[1:]:
        if c["cell"] == "cold":     # it is over in a few milliseconds
            c["iops"] = 1e9 / c["lat_mean_ns"]
    return lines[0], lines[1:]


def with_more(path, cells):
    """What an earlier run has measured, and what this one has measured anew."""
    with open(path, encoding="utf-8") as f:
        old = json.load(f)["cells"]
    new = {(key(c), c["device"]) for c in cells}
    return [c for c in old if (key(c), c["device"]) not in new] + cells


def key(cell):
    return cell["cell"], cell["qd"], cell["jobs"]


def add_ratios(cells):
    iops = {(key(c), c["device"]): c["iops"] for c in cells}

    def ratio(cell, device):
        other = iops.get((key(cell), device))
        return round(cell["iops"] / other, 4) if other else None

    for c in cells:
        c["of_linear"] = ratio(c, "linear")
        c["of_loop"] = ratio(c, "loop")
        c["of_nbd"] = ratio(c, RIVAL.get(c["device"]))


def print_table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * 2 + " ---: |" * (len(head) - 2))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def by_key(cells):
    """The cells of each row: what was measured, then device by device."""
    rows = {}
    for c in cells:
        rows.setdefault(key(c), {})[c["device"]] = c
    order = list(CELLS)
    return sorted(rows.items(),
                  key=lambda r: (order.index(r[0][0]), r[0][2], r[0][1]))


def row_name(k):
    jobs = "" if k[2] == 1 else ", %d jobs" % k[2]
    return [CELLS[k[0]], "QD %d%s" % (k[1], jobs)]


def iops_table(rows, devices):
    def text(c):
        if not c:
            return ""
        ratio = "" if c["of_linear"] is None else " (%.2f)" % c["of_linear"]
        return "%.0f%s" % (c["iops"], ratio)

    rows = [(k, row) for k, row in rows if any(d in row for d in devices)]
    print_table(["", ""] + [DEVICES[d] for d in devices],
                [row_name(k) + [text(row.get(d)) for d in devices]
                 for k, row in rows])


def nbd_table(rows, devices):
    ours = [d for d in devices if RIVAL.get(d) in devices]

    def text(c):
        return "%.1f" % c["of_nbd"] if c and c["of_nbd"] else ""

    if ours:
        print("Times as fast as qemu-nbd on the same image:\n")
        print_table(["", ""] + [DEVICES[d] for d in ours],
                    [row_name(k) + [text(row.get(d)) for d in ours]
                     for k, row in rows])


def loop_table(rows):
    """An image in a file beside the file itself."""
    ours = [(k, row["qcow-file"]["of_loop"]) for k, row in rows
            if row.get("qcow-file", {}).get("of_loop")]
    if ours:
        print("An image in a file, to the bare loop device on a file:\n")
        print_table(["", "", DEVICES["qcow-file"]],
                    [row_name(k) + ["%.2f" % ratio] for k, ratio in ours])


def moved_table(cells, path):
    """What differs from an earlier result by more than MOVED."""
    with open(path, encoding="utf-8") as f:
        old = json.load(f)
    before = {(key(c), c["device"]): c["iops"] for c in old["cells"]}
    rows, same = [], 0
    for c in cells:
        was = before.get((key(c), c["device"]))
        if not was:
            continue
        if abs(c["iops"] / was - 1) <= MOVED:
            same += 1
            continue
        rows.append(row_name(key(c)) + [
            DEVICES[c["device"]], "%.0f" % was, "%.0f" % c["iops"],
            "%+.1f %%" % (100 * (c["iops"] / was - 1))])
    print("Against the last result that was kept (%s): %d figures are within "
          "%.0f %%%s\n" % (old.get("commit", "?"), same, 100 * MOVED,
                           ", these are not:" if rows else "."))
    if rows:
        print_table(["", "", "", "before", "now", ""], rows)


def draw(cells, path):
    value = {(key(c), c["device"]): c["of_linear"] for c in cells}
    shown = [d for d in DEVICES if d not in ("linear", "linear-file", "nbd-file")]
    groups = [(", ".join(row_name(k)), [value.get((k, d)) for d in shown])
              for k in CHARTED]
    with open(path, "w", encoding="utf-8") as f:
        f.write(chart.bars("IOPS, dm-linear is 1", groups,
                           [DEVICES[d] for d in shown]))


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--commit", default="")
    p.add_argument("--against", default="")
    p.add_argument("--more", action="store_true")
    p.add_argument("--svg", default="")
    p.add_argument("cells")
    p.add_argument("json")
    return p.parse_args()


def main():
    args = parse()
    meta, cells = read_cells(args.cells)
    if args.more:
        cells = with_more(args.json, cells)
    add_ratios(cells)
    devices = [d for d in DEVICES if any(c["device"] == d for c in cells)]
    rows = by_key(cells)
    print("Commit %s, Linux %s, %s, %s%s" % (
        args.commit or "?", meta["kernel"], meta["fio"], meta["qemu"],
        ", quick" if meta["quick"] else ""))
    print(NOTES)
    iops_table(rows, devices)
    nbd_table(rows, devices)
    loop_table(rows)
    if os.path.exists(args.against):
        moved_table(cells, args.against)
    if args.svg:
        draw(cells, args.svg)
    with open(args.json, "w", encoding="utf-8") as f:
        json.dump(dict(meta, schema=2, unit="instructions",
                       commit=args.commit, cells=cells), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
