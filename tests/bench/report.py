#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the cells that tests/bench/guest has measured, one JSON object a line;
prints tables of them and writes all numbers as one JSON document.

usage: report.py CELLS JSON
"""
import json
import sys

DEVICES = {
    "linear": "dm-linear",
    "loop": "loop",
    "qcow-bdev": "qcow",
    "qcow-file": "qcow, file",
    "nbd-bdev": "qemu-nbd",
    "nbd-file": "qemu-nbd, file",
}

CELLS = {
    "randread": "4K random read",
    "randwrite": "4K random write, mapped",
    "alloc": "4K write, allocating, granted ahead",
    "alloc-all": "4K write, allocating, all of a new image",
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

# The qemu-nbd that does what a device does.
RIVAL = {"qcow-bdev": "nbd-bdev", "qcow-file": "nbd-file"}

NOTES = """
IOPS, and their ratio to dm-linear's. All devices stand on the same null_blk,
which keeps its data in memory; "file" and loop: in a file on ext4 on it, with
direct I/O. A billion instructions of the guest's only CPU are one second, for
fio, kernel and daemons together; waits cost nothing, which flatters what waits
much, such as qemu-nbd. QD 32 with io_uring: submitted and reaped in batches
of up to 32. fio counts milliseconds: the cells of a fixed number of writes
(allocating, new image) and of 1M are right to 1 or 2 %.

The images have clusters of 64K. Allocating: every write is the first one to
its cluster, in random order. "Granted ahead" is what a guest sees whose
bursts the daemon can follow: the clusters have been granted before, and
zeroed where the disk cannot do that itself, as null_blk cannot. So they may
be faster than dm-linear, whose writes are the first ones to null_blk's pages.
"All of a new image": every cluster of 192 MiB, with all work of the daemon,
and zeroing all of them. qemu-nbd does all of its work in both.

Layers: all data is in the lowest one, and everything has been read before.
Copying: every write is the first one to its cluster, whose rest is copied.
Compressed: 64K of data are about 45K in the image; every 4K of a random read
are in a cluster of their own, mostly. These images are in files.
"""


def read_cells(path):
    with open(path, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    return lines[0], lines[1:]


def key(cell):
    return cell["cell"], cell["engine"], cell["qd"]


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
    return sorted(rows.items(), key=lambda r: (
        order.index(r[0][0]), r[0][1] != "io_uring", r[0][2]))


def row_name(k):
    return [CELLS[k[0]], "%s QD%d" % k[1:]]


def iops_table(rows, devices):
    def text(c):
        if not c:
            return ""
        ratio = "" if c["of_linear"] is None else " (%.2f)" % c["of_linear"]
        return "%.0f%s" % (c["iops"], ratio)

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


def main():
    meta, cells = read_cells(sys.argv[1])
    add_ratios(cells)
    devices = [d for d in DEVICES if any(c["device"] == d for c in cells)]
    rows = by_key(cells)
    print("Linux %s, %s%s" % (meta["kernel"], meta["fio"],
                              ", quick" if meta["quick"] else ""))
    print(NOTES)
    iops_table(rows, devices)
    nbd_table(rows, devices)
    loop_table(rows)
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        json.dump(dict(meta, schema=1, unit="instructions", cells=cells), f,
                  indent=1)
        f.write("\n")


main()
