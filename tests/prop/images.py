# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of images for the property test: which features they have is decided
by a seed, what is in them by qemu-io, what a reader must find by qemu-img."""
import os
import random
import subprocess
import time

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512
TOP = "l0.qcow2"
DATA = "l0.data"
MODEL = "model.raw"
KEY = "key"
NOISE = 6               # files with data of different kinds
PRISTINE = ".pristine"  # what a round starts from

# Every tool must end within so many seconds.
LIMIT = 180 * int(os.environ.get("VM_SLOW", "1"))


spent = {}              # seconds, by tool


class Failed(Exception):
    """A tool did not do what it should."""


def count_time(tool, start):
    spent[tool] = spent.get(tool, 0) + time.monotonic() - start


def run(*argv, cwd=None, ok=(0,)):
    """The exit code and what was printed; an exception if it is not in OK."""
    start = time.monotonic()
    try:
        p = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=LIMIT, text=True, close_fds=False,
                           errors="replace", check=False)
    except subprocess.TimeoutExpired as e:
        raise Failed("%s: not through after %d s\n%s" % (
            " ".join(argv), LIMIT, e.stdout or "")) from e
    finally:
        count_time(" ".join([os.path.basename(argv[0])] +
                            [a for a in argv[1:2] if a.isalpha()]), start)
    if p.returncode not in ok:
        raise Failed("%s: exit code %d\n%s" % (
            " ".join(argv), p.returncode, p.stdout))
    return p.returncode, p.stdout


def copy_sparse(source, target):
    """Holes stay holes; the target is new."""
    with open(source, "rb") as src, open(target, "wb") as dst:
        size = os.fstat(src.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(src.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(src.fileno(), at, os.SEEK_HOLE)
            while at < end:
                n = os.copy_file_range(src.fileno(), dst.fileno(), end - at,
                                       at, at)
                if not n:
                    raise Failed("%s: ends early" % source)
                at += n
        dst.truncate(size)


class Layer:
    """One image: what to create it with, and what to write to it."""

    def __init__(self, rnd, on, number, last, size):
        self.name = "l%d.qcow2" % number
        self.size = size
        self.last = last
        self.raw = last and number > 0 and "rawbase" in on and \
            rnd.random() < 0.3
        if self.raw:
            self.name = "l%d.raw" % number
        self.version = 2 if "v2" in on and rnd.random() < 0.2 else 3
        self.cluster = pick_cluster(rnd, on)
        self.options = []
        self.luks = self.data = None
        self.compressed = self.extl2 = False
        self.snapshots = 0
        if not self.raw:
            self.pick_options(rnd, on, number)

    def pick_options(self, rnd, on, number):
        def chance(feature, probability):
            return feature in on and rnd.random() < probability

        self.compressed = chance("compressed", 0.4)
        bits = 16
        if self.version == 3:
            if chance("refcount", 0.3):
                bits = rnd.choice([1, 2, 4, 8, 32, 64])
                self.options.append("refcount_bits=%d" % bits)
            if chance("lazy", 0.2):
                self.options.append("lazy_refcounts=on")
            if chance("extl2", 0.25):
                self.extl2 = True
                self.cluster = max(self.cluster, 16 * KIB)
                self.options.append("extended_l2=on")
            self.pick_data_file(chance)
        if number == 0 and not self.data and chance("luks", 0.15):
            self.luks = KEY
            self.options += ["encrypt.format=luks", "encrypt.key-secret=k",
                             "encrypt.iter-time=10"]
        # With refcounts of one bit QEMU fails later writes with EIO.
        if self.luks or self.data or bits == 1:
            self.compressed = False
        if self.version == 3 and self.compressed and chance("zstd", 0.5):
            self.options.append("compression_type=zstd")
        if self.last and chance("prealloc", 0.15):
            self.options.append("preallocation=" + rnd.choice(
                ["metadata", "falloc", "full"]))
        # A cluster has as many references as there are snapshots, and more
        # if compressed ones share it.
        if number == 0 and bits >= 8 and not self.data and \
                chance("snapshots", 0.35):
            self.snapshots = rnd.choice([1, 1, 2])
        self.options += ["cluster_size=%d" % self.cluster, "compat=" +
                         ("0.10" if self.version == 2 else "1.1")]

    def pick_data_file(self, chance):
        if not chance("datafile", 0.2):
            return
        self.data = self.name.replace(".qcow2", ".data")
        self.options.append("data_file=" + self.data)
        if self.last and chance("dataraw", 0.5):
            self.options.append("data_file_raw=on")

    def __str__(self):
        if self.raw:
            return "raw %dK" % (self.size // KIB)
        text = "v%d %dK" % (self.version, self.size // KIB)
        skip = ("encrypt.key", "encrypt.iter", "compat", "data_file=")
        for o in self.options:
            if not o.startswith(skip):
                text += " " + o.replace("preallocation", "prealloc")
        if self.data:
            text += " data_file"
        if self.compressed:
            text += " compressed"
        if self.snapshots:
            text += " snapshots=%d" % self.snapshots
        return text

    def format(self):
        return "raw" if self.raw else "qcow2"

    def secret(self):
        return ["--object", "secret,id=k,file=" + KEY] if self.luks else []

    def options_spec(self):
        """As qemu-img's --image-opts has it."""
        key = "encrypt.key-secret=k," if self.luks else ""
        return self.secret() + [
            "--image-opts", "driver=qcow2,%sfile.filename=%s" % (
                key, self.name)]

    def spec(self):
        """How qemu-img's commands are told which image is meant."""
        if self.luks:
            return self.options_spec()
        return ["-f", self.format(), self.name]

    def io_commands(self, rnd, start, rounds):
        """Commands for qemu-io, which write all kinds of clusters. Layers of
        a chain share START, so that they meet in one cluster."""
        for _ in range(rounds):
            yield self.io_command(rnd, start)
        # The first and the last sector are corners.
        if rnd.random() < 0.4:
            yield "write -q -P %d %d %d" % (
                rnd.randrange(1, 256), self.size - SECTOR, SECTOR)

    def io_command(self, rnd, start):
        n = SECTOR * rnd.choice([1, 3, 8, 8, 64, 128, 200, 512, 1024])
        if rnd.random() < 0.4:
            n = self.cluster * rnd.randrange(1, 4)
        n = min(n, self.size, 2 * MIB)
        at = rnd.randrange(0, self.size - n + 1)
        if rnd.random() < 0.4:
            at = min(start + rnd.randrange(0, 512 * KIB), self.size - n)
        at -= at % SECTOR
        kind = rnd.random()
        noise = "noise%d" % rnd.randrange(NOISE)
        if not self.raw and self.compressed and kind < 0.5:
            at -= at % self.cluster
            n = min(self.cluster, self.size - at)
            # Only over what has no cluster; fails elsewhere, which is fine.
            return "write -q -c -s %s %d %d" % (noise, at, n)
        if kind < 0.7:
            return "write -q -s %s %d %d" % (noise, at, n)
        if kind < 0.8:
            return "write -q -P %d %d %d" % (rnd.randrange(1, 256), at, n)
        if kind < 0.9:
            unmap = "-u " if rnd.random() < 0.5 else ""
            return "write -q -z %s%d %d" % (unmap, at, n)
        return "discard -q %d %d" % (at, n)


