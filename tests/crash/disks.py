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
    "extl2": dict(extl2=True, cluster=64 * KIB, backing=True),
    "refcount1": dict(opts=["refcount_bits=1"], cluster=2 * KIB),
    "lazy": dict(opts=["lazy_refcounts=on"], cluster=16 * KIB, content=True),
    "large": dict(cluster=2 * MIB, size=48, content=True),
    "prealloc": dict(opts=["preallocation=metadata"], cluster=8 * KIB),
    "resize": dict(resize=True, cluster=1 * KIB, size=8),
    "killed": dict(killed=True, content=True, cluster=4 * KIB, snapshots=1),
    "file": dict(file=True, cluster=16 * KIB, size=8),
    "file512": dict(file=True, cluster=KIB, size=8, resize=True),
    "ext4": dict(fs="ext4", cluster=64 * KIB, size=24, content=True),
    "ext4small": dict(fs="ext4", cluster=4 * KIB, size=16, snapshots=1,
                      content=True),
}


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
    one_bit = "refcount_bits=1" in f["opts"]
    if not f["backing"] and not one_bit and rnd.random() < 0.3:
        f["compressed"] = True
    elif not one_bit and rnd.random() < 0.4:
        f["snapshots"] = rnd.choice([1, 2, 3])
        f["content"] = True
    f["resize"] = rnd.random() < 0.25
    f["killed"] = rnd.random() < 0.25
    f["file"] = rnd.random() < 0.1
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


def qemu_img(*argv, cwd=None):
    subprocess.run(["qemu-img", *argv], cwd=cwd, check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


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
                              "resize", "killed", "file") if self.f.get(k)]
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
        return ",".join(opts)

    def make_image(self, folder):
        args = ["-f", "qcow2", "-o", self.options()]
        if self.f.get("backing"):
            qemu_img("create", "-q", *args, "-u", "-b", "/scratch/base.raw",
                     "-F", "raw", "image", str(self.size), cwd=folder)
            return
        if self.f.get("content") or self.f.get("compressed") or "fs" in self.f:
            raw = os.path.join(folder, "content.raw")
            write_content(raw, self.rnd, self.size, b"start", 0.5)
            if "fs" in self.f:
                subprocess.run(["mke2fs", "-q", "-F", "-t", self.f["fs"], raw],
                               check=True)
            packed = ["-c"] if self.f.get("compressed") else []
            qemu_img("convert", "-f", "raw", "-O", "qcow2", *packed, "-o",
                     self.options(), "content.raw", "image", cwd=folder)
            os.unlink(raw)
        else:
            qemu_img("create", "-q", *args, "image", str(self.size), cwd=folder)

    def make_snapshots(self, folder):
        for i in range(self.snapshots):
            qemu_img("snapshot", "-c", "s%d" % i, "image", cwd=folder)
            at = self.rnd.randrange(self.size - MIB) // 4096 * 4096
            if "fs" not in self.f:
                subprocess.run(
                    ["qemu-io", "-f", "qcow2", "-c", "write -q -P %d %d 192k" %
                     (i + 1, at), "image"], cwd=folder, check=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def on_poison(self, folder):
        """The image at the start of a disk that nobody has cleaned."""
        image = os.path.join(folder, "image")
        length = max(2 * self.size + self.snapshots * self.size // 2,
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
        self.make_image(folder)
        self.make_snapshots(folder)
        if self.f.get("file"):
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
            return ["attach", "fs 1 30", "detach", "attach", "fs 2 30", "detach"]
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
        slow = "fs" in self.f or self.f.get("file")
        if self.f.get("compressed"):
            return max(wanted // 4, 10)
        return max(wanted // 15, 10) if slow else wanted

    def check_options(self, folder):
        out = []
        if "fs" in self.f:
            out += ["--fs", self.f["fs"]]
        else:
            out += ["--journal", os.path.join(folder, "journal")]
        if self.f.get("file"):
            out += ["--file", "image.qcow2"]
        if self.f.get("backing"):
            out += ["--backing", os.path.join(folder, "base.raw")]
        return out
