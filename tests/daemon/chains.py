# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-add of images with backing and data files: what is opened, what is
refused, and who is kept out meanwhile."""
import json
import os
import struct
import subprocess

from qmptest import QEMU_IMG, Daemon, Qemu, Skip, eq, run

def img(*args):
    if not QEMU_IMG:
        raise Skip("there is no qemu-img")
    subprocess.run([QEMU_IMG, *args], check=True, capture_output=True)


def rebase(path, name, fmt="qcow2"):
    """Any name, with a format or without one, into a header."""
    img("rebase", "-u", "-f", "qcow2", "-b", "", path)
    if fmt:
        img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", fmt, path)
        return
    # qemu-img would not leave the format out
    with open(path, "r+b") as f:
        f.seek(8)
        f.write(struct.pack(">QI", 65536 - 1024, len(name)))
        f.seek(65536 - 1024)
        f.write(name.encode())


def chain(d, *names, size="64M"):
    """Images, the top first, each over the next one; the last has no base."""
    for name, below in reversed(list(zip(names, names[1:] + (None,)))):
        if below:
            img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2",
                d.path(name))
        else:
            d.image(name, size)
    return d.path(names[0])


def raw(d, name="raw", size=1 << 20):
    with open(d.path(name), "wb") as f:
        f.truncate(size)
    return d.path(name)


def file(path, **kw):
    return dict({"driver": "file", "filename": path}, **kw)


def args(node, path, **kw):
    return dict({"driver": "qcow2", "node-name": node, "file": file(path)},
                **kw)


def add(c, node, path, **kw):
    c.cmd("blockdev-add", **args(node, path, **kw))


def err(c, path, *words, code="failed", **kw):
    e = c.err("blockdev-add", **args("x", path, **kw))
    eq(e["data"]["code"], code, e)
    for word in words:
        assert word in e["desc"] + "; " + (e["data"]["hint"] or ""), (word, e)
    eq([n for n in nodes(c) if n not in ("keep", "keepf")], [], "leftovers")
    return e


def nodes(c, **kw):
    return {n["node-name"]: n for n in
            c.cmd("query-named-block-nodes", **kw)}


def children(by, name):
    return {x["child"]: by[x["node-name"]] for x in by[name]["children"]}


def writable(path, fmt="qcow2"):
    return subprocess.run(["qemu-io", "-f", fmt, "-c", "write 0 512", path],
                          capture_output=True).returncode == 0


def readable(path, fmt="qcow2"):
    return subprocess.run(["qemu-io", "-r", "-f", fmt, "-c", "read 0 512",
                           path], capture_output=True).returncode == 0


def test_from_header():
    """a chain is opened by the headers, read-only, as QEMU shows it"""
    with Daemon() as d, d.client() as c:
        add(c, "top", chain(d, "top", "mid", "base"))
        by = nodes(c)
        eq(len(by), 6)
        eq(sorted(n for n in by if n != "top"),
           ["#block%03d" % i for i in range(5)])
        top = by["top"]
        mid = children(by, "top")["backing"]
        base = children(by, mid["node-name"])["backing"]
        eq([(n["ro"], n["drv"], n["backing_file_depth"])
            for n in (top, mid, base)],
           [(False, "qcow2", 2), (True, "qcow2", 1), (True, "qcow2", 0)])
        eq((top["backing_file"], mid["backing_file"]),
           (d.path("mid"), d.path("base")))
        assert "backing_file" not in base
        eq(top["image"]["backing-filename"], "mid")
        eq(top["image"]["full-backing-filename"], d.path("mid"))
        eq(top["image"]["backing-filename-format"], "qcow2")
        eq(top["image"]["backing-image"]["backing-image"], base["image"])
        assert "backing-image" not in base["image"]
        flat = nodes(c, flat=True)["top"]
        eq(flat["backing_file_depth"], 0)
        assert "backing-image" not in flat["image"]
        eq(flat["backing_file"], d.path("mid"))
        e = c.err("blockdev-del", node_name=mid["node-name"])
        assert "not owned by the monitor" in e["desc"], e
        c.cmd("blockdev-del", node_name="top")
        eq(nodes(c), {})
        # Without it
        add(c, "top", d.path("top"), backing=None)
        eq(len(nodes(c)), 2)
        eq(nodes(c)["top"]["backing_file_depth"], 0)


def test_same_as_qemu():
    """what is shown of a chain is what QEMU shows"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        chain(d, "top", "mid", "base")
        rebase(d.path("base"), raw(d), "raw")
        # QEMU counts whole sectors
        for name in ("top", "mid", "base"):
            os.truncate(d.path(name), 1 << 18)
        shown = []
        for p in c, q:
            p.cmd("blockdev-add", **args("top", d.path("top"),
                                         **{"read-only": True}))
            by, seen = nodes(p), []
            for flat in (False, True):
                for n in nodes(p, flat=flat).values():
                    # Names are generated, and newer versions show more
                    n.pop("node-name")
                    n.pop("children", None)
                    n.pop("active", None)
                    n.pop("cache")
                    seen.append(n)
                    image = n["image"]
                    while image:
                        image.pop("actual-size", None)
                        image.pop("dirty-flag", None)
                        image.pop("format-specific", None)
                        image = image.get("backing-image")
            shown.append(sorted(seen, key=lambda n: json.dumps(
                n, sort_keys=True)))
            eq(len(by), 8)
            p.cmd("blockdev-del", node_name="top")
        eq(shown[0], shown[1])


