# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of chains and snapshots, their adoption, and resizes of devices, with
a kernel that is made of files."""
import json
import os
import shutil
import subprocess
import time

from faketest import Build, add_export, add_node, each, exports
from qmptest import QEMU_IMG, Skip, eq, run

# The procedures are the same as those that exports.py tries with threads
Build.sanitizers = ("address,undefined",)


def img(*args):
    if not QEMU_IMG:
        raise Skip("there is no qemu-img")
    subprocess.run([QEMU_IMG, *args], check=True, capture_output=True)


def overlay(d, name, base, fmt="qcow2"):
    img("create", "-q", "-f", "qcow2", "-b", base, "-F", fmt, d.path(name),
        "64M")
    return d.path(name)


def excluded(path, fmt="qcow2"):
    """Is QEMU kept from writing?"""
    if not shutil.which("qemu-io"):
        raise Skip("there is no qemu-io")
    return subprocess.run(["qemu-io", "-f", fmt, "-c", "write 0 512", path],
                          capture_output=True).returncode != 0


def raw(d, name="raw"):
    with open(d.path(name), "wb") as f:
        f.truncate(1 << 20)
    return d.path(name)


def look(c):
    """Exports, and what can be seen of nodes but for generated names."""
    nodes = {n["node-name"]: n for n in c.cmd("query-named-block-nodes")}
    for n in nodes.values():
        for child in n["children"]:
            if child["node-name"][0] == "#":
                child["node-name"] = "#"
    return (exports(c), {k: v for k, v in nodes.items() if k[0] != "#"},
            len(nodes))


def device(c, id):
    (x,) = c.cmd("query-device-mapper", id=id)
    return x


@each
def test_chain(d):
    """a chain becomes a list of layers, and can be seen"""
    with d.client() as c:
        raw(d)
        d.image("base")
        overlay(d, "base", "raw", "raw")
        overlay(d, "mid", "base")
        add_node(d, c, "top", overlay(d, "top", "mid"))
        eq(add_export(c, "top", writable=True)["return"], {})
        dev = d.device("top")
        eq([(x["path"], x["writable"], x["raw"]) for x in dev["layers"]],
           [(d.path("top"), True, False), (d.path("mid"), False, False),
            (d.path("base"), False, False), (d.path("raw"), False, True)])
        x = device(c, "top")
        eq([(y["filename"], y["format"]) for y in x["layers"]],
           [(d.path("top"), "qcow2"), (d.path("mid"), "qcow2"),
            (d.path("base"), "qcow2"), (d.path("raw"), "raw")])
        eq(x["image"]["backing-depth"], 3)
        eq(x["size"], 64 << 20)
        assert "snapshot" not in x
        # Nothing that was generated is in the label
        assert "names" not in json.loads(dev["label"])
        for name, fmt in (("top", "qcow2"), ("mid", "qcow2"),
                          ("base", "qcow2"), ("raw", "raw")):
            assert excluded(d.path(name), fmt), name
        before = look(c)
        eq(before[2], 8)
    for end in (d.stop, d.kill):
        end()
        d.start()
        with d.client() as c:
            eq(look(c), before)
    with d.client() as c:
        c.cmd("block-export-del", id="top")
        eq(look(c)[1], before[1])
        for name in ("top", "mid", "base"):
            assert excluded(d.path(name)), name
        # As good as new
        eq(add_export(c, "top", writable=True)["return"], {})
        c.cmd("block-export-del", id="top")
        c.cmd("blockdev-del", node_name="top")
        eq(c.cmd("query-named-block-nodes"), [])
        for name in ("top", "mid", "base"):
            assert not excluded(d.path(name)), name


@each
def test_names(d):
    """nodes of a chain have their names again, and who owns them"""
    with d.client() as c:
        r = raw(d)
        d.image("base")
        overlay(d, "base", "raw", "raw")
        overlay(d, "top", "base")
        overlay(d, "other", "base")
        img("create", "-q", "-f", "qcow2", "-o", "data_file=" +
            d.path("data"), d.path("ext"), "64M")
        file = {"driver": "file", "read-only": True}
        c.cmd("blockdev-add", **dict(file, **{"node-name": "rawf",
                                              "filename": r}))
        c.cmd("blockdev-add", driver="qcow2", node_name="base", read_only=True,
              backing="rawf", file=dict(file, **{
                  "filename": d.path("base"), "node-name": "basef"}))
        for name in ("top", "other"):
            add_node(d, c, name, d.path(name), backing="base")
        c.cmd("blockdev-add", driver="file", node_name="df",
              filename=d.path("data"))
        c.cmd("blockdev-add", driver="qcow2", node_name="ext",
              file={"driver": "file", "filename": d.path("ext")},
              **{"data-file": "df", "backing": {
                  "driver": "raw", "node-name": "inner", "file": "rawf"}})
        for id in ("top", "other", "ext"):
            eq(add_export(c, id, writable=True)["return"], {})
        add_export(c, "base")
        eq(json.loads(d.device("top")["label"])["names"],
           {"1": "base", "1f": "!basef", "2b": "rawf"})
        eq(json.loads(d.device("ext")["label"])["names"],
           {"0d": "df", "1": "!inner", "1f": "rawf"})
        before = look(c)
    for end in (d.stop, d.kill):
        end()
        d.start()
        with d.client() as c:
            after = look(c)
            eq(after[:2], before[:2])
    with d.client() as c:
        for id in ("base", "top"):
            c.cmd("block-export-del", id=id)
        c.cmd("blockdev-del", node_name="top")
        assert excluded(d.path("base")) and excluded(r, "raw")
        assert "in use" in c.err("blockdev-del", node_name="base")["desc"]
        assert "not owned" in c.err("blockdev-del", node_name="inner")["desc"]
        for id in ("other", "ext"):
            c.cmd("block-export-del", id=id)
            assert excluded(d.path("data"), "raw")
            c.cmd("blockdev-del", node_name=id)
        assert not excluded(d.path("data"), "raw")
        c.cmd("blockdev-del", node_name="df")
        c.cmd("blockdev-del", node_name="base")
        c.cmd("blockdev-del", node_name="rawf")
        eq(c.cmd("query-named-block-nodes"), [])
        assert not excluded(d.path("base")) and not excluded(r, "raw")


@each
def test_names_too_many(d):
    """of names for which the label has no room the top ones are kept"""
    with d.client() as c:
        d.image("b39")
        for i in range(38, -1, -1):
            overlay(d, "b%d" % i, "b%d" % (i + 1))
        for i in range(39, -1, -1):
            kw = {"backing": "node-with-a-long-name-%d" % (i + 1)} \
                if i < 39 else {}
            c.cmd("blockdev-add", driver="qcow2", read_only=bool(i),
                  node_name="node-with-a-long-name-%d" % i,
                  file={"driver": "file", "filename": d.path("b%d" % i)},
                  **kw)
        eq(add_export(c, "x", "node-with-a-long-name-0",
                      writable=True)["return"], {})
        label = d.device("x")["label"]
        assert len(label) < 1024, len(label)
        kept = len(json.loads(label)["names"])
        assert 10 < kept < 39, kept
        eq(set(json.loads(label)["names"]),
           {str(i) for i in range(1, kept + 1)})
    d.kill()
    d.start()
    with d.client() as c:
        by = {n["node-name"]: n for n in c.cmd("query-named-block-nodes")}
        eq(len(by), 80)
        for i in range(kept + 1):
            n = by["node-with-a-long-name-%d" % i]
            eq(n["backing_file_depth"], 39 - i)
        eq(device(c, "x")["image"]["backing-depth"], 39)
        c.cmd("block-export-del", id="x")
        for i in range(kept + 1):
            c.cmd("blockdev-del", node_name="node-with-a-long-name-%d" % i)
        eq(c.cmd("query-named-block-nodes"), [])


@each
def test_adopt_broken(d):
    """chains with labels of nobody, and layers that are gone"""
    with d.client() as c:
        d.image("base")
        add_node(d, c, "top", overlay(d, "top", "base"))
        add_export(c, "top", writable=True)
    d.stop()
    label = json.loads(d.device("top")["label"])
    for names in (5, [], {"1": 5}, {"1": "x" * 99, "1f": "top"},
                  {"1": "top", "1f": "!"}, {"1": "!top", "0d": "x"},
                  {"1b": "y"}):
        d.change("top", label=json.dumps(dict(label, names=names)))
        d.start()
        with d.client() as c:
            eq(set(exports(c)), {"top"}, names)
            eq(len(c.cmd("query-named-block-nodes")), 4, names)
        d.stop()
    d.change("top", label=json.dumps(label))
    os.rename(d.path("base"), d.path("away"))
    d.start()
    with d.client() as c:
        eq(exports(c), {})
        eq(c.cmd("query-named-block-nodes"), [])
        assert "can't be adopted" in d.log_text()
    d.stop()
    os.rename(d.path("away"), d.path("base"))
    d.start()
    with d.client() as c:
        c.cmd("block-export-del", id="top")


@each
def test_sharing(d):
    """nobody writes to an image that others are over"""
    with d.client() as c:
        add_node(d, c, "base")
        overlay(d, "top", "base")
        add_export(c, "w", "base", writable=True)
        e = c.err("blockdev-add", driver="qcow2", node_name="top",
                  backing="base",
                  file={"driver": "file", "filename": d.path("top")})
        eq(e["data"]["code"], "busy")
        c.cmd("block-export-del", id="w")
        add_node(d, c, "top", d.path("top"), backing="base")
        e = add_export(c, "w", "base", writable=True)["error"]
        eq(e["data"]["code"], "busy")
        assert "backing node" in e["desc"], e
        eq(add_export(c, "r", "base")["return"], {})
        eq(add_export(c, "top", writable=True)["return"], {})
        e = c.err("blockdev-del", node_name="base")
        assert "in use" in e["desc"], e
        # A raw node is no device
        c.cmd("blockdev-add", driver="raw", node_name="raw",
              file={"driver": "file", "filename": raw(d)})
        e = add_export(c, "x", "raw")["error"]
        eq(e["data"]["code"], "usage")


@each
def test_snapshot(d):
    """an internal snapshot is exported read-only, and stays one"""
    with d.client() as c:
        path = d.image("a", "32M")
        img("snapshot", "-c", "before", path)
        img("resize", "-q", path, "48M")
        add_node(d, c, "a", path)
        e = add_export(c, "a", writable=True, snapshot="before")["error"]
        eq(e["data"]["code"], "usage")
        c.cmd("blockdev-del", node_name="a")
        add_node(d, c, "a", path, read_only=True)
        e = add_export(c, "a", snapshot="nope")["error"]
        eq(exports(c), {})
        for tag in ("before", "1"):
            eq(add_export(c, "s" + tag, "a", snapshot=tag)["return"], {})
            eq(device(c, "s" + tag)["size"], 32 << 20)
            eq(device(c, "s" + tag)["snapshot"], tag)
        add_export(c, "a")
        eq(device(c, "a")["size"], 48 << 20)
        eq(exports(c)["s1"]["snapshot"], "1")
        assert "snapshot" not in exports(c)["a"]
        before = look(c)
    d.kill()
    d.start()
    with d.client() as c:
        eq(look(c), before)
        eq(device(c, "s1")["size"], 32 << 20)
        eq(device(c, "sbefore")["snapshot"], "before")
        for id in ("a", "s1", "sbefore"):
            c.cmd("block-export-del", id=id)
        c.cmd("blockdev-del", node_name="a")


@each
def test_resize(d):
    """block_resize of a device: by node or device, kept by adoption"""
    with d.client() as c, d.client() as other:
        add_node(d, c, "a")
        add_export(c, "exp", "a", "dev", writable=True)
        add_node(d, c, "r", read_only=True)
        add_export(c, "r")
        size = 64 << 20
        for kw in ({"node-name": "a"}, {"device": "exp"}, {"device": "dev"},
                   {"node-name": "a", "device": "nonsense"}):
            size += 1 << 20
            c.cmd("block_resize", size=size, **kw)
            eq(device(c, "exp")["size"], size)
            eq(device(c, "exp")["image"]["virtual-size"], size)
            eq(d.device("dev")["size"], size)
        eq(c.err("block_resize", node_name="a", size=512)["data"]["code"],
           "usage")
        for kw, code in (({"node-name": "r"}, "failed"),
                         ({"device": "r"}, "failed"),
                         ({"device": "nope"}, "not-found")):
            eq(c.err("block_resize", size=1 << 30, **kw)["data"]["code"],
               code)
        d.flag("small-", "dev")
        e = c.err("block_resize", node_name="a", size=1 << 30)
        assert "told to be" in e["desc"], e
        d.unflag("small-", "dev")
        eq(device(c, "exp")["size"], size)
        # While it is done
        d.flag("hang-", "dev")
        c.send(json.dumps({"execute": "block_resize", "id": 1, "arguments":
                           {"node-name": "a", "size": 1 << 27}}))
        time.sleep(0.5)
        e = other.err("block-export-del", id="exp")
        assert "being resized" in e["desc"], e
        e = other.err("block_resize", node_name="a", size=1 << 28)
        eq(e["data"]["code"], "busy")
        eq(device(other, "exp")["size"], size)
        other.cmd("query-named-block-nodes")
        eq(other.err("blockdev-del", node_name="a")["data"]["code"], "busy")
        d.unflag("hang-", "dev")
        eq(c.reply(), {"return": {}, "id": 1})
        c.cmd("block_resize", node_name="a", size=1 << 26, shrink=True)
        before = look(c)
    d.kill()
    d.start()
    with d.client() as c:
        eq(look(c), before)
        eq(device(c, "exp")["size"], 1 << 26)
        c.cmd("block_resize", node_name="a", size=1 << 27)
        c.cmd("block-export-del", id="exp")
        c.cmd("block_resize", node_name="a", size=1 << 28)
        c.cmd("blockdev-del", node_name="a")
    img("check", "-f", "qcow2", d.path("a"))


try:
    run(globals())
finally:
    Build.remove()
