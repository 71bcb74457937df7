#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Shuffles the clusters of a qcow2 image, and damages some entries if asked.

usage: qcow2-shuffle.py IMAGE [RUN [EVERY]]

Moves the entries of the active L2 tables in runs of RUN (1), as of an image
that was written at random; of every EVERYth entry COPIED changes, and every
EVERYth one after a third of these names the cluster before. The image has no
snapshots, all its clusters are allocated, and what the disk reads is lost.
"""
import random
import struct
import sys

OFFSET = 0x00FFFFFFFFFFFE00


def main():
    run, every = [int(a) for a in sys.argv[2:]] + [1, 0][len(sys.argv) - 2:]
    with open(sys.argv[1], "r+b") as f:
        head = f.read(48)
        cs = 1 << struct.unpack(">I", head[20:24])[0]
        n, at = struct.unpack(">IQ", head[36:48])
        f.seek(at)
        tables = [x & OFFSET for x in struct.unpack(f">{n}Q", f.read(8 * n))]
        entries = []
        for off in tables:
            f.seek(off)
            entries += struct.unpack(f">{cs // 8}Q", f.read(cs))
        runs = [entries[i:i + run] for i in range(0, len(entries), run)]
        random.seed(1)
        random.shuffle(runs)
        entries = [e for r in runs for e in r]
        for i in range(0, len(entries) if every else 0, every or 1):
            entries[i] ^= 1 << 63
            entries[i - every // 3] = entries[i - every // 3 - 1]
        for i, off in enumerate(tables):
            f.seek(off)
            f.write(struct.pack(f">{cs // 8}Q",
                                *entries[i * cs // 8:(i + 1) * cs // 8]))


main()
