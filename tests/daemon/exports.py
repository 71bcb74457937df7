# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports, adoption and events of a daemon whose kernel is made of files.

The daemon is built with the address sanitizer and with the thread sanitizer,
and runs each test as both.
"""
import json
import os
import shutil
import subprocess
import threading
import time

from faketest import Build, add_export, add_node, each, exports
from qmptest import Skip, eq, run, wait_until

GONE, MODE, CORRUPT = 1, 2, 4                   # BLK_ATTACH_*
EV_MODE, EV_GONE = 1 << 3, 1 << 6               # DM_QCOW_EV_*
RO, FULL, BAD = 2, 1 << 3, 1 << 5               # mode, DM_QCOW_STATE_*


@each
def test_life(d):
    """add, query, delete; the event comes before the answer"""
    with d.client() as c, d.client() as other:
        add_node(d, c, "a")
        eq(add_export(c, "a", name="dev", writable=True)["return"], {})
        eq(exports(c), {"a": {"id": "a", "type": "device-mapper",
                              "node-name": "a", "shutting-down": False,
                              "name": "dev", "device": "/dev/mapper/dev",
                              "writable": True}})
        label = json.loads(d.device("dev")["label"])
        eq((label["id"], label["node-name"], label["name"],
            label["writable"]), ("a", "a", "dev", True))
        (x,) = c.cmd("query-device-mapper", id="a")
        eq((x["name"], x["managed"], x["mode"], x["granted"]),
           ("dev", True, "rw", 2 ** 63 - 1))
        eq(x["image"]["virtual-size"], 64 << 20)
        eq((x["stats"]["read-mapped"], x["stats"]["io-errors"]), (7, 8))
        eq(c.err("query-device-mapper", id="b")["data"]["code"], "not-found")
        assert "in use" in c.err("blockdev-del", node_name="a")["desc"]
        c.cmd("block-export-del", id="a")
        eq([e["event"] for e in c.events], ["BLOCK_EXPORT_DELETED"])
        eq(other.event("BLOCK_EXPORT_DELETED"), {"id": "a"})
        eq(d.device("dev"), None)
        c.cmd("blockdev-del", node_name="a")


@each
def test_refused(d):
    """bad exports: each with its error, and nothing is left of them"""
    with d.client() as c:
        path = d.image()
        add_node(d, c, "a", path)
        add_node(d, c, "r", d.image("r"), read_only=True)
        c.cmd("blockdev-add", driver="file", node_name="f",
              filename=d.image("f"))

        def err(code, *args, **kw):
            r = add_export(c, *args, **kw)
            eq(r["error"]["data"]["code"], code, (args, kw, r))
            return r["error"]["desc"]
        eq(err("usage", "1e", "a"), "Invalid block export id")
        eq(err("not-found", "e", "x"),
           "Cannot find device='' nor node-name='x'")
        eq(err("failed", "e", "r", writable=True),
           "Cannot export read-only node as writable")
        err("usage", "e", "f")
        err("usage", "e", "a", "a/b")
        err("usage", "e", "a", "e", no_space_timeout=-1)
        err("usage", "e", "a", "e", no_space_timeout=86401)
        err("usage", "e" * 2000, "a", "dev")
        err("failed", "e", "a", writethrough=True)
        err("failed", "e", "a", iothread="x")
        d.flag("fail-", "dev")
        eq(err("failed", "e", "a", "dev", writable=True), "told to fail")
        d.unflag("fail-", "dev")
        add_export(c, "e", "a", "dev", writable=True)
        eq(err("busy", "e", "a", "x"),
           "Block export id 'e' is already in use")
        assert "export 'e'" in err("busy", "g", "r", "dev")
        assert "export 'e'" in err("busy", "g", "a", "x")
        assert "export 'e'" in err("busy", "g", "a", "x", writable=True)
        eq(set(exports(c)), {"e"})
        # Readers share
        add_export(c, "r1", "r")
        add_export(c, "r2", "r")
        eq(set(exports(c)), {"e", "r1", "r2"})


@each
def test_busy(d):
    """a device that is open stays, in either mode, and goes on"""
    with d.client() as c:
        add_node(d, c, "a")
        add_export(c, "a", writable=True)
        d.flag("busy-", "a")
        for mode in ("safe", "hard"):
            e = c.err("block-export-del", id="a", mode=mode)
            eq(e["data"]["code"], "busy")
        eq(exports(c)["a"]["shutting-down"], False)
        eq(c.events, [])
        d.unflag("busy-", "a")
        d.flag("warn-", "a")
        c.cmd("block-export-del", id="a")
        eq(c.event("BLOCK_EXPORT_DELETED"),
           {"id": "a", "warning": "told to complain"})


@each
def test_not_blocked(d):
    """a device that hangs holds up its own client and nobody else"""
    with d.client() as c, d.client() as other:
        add_node(d, c, "a")
        add_node(d, c, "b")
        d.flag("hang-", "a")
        c.send(json.dumps({"execute": "block-export-add", "id": 1,
                           "arguments": {"type": "device-mapper", "id": "a",
                                         "node-name": "a", "name": "a"}}))
        c.send('{"execute": "query-version", "id": 2}')
        add_export(other, "b")
        eq(set(exports(other)), {"b"})
        eq(other.err("block-export-del", id="a")["data"]["code"], "busy")
        eq(other.err("blockdev-del", node_name="a")["data"]["code"], "busy")
        eq(add_export(other, "a", "b", "x")["error"]["data"]["code"], "busy")
        eq(add_export(other, "x", "b", "a")["error"]["data"]["code"], "busy")
        d.unflag("hang-", "a")
        eq(c.reply(), {"return": {}, "id": 1})
        eq(c.reply()["id"], 2)
        d.flag("hang-", "a")
        c.send('{"execute": "block-export-del", "id": 3, '
               '"arguments": {"id": "a"}}')
        wait_until(lambda: exports(other)["a"]["shutting-down"], "shutdown")
        assert "already shutting down" in \
            other.err("block-export-del", id="a")["desc"]
        other.cmd("query-named-block-nodes")
        d.unflag("hang-", "a")
        eq(c.reply(), {"return": {}, "id": 3})


@each
def test_client_leaves(d):
    """what a client began is ended without him"""
    with d.client() as c:
        add_node(d, c, "a")
        d.flag("hang-", "a")
        with d.client() as leaver:
            leaver.send(json.dumps(
                {"execute": "block-export-add", "arguments":
                 {"type": "device-mapper", "id": "a", "node-name": "a",
                  "name": "a"}}))
            wait_until(lambda: "busy" in str(c.ask(
                "block-export-del", id="a")), "its beginning")
        d.unflag("hang-", "a")
        wait_until(lambda: "a" in exports(c), "its end")


@each
def test_events(d):
    """changes of a device are told once, whoever notices them"""
    with d.client() as c:
        add_node(d, c, "a")
        add_export(c, "a", writable=True)
        minor = d.device("a")["minor"]
        d.change("a", mode=RO, state=FULL | BAD)
        d.flag("notify-", "a", str(MODE | CORRUPT))
        eq(c.event("DEVICE_MAPPER_STATE_CHANGE"),
           {"id": "a", "node-name": "a", "name": "a", "mode": "ro",
            "host-full": True, "errno": 0})
        x = c.event("BLOCK_IMAGE_CORRUPTED")
        eq((x["node-name"], x["fatal"]), ("a", True))
        d.event("%u %u" % (minor, EV_MODE))
        d.event("lost")
        d.event("4711 255")
        time.sleep(0.1)
        c.cmd("query-version")
        eq(c.events, [])
        d.change("a", mode=0, state=0)
        d.event("%u %u" % (minor, EV_MODE))
        eq(c.event("DEVICE_MAPPER_STATE_CHANGE")["mode"], "rw")
        d.change("a", mode=3)
        d.event("lost")
        eq(c.event("DEVICE_MAPPER_STATE_CHANGE")["mode"], "fail")


@each
def test_removed_behind(d):
    """a device that somebody else removes: the export ends, the node stays"""
    with d.client() as c:
        for how in ("notify", "event", "both", "lie"):
            add_node(d, c, "a")
            add_export(c, "a", writable=True)
            minor = d.device("a")["minor"]
            if how == "lie":
                d.event("%u %u" % (minor, EV_GONE))
                time.sleep(0.1)
                eq(set(exports(c)), {"a"})
            d.unflag("dev-", "a")
            if how in ("notify", "both"):
                d.flag("notify-", "a", str(GONE))
            if how != "notify":
                d.event("%u %u" % (minor, EV_GONE))
            eq(c.event("BLOCK_EXPORT_DELETED"), {"id": "a"})
            eq(exports(c), {})
            if os.path.exists(os.path.join(d.kernel, "notify-a")):
                d.unflag("notify-", "a")
            c.cmd("blockdev-del", node_name="a")
            os.unlink(d.path("a"))


def make_three(d, c):
    add_node(d, c, "a")
    add_export(c, "a", name="dev-a", writable=True)
    c.cmd("blockdev-add", driver="file", node_name="bf",
          filename=d.image("b"))
    c.cmd("blockdev-add", driver="qcow2", node_name="b", file="bf")
    add_export(c, "xb", "b", "dev b")
    add_node(d, c, "r", read_only=True)
    add_export(c, "r", writable=False)


def look(c):
    nodes = {n["node-name"]: n for n in c.cmd("query-named-block-nodes")
             if n["node-name"][0] != "#"}
    for n in nodes.values():
        for child in n["children"]:
            if child["node-name"][0] == "#":
                child["node-name"] = "#"
    return exports(c), nodes


@each
def test_adopt(d):
    """the next daemon has the same exports and nodes; they can be removed"""
    def quit():
        with d.client() as c:
            c.cmd("quit")
        d.stop()
    with d.client() as c:
        make_three(d, c)
        before = look(c)
    for end in (d.stop, d.kill, quit):
        end()
        d.start()
        with d.client() as c:
            eq(look(c), before, end.__name__)
            for x in c.cmd("query-device-mapper"):
                eq(x["managed"], True)
    with d.client() as c:
        for id in before[0]:
            c.cmd("block-export-del", id=id)
        eq(sorted(n["node-name"] for n in c.cmd("query-named-block-nodes")
                  if n["node-name"][0] != "#"), ["a", "b", "bf", "r"])
        # They are as good as new
        eq(add_export(c, "a", writable=True)["return"], {})
        eq(add_export(c, "b", writable=True)["return"], {})
        assert "error" in add_export(c, "r", writable=True)
        for id in "ab":
            c.cmd("block-export-del", id=id)
        for n in ("a", "b", "bf", "r"):
            c.cmd("blockdev-del", node_name=n)
        eq(c.cmd("query-named-block-nodes"), [])
        add_node(d, c, "a", d.path("a"))


@each
def test_adopt_broken(d):
    """devices that can't be adopted, and labels of nobody"""
    with d.client() as c:
        make_three(d, c)
    d.stop()
    for name, label in (("dev-a", "{"), ("dev b", json.dumps(
            {"id": "r", "node-name": "r", "file-node-name": 5}))):
        d.change(name, label=label)
    d.flag("fail-", "r")
    d.start()
    with d.client() as c:
        by = {x["name"]: x for x in c.cmd("query-device-mapper")}
        eq({n: x["managed"] for n, x in by.items()},
           {"dev-a": True, "dev b": True, "r": False})
        assert "told to fail" in d.log_text()
        e = add_export(c, "q", by["dev b"]["node-name"], writable=True)
        assert "error" in e
        ids = [x["id"] for x in by.values() if "id" in x]
        eq(len(set(ids)), 2)
        for id in ids:
            c.cmd("block-export-del", id=id)
    d.unflag("fail-", "r")
    d.stop()
    d.start()
    with d.client() as c:
        eq(set(exports(c)), {"r"})
        # It goes while nobody looks
        d.unflag("dev-", "r")
        d.flag("notify-", "r", str(GONE))
        eq(c.event("BLOCK_EXPORT_DELETED"), {"id": "r"})
        eq(add_export(c, "r2", "r")["return"], {})
        d.flag("busy-", "r2")
        c.err("block-export-del", id="r2")


