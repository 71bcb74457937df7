#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes, zeroes and flushes a file or a block device; the same seed gives the
same operations in the same order, so that two targets end with equal content.

usage: same-ops.py TARGET SEED COUNT [BYTES]
BYTES: only the first so many bytes of the target (default: all of it)
"""
import fcntl
import mmap
import os
import random
import stat
import struct
import sys

BLKZEROOUT = 0x127F
SECTOR = 512
LARGEST = 1 << 20


def pick_range(rnd, size):
    """Mostly small and anywhere, sometimes large, sometimes next to the end."""
    length = SECTOR * rnd.choice(
        [1, 1, 7, 8, 8, 8, 9, 64, 127, 128, 129, 256, LARGEST // SECTOR])
    length = min(length, size)
    if rnd.random() < 0.05:
        return size - length, length
    return rnd.randrange(0, (size - length) // SECTOR + 1) * SECTOR, length


def zero(fd, is_block, offset, length):
    if is_block:
        fcntl.ioctl(fd, BLKZEROOUT, struct.pack("QQ", offset, length))
    else:
        os.pwrite(fd, bytes(length), offset)


def main():
    target, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    is_block = stat.S_ISBLK(os.stat(target).st_mode)
    fd = os.open(target, os.O_RDWR | (os.O_DIRECT if is_block else 0))
    size = os.lseek(fd, 0, os.SEEK_END)
    if len(sys.argv) > 4:
        size = min(size, int(sys.argv[4]))
    rnd = random.Random(seed)
    buf = mmap.mmap(-1, LARGEST)    # page aligned, as O_DIRECT wants it
    for _ in range(count):
        offset, length = pick_range(rnd, size)
        what = rnd.random()
        if what < 0.10:
            zero(fd, is_block, offset, length)
        elif what < 0.12:
            os.fsync(fd)
        else:
            buf[:length] = rnd.randbytes(length)
            with memoryview(buf) as view, view[:length] as part:
                done = os.pwrite(fd, part, offset)
            if done != length:
                sys.exit(f"short write: {done} of {length} at {offset}")
    os.fsync(fd)
    os.close(fd)


main()
