# SPDX-License-Identifier: GPL-2.0-or-later
"""What the images of the property test have to be: the model, and how an image is
compared with it."""
import json
import os
import signal
import struct
import subprocess

LIMIT = 120             # seconds that a program may take
SECRET = ["--object", "secret,id=k,file=key"]


class Failed(Exception):
    pass


def up(n, to=512):
    return (n + to - 1) // to * to


class Tools:
    """Runs programs in the folder of the images, and writes down what it ran."""

    def __init__(self, blkctl, folder, verbose):
        self.programs = {"blkctl": [blkctl, "image"], "qemu-img": ["qemu-img"],
                         "qemu-io": ["qemu-io"]}
        self.folder, self.verbose = folder, verbose
        self.history = []
        self.env = dict(os.environ, LC_ALL="C.UTF-8",
                        ASAN_OPTIONS="exitcode=86",
                        UBSAN_OPTIONS="print_stacktrace=1:exitcode=86")

    def note(self, line):
        self.history.append(line)
        if self.verbose:
            print("# " + line, flush=True)

    def run(self, tool, *args, ok=(0,), note=False, errors=subprocess.STDOUT):
        """(exit code, output and error text); ok=None: any that is its own"""
        what = " ".join([tool] + (["image"] if tool == "blkctl" else []) + [
            "'%s'" % a if not a or " " in a or '"' in a else a for a in args])
        if note:
            self.note(what)
        try:
            p = subprocess.run(self.programs[tool] + list(args), timeout=LIMIT,
                               cwd=self.folder, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, env=self.env,
                               stderr=errors, check=False)
        except subprocess.TimeoutExpired as e:
            raise Failed("%s: no end" % what) from e
        rc, out = p.returncode, p.stdout.decode(errors="replace")
        if rc < 0 and rc != -signal.SIGABRT or rc == 86 or \
                tool == "blkctl" and rc < 0 or ok is not None and rc not in ok:
            raise Failed("%s: exit code %d\n%s" % (what, rc, out[-6000:]))
        if note and rc:
            self.note("    exit code %d: %s" % (rc, out.strip()[-300:]))
        return rc, out

    def path(self, name):
        return os.path.join(self.folder, name)

    def load(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def store(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)


class Snapshot:
    """full: what the disk was, None if unknown since something below has changed;
    own: the same without what is below, where that is zeroes."""

    def __init__(self, full, own):
        self.full, self.own = full, own


class Image:
    """content: what the disk reads as; None: something below has changed."""

    def __init__(self, tools, name, fmt="qcow2", backing=None):
        self.tools, self.name, self.fmt = tools, name, fmt
        self.backing = backing
        self.content = bytearray()
        self.snapshots = {}
        self.bitmaps = {}               # name: (granularity, set of dirty ones)
        self.luks = False
        self.data = None

    @property
    def size(self):
        return len(self.content) if self.content is not None else \
            self.header("Q", 24)

    def header(self, fmt, off):
        with open(self.tools.path(self.name), "rb") as f:
            f.seek(off)
            return struct.unpack(">" + fmt, f.read(struct.calcsize(fmt)))[0]

    @property
    def version(self):
        return self.header("I", 4) if self.fmt == "qcow2" else 0

    @property
    def cluster(self):
        return 1 << self.header("I", 20) if self.fmt == "qcow2" else 512

    def chain(self):
        """The images below it"""
        m = self.backing
        while m:
            yield m
            m = m.backing

    def files(self):
        return [self.name] + ([self.data] if self.data else [])

    def opts(self, name=None):
        """The arguments that name it, for all tools"""
        name = name or self.name
        if not self.luks:
            return ["-f", self.fmt, name]
        return SECRET + ["--image-opts", "driver=qcow2,encrypt.key-secret=k,"
                         "file.filename=" + name]

    def alone(self):
        """Its name for QEMU, without what is below"""
        how = {"driver": "qcow2", "file": {"driver": "file",
                                           "filename": self.name},
               "backing": None}
        if self.luks:
            how["encrypt"] = {"format": "luks", "key-secret": "k"}
        return (SECRET if self.luks else []) + ["json:" + json.dumps(how)]

    # --- what is read ---------------------------------------------------------

    def read_qemu(self, snapshot=None, own=False):
        args = self.alone() if own else self.opts()
        self.tools.run("qemu-img", "convert", "-O", "raw", *(
            ["-l", snapshot] if snapshot else []), *args, "out.raw")
        return bytearray(self.tools.load("out.raw"))

    def read_blkctl(self, rnd, snapshot=None):
        how = rnd.choice([[], ["-W"], ["-m", "1"], ["-S", "0"], ["-S", "64k"]])
        self.tools.run("blkctl", "convert", "-O", "raw", *how, *(
            ["-l", snapshot] if snapshot else []), *self.opts(), "out.raw")
        return bytearray(self.tools.load("out.raw"))

    def read_dirty(self):
        """{bitmap: (granularity, set of dirty ones)} from the file itself"""
        d = self.tools.load(self.name)

        def at(fmt, off):
            return struct.unpack_from(">" + fmt, d, off)
        if self.fmt != "qcow2" or at("I", 4)[0] < 3:
            return {}
        pos = at("I", 100)[0]
        while at("I", pos)[0] not in (0, 0x23852875):
            pos += 8 + up(at("I", pos + 4)[0], 8)
        if not at("I", pos)[0] or not at("Q", 88)[0] & 1:
            return {}
        number, _, _, pos = at("IIQQ", pos + 8)
        found = {}
        for _ in range(number):
            table, entries, _, _, shift, length, extra = at("QIIBBHI", pos)
            name = d[pos + 24 + extra:pos + 24 + extra + length].decode()
            pos += up(24 + extra + length, 8)
            found[name] = (1 << shift, self.bits(
                d, at("%dQ" % entries, table), 1 << at("I", 20)[0], shift))
        return found

    def bits(self, d, table, cs, shift):
        last, dirty = up(self.size, 1 << shift) >> shift, set()
        for i, e in enumerate(table):
            off = e & 0x00fffffffffffe00
            data = d[off:off + cs] if off else (b"\xff" if e & 1 else b"") * cs
            for k, byte in enumerate(data):
                dirty.update(n for n in range((i * cs + k) * 8,
                                              (i * cs + k) * 8 + 8)
                             if byte and byte >> n % 8 & 1 and n < last)
        return dirty

    # --- and compared ------------------------------------------------------------

    def differs(self, what, got, want):
        if got == want:
            return
        if len(got) != len(want):
            raise Failed("%s: %s: %d bytes, not %d" % (
                self.name, what, len(got), len(want)))
        bad = [i for i in range(0, len(got), 512)
               if got[i:i + 512] != want[i:i + 512]]
        raise Failed("%s: %s: %d sectors differ, from %#x to %#x" % (
            self.name, what, len(bad), bad[0], bad[-1]))

    def check_content(self, rnd):
        if self.content is None:
            return
        if self.fmt == "qcow2" and self.header("Q", 24) != self.size:
            raise Failed("%s: another size" % self.name)
        if self.luks or rnd.random() < 0.3:
            self.differs("QEMU", self.read_qemu(), self.content)
            self.differs("blkctl", self.read_blkctl(rnd), self.content)
            return
        self.tools.store("model.raw", self.content)
        for tool in "qemu-img", "blkctl":
            rc, out = self.tools.run(
                tool, "compare", "-f", "raw", "-F", self.fmt, "model.raw",
                self.name, ok=None)
            if rc:
                raise Failed("%s: %s: %s" % (self.name, tool, out.strip()))

    def check_snapshots(self, rnd):
        for name, s in self.snapshots.items():
            # QEMU reads as much of it as the disk has now
            own = self.read_qemu(name, True)[:len(s.own)]
            self.differs("snapshot %s itself" % name, own, s.own[:len(own)])
            if s.full is not None and not self.luks:
                got = self.read_qemu(name)[:len(s.full)]
                self.differs("snapshot %s, QEMU" % name, got,
                             s.full[:len(got)])
                self.differs("snapshot %s, blkctl" % name,
                             self.read_blkctl(rnd, name), s.full)

    def check_bitmaps(self):
        found = self.read_dirty()
        if list(found) != list(self.bitmaps):
            raise Failed("%s: bitmaps %s, not %s" % (
                self.name, list(found), list(self.bitmaps)))
        for name, (g, dirty) in self.bitmaps.items():
            if found[name] != (g, dirty):
                raise Failed("%s: bitmap %s of %d: %s too many, %s too few" % (
                    self.name, name, found[name][0],
                    sorted(found[name][1] - dirty),
                    sorted(dirty - found[name][1])))

    def state(self):
        """0: clean, 2: errors, 3: leaks; both say the same."""
        said = []
        for tool in "qemu-img", "blkctl":
            rc, out = self.tools.run(tool, "check", "--output=json",
                                     *self.opts(), ok=(0, 2, 3),
                                     errors=subprocess.DEVNULL)
            d = parsed(out)
            d = d.get("check", d)
            said.append([rc] + [d.get(k, 0) for k in (
                "corruptions", "leaks", "check-errors", "allocated-clusters",
                "compressed-clusters", "total-clusters", "image-end-offset")])
        if said[0] != said[1]:
            raise Failed("%s: qemu-img check: %s, blkctl: %s" % (
                self.name, *said))
        return said[0][0]

    def check_clean(self):
        if self.fmt == "qcow2" and self.state():
            _, out = self.tools.run("blkctl", "check", *self.opts(), ok=None)
            raise Failed("%s: not clean\n%s" % (self.name, out[-2000:]))

    def check_map(self):
        """Both say the same about every byte."""
        if self.luks:
            return
        said = []
        for tool in "qemu-img", "blkctl":
            _, out = self.tools.run(tool, "map", "--output=json",
                                    "-f", self.fmt, self.name)
            d = parsed(out)
            said.append(joined(d["map"] if isinstance(d, dict) else d))
        if said[0] != said[1]:
            bad = [p for p in zip(*said) if p[0] != p[1]][:1]
            raise Failed("%s: qemu-img map and blkctl's: %s" % (self.name, bad))

    def check(self, rnd, thorough=False):
        self.check_clean()
        self.check_content(rnd)
        if self.snapshots and (thorough or rnd.random() < 0.3):
            self.check_snapshots(rnd)
        self.check_bitmaps()
        if thorough or rnd.random() < 0.2:
            self.check_map()


def parsed(text):
    try:
        return json.loads(text)
    except ValueError as e:
        raise Failed("no JSON: " + text) from e


def joined(extents):
    """Depths of a map, neighbours that are the same in one piece"""
    found = []
    for x in extents:
        what = x["depth"], x["present"]
        if found and found[-1][2:] == what:
            found[-1] = (found[-1][0], found[-1][1] + x["length"], *what)
        else:
            found.append((x["start"], x["length"], *what))
    return found