@each
def test_adopt_busy(d):
    """an adopted device that can't be removed goes on as before"""
    with d.client() as c:
        make_three(d, c)
        before = look(c)
    d.kill()
    d.start()
    with d.client() as c:
        d.flag("busy-", "dev-a")
        for _ in range(3):
            c.err("block-export-del", id="a")
        eq(look(c), before)
        d.unflag("busy-", "dev-a")
        # The image is spoilt behind our back: the node loses it
        with open(d.path("a"), "r+b") as f:
            f.write(b"XXXX")
        c.cmd("block-export-del", id="a")
        c.cmd("query-named-block-nodes")
        assert "was lost" in add_export(c, "a")["error"]["desc"]
        c.cmd("blockdev-del", node_name="a")


def excluded(path):
    """Is QEMU kept from writing?"""
    if not shutil.which("qemu-io"):
        raise Skip("there is no qemu-io")
    return subprocess.run(["qemu-io", "-c", "write 0 512", path],
                          capture_output=True).returncode != 0


@each
def test_adopt_shared(d):
    """two readers of one image: one node again, locked until both are gone"""
    path = d.image("r")
    with d.client() as c:
        add_node(d, c, "r", path, read_only=True)
        for id in ("r1", "r2", "r3"):
            add_export(c, id, "r")
        before = look(c)
    d.kill()
    d.start()
    with d.client() as c:
        eq(look(c), before)
        for id in ("r2", "r1", "r3"):
            c.cmd("block-export-del", id=id)
            assert excluded(path), id
        eq(add_export(c, "r4", "r")["return"], {})
        c.cmd("block-export-del", id="r4")
        c.cmd("blockdev-del", node_name="r")
        assert not excluded(path)
        # A node that may write, exported for reading
        add_node(d, c, "r", path)
        add_export(c, "r", writable=False)
    d.kill()
    d.start()
    with d.client() as c:
        c.cmd("block-export-del", id="r")
        eq(add_export(c, "r", writable=True)["return"], {})
        assert excluded(path)


