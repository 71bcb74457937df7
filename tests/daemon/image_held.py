# SPDX-License-Identifier: GPL-2.0-or-later
"""blkctl image, and images that the daemon or somebody else has."""
import json
import os
import subprocess

from qmptest import BIN, QEMU_IMG, Daemon, Skip, eq, qcow2, run


def image(d, *args, code=0):
    """blkctl image ...; what it prints, and its complaints"""
    p = subprocess.run([os.path.join(BIN, "blkctl"), "--socket", d.sock,
                        "image", *args], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=120)
    eq(p.returncode, code, "%s\n%s%s" % (args, p.stdout, p.stderr))
    return p.stdout, p.stderr


def size_of(d, *args):
    return json.loads(image(d, "info", "--json", *args)[0])["image"][
        "virtual-size"]


def alias(d, path):
    """The image by another name"""
    link = d.path("link")
    if not os.path.lexists(link):
        os.symlink(path, link)
    return link


def chain(d):
    """A base, and an image above it"""
    base = d.image("base.qcow2")
    top = d.path("top.qcow2")
    subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", "-b", base, "-F",
                    "qcow2", top], check=True)
    return base, top


def test_resize():
    """resize of an image that the daemon has goes through it"""
    with Daemon() as d, d.client() as c:
        path = d.image()
        c.cmd("blockdev-add", **qcow2("a", path))
        out, _ = image(d, "resize", path, "+64M")
        eq(out, "Image resized.\n")
        eq([n["image"]["virtual-size"]
            for n in c.cmd("query-named-block-nodes") if n["drv"] == "qcow2"],
           [128 << 20])
        image(d, "resize", "-q", alias(d, path), "96M", "--shrink")
        doc = json.loads(image(d, "resize", "--json", "-f", "qcow2", path,
                               "+1M")[0])
        eq(doc["image"], {"filename": path, "virtual-size": 97 << 20})
        image(d, "resize", "--image-opts",
              "driver=qcow2,file.filename=" + path, "98M")
        eq(size_of(d, path), 98 << 20)
        c.cmd("blockdev-del", node_name="a")
        eq(size_of(d, path), 98 << 20)
        subprocess.run([QEMU_IMG, "check", "-q", path], check=True)


def test_resize_refused():
    """resize through the daemon has the rules that there are without it"""
    with Daemon() as d, d.client() as c:
        base, top = chain(d)
        c.cmd("blockdev-add", **qcow2("a", top))
        _, err = image(d, "resize", top, "1M", code=1)
        assert "--shrink" in err, err
        _, err = image(d, "resize", top, "20000001", "--shrink", code=1)
        assert "512" in err, err
        _, err = image(d, "resize", "-f", "raw", top, "1G", code=1)
        assert "as qcow2, not raw" in err, err
        _, err = image(d, "resize", "--preallocation=full", top, "1G", code=1)
        assert "--preallocation" in err, err
        image(d, "resize", top, "1x", code=1)
        _, err = image(d, "resize", base, "1G", code=1)
        assert "is in use by" in err, err
        eq(size_of(d, top), 64 << 20)
        eq(size_of(d, base), 64 << 20)


def test_refused():
    """what cannot be done to an image that the daemon has says so"""
    with Daemon() as d, d.client() as c:
        base, top = chain(d)
        c.cmd("blockdev-add", **qcow2("a", top))
        before = open(top, "rb").read()
        for verb in (["check", "-r", "all"], ["amend", "-o", "compat=0.10"],
                     ["snapshot", "-c", "x"], ["commit"], ["compact"],
                     ["rebase", "-u", "-b", ""],
                     ["bitmap", "--add", None, "x"]):
            args = verb if None not in verb else [top if x is None else x
                                                  for x in verb]
            _, err = image(d, *args, *([] if None in verb else [top]), code=1)
            assert ("'%s' is in use by blkctld, as node 'a'" % top) in err, err
            assert 'blockdev-del \'{"node-name": "a"}\'' in err, err
            assert "-U" not in err, err
        for verb in "map", "check", "compare":
            args = [base] if verb == "compare" else []
            _, err = image(d, verb, alias(d, top), *args, code={
                "compare": 2}.get(verb, 1))
            assert "is in use by blkctld, as node 'a'" in err, err
            assert "or -U to read it as it is" in err, err
        image(d, "map", "-U", top)
        # Who reads shares with who reads, but not with who writes
        image(d, "map", base)
        _, err = image(d, "snapshot", "-c", "x", base, code=1)
        assert "'%s' is in use by blkctld, as node" % base in err, err
        eq(open(top, "rb").read(), before)


def test_info():
    """info of an image that the daemon has is its header"""
    with Daemon() as d, d.client() as c:
        base, top = chain(d)
        c.cmd("blockdev-add", **qcow2("a", top))
        eq(size_of(d, top), 64 << 20)
        docs = json.loads(image(d, "info", "--backing-chain", "--json",
                                top)[0])["images"]
        eq([i["filename"] for i in docs], [top, base])


def test_others():
    """another process is named"""
    with Daemon() as d, d.client():
        path = d.image()
        if not QEMU_IMG:
            raise Skip("no qemu-img")
        with subprocess.Popen(["qemu-io", "-f", "qcow2", path],
                              stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as p:
            p.stdin.write(b"length\n")
            p.stdin.flush()
            p.stdout.readline()
            want = "'%s' is in use by process %d (qemu-io)" % (path, p.pid)
            for verb in "info", "map":
                _, err = image(d, verb, path, code=1)
                assert want in err and "or -U to read it" in err, err
            _, err = image(d, "resize", path, "1G", code=1)
            assert want in err and "-U" not in err, err
            p.stdin.close()
        image(d, "info", path)


run(globals())
