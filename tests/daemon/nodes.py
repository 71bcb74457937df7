# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-add and blockdev-del: QEMU's behaviour, locks, no leaks."""
import json
import os
import subprocess
import threading

from qmptest import (QEMU_IMG, Daemon, Qemu, Skip, eq, qcow2, run,
                     same_as_qemu)


def file(node, path, **more):
    return dict({"driver": "file", "node-name": node, "filename": path},
                **more)


def test_qemu_arguments():
    """bad arguments of blockdev-add: QEMU's errors"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        raw = d.path("raw")
        with open(raw, "wb") as f:
            f.truncate(1 << 20)
        good = d.image()
        add = "blockdev-add"
        same_as_qemu(d, c, q, [
            (add, {}, True),
            (add, {"driver": "nope"}, True),
            (add, {"driver": 5}, True),
            (add, {"driver": None}, True),
            (add, {"node-name": "y", "bogus": 1}, True),
            (add, {"driver": "file"}, True),
            (add, {"driver": "file", "filename": raw}, True),
            (add, file("x", 5), True),
            (add, file("1x", raw), True),
            (add, file("", raw), True),
            (add, file("#x", raw), True),
            (add, file("x y", raw), True),
            (add, file("a" * 32, raw), True),
            (add, file("a" * 500, raw), False),
            (add, file("x", raw, foo=1), True),
            (add, file("x", raw, **{"read-only": "yes"}), True),
            (add, file("x", raw, **{"read-only": 1}), True),
            (add, file("x", raw, cache=5), True),
            (add, file("x", raw, cache={"foo": 1}), True),
            (add, file("x", raw, cache={"direct": 1}), True),
            (add, file("x", raw, discard="bad"), True),
            (add, file("x", raw, **{"aio-max-batch": 1.5}), True),
            (add, file("x", raw, **{"aio-max-batch": "1"}), True),
            (add, file("x", ""), True),
            (add, file("x", "/nonexistent"), True),
            (add, file("x", "/nonexistent/x"), True),
            (add, file("x", raw + "/x"), True),
            (add, file("x", d.dir), True),
            (add, file("x", "/dev/null"), True),
            (add, dict(file("x", raw), driver="host_device"), False),
            (add, {"driver": "qcow2", "node-name": "y"}, True),
            (add, {"driver": "qcow2", "node-name": "y", "file": None}, True),
            (add, {"driver": "qcow2", "node-name": "y", "file": 5}, True),
            (add, {"driver": "qcow2", "node-name": "y", "file": {}}, True),
            (add, {"driver": "qcow2", "node-name": "y", "file": "no"}, True),
            (add, {"driver": "qcow2", "node-name": "y",
                   "file": {"driver": "file"}}, True),
            (add, {"driver": "qcow2", "node-name": "y", "file":
                   {"driver": "file", "filename": good, "bad": 1}}, True),
            (add, qcow2("y", good, **{"l2-cache-size": "x"}), True),
            (add, qcow2("y", good, **{"overlap-check": "x"}), True),
            (add, qcow2("y", good, **{"overlap-check": 5}), True),
            (add, qcow2("y", good, bogus=1), True),
            (add, qcow2("y", raw), False),
            ("blockdev-del", {"node-name": "nope"}, True),
            ("blockdev-del", {"node-name": ""}, True),
            ("block-export-del", {"id": "nope"}, True),
            ("block-export-del", {"id": "a", "mode": "bad"}, True),
            ("query-named-block-nodes", {"flat": 5}, True),
            ("query-block-exports", {"x": {"y": 1}}, True),
        ])
        eq(c.cmd("query-named-block-nodes"), [])


def test_qemu_graph():
    """names, references and sharing: as in QEMU"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        # Each program has files of its own: they lock them
        a = {c: d.image("a1"), q: d.image("a2")}
        b = {c: d.image("b1"), q: d.image("b2")}

        def both(execute, make, words=True):
            x = c.ask(execute, **make(c))
            y = q.ask(execute, **make(q))
            eq(sorted(x), sorted(y), make(c))
            if "error" in x and words:
                # QEMU ends one of them with a full stop
                eq(x["error"]["desc"], y["error"]["desc"].rstrip("."))
        add = "blockdev-add"
        both(add, lambda p: file("f", a[p]))
        both(add, lambda p: file("f", a[p]))
        both(add, lambda p: {"driver": "qcow2", "node-name": "f",
                             "file": "f"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "n",
                             "file": "f"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "m",
                             "file": "f"}, words=False)
        both(add, lambda p: {"driver": "qcow2", "node-name": "m",
                             "read-only": True, "file": "f"}, words=False)
        both(add, lambda p: file("f2", a[p]))
        both(add, lambda p: {"driver": "qcow2", "node-name": "m",
                             "file": "f2"}, words=False)
        both("blockdev-del", lambda p: {"node-name": "f"})
        both("blockdev-del", lambda p: {"node-name": "n"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "m",
                             "file": "f2"})
        both("blockdev-del", lambda p: {"node-name": "f"})
        # Read-only
        both(add, lambda p: file("r", b[p], **{"read-only": True}))
        both(add, lambda p: {"driver": "qcow2", "node-name": "rw",
                             "file": "r"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "r1",
                             "read-only": True, "file": "r"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "r2",
                             "read-only": True, "file": "r"})
        both("blockdev-del", lambda p: {"node-name": "r1"})
        both(add, lambda p: qcow2("w", b[p]), words=False)
        both("blockdev-del", lambda p: {"node-name": "r2"})
        both(add, lambda p: dict(qcow2("w", b[p]), backing=None))
        # Inline children
        both(add, lambda p: qcow2("k", b[p]), words=False)
        both("blockdev-del", lambda p: {"node-name": "w"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "k",
                             "file": file("k", b[p])})
        both(add, lambda p: {"driver": "qcow2", "node-name": "k",
                             "file": file("kf", b[p])})
        both("blockdev-del", lambda p: {"node-name": "kf"})
        both("blockdev-del", lambda p: {"node-name": "k"})
        both("blockdev-del", lambda p: {"node-name": "kf"})
        both(add, lambda p: {"driver": "qcow2", "node-name": "k", "file":
                             dict(file("kf", b[p]), **{"read-only": True})})
        both(add, lambda p: {"driver": "qcow2", "node-name": "k", "file": "m"},
             words=False)