@each
def test_adopt_slow(d):
    """a device whose adoption hangs keeps nothing from starting"""
    with d.client() as c:
        make_three(d, c)
    d.stop()
    d.flag("hang-", "r")
    d.start()
    with d.client() as c:
        eq(set(exports(c)), {"a", "xb"})
        add_node(d, c, "new")
        d.unflag("hang-", "r")
        wait_until(lambda: "r" in exports(c), "its adoption")


@each
def test_stop_waits(d):
    """the daemon ends what it has begun before it ends"""
    with d.client() as c:
        add_node(d, c, "a")
        d.flag("hang-", "a")
        c.send(json.dumps({"execute": "block-export-add", "id": 1,
                           "arguments": {"type": "device-mapper", "id": "a",
                                         "node-name": "a", "name": "a"}}))
        with d.client() as other:
            wait_until(lambda: "busy" in str(other.ask(
                "block-export-del", id="a")), "its beginning")
        d.proc.terminate()
        time.sleep(0.3)
        eq(d.proc.poll(), None)
        d.unflag("hang-", "a")
        eq(c.reply(), {"return": {}, "id": 1})
        eq(c.recv(), None)
    d.stop()
    assert d.device("a")


@each
def test_crowd(d):
    """many clients make and remove the same devices at once"""
    with d.client() as c:
        for n in "ab":
            add_node(d, c, n)
    wrong = []

    def work(k):
        with d.client() as c:
            for i in range(40):
                n = "ab"[(i + k) % 2]
                r = add_export(c, n, writable=True)
                c.ask("query-device-mapper")
                c.ask("query-block-exports")
                if "return" in r:
                    r = c.ask("block-export-del", id=n)
                    if "return" not in r:
                        wrong.append(r)
                elif r["error"]["data"]["code"] != "busy":
                    wrong.append(r)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    eq(wrong, [])


try:
    run(globals())
finally:
    Build.remove()
