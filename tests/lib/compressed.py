#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed clusters: makes data, reads it back, damages images.

usage: compressed.py data FILE MIB
           random, text and zeroes in pieces of many sizes; the last MiB of
           every four is zeroes
       compressed.py pieces DEVICE FILE SECONDS THREADS
           random pieces of the device, many at once, are those of the file
       compressed.py salvage DEVICE FILE CLUSTER
           copies cluster by cluster, zeroes where a read fails; prints how
           many have failed
       compressed.py flip IMAGE SEED
           changes random bits of every other compressed cluster
       compressed.py odd FILE RAW CLUSTER
           the other clusters, which have no damage, are the same
       compressed.py craft IMAGE RAW
           replaces the first clusters by streams that are good but rare, or
           bad in all ways; prints how many are bad
"""
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib

COMPRESSED = 1 << 62


def data(path, mib):
    rng = random.Random(int(mib))
    words = [rng.randbytes(rng.randrange(2, 9)).hex().encode() + b" "
             for _ in range(300)]

    def piece(n):
        kind = rng.random()
        if kind < 0.25:
            return rng.randbytes(n)
        if kind < 0.4:
            return bytes(n)
        return b"".join(rng.choices(words, k=n // 4))[:n]

    with open(path, "wb") as f:
        for i in range(int(mib)):
            part = b""
            while i % 4 != 3 and len(part) < 1 << 20:
                part += piece(512 << rng.randrange(9))
            f.write(part[:1 << 20].ljust(1 << 20, b"\0"))


def direct(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    return fd, os.lseek(fd, 0, os.SEEK_END)


def pieces(device, path, seconds, threads):
    want = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
    end = time.monotonic() + float(seconds)
    bad = []

    def reader(seed):
        rng = random.Random(seed)
        fd, size = direct(device)
        buf = mmap.mmap(-1, 1 << 20)
        n = 0
        while time.monotonic() < end and not bad:
            length = 512 << rng.choice((0, 0, 0, 3, 3, 6, 9))
            off = rng.randrange(0, size - length + 1, 512)
            view = memoryview(buf)[:length]
            if os.preadv(fd, [view], off) != length or \
                    view != want[off:off + length]:
                bad.append((off, length))
            n += 1
        counts.append(n)

    counts = []
    all_threads = [threading.Thread(target=reader, args=(i,))
                   for i in range(int(threads))]
    for t in all_threads:
        t.start()
    for t in all_threads:
        t.join()
    print(sum(counts), "pieces")
    if bad or len(counts) != len(all_threads):
        sys.exit("not the same: %s" % bad)


def salvage(device, path, cluster):
    cluster = int(cluster)
    fd, size = direct(device)
    buf = mmap.mmap(-1, cluster)
    failed = 0
    with open(path, "wb") as out:
        for off in range(0, size, cluster):
            view = memoryview(buf)[:min(cluster, size - off)]
            try:
                if os.preadv(fd, [view], off) != len(view):
                    sys.exit("short read at %d" % off)
            except OSError:
                view[:] = bytes(len(view))
                failed += 1
            out.write(view)
    print(failed)


class Image:
    """An image with one L2 table."""
    def __init__(self, path):
        self.f = open(path, "r+b")
        head = self.read(0, 112)
        self.bits = struct.unpack_from(">I", head, 20)[0]
        self.cluster = 1 << self.bits
        self.shift = 62 - (self.bits - 8)
        self.zstd = head[104] == 1
        size, = struct.unpack_from(">Q", head, 24)
        l1, = struct.unpack_from(">Q", head, 40)
        self.l2 = struct.unpack(">Q", self.read(l1, 8))[0] & (1 << 56) - 512
        self.nr = size >> self.bits

    def read(self, off, n):
        self.f.seek(off)
        return self.f.read(n)

    def write(self, off, what):
        self.f.seek(off)
        self.f.write(what)

    def compressed(self):
        table = struct.unpack(">%dQ" % self.nr, self.read(self.l2, 8 * self.nr))
        for i, e in enumerate(table):
            if e & COMPRESSED:
                off = e & (1 << self.shift) - 1
                more = (e & COMPRESSED - 1) >> self.shift
                yield i, off, (more + 1) * 512 - off % 512

    def append(self, i, stream, more=0):
        """Entry i gets the stream, somewhere behind the end."""
        end = self.f.seek(0, 2)
        off = -(-end // 512) * 512 + 13 * i % 512
        self.write(off, stream)
        end = self.f.seek(0, 2)
        self.write(end, b"\xff" * (-end % 512))
        sectors = (off + len(stream) - 1) // 512 - off // 512 + more
        entry = COMPRESSED | sectors << self.shift | off
        self.write(self.l2 + 8 * i, struct.pack(">Q", entry))


def flip(path, seed):
    rng = random.Random(int(seed))
    image = Image(path)
    for i, off, length in image.compressed():
        if i % 2:
            continue
        for _ in range(rng.choice((1, 1, 4, 64))):
            # the next one may begin in the last sector
            mine = max(length - 511, 8)
            at = off + rng.randrange(min(mine, rng.choice((16, mine))))
            old = image.read(at, 1)
            image.write(at, bytes([old[0] ^ 1 << rng.randrange(8)]))


def odd(path, raw, cluster):
    a, b = open(path, "rb").read(), open(raw, "rb").read()
    cs = int(cluster)
    if len(a) != len(b):
        sys.exit("not of the same length")
    for i in range(1, len(a) // cs, 2):
        if a[i * cs:(i + 1) * cs] != b[i * cs:(i + 1) * cs]:
            sys.exit("cluster %d is not the same" % i)


def deflate(what, level=9, bits=-12):
    c = zlib.compressobj(level, zlib.DEFLATED, bits)
    return c.compress(what) + c.flush()


def zstd(what, *options):
    """Through a pipe: frames that do not tell their content's size."""
    return subprocess.run(("zstd", "-c") + options, input=what, check=True,
                          stdout=subprocess.PIPE).stdout


