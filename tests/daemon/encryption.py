# SPDX-License-Identifier: GPL-2.0-or-later
"""object-add, object-del and encrypted images: QEMU's rules and words; no
passphrase is left behind."""
import base64
import ctypes
import json
import os
import subprocess

from qmptest import (QEMU_IMG, Daemon, Qemu, Skip, eq, qcow2, run,
                     same_as_qemu)

PASS = "open sesame"
ADD, DEL, NODE = "object-add", "object-del", "blockdev-add"


def secret(name, data=None, **more):
    args = {"qom-type": "secret", "id": name, **more}
    return args if data is None else {**args, "data": data}


def encrypt(name, fmt="luks"):
    return {"encrypt": {"format": fmt, "key-secret": name}}


def luks(d, name="luks", options=(), fmt="luks", password=PASS):
    """An encrypted image; QEMU may find its hash too fast for its clock"""
    if not QEMU_IMG:
        raise Skip("there is no qemu-img")
    path = d.image(name)
    extra = ["-o", "encrypt.iter-time=10"] if fmt == "luks" else []
    for _ in range(100):
        p = subprocess.run(
            [QEMU_IMG, "create", "-q", "-f", "qcow2", "--object",
             "secret,id=s,data=" + password, "-o", "encrypt.format=%s,"
             "encrypt.key-secret=s" % fmt, *extra, *options, path, "8M"],
            capture_output=True, check=False)
        if p.returncode == 0:
            return path
    raise AssertionError(p.stderr)


def test_qemu_secrets():
    """secret objects: QEMU's rules and words"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        key, binary = d.path("key"), d.path("binary")
        with open(key, "wb") as f:
            f.write(b"abc\n")
        with open(binary, "wb") as f:
            f.write(b"\xff\x00")
        same_as_qemu(d, c, q, [
            (ADD, {}, True),
            (ADD, {"qom-type": "bogus"}, True),
            (ADD, {"qom-type": "secret"}, True),
            (ADD, secret("s"), True),
            (ADD, secret("s", "x", file=key), True),
            (ADD, secret("1s", "x"), True),
            (ADD, secret("", "x"), True),
            (ADD, secret("s", 5), True),
            (ADD, secret("s", "x", format="hex"), True),
            (ADD, secret("s", "x", serial=1), True),
            (ADD, secret("s", "!!", format="base64"), True),
            (ADD, secret("s", "Y Q==", format="base64"), True),
            (ADD, secret("s", file="/nonexistent"), False),
            (ADD, secret("s", file=d.dir), False),
            (ADD, secret("s", "x", keyid="nope"), False),
            (ADD, secret("a", "YQ==", format="base64"), True),
            (ADD, secret("a", "x"), True),
            (ADD, secret("b", "", format="base64"), True),
            (ADD, secret("c", ""), True),
            (ADD, secret("d", file=key), True),
            (ADD, secret("e", file=binary), True),
            (ADD, secret("f", "x", iv="AAAA"), True),
            (ADD, {"qom-type": "secret_keyring", "id": "k"}, True),
            (ADD, {"qom-type": "secret_keyring", "id": "k", "serial": 5},
             False),
            (DEL, {}, True),
            (DEL, {"id": "nope"}, True),
            (DEL, {"id": "a"}, True),
            (DEL, {"id": "a"}, True),
            (ADD, secret("a", "again"), True),
        ])
        e = c.err(ADD, **secret("s", "x", keyid="a", iv="AAAA"))
        assert "cannot be encrypted with another" in e["desc"], e


def test_qemu_images():
    """encrypted images: QEMU's rules and words"""
    with Daemon() as d, d.client() as c, Qemu() as qemu, qemu.client() as q:
        # Each program has files of its own: they lock them
        image = {x: luks(d, "luks%d" % i) for i, x in enumerate((c, q))}
        plain = {x: d.image("plain%d" % i) for i, x in enumerate((c, q))}
        for x in c, q:
            x.cmd(ADD, **secret("s", PASS))
            x.cmd(ADD, **secret("w", "wrong"))
            x.cmd(ADD, **secret("bin", "/wA=", format="base64"))

        def both(where, options, words=True):
            a, b = (x.ask(NODE, **qcow2("n", where[x], **options))
                    for x in (c, q))
            eq(sorted(a), sorted(b), options)
            if "error" in a and words:
                eq(a["error"]["desc"], b["error"]["desc"])
            elif "error" in a:
                assert a["error"]["desc"].startswith(b["error"]["desc"]), a
            return a.get("error", {}).get("data")
        data = both(image, {})
        eq(data["errno"], 126)  # ENOKEY: blkctl asks
        assert "object-add" in data["hint"], data
        both(image, {"encrypt": {}})
        both(image, {"encrypt": 5})
        both(image, {"encrypt": {"format": "luks"}})
        both(image, {"encrypt": {"format": "luks", "key-secret": 5}})
        both(image, {"encrypt": {"format": "luks", "key-secret": "s",
                                 "x": 1}})
        both(image, encrypt("s", "aes"))
        both(image, encrypt("nope"))
        both(image, encrypt(""))
        both(image, encrypt("bin"))
        eq(both(image, encrypt("w"), words=False)["errno"], 129)
        both(plain, encrypt("s"))
        both(plain, encrypt("nope"))
        both(plain, {"encrypt": {"format": "luks"}})
        both(plain, encrypt("s", "aes"))
        both(image, encrypt("s"))
        for x in c, q:
            # The object is not needed any more
            x.cmd(DEL, id="s")
            n = [n for n in x.cmd("query-named-block-nodes")
                 if n["node-name"] == "n"][0]
            eq((n["encrypted"], n["image"]["encrypted"]), (True, True))
            x.cmd("blockdev-del", node_name="n")


