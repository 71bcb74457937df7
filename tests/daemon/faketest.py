# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon whose kernel is made of files, for tests of exports.

It is built with fake_kctl.c in place of kctl, with sanitizers.
"""
import glob
import json
import os
import shutil
import subprocess
import tempfile

from qmptest import REPO, Daemon, Skip

SANITIZERS = ("address,undefined", "thread")


class Build:
    """The daemons, one for each of sanitizers; made when they are wanted."""
    sanitizers = SANITIZERS
    programs = None
    dir = None

    @classmethod
    def get(cls):
        if cls.programs is None:
            cls.programs = []
            cls.dir = tempfile.mkdtemp(prefix="blkctld-test-build-")
            jobs = [cls.compile(s) for s in cls.sanitizers]
            for program, proc in jobs:
                if proc.wait() == 0:
                    cls.programs.append(program)
        if not cls.programs:
            raise RuntimeError("the daemon does not build")
        return cls.programs

    @classmethod
    def remove(cls):
        if cls.dir:
            shutil.rmtree(cls.dir, ignore_errors=True)

    @classmethod
    def compile(cls, sanitizer):
        program = os.path.join(cls.dir, "blkctld-" + sanitizer.split(",")[0])
        top = os.path.join(REPO, "user")
        sources = [f for f in glob.glob(top + "/libblkctl/*/*.c") +
                   glob.glob(top + "/blkctld/*.c")
                   if "/kctl/" not in f]
        libs = subprocess.run(["pkg-config", "--cflags", "--libs", "jansson",
                               "liburing", "zlib", "libcryptsetup", "libdeflate",
                               "libzstd", "nettle"], capture_output=True,
                              text=True).stdout.split()
        cc = os.environ.get("CC", "clang" if sanitizer == "thread" and
                            shutil.which("clang") else "gcc")
        if not shutil.which(cc):
            raise Skip("there is no " + cc)
        return program, subprocess.Popen(
            [cc, "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread",
             "-fsanitize=" + sanitizer, "-I" + top,
             "-I" + top + "/libblkctl", "-I" + REPO + "/kernel/uapi",
             *sources, os.path.join(REPO, "tests/daemon/fake_kctl.c"),
             "-o", program, *libs])


class Fake(Daemon):
    def __init__(self, program, args=()):
        self.kernel = tempfile.mkdtemp(prefix="blkctld-test-kernel-")
        super().__init__(program, {"FAKE_DIR": self.kernel}, args)

    def cleanup(self):
        super().cleanup()
        shutil.rmtree(self.kernel, ignore_errors=True)

    def flag(self, kind, name="", text=""):
        path = os.path.join(self.kernel, kind + name)
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)
        return path

    def unflag(self, kind, name=""):
        os.unlink(os.path.join(self.kernel, kind + name))

    def device(self, name):
        try:
            with open(os.path.join(self.kernel, "dev-" + name)) as f:
                return json.load(f)
        except FileNotFoundError:
            return None

    def change(self, name, **kw):
        self.flag("dev-", name, json.dumps(dict(self.device(name), **kw)))

    def event(self, text):
        fd = os.open(os.path.join(self.kernel, "events"),
                     os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, (text + "\n").encode())
        os.close(fd)


def each(fn):
    """Makes a test of a function that gets a fresh daemon of either kind."""
    def test():
        for program in Build.get():
            with Fake(program) as d:
                fn(d)
    test.__doc__ = fn.__doc__
    return test


def add_node(d, c, node, path=None, **kw):
    c.cmd("blockdev-add", driver="qcow2", node_name=node,
          file={"driver": "file", "filename": path or d.image(node)}, **kw)


def add_export(c, id, node=None, name=None, **kw):
    return c.ask("block-export-add", type="device-mapper", id=id,
                 node_name=node or id, name=name or id, **kw)


def exports(c):
    return {x["id"]: x for x in c.cmd("query-block-exports")}
