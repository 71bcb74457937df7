# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks for the crash test: an image with certain features on a disk full of
poison, and the steps that a guest takes with it."""
import os
import struct
import subprocess

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512
MASK = (1 << 64) - 1

# Features: cluster, size (of the guest's disk, MiB), opts (more of qemu-img's),
# content (it begins with some), and lists of what happens.
NAMED = {
    "plain": dict(),
    "small": dict(cluster=512, size=9, content=True),
    "v2": dict(opts=["compat=0.10"], backing=True, cluster=4 * KIB),
    "backing": dict(backing=True, cluster=64 * KIB),
    "snapshots": dict(snapshots=2, content=True, cluster=4 * KIB),
    "snapshots512": dict(snapshots=2, content=True, cluster=512, size=8),
    "compressed": dict(compressed=True, cluster=16 * KIB),
    "zstd": dict(compressed=True, cluster=64 * KIB,
                 opts=["compression_type=zstd"]),
    "extl2": dict(extl2=True, cluster=64 * KIB, backing=True),
    "extl2snap": dict(extl2=True, cluster=16 * KIB, snapshots=2, content=True),
    "luks": dict(luks=True, cluster=4 * KIB, size=8, content=True, killed=True),
    "lukssnap": dict(luks=True, cluster=64 * KIB, size=8, content=True,
                     snapshots=1),
    "refcount1": dict(opts=["refcount_bits=1"], cluster=2 * KIB),
    "lazy": dict(opts=["lazy_refcounts=on"], cluster=16 * KIB, content=True),
    "large": dict(cluster=2 * MIB, size=48, content=True),
    "prealloc": dict(opts=["preallocation=metadata"], cluster=8 * KIB),
    "resize": dict(resize=True, cluster=1 * KIB, size=8),
    "killed": dict(killed=True, content=True, cluster=4 * KIB, snapshots=1),
    "file": dict(file=True, cluster=16 * KIB, size=8),
    "file512": dict(file=True, cluster=KIB, size=8, resize=True),
    "data": dict(data=True, cluster=4 * KIB, size=8, backing=True),
    "dataraw": dict(data=True, raw=True, cluster=16 * KIB, size=8,
                    content=True, resize=True),
    "ext4": dict(fs="ext4", cluster=64 * KIB, size=24, content=True),
    "ext4small": dict(fs="ext4", cluster=4 * KIB, size=16, snapshots=1,
                      content=True),
    "xfs": dict(fs="xfs", cluster=64 * KIB, size=48, content=True),
}

MKFS = {
    "ext4": ["mke2fs", "-q", "-F", "-t", "ext4"],
    "xfs": ["mkfs.xfs", "-q", "-f", "--unsupported"],
}
PASSPHRASE = "open sesame"
SECRET = ["--object", "secret,id=s,file=key"]


def random_features(rnd):
    f = dict(cluster=1 << rnd.choice([9, 9, 10, 11, 12, 12, 13, 14, 16, 16, 20]))
    f["content"] = rnd.random() < 0.7
    f["backing"] = rnd.random() < 0.35
    f["opts"] = []
    if rnd.random() < 0.15:
        f["opts"] += ["compat=0.10"]
    else:
        if rnd.random() < 0.4:
            f["opts"] += ["refcount_bits=%d" % (1 << rnd.randrange(7))]
        if rnd.random() < 0.2:
            f["opts"] += ["lazy_refcounts=on"]
        if f["cluster"] >= 16 * KIB and rnd.random() < 0.5:
            f["extl2"] = True
        f["luks"] = rnd.random() < 0.15
    one_bit = "refcount_bits=1" in f["opts"]
    if not f["backing"] and not one_bit and not f.get("luks") and \
            rnd.random() < 0.3:
        f["compressed"] = True
        if f["opts"][:1] != ["compat=0.10"] and rnd.random() < 0.5:
            f["opts"] += ["compression_type=zstd"]
    elif not one_bit and rnd.random() < 0.4:
        f["snapshots"] = rnd.choice([1, 2, 3])
        f["content"] = True
    f["resize"] = rnd.random() < 0.25
    f["killed"] = rnd.random() < 0.25
    f["file"] = rnd.random() < 0.1
    if f["opts"][:1] != ["compat=0.10"] and rnd.random() < 0.15 and not \
            (f.get("compressed") or f.get("snapshots") or f.get("luks")):
        f["data"] = True
        f["raw"] = not f["backing"] and rnd.random() < 0.5
    f["size"] = rnd.choice([2, 4, 8, 12])
    return f


def sector(number, tag):
    return (b"%-7s%08d " % (tag, number)) * 32


def write_content(path, rnd, size, tag, density):
    """A raw file, some of it written, that compresses well."""
    with open(path, "wb") as f:
        f.truncate(size)
        step = rnd.choice([4, 16, 64]) * KIB
        for at in range(0, size, step):
            if rnd.random() < density:
                f.seek(at)
                f.write(b"".join(sector(s, tag) for s in range(
                    at // SECTOR, min(at + step, size) // SECTOR)))


def poison(number):
    """sector.c: sector_poison()"""
    state = (0x9015090150901509 ^ number << 32 ^ 1) & MASK
    words = [0x9015090150901509, number, 0]
    for _ in range(61):
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        words.append(state)
    return struct.pack("<64Q", *words)


def quietly(*argv, cwd=None):
    subprocess.run(argv, cwd=cwd, check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)


def qemu_img(*argv, cwd=None):
    quietly("qemu-img", *argv, cwd=cwd)


class Disk:
    """One of them: what it is, its files, and how it is judged."""

    def __init__(self, name, rnd, features, ops):
        self.name = name
        self.rnd = rnd
        self.f = features
        self.ops = ops
        self.cluster = features.get("cluster", 64 * KIB)
        self.size = features.get("size", 16) * MIB
        self.snapshots = features.get("snapshots", 0)

    def __str__(self):
        words = ["clusters of %d" % self.cluster, "%d MiB" % (self.size >> 20)]
        words += self.f.get("opts", [])
        words += [k for k in ("content", "backing", "compressed", "extl2",
                              "luks", "data", "raw", "resize", "killed",
                              "file") if self.f.get(k)]
        if self.snapshots:
            words.append("%d snapshots" % self.snapshots)
        if "fs" in self.f:
            words.append(self.f["fs"])
        return ", ".join(words)

    # --- its files ----------------------------------------------------------

    def options(self):
        opts = ["cluster_size=%d" % self.cluster] + self.f.get("opts", [])
        if self.f.get("extl2"):
            opts.append("extended_l2=on")
        if self.f.get("luks"):
            opts += ["encrypt.format=luks", "encrypt.key-secret=s",
                     "encrypt.iter-time=10"]
        if self.f.get("data"):
            opts.append("data_file=data.raw")
        if self.f.get("raw"):
            opts.append("data_file_raw=on")
        return ",".join(opts)

    def secret(self):
        return SECRET if self.f.get("luks") else []

    def in_file(self):
        """In an ext4 on the disk, not on the disk itself"""
        return self.f.get("file") or self.f.get("data")

    def named(self):
        """The image, as QEMU's programs want it named"""
        if not self.f.get("luks"):
            return ["-f", "qcow2", "image"]
        return SECRET + ["--image-opts", "driver=qcow2,encrypt.key-secret=s,"
                         "file.filename=image"]

    def try_image(self, folder):
        """A host that measures time coarsely may find the hash too fast."""
        for i in range(50):
            try:
                return self.make_image(folder)
            except subprocess.CalledProcessError:
                if not self.f.get("luks") or i == 49:
                    raise

    def make_image(self, folder):
        args = [*self.secret(), "-f", "qcow2", "-o", self.options()]
        if self.f.get("backing"):
            qemu_img("create", "-q", *args, "-b", "base.raw", "-F", "raw",
                     "image", str(self.size), cwd=folder)
            return
        if self.f.get("content") or self.f.get("compressed") or "fs" in self.f:
            raw = os.path.join(folder, "content.raw")
            write_content(raw, self.rnd, self.size, b"start", 0.5)
            if "fs" in self.f:
                quietly(*MKFS[self.f["fs"]], raw)
            packed = ["-c"] if self.f.get("compressed") else []
            qemu_img("convert", *self.secret(), "-f", "raw", "-O", "qcow2",
                     *packed, "-o", self.options(), "content.raw", "image",
                     cwd=folder)
            os.unlink(raw)
        else:
            qemu_img("create", "-q", *args, "image", str(self.size), cwd=folder)

    def make_snapshots(self, folder):
        for i in range(self.snapshots):
            qemu_img("snapshot", "-c", "s%d" % i,
                     *self.named()[0 if self.secret() else 2:], cwd=folder)
            at = self.rnd.randrange(self.size - MIB) // 4096 * 4096
            if "fs" not in self.f:
                quietly("qemu-io", "-c", "write -q -P %d %d 192k" %
                        (i + 1, at), *self.named(), cwd=folder)

    def on_poison(self, folder):
        """The image at the start of a disk that nobody has cleaned."""
        image = os.path.join(folder, "image")
        # a longer L1 table needs room besides what the kernel is granted
        times = 4 if self.f.get("resize") else 2
        length = max(times * self.size + self.snapshots * self.size // 2,
                     os.path.getsize(image) + self.size, 64 * self.cluster)
        length = (length + MIB - 1) // MIB * MIB
        start = os.path.getsize(image)
        start = (start + self.cluster - 1) // self.cluster * self.cluster
        block = b"".join(poison(s) for s in range(64))
        with open(os.path.join(folder, "disk"), "wb") as out:
            with open(image, "rb") as f:
                out.write(f.read())
            out.truncate(start)
            out.seek(start)
            while out.tell() < length:
                out.write(block[:length - out.tell()])

    def on_ext4(self, folder):
        disk = os.path.join(folder, "disk")
        os.mkdir(os.path.join(folder, "root"))
        os.rename(os.path.join(folder, "image"),
                  os.path.join(folder, "root/image.qcow2"))
        if self.f.get("data"):
            os.rename(os.path.join(folder, "data.raw"),
                      os.path.join(folder, "root/data.raw"))
        with open(disk, "wb") as f:
            f.truncate(3 * self.size + 24 * MIB)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d",
                        os.path.join(folder, "root"), disk], check=True)
        with open(os.path.join(folder, "file"), "w", encoding="ascii") as f:
            f.write("image.qcow2\n")

    def build(self, folder):
        os.makedirs(folder)
        if self.f.get("backing"):
            write_content(os.path.join(folder, "base.raw"), self.rnd,
                          self.size, b"base", 0.7)
        if self.f.get("luks"):
            with open(os.path.join(folder, "key"), "w", encoding="ascii") as f:
                f.write(PASSPHRASE)
        self.try_image(folder)
        self.make_snapshots(folder)
        if self.f.get("backing"):
            # where it is in the guest
            qemu_img("rebase", "-u", "-b", "/scratch/base.raw", "-F", "raw",
                     *self.named(), cwd=folder)
        if self.in_file():
            self.on_ext4(folder)
        else:
            self.on_poison(folder)
        with open(os.path.join(folder, "steps"), "w", encoding="ascii") as f:
            f.write("\n".join(self.steps()) + "\n")

    # --- what happens -------------------------------------------------------

    def write(self, verb="write", ops=None):
        flushes = self.rnd.choice([3, 10, 25, 50])
        discards = self.rnd.choice([0, 10, 30])
        return "%s %d %d --cluster %d --flushes %d --discards %d" % (
            verb, self.rnd.randrange(1 << 30), ops or self.ops, self.cluster,
            flushes, discards)

    def steps(self):
        if "fs" in self.f:
            rounds = 10 if self.f["fs"] == "xfs" else 30
            return ["attach", "fs 1 %d" % rounds, "detach",
                    "attach", "fs 2 %d" % rounds, "detach"]
        out = ["attach", self.write()]
        if self.f.get("killed"):
            out += [self.write("killed", 3 * self.ops), self.write()]
        if self.f.get("resize") and not self.snapshots:
            out += ["resize %d" % (self.size + MIB), self.write(),
                    "resize %d" % (self.size // 2), self.write(),
                    "resize %d" % (self.size + 2 * MIB), self.write()]
        return out + ["detach", "attach", self.write(), "detach"]

    # --- how it is judged ---------------------------------------------------

    def states(self, wanted):
        """Some need other programs each time: fewer."""
        slow = self.f.get("fs") == "ext4" or self.in_file()
        if self.f.get("compressed") or self.f.get("luks"):
            return max(wanted // 4, 10)
        return max(wanted // 15, 10) if slow else wanted

    def check_options(self, folder):
        out = []
        if "fs" in self.f:
            out += ["--fs", self.f["fs"]]
        else:
            out += ["--journal", os.path.join(folder, "journal")]
        if self.in_file():
            out += ["--file", "image.qcow2"]
        if self.f.get("data"):
            out += ["--data", "data.raw"]
        if self.f.get("luks"):
            out += ["--key", os.path.join(folder, "key")]
        if self.f.get("backing"):
            out += ["--backing", os.path.join(folder, "base.raw")]
        return out