def test_formats():
    """a format is in the header or given, and never guessed"""
    with Daemon() as d, d.client() as c:
        top = chain(d, "top", "base")
        rebase(top, "base", None)
        err(c, top, "does not say which format", "'base'",
            "qemu-img rebase -u -F FORMAT -b base " + top)
        add(c, "x", top, backing={"driver": "qcow2",
                                  "file": file(d.path("base"))})
        c.cmd("blockdev-del", node_name="x")
        add(c, "x", top, backing=None)
        c.cmd("blockdev-del", node_name="x")
        for fmt in ("vmdk", "file", "host_device", "nope"):
            img("rebase", "-u", "-f", "qcow2", "-b", "base", "-F", "qcow2", top)
            with open(top, "r+b") as f:
                data = f.read(4096)
                at = data.index(struct.pack(">II", 0xe2792aca, 5))
                f.seek(at)
                text = fmt[:5].encode()
                f.write(struct.pack(">II8s", 0xe2792aca, len(text), text))
            err(c, top, "'%s'" % fmt[:5], "not supported")
        # A raw image that begins as qcow2 does is raw all the same
        os.truncate(d.path("base"), 1 << 18)
        rebase(top, "base", "raw")
        add(c, "x", top)
        by = nodes(c)
        b = children(by, "x")["backing"]
        eq((b["drv"], b["image"]["virtual-size"], b["image"]["format"]),
           ("raw", os.path.getsize(d.path("base")), "raw"))


def test_names():
    """names: relative to the image, absolute, file:; no other protocols"""
    with Daemon() as d, d.client() as c:
        os.makedirs(d.path("a/b"))
        base = d.image("a/b/base")
        top = d.image("a/top")
        os.symlink(top, d.path("link"))
        for name in ("b/base", base, "file:b/base", "file:" + base,
                     "b/../b/base"):
            rebase(top, name)
            for path in (top, d.path("link")):
                add(c, "x", path)
                eq(children(nodes(c), "x")["backing"]["image"]["filename"],
                   base)
                c.cmd("blockdev-del", node_name="x")
        for name, why in (("json:{\"driver\":\"file\"}", "JSON"),
                          ("nbd://localhost/x", "'nbd'"),
                          ("host_device:/dev/sda", "'host_device'"),
                          ("ssh://h/x", "'ssh'"), ("x:y", "'x'")):
            rebase(top, name)
            err(c, top, why, "backing")
        for name in ("gone", "b/gone", "gone/base", d.path("a/gone"),
                     "top/base"):
            rebase(top, name)
            err(c, top, top, os.path.basename(name), code="not-found")
        os.mkfifo(d.path("a/fifo"))
        for name in ("fifo", "b"):
            rebase(top, name)
            err(c, top, top, "neither a regular file nor a block device")
        # Further down: the one that names it is named
        over = d.image("a/over")
        rebase(over, "top")
        rebase(top, "gone")
        err(c, over, "'%s'" % top, "gone", code="not-found")
        with open(base, "r+b") as f:
            f.write(b"XXXX")
        rebase(top, "b/base")
        err(c, over, "'%s'" % top, base)