def test_old_encryption():
    """images that are encrypted in the old way are refused in words"""
    with Daemon() as d, d.client() as c:
        path = luks(d, "aes", fmt="aes")
        c.cmd(ADD, **secret("s", PASS))
        for options in {}, encrypt("s", "aes"):
            e = c.err(NODE, **qcow2("n", path, **options))
            assert "old way (AES)" in e["desc"], e
            assert "encrypt.format=luks" in e["data"]["hint"], e
        e = c.err(NODE, **qcow2("n", path, **encrypt("s")))
        eq(e["desc"], "Header reported 'aes' encryption format but options specify 'luks'")


def test_forms():
    """a passphrase as data, in base64, from a file, from a keyring"""
    with Daemon() as d, d.client() as c:
        path = luks(d)
        text = base64.b64encode(PASS.encode()).decode()
        with open(d.path("key"), "w", encoding="ascii") as f:
            f.write(PASS)
        with open(d.path("key64"), "w", encoding="ascii") as f:
            f.write(text + "\n")
        with open(d.path("newline"), "w", encoding="ascii") as f:
            f.write(PASS + "\n")
        forms = [secret("s", PASS), secret("s", text, format="base64"),
                 secret("s", file=d.path("key")),
                 secret("s", file=d.path("key64"), format="base64")]
        # A key with a name of this test's alone; "possessor" or not, root
        # and the daemon are the same user
        libc = ctypes.CDLL(None, use_errno=True)
        serial = libc.syscall(248, b"user", b"dm-qcow-test:%d" % os.getpid(),
                              PASS.encode(), len(PASS), -4)
        if serial > 0:
            libc.syscall(250, 5, serial, 0x3f3f0000)
            forms.append({"qom-type": "secret_keyring", "id": "s",
                          "serial": serial})
        for form in forms:
            c.cmd(ADD, **form)
            c.cmd(NODE, **qcow2("n", path, **encrypt("s")))
            c.cmd("blockdev-del", node_name="n")
            c.cmd(DEL, id="s")
        if serial > 0:
            libc.syscall(250, 9, serial, -4)
        c.cmd(ADD, **secret("s", file=d.path("newline")))
        e = c.err(NODE, **qcow2("n", path, **encrypt("s")))
        assert e["desc"].startswith("Invalid password"), e
        with open(d.path("large"), "wb") as f:
            f.truncate(1 << 20)
        e = c.err(ADD, **secret("l", file=d.path("large")))
        assert "more than 524288 bytes" in e["desc"], e