def open_in_qemu(path, writable=True):
    cmd = [QEMU_IMG, "bench", "-c", "1", "-f", "qcow2", path] \
        if not writable else ["qemu-io", "-c", "write 0 512", path]
    return subprocess.run(cmd, capture_output=True).returncode == 0


def test_locks():
    """QEMU's locks: they keep QEMU out, and us, and name who has them"""
    with Daemon() as d, d.client() as c:
        path = d.image()
        c.cmd("blockdev-add", **qcow2("a", path))
        assert not open_in_qemu(path)
        assert not open_in_qemu(path, writable=False)
        c.cmd("blockdev-del", node_name="a")
        assert open_in_qemu(path)
        c.cmd("blockdev-add", **qcow2("a", path, **{"read-only": True}))
        assert not open_in_qemu(path)
        assert open_in_qemu(path, writable=False)
        c.cmd("blockdev-del", node_name="a")
        with Qemu() as qemu, qemu.client() as q:
            q.cmd("blockdev-add", **qcow2("a", path))
            e = c.err("blockdev-add", **qcow2("a", path))
            eq(e["data"]["code"], "busy")
            assert str(qemu.proc.pid) in e["desc"], e
        c.cmd("blockdev-add", **qcow2("a", path))


def test_locks_follow_parents():
    """a file node is locked while a format node uses it, and no longer"""
    with Daemon() as d, d.client() as c:
        path = d.image()
        c.cmd("blockdev-add", **file("f", path))
        assert open_in_qemu(path)
        c.cmd("blockdev-add", driver="qcow2", node_name="a", file="f")
        assert not open_in_qemu(path)
        c.cmd("blockdev-del", node_name="a")
        assert open_in_qemu(path)
        for n in "ab":
            c.cmd("blockdev-add", driver="qcow2", node_name=n, file="f",
                  read_only=True)
        c.cmd("blockdev-del", node_name="a")
        assert not open_in_qemu(path)
        c.cmd("blockdev-del", node_name="b")
        assert open_in_qemu(path)
        # An image that can't be opened leaves no lock behind
        with open(path, "r+b") as f:
            f.write(b"XXXX")
        c.err("blockdev-add", driver="qcow2", node_name="a", file="f")
        with open(path, "r+b") as f:
            f.write(b"QFI\xfb")
        assert open_in_qemu(path)


def test_devices():
    """file on a device and host_device on a file say what to use"""
    with Daemon() as d, d.client() as c:
        e = c.err("blockdev-add", driver="host_device", node_name="a",
                  filename=d.image())
        assert "'file'" in e["data"]["hint"], e
        e = c.err("blockdev-add", **file("a", "relative"))
        eq(e["data"]["code"], "usage")
        blk = [p for p in ("/dev/vda", "/dev/sda", "/dev/loop0")
               if os.path.exists(p)]
        if blk:
            e = c.err("blockdev-add", **file("a", blk[0]))
            assert "host_device" in e["data"]["hint"], e
        fifo = d.path("fifo")
        os.mkfifo(fifo)
        eq(c.err("blockdev-add", **file("a", fifo))["desc"],
           "'file' driver requires '%s' to be a regular file" % fifo)