def test_loops():
    """chains that lead back are refused, and so are very long ones"""
    with Daemon() as d, d.client() as c:
        a, b = d.image("a"), d.image("b")
        os.link(a, d.path("hard"))
        os.symlink(a, d.path("soft"))
        for name in ("a", "hard", "soft", a):
            rebase(a, name)
            err(c, a, "leads back to", read_only=True)
        for name in ("a", "hard", "soft"):
            rebase(a, "b")
            rebase(b, name)
            err(c, a, "leads back to", read_only=True)
            err(c, a)
        rebase(b, "a", "raw")
        err(c, a, "leads back to", read_only=True)
        # By reference
        rebase(b, "")
        add(c, "keep", a, read_only=True)
        e = c.err("blockdev-add", **args("x", b, backing="keep",
                                         **{"read-only": True}))
        assert "leads back" in e["desc"], e
        c.cmd("blockdev-del", node_name="keep")
        # Long ones
        names = ["n%03d" % i for i in range(257)]
        with open(d.image("n256"), "rb") as f:
            data = f.read()
        for i in range(255, -1, -1):
            with open(d.path(names[i]), "wb") as f:
                f.write(data)
        for i in range(256):
            body = bytearray(data)
            with open(d.path(names[i]), "r+b") as f:
                ext = struct.pack(">II8sII", 0xe2792aca, 5, b"qcow2", 0, 0)
                name = names[i + 1].encode()
                hlen = struct.unpack(">I", body[100:104])[0]
                body[hlen:hlen + len(ext)] = ext
                body[8:20] = struct.pack(">QI", 4096, len(name))
                body[4096:4096 + len(name)] = name
                f.write(body)
        err(c, d.path("n000"), "more than 256 images", read_only=True)
        add(c, "keep", d.path("n001"), **{"read-only": True})
        eq(nodes(c)["keep"]["backing_file_depth"], 255)
        e = c.err("blockdev-add", **args("x", d.path("n000"), backing="keep",
                                         **{"read-only": True}))
        assert "more than 256" in e["desc"], e
        c.cmd("blockdev-del", node_name="keep")
        eq(nodes(c), {})


def test_policy():
    """headers may not name files elsewhere, unless somebody said so"""
    with Daemon() as d, d.client() as c:
        for sub in ("in/deep", "in2", "out"):
            os.makedirs(d.path(sub))
        top, out = d.image("in/top"), raw(d, "out/base")
        os.symlink(out, d.path("in/link"))
        os.symlink(d.path("out"), d.path("in/dirlink"))
        raw(d, "in2/base")
        raw(d, "in/deep/raw")
        os.symlink(d.path("in/deep"), d.path("out/back"))
        for name in (out, "../out/base", "link", "dirlink/base", "../in2/base",
                     "/etc/passwd"):
            rebase(top, name, "raw")
            err(c, top, top, "outside the image's directory",
                "--allow-external")
            if name != "/etc/passwd":
                add(c, "x", top, **{"allow-external": True})
                c.cmd("blockdev-del", node_name="x")
                # What a client names itself is his own business
                add(c, "x", top, backing={"driver": "raw", "file":
                                          file(out)})
                c.cmd("blockdev-del", node_name="x")
        for name in ("deep/raw", "../out/back/raw"):
            rebase(top, name, "raw")
            add(c, "x", top)
            c.cmd("blockdev-del", node_name="x")
        # Each image's own directory counts
        over = d.image("over")
        rebase(over, "in/top")
        rebase(top, "../out/base", "raw")
        err(c, over, "'%s'" % top, "outside")
        add(c, "x", over, **{"allow-external": True})
        c.cmd("blockdev-del", node_name="x")
        # Data files
        img("create", "-q", "-f", "qcow2", "-o", "data_file=" +
            d.path("out/data"), d.path("in/d"), "64M")
        err(c, d.path("in/d"), "data file", "outside")
        add(c, "x", d.path("in/d"), **{"allow-external": True})
        e = c.err("blockdev-add", **dict(args("y", over),
                                         **{"allow-external": 1}))
        assert "expected: boolean" in e["desc"], e


