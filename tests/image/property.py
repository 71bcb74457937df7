#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random verbs of "blkctl image" on small random images, now and then qemu-img
instead, and writes of a guest. After each, every image that could have changed
is what a model says: content, snapshots, bitmaps; and "qemu-img check" and
"blkctl image check" say the same, that it is clean.

    tests/image/property.py --bin build/user/gcc --time 600
    tests/image/property.py --bin build/user/gcc --rounds 1 --seed 4711 -v
"""
import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time

from property_model import SECRET, Failed, Image, Snapshot, Tools, up

IMAGES = 5
MAX = 4 << 20
# What a verb may refuse, as it says it; nothing has changed then.
REFUSED = re.compile("|".join([
    "cannot be resized", "cannot be compacted", "cannot be amended",
    "keep up",              # bitmaps that record writes
    "cannot count one more reference", "have external data file|external data",
    "snapshots of .* cannot be changed", "does not have", "no bitmaps",
    "different sizes", "cannot have a backing file",
    "has no room", "cannot be that large", "would be below itself",
    "smaller than the blocks", "cannot be preallocated",
]))
# ... and qemu-img
REFUSED_QEMU = re.compile("|".join([
    "[Bb]itmap", "snapshot", "[Ss]hrink", "not supported", "data file",
    "[Rr]efcount", "Cannot", "too small", "[Ii]nvalid argument",
]))


class World:
    def __init__(self, args, tools, rnd):
        self.args, self.tools, self.r = args, tools, rnd
        self.images = []
        self.made = 0

    # --- choosing ---------------------------------------------------------------

    def name(self, ext):
        self.made += 1
        return "i%d.%s" % (self.made, ext)

    def above(self, m):
        return [i for i in self.images if i.backing is m]

    def qcow2(self, leaf=False, backed=False):
        """One of those; None if there is none"""
        return self.pick(m for m in self.images if m.fmt == "qcow2" and
                         not (leaf and self.above(m)) and
                         not (leaf and m.content is None) and
                         (m.backing or not backed))

    def pick(self, some):
        some = list(some)
        return self.r.choice(some) if some else None

    def tool(self):
        return "qemu-img" if self.r.random() < 0.2 else "blkctl"

    def some_size(self):
        r = self.r
        return 512 * r.choice([r.randint(1, 64), r.randint(1, MAX >> 10),
                               128 * r.randint(1, MAX >> 16),
                               r.randint(1, MAX >> 9)])

    # --- running ------------------------------------------------------------------

    def verb(self, tool, *args):
        """True: done; False: refused, as it may be"""
        rc, out = self.tools.run(tool, *args, ok=(0, 1), note=True)
        may = REFUSED if tool == "blkctl" else REFUSED_QEMU
        if rc and not may.search(out):
            raise Failed("%s %s: %s" % (tool, " ".join(args), out.strip()))
        return not rc

    def remove(self, m):
        self.tools.note("rm " + " ".join(m.files()))
        for f in m.files():
            os.unlink(self.tools.path(f))
        self.images.remove(m)

    def below_changed(self, m, keep=None):
        """What images above M read is not known any more, but for KEEP."""
        for i in self.above(m):
            if i is not keep:
                i.content = None
            for s in i.snapshots.values():
                s.full = None
            self.below_changed(i, keep)

    # --- images -----------------------------------------------------------------

    def options(self, name, backing=False):
        """Options of create; the data file, or None"""
        r, data = self.r, None
        cs = 1 << r.choice([9, 9, 10, 12, 12, 14, 16, 16, 16, 18, 21])
        if r.random() < 0.15:
            return ["compat=0.10", "cluster_size=%d" % cs], None
        o = []
        if r.random() < 0.3:
            cs = max(cs, 1 << 14)
            o.append("extended_l2=on")
        if r.random() < 0.4:
            o.append("refcount_bits=%d" % r.choice([1, 2, 4, 8, 32, 64]))
        if r.random() < 0.2:
            o.append("lazy_refcounts=on")
        if r.random() < 0.4:
            o.append("compression_type=zstd")
        if r.random() < 0.2:
            data = name.replace("qcow2", "data")
            o.append("data_file=" + data)
            if not backing and r.random() < 0.5:
                o.append("data_file_raw=on")
        return o + ["cluster_size=%d" % cs], data

    def create_raw(self):
        m = Image(self.tools, self.name("raw"), "raw")
        m.content = bytearray(self.r.randbytes(self.some_size()))
        for _ in range(4):
            at = self.r.randrange(len(m.content))
            m.content[at:at + 70000] = bytes(len(m.content[at:at + 70000]))
        self.tools.store(m.name, m.content)
        self.tools.note("# %s: a raw image of %d bytes" % (m.name, m.size))
        self.images.append(m)
        return [m]

    def new_base(self):
        return self.pick(m for m in self.images
                         if m.content is not None and not m.luks)

    def op_create(self):
        if self.r.random() < 0.2:
            return self.create_raw()
        b = self.new_base() if self.r.random() < 0.6 else None
        m = Image(self.tools, self.name("qcow2"), backing=b)
        options, m.data = self.options(m.name, b)
        if not b and self.r.random() < 0.3:
            options.append("preallocation=" + self.r.choice(
                ["metadata", "falloc", "full"]))
        args = ["-o", ",".join(options), m.name]
        size = self.some_size()
        if b:
            args = ["-b", b.name, "-F", b.fmt, *args]
        if not b and not m.data and self.r.random() < 0.15:
            m.luks = True
            args = SECRET[:2] + ["-o", "encrypt.format=luks,encrypt.iter-time=10,"
                                 "encrypt.key-secret=k", *args]
        if not b or self.r.random() < 0.5:
            args.append(str(size))
        else:
            size = b.size
        if not self.verb("blkctl" if m.luks else self.tool(),
                         "create", "-q", "-f", "qcow2", *args):
            return []
        self.set_content(m, b.content[:size] if b else b"", size)
        self.images.append(m)
        return [m]

    @staticmethod
    def set_content(m, content, size):
        m.content = bytearray(content) + bytes(size - len(content))

    def op_remove(self):
        m = self.pick(m for m in self.images if not self.above(m))
        if m and len(self.images) > 2:
            self.remove(m)
        return []

    # --- a guest ------------------------------------------------------------------

    def guest_place(self, m, whole=False):
        r = self.r
        unit = m.cluster if whole else r.choice([512, m.cluster])
        off = r.randrange(m.size) // unit * unit
        n = r.choice([1, 1, 2, 8, r.randint(1, 64)]) * unit
        return off, min(n, m.size - off, 1 << 20)

    def guest_write(self, m, told):
        """One command of qemu-io's: (command, offset, length, byte or None)"""
        r = self.r
        how = r.choice(["write", "write", "write", "write -z", "write -z -u",
                        "discard", "write -c"])
        if how == "write -c" and (m.luks or m.data or not told or
                                  m.version > 2 and m.header("I", 96) < 2):
            how = "write"
        off, n = self.guest_place(m, how == "write -c")
        if how == "write -c":
            n = min(n, m.cluster)
        if how in ("write", "write -c"):
            byte = r.randint(1, 255)
            return "%s -P %d" % (how, byte), off, n, byte
        return how, off, n, None if how == "discard" else 0

    def op_guest(self, end=()):
        m = self.qcow2(leaf=True)
        if not m:
            return []
        did = [self.guest_write(m, not end)
               for _ in range(self.r.choice([1, 1, 2, 4, 8]))]
        commands = []
        for c in ["%s %d %d" % d[:3] for d in did] + list(end):
            commands += ["-c", c]
        _, out = self.tools.run("qemu-io", "-d", self.r.choice(
            ["unmap", "unmap", "ignore"]), *commands, *m.opts(), note=True,
            ok=None)
        said = re.findall("^(?:wrote|discard) .*/|^[a-z ]*failed.*$", out, re.M)
        if end:                 # it dies with what it would say
            said = [""] * len(did)
        if len(said) != len(did):
            raise Failed("qemu-io: " + out)
        done = []
        for text, d in zip(said, did):
            if "failed" not in text:
                done.append(d)
            elif not d[0].startswith("write -c"):   # never over what is there
                raise Failed("qemu-io: " + out)
        for _, off, n, byte in done:
            if byte is not None:
                m.content[off:off + n] = bytes([byte]) * n
        dirty = [(d[1], d[2], d[3] is None or d not in done) for d in did]
        self.accept_discards(m, dirty)
        if not end:
            self.accept_dirty(m, dirty)
        return [m]

    def accept_discards(self, m, dirty):
        """What was discarded, or failed, is zeroes, or has not changed."""
        if not any(d[2] for d in dirty):
            return
        now = m.read_qemu()
        for off, n, discarded in dirty:
            for at in range(off, off + n, 512) if discarded else ():
                if not any(now[at:at + 512]):
                    m.content[at:at + 512] = now[at:at + 512]

    def accept_dirty(self, m, dirty):
        """What was written is dirty; what was discarded may be."""
        now = m.read_dirty() if m.bitmaps else {}
        for name, (g, old) in m.bitmaps.items():
            if self.recording[m.name, name]:
                may = set(old)
                for off, n, discarded in dirty:
                    parts = range(off // g, (off + n - 1) // g + 1)
                    may.update(parts if not discarded else (
                        p for p in parts if p in now[name][1]))
                m.bitmaps[name] = g, may

    def op_crash(self):
        """QEMU dies while it has the image; a verb has to see to it."""
        found = self.op_guest(end=["flush", "abort"])
        for m in found:
            for name in m.bitmaps:
                self.verb("blkctl", "bitmap", *m.opts(), "--remove", name)
            m.bitmaps.clear()
            self.verb("blkctl", "check", "-r", "all", *m.opts())
        return found

    # --- verbs ----------------------------------------------------------------------

    def op_resize(self):
        m = self.pick(m for m in self.images if not self.above(m) and
                      m.content is not None)
        if not m:
            return []
        size = self.some_size()
        if self.r.random() < 0.3:
            size = max(512, m.size + 512 * self.r.randint(-300, 300))
        args = ["--shrink"] if size < m.size else []
        if size > m.size and self.r.random() < 0.3:
            args += ["--preallocation", self.r.choice(
                ["metadata", "falloc", "full"] if m.fmt == "qcow2" else
                ["falloc", "full"])]
        # qemu-img's preallocation of encrypted images is not zeroes
        tool, old = "blkctl" if m.luks else self.tool(), m.size
        if m.fmt == "qcow2" and not m.luks and not args[1:] and \
                self.r.random() < 0.2:
            tool = "blkctl"
            done = self.verb(tool, "amend", "-o", "size=%d" % size, *m.opts())
        else:
            done = self.verb(tool, "resize", "-q", *args, *m.opts(), str(size))
        if done:
            self.set_content(m, m.content[:size], size)
            for g, dirty in m.bitmaps.values():     # QEMU's can change size
                dirty -= {d for d in dirty if d * g >= size}
            if tool == "qemu-img":  # the rest of the cluster comes back
                end = min(up(old, m.cluster), size)
                m.content[old:end] = m.read_qemu()[old:end]
        return [m]

    def op_snapshot(self):
        m = self.qcow2()
        if not m:
            return []
        how = self.r.choice("ccad")
        if how == "c" and len(m.snapshots) < 3:
            self.snapshot_create(m)
        elif m.snapshots and how == "d":
            name = self.pick(m.snapshots)
            if self.verb(self.tool(), *self.snapshot(m, "-d", name)):
                del m.snapshots[name]
        elif m.snapshots and how == "a" and not self.above(m):
            self.snapshot_apply(m, self.pick(m.snapshots))
        return [m]

    @staticmethod
    def snapshot(m, how, name):
        opts = [o for o in m.opts() if m.luks or o not in ("-f", "qcow2")]
        return ["snapshot", "-q", how, name, *opts]

    def snapshot_create(self, m):
        name = "s%d" % self.made
        self.made += 1
        if self.verb(self.tool(), *self.snapshot(m, "-c", name)):
            full = bytearray(m.content) if m.content is not None else None
            own = m.read_qemu(own=True)
            m.snapshots[name] = Snapshot(full, own)

    def snapshot_apply(self, m, name):
        if not self.verb(self.tool(), *self.snapshot(m, "-a", name)):
            return
        s = m.snapshots[name]
        m.differs("snapshot %s, applied" % name, m.read_qemu(own=True), s.own)
        m.content = bytearray(s.full) if s.full is not None else m.read_qemu()

    def op_bitmap(self):
        m = self.qcow2()
        if not m or m.version < 3 or m.luks:
            return []
        how = self.r.choice(["--add", "--add", "--remove", "--clear",
                             "--enable", "--disable", "--merge"])
        name = self.pick(m.bitmaps)
        if how == "--add" or not name:
            how, name = "--add", "b%d" % self.made
            self.made += 1
        getattr(self, "bitmap_" + how[2:])(m, name)
        return [m]

    def bitmap(self, m, *args):
        return self.verb(self.tool(), "bitmap", *args, *m.opts()[:2])

    def bitmap_add(self, m, name):
        g = 1 << self.r.choice([9, 12, 16, 20])
        off = self.r.random() < 0.5
        if self.bitmap(m, "--add", "-g", str(g), *(["--disable"] if off else []),
                       m.name, name):
            m.bitmaps[name] = g, set()
            self.recording[m.name, name] = not off

    def bitmap_remove(self, m, name):
        if self.bitmap(m, "--remove", m.name, name):
            del m.bitmaps[name]

    def bitmap_clear(self, m, name):
        if self.bitmap(m, "--clear", m.name, name):
            m.bitmaps[name] = m.bitmaps[name][0], set()

    def bitmap_enable(self, m, name, on=True):
        if self.bitmap(m, "--enable" if on else "--disable", m.name, name):
            self.recording[m.name, name] = on

    def bitmap_disable(self, m, name):
        self.bitmap_enable(m, name, False)

    def bitmap_merge(self, m, name):
        other = self.pick(i for i in self.images if i.bitmaps)
        source = self.pick(other.bitmaps)
        args = ["--merge", source]
        if other is not m:
            args += ["-b", other.name, "-F", "qcow2"]
        if not self.bitmap(m, *args, m.name, name):
            return
        g, dirty = m.bitmaps[name]
        h, more = other.bitmaps[source]
        for d in more:
            last = min((d + 1) * h, m.size) - 1
            dirty |= set(range(d * h // g, last // g + 1))

    # --- chains ---------------------------------------------------------------------

    def op_rebase(self):
        m = self.qcow2(leaf=True)
        if not m:
            return []
        if m.backing and m.backing.content is not None and \
                self.r.random() < 0.25:
            return self.rebase_moved(m)
        b = self.pick(i for i in self.images if i is not m and not i.luks and
                      i.content is not None) if self.r.random() < 0.8 else None
        args = ["-b", b.name, "-F", b.fmt] if b else ["-b", ""]
        # the qemu-img that is tested with reads wrong below shorter images
        if self.verb("blkctl", "rebase", *args, *m.opts()):
            m.backing = b
            for s in m.snapshots.values():
                s.full = None if b else bytearray(s.own)
        return [m]

    def rebase_moved(self, m):
        """The same under another name"""
        fmt = self.r.choice(["raw", "qcow2"])
        b = Image(self.tools, self.name(fmt), fmt)
        self.verb(self.tool(), "convert", "-O", b.fmt, *m.backing.opts(), b.name)
        b.content = bytearray(m.backing.content)
        self.images.append(b)
        if self.verb(self.tool(), "rebase", "-u", "-b", b.name, "-F", b.fmt,
                     *m.opts()):
            m.backing = b
        return [b, m]

    def op_commit(self):
        m = self.qcow2(leaf=True, backed=True)
        if not m:
            return []
        chain = list(m.chain())
        b = self.pick(chain) if self.r.random() < 0.3 else chain[0]
        if b.content is None or b.fmt == "raw" and b.size % 512:
            return []
        between = chain[:chain.index(b)]
        args = ["-b", b.name] if between or self.r.random() < 0.3 else []
        if self.r.random() < 0.3:
            args.append("-d")
        tool = self.tool() if not between else "blkctl"
        if not self.verb(tool, "commit", "-q", *args, *m.opts()):
            return [m, b]
        n, old = m.size, b.content
        b.content = bytearray(m.content) + old[n:]
        assert b.size >= n
        self.dirty_by_commit(b, old)
        self.below_changed(b, keep=m)
        return [m, b]

    def dirty_by_commit(self, b, old):
        """What it has changed; what it has written, with the same, may be."""
        now = b.read_dirty() if b.bitmaps else {}
        for name, (g, dirty) in b.bitmaps.items():
            if self.recording[b.name, name]:
                must = dirty | {at // g for at in range(0, b.size, 512)
                                if old[at:at + 512] != b.content[at:at + 512]}
                if not must <= now[name][1]:
                    raise Failed("%s: '%s' does not know of %s" % (
                        b.name, name, sorted(must - now[name][1])[:20]))
                b.bitmaps[name] = g, set(now[name][1])

    # --- the whole image ------------------------------------------------------------

    def op_amend(self):
        m = self.qcow2()
        if not m or m.luks:
            return []
        o = self.r.choice(["compat=0.10", "compat=1.1", "lazy_refcounts=on",
                           "lazy_refcounts=off"] + ["refcount_bits=%d" % n for n
                                                    in (1, 2, 8, 16, 64)])
        # qemu-img may take for ever to find other refcounts
        self.verb("blkctl" if o.startswith("ref") else self.tool(), "amend",
                  "-o", o, *m.opts())
        return [m] + self.above(m)

    def op_compact(self):
        m = self.qcow2()
        if m:
            self.verb("blkctl", "compact", "-q", *m.opts())
        return [m] if m else []

    def op_check(self):
        m = self.qcow2()
        if m:
            self.verb("blkctl", "check", "-r", self.r.choice(["leaks", "all"]),
                      *m.opts())
        return [m] if m else []

    def op_bench(self):
        m = self.qcow2(leaf=True)
        if not m:
            return []
        size = 512 * self.r.randint(1, 32)
        off = self.r.randrange(m.size) // 512 * 512
        count, byte = self.r.randint(1, 8), self.r.randint(1, 255)
        if off + count * size > m.size:
            return []
        if self.verb("blkctl", "bench", "-q", "-w", "-c", str(count), "-s",
                     str(size), "-o", str(off), "--pattern", str(byte),
                     *m.opts()):
            m.content[off:off + size * count] = bytes([byte]) * size * count
        return [m]

    def op_dd(self):
        m = self.pick(m for m in self.images if m.content is not None)
        bs = self.r.choice([512, 4096, 65536, 1000])
        skip = self.r.randrange(up(m.size, bs) // bs)
        count = self.r.randint(1, 200)
        fmt = self.r.choice(["raw", "qcow2"])
        want = m.content[skip * bs:(skip + count) * bs]
        if m.luks:
            return []
        self.verb("blkctl", "dd", "-f", m.fmt, "-O", fmt, "if=" + m.name,
                  "of=out.dd", "bs=%d" % bs, "skip=%d" % skip,
                  "count=%d" % count)
        copy = Image(self.tools, "out.dd", fmt)
        self.set_content(copy, want, up(len(want)))
        copy.check(self.r)
        return []

    def op_convert(self):
        m = self.pick(m for m in self.images if m.content is not None)
        t = Image(self.tools, self.name("qcow2"))
        options, t.data = self.options(t.name)
        args = self.r.choice([[], ["-W"], ["-m", "1"], ["-t", "writeback"]])
        want = m.content
        snapshot = self.pick(m.snapshots) if self.r.random() < 0.4 else None
        if snapshot and m.snapshots[snapshot].full is not None:
            args = [*args, "-l", snapshot]
            want = m.snapshots[snapshot].full
        elif m.backing and self.r.random() < 0.5 and \
                m.backing.content is not None:
            t.backing = m.backing
            args = [*args, "-B", t.backing.name, "-F", t.backing.fmt]
            options = [o for o in options if o != "data_file_raw=on"]
        if not t.data and self.r.random() < 0.4:
            args = [*args, "-c"]
        how = ["-o", ",".join(options)]
        if not t.backing and not m.luks and self.r.random() < 0.2:
            self.verb("blkctl", "create", "-q", "-f", "qcow2", *how, t.name,
                      str(up(len(want))))
            how = ["-n"]
        if not self.verb("blkctl", "convert", "-O", "qcow2", *args, *how,
                         *m.opts(), t.name):
            raise Failed("convert is refused")
        self.set_content(t, want, up(len(want)))
        self.images.append(t)
        return [t]

    # --- all of it --------------------------------------------------------------------

    OPS = {"create": 2, "remove": 1, "guest": 10, "crash": 1, "resize": 3,
           "snapshot": 6, "bitmap": 3, "rebase": 3, "commit": 3, "amend": 3,
           "compact": 3, "check": 1, "bench": 1, "dd": 1, "convert": 2}

    def play(self, steps):
        self.recording = {}
        while len(self.images) < 2:
            self.op_create()
        names, weights = list(self.OPS), list(self.OPS.values())
        for _ in range(steps):
            while len(self.images) >= IMAGES:
                self.remove(self.pick(m for m in self.images
                                      if not self.above(m)))
            changed = getattr(self, "op_" + self.r.choices(names, weights)[0])()
            for m in {m.name: m for m in changed}.values():
                m.check(self.r)
        for m in self.images:
            m.check(self.r, thorough=True)


def one_round(args, folder, seed):
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    with open(os.path.join(folder, "key"), "w", encoding="ascii") as f:
        f.write("secret")
    tools = Tools(os.path.join(os.path.realpath(args.bin), "blkctl"), folder,
                  args.verbose)
    try:
        World(args, tools, random.Random(seed)).play(args.steps)
    except Failed as e:
        print("not ok seed %d: %s" % (seed, str(e).replace("\n", "\n# ")))
        print("# " + "\n# ".join(tools.history), flush=True)
        if args.keep:
            shutil.copytree(folder, os.path.join(args.keep, "seed-%d" % seed),
                            dirs_exist_ok=True)
        return 0, 1
    return len(tools.history), 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    p.add_argument("--bin", required=True, help="folder of blkctl")
    p.add_argument("--rounds", type=int, default=-1)
    p.add_argument("--steps", type=int, default=20, help="of a round")
    p.add_argument("--time", type=float, help="seconds")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    p.add_argument("--failures", type=int, default=5, help="end after so many")
    p.add_argument("--keep", help="a folder for images that failed")
    p.add_argument("-v", "--verbose", action="store_true")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = time.monotonic() + args.time if args.time else None
    seed, failed, verbs = args.seed, 0, 0
    memory = "/dev/shm"             # fsync takes most of the time elsewhere
    where = memory if os.access(memory, os.W_OK) else "."
    with tempfile.TemporaryDirectory(prefix="blkctl-", dir=where) as folder:
        while (not end or time.monotonic() < end) and \
                seed != args.seed + args.rounds and failed < args.failures:
            done, bad = one_round(args, os.path.join(folder, "images"), seed)
            verbs += done
            failed += bad
            seed += 1
    print("# %d rounds from seed %d on, %d commands" % (
        seed - args.seed, args.seed, verbs))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