def test_long_names():
    """names that are cut in a message do not spoil it"""
    with Daemon() as d, d.client() as c:
        for n in range(70, 90):
            name = "x" * n + "\u00e9" * 300
            assert "xxx" in c.err("blockdev-add", **file("a", "/" + name))["desc"]
            assert "xxx" in c.err("blockdev-add", **file(name, "/x"))["desc"]
            assert "xxx" in c.err("query-version", **{name: 1})["desc"]
            assert "xxx" in c.err(name)["desc"]
            assert "xxx" in c.err("block-export-del", id=name)["desc"]


def test_auto_read_only():
    """auto-read-only falls back where writing is forbidden"""
    with Daemon() as d, d.client() as c:
        path = d.image()
        os.chmod(path, 0o444)
        if os.access(path, os.W_OK):
            raise Skip("root writes everywhere")
        c.err("blockdev-add", **qcow2("a", path))
        c.cmd("blockdev-add", **qcow2("a", path, **{"auto-read-only": True}))
        for n in c.cmd("query-named-block-nodes"):
            eq(n["ro"], True)


def test_no_leak():
    """no descriptor and no name is left behind, on any way out"""
    with Daemon() as d, d.client() as c:
        path, bad = d.image(), d.path("bad")
        with open(bad, "wb") as f:
            f.write(b"QFI\xfb" + b"\xff" * 65536)

        def fds():
            return len(os.listdir("/proc/%d/fd" % d.proc.pid))
        before = fds()
        for _ in range(30):
            c.cmd("blockdev-add", **qcow2("a", path))
            c.cmd("blockdev-del", node_name="a")
            c.err("blockdev-add", **qcow2("a", bad))
            c.err("blockdev-add", **qcow2("a", path, **{"lazy-refcounts":
                                                        True}))
            c.cmd("blockdev-add", **file("f", path))
            c.err("blockdev-add", driver="qcow2", node_name="a", file="f",
                  lazy_refcounts=True)
            c.cmd("blockdev-del", node_name="f")
        eq(fds(), before)
        eq(c.cmd("query-named-block-nodes"), [])


def test_damaged():
    """damaged headers: an error for each, and the daemon goes on"""
    with Daemon() as d, d.client() as c:
        path = d.image()
        with open(path, "rb") as f:
            good = f.read()
        for off in range(0, 112):
            for val in (0x00, 0xff, 0x80):
                data = bytearray(good)
                data[off] = val
                with open(path, "wb") as f:
                    f.write(data)
                reply = c.ask("blockdev-add", **qcow2("a", path,
                                                      **{"read-only": True}))
                if "return" in reply:
                    c.cmd("blockdev-del", node_name="a")
        for size in (0, 1, 3, 71, 103, 511, 512, 4096, 65536, 131072):
            with open(path, "wb") as f:
                f.write(good[:size])
            reply = c.ask("blockdev-add", **qcow2("a", path))
            if "return" in reply:
                c.cmd("blockdev-del", node_name="a")
        eq(c.cmd("query-named-block-nodes"), [])


def test_crowd():
    """many clients add and remove the same nodes at once"""
    with Daemon() as d:
        paths = [d.image("img%d" % i) for i in range(3)]
        wrong = []

        def work(n):
            with d.client() as c:
                for i in range(60):
                    k = (n + i) % 3
                    r = c.ask("blockdev-add", **qcow2("n%d" % k, paths[k]))
                    c.ask("query-named-block-nodes")
                    if "return" in r:
                        r = c.ask("blockdev-del", node_name="n%d" % k)
                        if "error" in r:
                            wrong.append(r)
                    elif r["error"]["data"]["code"] != "busy":
                        wrong.append(r)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        eq(wrong, [])
        with d.client() as c:
            eq(c.cmd("query-named-block-nodes"), [])


def test_no_module():
    """an export without a kernel module: one clear error, nothing changes"""
    if os.path.exists("/sys/module/dm_qcow"):
        raise Skip("the module is loaded")
    with Daemon() as d, d.client() as c:
        path = d.image()
        with open(path, "rb") as f:
            before = f.read()
        c.cmd("blockdev-add", **qcow2("a", path))
        e = c.err("block-export-add", type="device-mapper", id="e",
                  node_name="a", name="blkctld-test-no-module", writable=True)
        assert e["data"]["code"] == "unavailable", e
        assert e["data"]["hint"], e
        eq(c.cmd("query-block-exports"), [])
        eq(c.cmd("query-device-mapper"), [])
        c.cmd("blockdev-del", node_name="a")
        with open(path, "rb") as f:
            assert f.read() == before, "the image was written to"


run(globals())