def test_policy_lists():
    """directories that the administrator permits"""
    with Daemon() as d:
        os.makedirs(d.path("out/deep"))
        os.makedirs(d.path("outer"))
        os.makedirs(d.path("in"))
        top = d.image("in/top")
        allowed, other = d.image("out/deep/base"), d.image("outer/base")
        rebase(top, allowed)
        os.symlink(d.path("out"), d.path("link"))
        for option in ("--allow-external", "--external-dirs"):
            for text, good in ((d.path("out"), True), (d.path("link"), True),
                               (d.path("out") + "/", True), ("/", True),
                               (d.path("out/deep"), True),
                               (d.path("ou"), False), ("out", False),
                               (d.path("in"), False), ("", False),
                               (d.path("gone"), False)):
                if option == "--allow-external" and text in ("", "out"):
                    continue
                more = [option, text]
                if option == "--external-dirs":
                    more[1] = d.path("list")
                    with open(more[1], "w") as f:
                        f.write("# a comment\n\n  %s  # why\n" % text)
                with Daemon(args=["--allow-external", "/nonexistent",
                                  *more]) as e, e.client() as c:
                    reply = c.ask("blockdev-add", **args("x", top))
                    eq("return" in reply, good, (option, text, reply))
        # The list is read when it is needed
        with Daemon(args=["--external-dirs", d.path("list")]) as e, \
                e.client() as c:
            rebase(top, other)
            c.err("blockdev-add", **args("x", top))
            with open(d.path("list"), "w") as f:
                f.write(d.path("outer"))
            add(c, "x", top)


def test_given():
    """backing and data-file as objects, references and null"""
    with Daemon() as d, d.client() as c:
        top, base = chain(d, "top", "base"), d.path("base")
        r = raw(d)
        # Objects; the inner one's own header counts
        add(c, "x", d.image("over"), backing={
            "driver": "qcow2", "node-name": "m", "file": file(top)})
        by = nodes(c)
        eq(by["x"]["backing_file_depth"], 2)
        eq((by["m"]["ro"], by["m"]["backing_file"]), (True, base))
        c.cmd("blockdev-del", node_name="x")
        for backing in ({"driver": "raw", "file": file(r)}, file(r),
                        {"driver": "qcow2", "backing": None,
                         "file": file(top)}):
            add(c, "x", d.path("over"), backing=backing)
            eq(nodes(c)["x"]["backing_file_depth"], 1)
            c.cmd("blockdev-del", node_name="x")
            eq(nodes(c), {})
        # References
        add(c, "b", base, **{"read-only": True})
        add(c, "x", top, backing="b")
        add(c, "y", d.path("over"), backing="b")
        eq(nodes(c)["x"]["backing_file_depth"], 1)
        assert "in use" in c.err("blockdev-del", node_name="b")["desc"]
        c.cmd("blockdev-del", node_name="x")
        assert "in use" in c.err("blockdev-del", node_name="b")["desc"]
        c.cmd("blockdev-del", node_name="y")
        c.cmd("blockdev-del", node_name="b")
        # A bare file, and a raw node over it
        c.cmd("blockdev-add", driver="file", node_name="f", filename=r)
        assert writable(r, "raw")
        add(c, "x", top, backing="f")
        assert not writable(r, "raw") and readable(r, "raw")
        c.cmd("blockdev-add", driver="raw", node_name="rn", file="f")
        add(c, "y", d.path("over"), backing="rn")
        c.cmd("blockdev-del", node_name="x")
        assert not writable(r, "raw")
        for n in ("y", "rn"):
            c.cmd("blockdev-del", node_name=n)
        assert writable(r, "raw")
        c.cmd("blockdev-del", node_name="f")
        # What does not fit
        add(c, "keep", base, **{"read-only": True,
                                "file": file(base, **{"node-name": "keepf"})})
        for kw, words in (({"backing": "nope"}, "Cannot find"),
                          ({"backing": "x"}, "being opened"),
                          ({"backing": 5}, "BlockdevRefOrNull"),
                          ({"backing": {"driver": "qcow2"}}, "is missing"),
                          ({"data-file": "keep"}, "can't be the data file"),
                          ({"data-file": file(r)}, "can only be set"),
                          ({"file": "keep"}, "can't be the file"),
                          ({"backing": {"driver": "raw", "size": 512,
                                        "file": file(r)}}, "not supported")):
            e = c.err("blockdev-add", **dict(args("x", top), **kw))
            assert words in e["desc"], (kw, e)
            eq(set(nodes(c)), {"keep", "keepf"}, kw)