def test_backing():
    """layers have keys of their own"""
    with Daemon() as d, d.client() as c:
        base = luks(d, "base")
        top = d.image("top", opts=("-b", base, "-F", "qcow2"))
        both = luks(d, "both", ("-b", base, "-F", "qcow2"), password="other")
        c.cmd(ADD, **secret("s", PASS))
        c.cmd(ADD, **secret("o", "other"))
        e = c.err(NODE, **qcow2("n", top))
        assert "key-secret' is required" in e["desc"], e
        assert base in e["desc"] + e["data"]["hint"], e
        assert e["data"]["errno"] != 126, e
        below = {k: v for k, v in qcow2("b", base, **encrypt("s")).items()}
        c.cmd(NODE, **qcow2("n", top, backing=below))
        c.cmd("blockdev-del", node_name="n")
        c.err(NODE, **qcow2("n", both, backing=below, **encrypt("s")))
        c.err(NODE, **qcow2("n", both, **encrypt("o")))
        c.cmd(NODE, **qcow2("n", both, backing=below, **encrypt("o")))
        c.cmd("blockdev-del", node_name="n")
        # And by reference
        c.cmd(NODE, **dict(below, **{"read-only": True}))
        c.cmd(NODE, **qcow2("n", both, backing="b", **encrypt("o")))
        c.cmd("blockdev-del", node_name="n")
        c.cmd("blockdev-del", node_name="b")


def memory_of(pid):
    """All that a process can write to"""
    with open("/proc/%d/maps" % pid, encoding="ascii") as maps, \
            open("/proc/%d/mem" % pid, "rb", buffering=0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if "rw" not in mode or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                mem.seek(start)
                while start < end:
                    data = mem.read(min(end - start, 1 << 24))
                    if not data:
                        break
                    start += len(data)
                    yield data
            except OSError:
                pass


def test_memory():
    """a passphrase is in the daemon's memory while it is an object, only"""
    word = "correct horse " + os.urandom(12).hex()
    text = base64.b64encode(word.encode())
    with Daemon() as d, d.client() as c:
        path = luks(d, password=word)

        def found():
            c.cmd("query-version")  # it wipes after it has answered
            return sum(m.count(word.encode()) + m.count(text[:24])
                       for m in memory_of(d.proc.pid))
        try:
            found()
        except PermissionError as e:
            raise Skip("memory of the daemon can't be read") from e
        for form in (secret("s", word),
                     secret("s", text.decode(), format="base64")):
            c.cmd(ADD, **form)
            eq(found(), 1, "the object")
            c.cmd(NODE, **qcow2("n", path, **encrypt("s")))
            eq(found(), 1, "the object, after its use")
            c.err(ADD, **secret("s", word))
            c.err(ADD, **secret("t", word, bogus=1))
            c.send(json.dumps({"execute": "no-such", "arguments":
                               secret("t", word)}))
            assert "error" in c.reply()
            eq(found(), 1, "after requests that failed")
            c.cmd(DEL, id="s")
            eq(found(), 0, "after object-del")
            c.cmd("blockdev-del", node_name="n")
            eq(found(), 0)


def test_no_leak():
    """descriptors and memory, whatever goes wrong"""
    with Daemon() as d, d.client() as c:
        path = luks(d)

        def fds():
            return len(os.listdir("/proc/%d/fd" % d.proc.pid))
        c.cmd(ADD, **secret("s", PASS))
        c.cmd(ADD, **secret("w", "wrong"))
        c.cmd(NODE, **qcow2("n", path, **encrypt("s")))
        c.cmd("blockdev-del", node_name="n")
        before = fds()
        for _ in range(5):
            c.err(NODE, **qcow2("n", path))
            c.err(NODE, **qcow2("n", path, **encrypt("w")))
            c.err(NODE, **qcow2("1n", path, **encrypt("s")))
            c.cmd(NODE, **qcow2("n", path, **encrypt("s")))
            c.cmd("blockdev-del", node_name="n")
        eq(fds(), before)
        eq(c.cmd("query-named-block-nodes"), [])


run(globals())