def cases(image, raw):
    """Pairs of a stream and whether it is good."""
    cs = image.cluster
    pack = zstd if image.zstd else deflate
    n = iter(range(image.nr))

    def text():
        i = next(n)
        return raw[i * cs:(i + 1) * cs]

    if image.zstd:
        yield zstd(text()), True
        yield zstd(text(), "--no-check", "--long=27"), True
        a = text()
        yield zstd(a[:5000]) + zstd(a[5000:]), True
        a = text()
        yield zstd(a[:5000]) + b"\x50\x2a\x4d\x18\x07\0\0\0padding" + \
            zstd(b"") + zstd(a[5000:]), True
        yield zstd(text() + b"!"), False
        a = zstd(text())
        yield a[:-1] + bytes([a[-1] ^ 1]), False	# the checksum
        text()
        yield zstd(b"") * 2000, False
    else:
        yield deflate(text(), bits=-15), True
        yield deflate(text() + b"more" * cs), True
        yield deflate(text(), level=0), True
        yield deflate(text(), level=0)[:-9], False
        text()
        yield b"\0\0\0\xff\xff" * (cs // 5), False
    text()
    yield pack(bytes(cs * 256)), not image.zstd		# a bomb
    yield pack(text()[:-1]), False
    text()
    yield pack(b""), False
    a = pack(text())
    yield a[:len(a) // 2], False
    for junk in b"\0", b"\xff", b"\x28\xb5\x2f\xfd":
        text()
        yield junk * 1000, False
    text()
    yield os.urandom(cs), False
    # the last one says that it is longer than the file
    yield pack(text()), True


def craft(path, raw):
    image = Image(path)
    made = list(cases(image, open(raw, "rb").read()))
    for i, (stream, _) in enumerate(made):
        image.append(i, stream, 40 if i == len(made) - 1 else 0)
    print(sum(not good for _, good in made))


globals()[sys.argv[1]](*sys.argv[2:])