def pick_cluster(rnd, on):
    sizes = [4 * KIB] * 4 + [64 * KIB] * 5 + [8 * KIB, 32 * KIB]
    if "small" in on:
        sizes += [512, 1 * KIB, 2 * KIB]
    if "large" in on:
        sizes += [128 * KIB, 512 * KIB, 2 * MIB]
    return rnd.choice(sizes)


def pick_size(rnd, on):
    size = MIB * rnd.choice([16, 16, 16, 17, 18, 20, 24, 24, 32, 64])
    if "odd" in on and rnd.random() < 0.4:
        size -= SECTOR * rnd.randrange(1, 4096)
    return size


def pick_depth(rnd, on):
    """How many layers lie below the top."""
    if "backing" not in on or rnd.random() < 0.3:
        return 0
    return rnd.choice([1, 1, 1, 2, 2, 3] + [4, 6, 8] * ("deep" in on))


class ImageSet:
    """A chain in a folder, and what is to be read from it."""

    def __init__(self, seed, on):
        rnd = random.Random("images %d" % seed)
        self.seed = seed
        self.size = pick_size(rnd, on)
        depth = pick_depth(rnd, on)
        self.layers = []
        for i in range(depth + 1):
            size = self.size
            if i and "sizes" in on and rnd.random() < 0.4:
                size += SECTOR * rnd.randrange(-16384, 16384)
            self.layers.append(Layer(rnd, on, i, i == depth, size))
        self.top = self.layers[0]
        self.rnd = rnd
        self.dir = None

    def __str__(self):
        return " <- ".join(str(layer) for layer in self.layers)

    def snapshots(self):
        return ["s%d" % i for i in range(self.top.snapshots)]

    def build(self, path):
        self.dir = path
        os.makedirs(path)
        write_noise(path)
        start = self.rnd.randrange(0, self.size - MIB)
        for i in range(len(self.layers) - 1, -1, -1):
            self.build_layer(i, start)
        self.content(self.top, MODEL)
        for s in self.snapshots():
            self.snapshot_content(self.top, s, s + ".raw")
        files = [TOP, MODEL] + ([DATA] if self.top.data else [])
        for f in files:
            os.rename(os.path.join(path, f), os.path.join(path, f + PRISTINE))
        self.files = files

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self):
        """The files of a round are as they were."""
        for f in self.files:
            f = os.path.join(self.dir, f)
            copy_sparse(f + PRISTINE, f)

    def build_layer(self, i, start):
        layer = self.layers[i]
        backing = []
        if not layer.last:
            below = self.layers[i + 1]
            backing = ["-b", below.name, "-F", below.format()]
        argv = ["qemu-img", "create", "-q", "-f", layer.format()]
        argv += layer.secret() + backing
        if layer.options:
            argv += ["-o", ",".join(layer.options)]
        self.create(argv + [layer.name, str(layer.size)])
        self.fill(layer, start, self.rnd.randrange(4, 16))
        for s in range(layer.snapshots):
            self.snapshot("-c", "s%d" % s)
            self.fill(layer, start, self.rnd.randrange(2, 8))

    def create(self, argv):
        # On a quick machine LUKS cannot measure so short a time, sometimes.
        for _ in range(20):
            code, out = run(*argv, cwd=self.dir, ok=(0, 1))
            if not code:
                return
            if "accurate CPU usage" not in out:
                break
        raise Failed("%s:\n%s" % (" ".join(argv), out))

    def snapshot(self, action, name):
        """Of the top image: create, apply or delete one."""
        spec = self.top.options_spec()
        run("qemu-img", "snapshot", *spec[:-1], action, name, spec[-1],
            cwd=self.dir)

    def fill(self, layer, start, rounds):
        commands = []
        # Compressed ones first: QEMU goes on in the cluster of the last one,
        # even if that has been freed and used again meanwhile, and then calls
        # the image corrupt.
        for c in sorted(layer.io_commands(self.rnd, start, rounds),
                        key=lambda c: " -c " not in c):
            commands += ["-c", c]
        # A compressed write over a cluster that is there fails.
        run("qemu-io", *layer.spec()[:-1], "-d", "unmap", *commands,
            layer.spec()[-1], cwd=self.dir, ok=(0, 1))

    def content(self, layer, target):
        run("qemu-img", "convert", *layer.spec()[:-1], "-O", "raw",
            layer.spec()[-1], target, cwd=self.dir)

    def snapshot_content(self, layer, name, target):
        run("qemu-img", "convert", "-l", name, *layer.spec()[:-1], "-O", "raw",
            layer.spec()[-1], target, cwd=self.dir)

    def lower_state(self):
        """Changes if anybody writes to a layer below the top."""
        names = [x for layer in self.layers[1:]
                 for x in (layer.name, layer.data) if x]
        state = []
        for n in names:
            st = os.stat(os.path.join(self.dir, n))
            state.append((n, st.st_size, st.st_mtime_ns))
        return state


def is_padded(was, now):
    """A loop device would cut off the end of a file with half a sector: that is
    filled up with zeroes (docs/design.md)."""
    return was[1] % SECTOR and now[1] > was[1] and not now[1] % SECTOR


def write_noise(path):
    """Files whose data compresses not at all, well, and in between."""
    rnd = random.Random(1)
    for i in range(NOISE):
        with open(os.path.join(path, "noise%d" % i), "wb") as f:
            if i % 3 == 0:
                f.write(rnd.randbytes(96 * KIB))
            elif i % 3 == 1:
                for _ in range(96):
                    f.write(rnd.randbytes(256) * 4)
            else:
                words = [rnd.randbytes(7) for _ in range(64)]
                f.write(b"".join(rnd.choices(words, k=14 * KIB)))
    with open(os.path.join(path, KEY), "w", encoding="ascii") as f:
        f.write("a secret")