def test_raw_sizes():
    """raw images end with a sector, or are refused"""
    with Daemon() as d, d.client() as c:
        top = chain(d, "top", "base")
        for size in (1, 511, 513, (1 << 20) + 1):
            r = raw(d, "raw", size)
            rebase(top, "raw", "raw")
            for kw in ({}, {"backing": file(r)},
                       {"backing": {"driver": "raw", "file": file(r)}}):
                err(c, top, "%d bytes" % size, "truncate -s %512", **kw)
        for size in (0, 512, 1 << 20):
            raw(d, "raw", size)
            add(c, "x", top)
            c.cmd("blockdev-del", node_name="x")


def test_locks():
    """bases are locked as QEMU locks them: readers share, writers do not"""
    with Daemon() as d, d.client() as c:
        one, base = chain(d, "one", "base"), d.path("base")
        img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2",
            d.path("two"))
        add(c, "one", one)
        add(c, "two", d.path("two"))
        for path in (one, base):
            assert not writable(path), path
        assert not readable(one) and readable(base)
        c.cmd("blockdev-del", node_name="one")
        assert not writable(base)
        e = c.err("blockdev-add", **args("x", base))
        eq(e["data"]["code"], "busy")
        assert "this process" in e["desc"], e
        add(c, "x", base, **{"read-only": True})
        for n in ("x", "two"):
            c.cmd("blockdev-del", node_name=n)
        assert writable(base)
        # A base that somebody writes to
        with Qemu() as qemu, qemu.client() as q:
            q.cmd("blockdev-add", **args("w", base))
            e = err(c, one, "'%s'" % one, base, str(qemu.proc.pid),
                    code="busy")
            q.cmd("blockdev-del", node_name="w")
            q.cmd("blockdev-add", **args("two", d.path("two")))
            add(c, "x", one)
            c.cmd("blockdev-del", node_name="x")
        # A failure at the bottom unlocks the top
        os.rename(base, base + ".away")
        err(c, one, code="not-found")
        assert subprocess.run([QEMU_IMG, "rebase", "-u", "-b", "", one],
                              capture_output=True).returncode == 0


def data_image(d, name, data):
    """An image whose header has the data file's name as it is given."""
    full = d.path(data)
    img("create", "-q", "-f", "qcow2", "-o", "data_file=" + full, d.path(name),
        "64M")
    with open(d.path(name), "r+b") as f:
        head = f.read(4096)
        f.seek(head.index(struct.pack(">II", 0x44415441, len(full))))
        # Zeroes behind it end the list of extensions
        f.write(struct.pack(">II", 0x44415441, len(data)) +
                data.encode().ljust((len(full) + 7) & ~7, b"\0") + bytes(8))
    return d.path(name)


def test_data_file():
    """external data files: by the header, given, locked, refused"""
    with Daemon() as d, d.client() as c:
        top, data = data_image(d, "top", "data"), d.path("data")
        add(c, "x", top)
        by = nodes(c)
        child = children(by, "x")["data-file"]
        eq((child["drv"], child["ro"], child["file"]), ("file", False, data))
        shown = by["x"]["image"]["format-specific"]["data"]
        eq((shown["data-file"], shown["data-file-raw"]), (data, False))
        assert not writable(data, "raw")
        c.cmd("blockdev-del", node_name="x")
        assert writable(data, "raw")
        add(c, "x", top, **{"read-only": True})
        eq(children(nodes(c), "x")["data-file"]["ro"], True)
        assert readable(data, "raw") and not writable(data, "raw")
        c.cmd("blockdev-del", node_name="x")
        # By reference
        c.cmd("blockdev-add", driver="file", node_name="df", filename=data)
        add(c, "x", top, **{"data-file": "df"})
        assert not writable(data, "raw")
        e = c.err("blockdev-add", driver="raw", node_name="r", file="df")
        eq(e["data"]["code"], "busy")
        e = c.err("blockdev-add", **dict(args("y", d.image("other")),
                                         backing="df"))
        eq(e["data"]["code"], "busy")
        c.cmd("blockdev-del", node_name="x")
        assert writable(data, "raw")
        c.cmd("blockdev-del", node_name="df")
        # As objects
        err(c, top, "open read-only",
            **{"data-file": file(data, **{"read-only": True})})
        err(c, top, "leads back",
            **{"data-file": file(top), "read-only": True})
        os.unlink(data)
        err(c, top, data, top, code="not-found")
        # In a base
        raw(d, "data")
        img("create", "-q", "-f", "qcow2", "-u", "-b", "top", "-F", "qcow2",
            d.path("over"), "64M")
        add(c, "x", d.path("over"))
        by = nodes(c)
        eq(len(by), 5)
        base = children(by, "x")["backing"]["node-name"]
        eq(children(by, base)["data-file"]["ro"], True)


