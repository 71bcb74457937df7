# SPDX-License-Identifier: GPL-2.0-or-later
"""Damages qcow2 images at random where it matters: what a field, a table entry
or a descriptor says, or the data that one refers to."""
import os
import struct

OFFSET = 0x00FFFFFFFFFFFE00
COMPRESSED, COPIED = 1 << 62, 1 << 63

HEADER = [(0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4),
          (40, 8), (48, 8), (56, 4), (60, 4), (64, 8), (72, 8), (80, 8),
          (88, 8), (96, 4), (100, 4), (104, 1)]


class Image:
    """An image as its header describes it before anything is damaged."""

    def __init__(self, path):
        self.path = path
        self.size = os.path.getsize(path)
        self.f = open(path, "r+b")
        self.bits = self.u32(20)
        self.cluster = 1 << self.bits
        self.version = self.u32(4)
        self.l1, self.l1_size = self.u64(40), self.u32(36)
        self.rt, self.rt_clusters = self.u64(48), self.u32(56)
        self.snapshots, self.nb_snapshots = self.u64(64), self.u32(60)
        self.ext = self.version > 2 and self.u64(72) & 16
        self.tables = [t for t in (self.u64(self.l1 + 8 * i) & OFFSET
                                   for i in range(min(self.l1_size, 64))) if t]

    def read(self, at, n):
        self.f.seek(at)
        return self.f.read(n)

    def number(self, at, n):
        return int.from_bytes(self.read(at, n).ljust(n, b"\0"), "big")

    def u32(self, at):
        return self.number(at, 4)

    def u64(self, at):
        return self.number(at, 8)

    def put(self, at, n, value):
        self.f.seek(at)
        self.f.write((value % (1 << (8 * n))).to_bytes(n, "big"))

    def bytes(self, at, data):
        self.f.seek(at)
        self.f.write(data)

    def extensions(self):
        """(offset, type, length) of each header extension."""
        at = self.u32(100) if self.version > 2 else 72
        found = []
        while at + 8 <= self.cluster and len(found) < 32:
            kind, n = struct.unpack(">II", self.read(at, 8).ljust(8, b"\0"))
            found.append((at, kind, n))
            if not kind:
                break
            at += 8 + (n + 7) // 8 * 8
        return found

    def metadata(self):
        """Clusters that are no data, whoever owns them."""
        c = self.cluster
        found = {0}

        def add(at, n):
            found.update(range(at // c, (at + max(n, 1) - 1) // c + 1))

        add(self.l1, self.l1_size * 8)
        add(self.rt, self.rt_clusters * c)
        for t in self.tables:
            add(t, c)
        for i in range(min(self.rt_clusters * c // 8, 4096)):
            block = self.u64(self.rt + 8 * i) & OFFSET
            if block:
                add(block, c)
        if self.nb_snapshots:
            add(self.snapshots, 64)
            add(self.u64(self.snapshots), 8 * self.u32(self.snapshots + 8))
        return found


class Mutator:
    """Every choice comes from @rnd."""

    def __init__(self, rnd, path):
        self.r = rnd
        self.i = Image(path)
        self.did = []

    # Which values are likely to hurt

    def offset(self):
        i = self.i
        return self.r.choice([
            0, i.cluster, i.l1, i.rt, i.snapshots, i.size - i.cluster,
            i.size, i.size + i.cluster, self.r.choice(i.tables or [0]),
            self.r.randrange(i.size), 1 << 40, 1 << 55, 1 << 61, 512, 1,
            self.r.randrange(i.size // i.cluster + 2) * i.cluster])

    def value(self, old, n):
        r = self.r
        return r.choice([
            0, 1, -1, old + 1, old - 1, old ^ 1 << r.randrange(8 * n),
            old ^ 1 << r.randrange(8 * n), old * 2, old // 2,
            1 << (8 * n - 1), (1 << (8 * n - 1)) - 1, self.offset(),
            r.getrandbits(8 * n), r.randrange(64)])

    def entry(self, old):
        r = self.r
        flags = r.choice([0, COPIED, COPIED, 1, COPIED | 1, COMPRESSED,
                          COMPRESSED | r.getrandbits(62), 1 << r.randrange(64)])
        return r.choice([
            self.offset() & OFFSET | flags, self.offset() & OFFSET | flags,
            old ^ 1 << r.randrange(64), old ^ COPIED, old ^ COMPRESSED,
            old | 1, old + self.i.cluster, r.getrandbits(64), flags])

    def number(self, at, n, what):
        value = what(self.i.number(at, n), n) if n < 8 or what == self.value \
            else what(self.i.number(at, n))
        self.i.put(at, n, value)
        self.did.append("%#x/%d = %#x" % (at, n, value % (1 << 8 * n)))

    # What is damaged

    def header(self):
        at, n = self.r.choice(HEADER)
        self.number(at, n, self.value)

    def extension(self):
        at, _, n = self.r.choice(self.i.extensions() or [(104, 0, 0)])
        where = self.r.choice([at, at + 4, at + 4,
                               at + 8 + self.r.randrange(n + 1)])
        self.number(where, 4, self.value)

    def l1_entry(self):
        k = self.r.randrange(max(min(self.i.l1_size, 64), 1))
        self.number(self.i.l1 + 8 * k, 8, self.entry)

    def used(self, table):
        """Offsets of entries that say something."""
        n = min(self.i.cluster, 65536) // 8
        data = struct.unpack(">%dQ" % n,
                             self.i.read(table, n * 8).ljust(n * 8, b"\0"))
        return [(table + 8 * k, e) for k, e in enumerate(data) if e]

    def l2_entry(self):
        if not self.i.tables:
            return
        table = self.r.choice(self.i.tables)
        used = self.used(table)
        if used and self.r.random() < 0.8:
            at = self.r.choice(used)[0]
        else:
            at = table + 8 * self.r.randrange(self.i.cluster // 8)
        if self.r.random() < 0.1:
            # two entries with one cluster
            self.i.put(at, 8, self.r.choice(used or [(0, 0)])[1])
            self.did.append("%#x twice" % at)
        else:
            self.number(at, 8, self.entry)

    def payload(self):
        """What a compressed cluster's descriptor refers to."""
        packed = [e for t in self.i.tables for _, e in self.used(t)
                  if e & COMPRESSED and not self.i.ext]
        if not packed:
            self.l2_entry()
            return
        e = self.r.choice(packed)
        at = e & (1 << (62 - (self.i.bits - 8))) - 1
        at += self.r.randrange(600)
        self.i.bytes(at, self.r.randbytes(self.r.choice([1, 2, 8, 300])))
        self.did.append("payload at %#x" % at)

    def refcounts(self):
        r = self.r
        if r.random() < 0.4:
            self.number(self.i.rt + 8 * r.randrange(3), 8, self.entry)
            return
        block = self.i.u64(self.i.rt) & OFFSET
        n = r.choice([1, 2, 16, 512])
        at = block + r.randrange(min(self.i.cluster, 512))
        self.i.bytes(at, r.choice([bytes(n), b"\xff" * n, r.randbytes(n)]))
        self.did.append("refcounts at %#x, %d bytes" % (at, n))

    def snapshot(self):
        if not self.i.nb_snapshots:
            self.refcounts()
            return
        at = self.i.snapshots
        if self.r.random() < 0.3:
            self.number((self.i.u64(at) & OFFSET) + 8 * self.r.randrange(4), 8,
                        self.entry)
            return
        at += self.r.choice([0, 8, 12, 14, 16, 32, 36, 40, 48, 56])
        self.number(at, self.r.choice([2, 4, 8]), self.value)

    def bitmap(self):
        for at, kind, _ in self.i.extensions():
            if kind != 0x23852875:
                continue
            table = self.i.u64(at + 24)
            where = table + self.r.choice([0, 8, 12, 16, 17, 18, 20, 24])
            self.number(self.r.choice([where, at + 8, at + 16, at + 24]),
                        self.r.choice([1, 2, 4, 8]), self.value)
            return
        self.extension()

    def luks(self):
        for at, kind, _ in self.i.extensions():
            if kind != 0x0537be77:
                continue
            where = self.i.u64(at + 8) + self.r.randrange(592)
            self.number(where, self.r.choice([1, 4]), self.value)
            return
        self.l2_entry()

    def noise(self):
        c = self.r.choice(sorted(self.i.metadata()))
        at = c * self.i.cluster + self.r.randrange(min(self.i.cluster, 4096))
        self.i.bytes(at, self.r.randbytes(self.r.choice([1, 4, 64])))
        self.did.append("noise at %#x" % at)

    def length(self):
        size = self.r.choice([self.i.size - 1, self.i.size // 2,
                              self.i.size - self.i.cluster, self.i.cluster,
                              self.i.size + 1, self.i.size * 2, 104, 0])
        self.i.f.truncate(max(size, 0))
        self.did.append("%d bytes long" % size)

    def run(self):
        """Damages the file; returns what was done, as text."""
        kinds = [self.header, self.extension, self.l1_entry, self.l2_entry,
                 self.l2_entry, self.l2_entry, self.payload, self.refcounts,
                 self.snapshot, self.bitmap, self.luks, self.noise]
        for _ in range(self.r.choice([1, 1, 1, 2, 3, 6])):
            try:
                self.r.choice(kinds)()
            except (OSError, OverflowError):
                self.did.append("nothing")  # led astray by the last one
        if self.r.random() < 0.05:
            self.length()
        self.i.f.close()
        return "; ".join(self.did)
