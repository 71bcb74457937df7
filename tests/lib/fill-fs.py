#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in a file system: made, half of them deleted, the rest verified.

usage: fill-fs.py fill|thin|verify FOLDER MIB
"""
import hashlib
import os
import random
import sys

SMALL = 150


def files(mib):
    """Names and sizes: a few large ones, and many small ones."""
    rnd = random.Random(mib)
    left = mib << 20
    number = 0
    while left > 0:
        size = min(left, rnd.randrange(1 << 20, 6 << 20))
        yield "large-%d" % number, size
        left -= size
        number += 1
    for i in range(SMALL):
        yield "small-%d" % i, rnd.randrange(1, 12000)


def data(name, size):
    block = hashlib.sha256(name.encode()).digest() * 128
    return (block * (size // len(block) + 1))[:size]


def deleted(number):
    return number % 2 == 1


def main():
    what, folder, mib = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for number, (name, size) in enumerate(files(mib)):
        path = os.path.join(folder, name)
        if what == "fill":
            with open(path, "wb") as f:
                f.write(data(name, size))
        elif what == "thin" and deleted(number):
            os.unlink(path)
        elif what == "verify" and not deleted(number):
            with open(path, "rb") as f:
                if f.read() != data(name, size):
                    sys.exit("%s is not what was written" % path)
    os.sync()


main()