def test_no_leak():
    """no descriptor, node or lock is left behind, whatever failed"""
    with Daemon() as d, d.client() as c:
        top = chain(d, "a", "b", "c", "d")
        raw(d, "odd", 513)

        def fds():
            return len(os.listdir("/proc/%d/fd" % d.proc.pid))
        before = fds()
        for _ in range(10):
            add(c, "x", top)
            eq(len(nodes(c)), 8)
            c.cmd("blockdev-del", node_name="x")
            rebase(d.path("d"), "gone")
            err(c, top, code="not-found")
            rebase(d.path("d"), "odd", "raw")
            err(c, top)
            rebase(d.path("d"), "a")
            err(c, top)
            rebase(d.path("d"), "")
        eq(fds(), before)
        assert writable(top) and writable(d.path("d"))


def test_resize_offline():
    """block_resize of a node: arguments as QEMU's, and what may not be"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        paths = {c: d.image("a"), q: d.image("b")}
        for p in c, q:
            add(p, "n", paths[p])
            add(p, "r", d.image("r" if p is c else "rq"),
                **{"read-only": True})
        for kw, words in (({}, True), ({"size": 1 << 20}, True),
                          ({"size": "x", "node-name": "n"}, True),
                          ({"size": 1 << 20, "node-name": "nope"}, True),
                          ({"size": 1 << 20, "device": "nope"}, True),
                          ({"size": -512, "node-name": "n"}, True),
                          ({"size": 513, "node-name": "n"}, True),
                          ({"size": 1 << 27, "node-name": "r"}, False),
                          ({"size": 1 << 27, "node-name": "n"}, True)):
            a, b = c.ask("block_resize", **kw), q.ask("block_resize", **kw)
            eq(sorted(a), sorted(b), (kw, a, b))
            if "error" in a and words:
                eq(a["error"]["desc"], b["error"]["desc"], kw)
        eq(nodes(c)["n"]["image"]["virtual-size"], 1 << 27)
        e = c.err("block_resize", node_name="n", size=1 << 25)
        eq(e["data"]["code"], "usage")
        assert "shrink" in e["data"]["hint"], e
        c.cmd("block_resize", node_name="n", size=1 << 25, shrink=True)
        eq(nodes(c)["n"]["image"]["virtual-size"], 1 << 25)
        for n in nodes(c).values():
            if n["drv"] == "file":
                e = c.err("block_resize", node_name=n["node-name"], size=512)
                assert e["data"]["code"] in ("usage", "failed"), e
                break
        # A base
        img("create", "-q", "-f", "qcow2", "-b", paths[q], "-F", "qcow2",
            d.path("over"), "1G")
        q.cmd("blockdev-del", node_name="n")
        add(c, "base", paths[q])
        add(c, "over", d.path("over"), backing="base")
        e = c.err("block_resize", node_name="base", size=1 << 30)
        assert "backing node" in e["desc"], e
        c.cmd("block_resize", node_name="over", size=1 << 31)
        # A data file
        img("create", "-q", "-f", "qcow2", "-o", "data_file=" +
            d.path("data") + ",data_file_raw=on", d.path("e"), "64M")
        add(c, "e", d.path("e"))
        for size in (1 << 27, 1 << 22):
            c.cmd("block_resize", node_name="e", size=size, shrink=True)
            eq(os.path.getsize(d.path("data")), size)
        for n in ("n", "over", "base", "e"):
            c.cmd("blockdev-del", node_name=n)
        for n in ("a", "over", "e"):
            img("check", "-f", "qcow2", d.path(n))


run(globals())
