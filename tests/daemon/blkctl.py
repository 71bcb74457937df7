#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The command, against a stand-in for the daemon that plays back answers."""
import ctypes
import json
import os
import pty
import signal
import socket
import subprocess
import tempfile
import threading

import qmptest
from qmptest import BIN, eq

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 2, "micro": 0},
                                "package": "blkctld test"},
                    "capabilities": []}}
HANG_UP = "hang up"
OK = {"return": {}}
DEVICE = {
    "id": "disk", "node-name": "disk", "name": "disk",
    "device": "/dev/mapper/disk", "major": 253, "minor": 7, "managed": True,
    "mode": "rw", "writable": True, "active": True, "session": True,
    "host-full": False, "leaked": False, "corrupt": False, "errno": 0,
    "cluster-size": 65536, "granted": 1500, "consumed": 3, "freed": 0,
    "parked": 0, "generation": 1, "stats": {"read-mapped": 5},
    "size": 3 * 2**29, "image": {"filename": "/srv/disk.qcow2", "format": "qcow2",
              "virtual-size": 3 * 2**29, "cluster-size": 65536}}


def error(code, desc, hint=None, errno=5, cls="GenericError"):
    data = {"code": code, "errno": errno}
    if hint:
        data["hint"] = hint
    return {"error": {"class": cls, "desc": desc, "data": data}}


def devices(*changes):
    return {"query-device-mapper": [{"return": [{**DEVICE, **c}
                                                for c in changes]}]}


class FakeDaemon:
    """answers: for a command the list of answers to its calls, the last one
    again and again; an answer is a message, or a list of messages of which
    the last one is the answer. Keeps the calls in self.calls."""

    def __init__(self, answers, greeting=GREETING):
        self.answers = {k: list(v) for k, v in answers.items()}
        self.greeting = greeting
        self.calls = []
        self.dir = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.dir.name, "sock")
        self.image = os.path.join(self.dir.name, "image")
        with open(self.image, "wb"):
            pass
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen()

    def __enter__(self):
        threading.Thread(target=self.loop, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.dir.cleanup()

    def loop(self):
        while True:
            try:
                conn = self.server.accept()[0]
            except OSError:
                return
            try:
                self.serve(conn)
            except (BrokenPipeError, ConnectionResetError):
                pass

    def serve(self, conn):
        with conn, conn.makefile("rw", encoding="utf-8") as f:
            print(json.dumps(self.greeting), file=f, end="\r\n", flush=True)
            for line in f:
                request = json.loads(line)
                if request["execute"] != "qmp_capabilities":
                    self.calls.append((request["execute"],
                                       request.get("arguments")))
                todo = self.answers.get(request["execute"], [OK])
                reply = todo.pop(0) if len(todo) > 1 else todo[0]
                for msg in reply if isinstance(reply, list) else [reply]:
                    if msg == HANG_UP:
                        return
                    if "event" not in msg:
                        msg = {**msg, "id": request.get("id")}
                    print(json.dumps(msg), file=f, end="\r\n", flush=True)

    def commands(self):
        return [c[0] for c in self.calls]

    def run(self, *args, **kw):
        return blkctl("--socket", self.path, *args, **kw)


def blkctl(*args, code=0, stdin=b""):
    """Runs it, without a terminal; returns standard output and error."""
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    p = subprocess.run([os.path.join(BIN, "blkctl"), *args], env=env,
                       input=stdin, capture_output=True,
                       start_new_session=True, timeout=qmptest.PATIENCE,
                       check=False)
    out, err = p.stdout.decode(), p.stderr.decode()
    eq(p.returncode if code is not None else code, code, "exit code of %s\n%s%s" % (args, out, err))
    return out, err


def complete(*words):
    return blkctl("--complete", str(len(words) - 1), *words)[0].split()


def test_create():
    """create adds a node and an export, and prints the path"""
    with FakeDaemon(devices()) as d:
        out, err = d.run("create", "vm.1", d.image)
        eq((out, err), ("/dev/mapper/vm.1\n", ""))
        eq(d.calls[1:], [
            ("blockdev-add", {
                "driver": "qcow2", "node-name": "vm.1", "read-only": False,
                "file": {"driver": "file", "filename": d.image}}),
            ("block-export-add", {
                "type": "device-mapper", "id": "vm.1", "node-name": "vm.1",
                "name": "vm.1", "writable": True})])


def test_create_options():
    """create passes its options on, wherever they stand"""
    with FakeDaemon(devices()) as d:
        d.run("-r", "create", "--no-space-timeout=0", "x", d.image, "-f",
              "qcow2")
        eq(d.calls[1][1]["read-only"], True)
        eq(d.calls[2][1]["writable"], False)
        eq(d.calls[2][1]["no-space-timeout"], 0)


def test_create_snapshot():
    """create --snapshot is read-only; policies go to the daemon"""
    with FakeDaemon(devices()) as d:
        d.run("create", "x", d.image, "--snapshot", "before",
              "--allow-external")
        eq(d.calls[1][1]["read-only"], True)
        eq(d.calls[1][1]["allow-external"], True)
        eq(d.calls[2][1]["writable"], False)
        eq(d.calls[2][1]["snapshot"], "before")
        assert "invalidate-bitmaps" not in d.calls[2][1]
        d.run("create", "y", d.image, "--invalidate-bitmaps")
        eq(d.calls[-1][1]["invalidate-bitmaps"], True)
        eq(d.calls[-1][1]["writable"], True)
        assert "allow-external" not in d.calls[-2][1]


def test_resize():
    """resize knows sizes, signs and suffixes"""
    old = 3 * 2**29
    for text, want in (("2G", 2**31), ("+512", old + 512), ("+1k", old + 1024),
                       ("1.5T", 3 * 2**39), ("2147483648", 2**31),
                       ("2147483648B", 2**31), ("+0.5G", old + 2**29),
                       ("1.6G", 1717986816), (str(old), old),
                       ("+1P", old + 2**50)):
        with FakeDaemon(devices({})) as d:
            eq(d.run("resize", "disk", text), ("", ""))
            eq(d.calls[1:], [("block_resize", {"node-name": "disk",
                                               "size": want})])
    for args in (["disk", "-512M", "--shrink"], ["--shrink", "disk", "-512M"],
                 ["disk", "--shrink", "--", "-512M"], ["disk", "1G",
                                                       "--shrink"]):
        with FakeDaemon(devices({})) as d:
            doc = json.loads(d.run("--json", "resize", *args)[0])
            eq(doc["device"], {"name": "disk", "size": 2**30})
            eq(d.calls[-1][1], {"node-name": "disk", "size": 2**30,
                                "shrink": True})
    with FakeDaemon(devices({})) as d:
        for bad in ("", "x", "1X", "1GG", "+", "-", "+-1G", "1..5G", "0x10",
                    ".5G", "513", "+1", "-2G", "-1536M", "9E", "99999999999P",
                    "1 G"):
            d.run("resize", "disk", bad, "--shrink", code=2)
        for smaller in ("1G", "-1K"):
            _, err = d.run("resize", "disk", smaller, code=2)
            assert "--shrink" in err, err
        d.run("resize", "other", "1G", code=5)
        eq(set(d.commands()), {"query-device-mapper"})
    unmanaged = {k: v for k, v in DEVICE.items()
                 if k not in ("id", "node-name", "size", "image")}
    with FakeDaemon({"query-device-mapper": [{"return": [unmanaged]}]}) as d:
        d.run("resize", "disk", "1G", code=1)


def test_create_json():
    """create in JSON"""
    with FakeDaemon(devices()) as d:
        out, _ = d.run("--json", "create", "x", d.image)
        eq(json.loads(out), {
            "schema-version": 1, "warnings": [],
            "device": {"name": "x", "path": "/dev/mapper/x",
                       "image": d.image, "writable": True}})


def test_create_undone():
    """create removes its node when the export fails"""
    answers = {**devices(), "block-export-add": [
        error("busy", "it is busy", "wait", 16)]}
    with FakeDaemon(answers) as d:
        out, err = d.run("create", "x", d.image, code=4)
        eq((out, err), ("", "blkctl: create: it is busy\nhint: wait\n"))
        eq(d.calls[-1], ("blockdev-del", {"node-name": "x"}))


ADD_OBJECT = {"qom-type": "secret", "id": None, "format": "base64",
              "data": "b3BlbiBzZXNhbWU="}
NO_KEY = error("failed", "Parameter 'encrypt.key-secret' is required for "
               "cipher", errno=126)
WRONG_KEY = error("failed", "Invalid password", errno=129)


def with_key(calls, objects):
    """There is one blockdev-add for each secret, which is deleted again"""
    eq([c[0] for c in calls], ["object-add", "blockdev-add", "object-del"] *
       objects)
    for i in range(0, len(calls), 3):
        name = calls[i][1]["id"]
        assert name, calls
        eq(calls[i + 1][1]["encrypt"], {"format": "luks",
                                        "key-secret": name})
        eq(calls[i + 2][1], {"id": name})


def test_create_key_file():
    """create takes a passphrase from a file, from standard input, or a keyring"""
    with FakeDaemon(devices()) as d:
        key = d.dir.name + "/key"
        with open(key, "w", encoding="ascii") as f:
            f.write("open sesame")
        d.run("create", "x", d.image, "--key-file", key)
        with_key(d.calls[1:4], 1)
        eq({**d.calls[1][1], "id": None}, ADD_OBJECT)
        eq(d.calls[4][0], "block-export-add")
    for data, text in ((b"open sesame", "b3BlbiBzZXNhbWU="), (b"a", "YQ=="),
                       (b"ab", "YWI="), (b"abc", "YWJj"),
                       (b"\0\xff\n", "AP8K")):
        with FakeDaemon(devices()) as d:
            d.run("create", "x", d.image, "--key-file=-", stdin=data)
            eq(d.calls[1][1]["data"], text)
    name = "dm-qcow-test:%d" % os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)
    serial = libc.syscall(248, b"user", name.encode(), b"open sesame", 11, -4)
    with FakeDaemon(devices()) as d:
        _, err = d.run("create", "x", d.image, "--key-keyring", name + "x",
                       code=5 if serial > 0 else None)
        assert "cannot read key" in err, err
        eq(d.commands(), ["query-device-mapper"])
    if serial > 0:
        with FakeDaemon(devices()) as d:
            d.run("create", "x", d.image, "--key-keyring", name)
            with_key(d.calls[1:4], 1)
            eq({**d.calls[1][1], "id": None}, ADD_OBJECT)
        libc.syscall(250, 9, serial, -4)


def test_create_bad_key_file():
    """create says what is wrong with a key file, and does nothing"""
    with FakeDaemon(devices()) as d:
        key = d.dir.name + "/key"
        d.run("create", "x", d.image, "--key-file", key, code=5)
        for data in b"", b"x" * (1 << 20):
            with open(key, "wb") as f:
                f.write(data)
            d.run("create", "x", d.image, "--key-file", key, code=1)
        d.run("create", "x", d.image, "--key-file", d.dir.name, code=1)
        _, err = d.run("create", "x", d.image, "--key-file", key,
                       "--key-keyring", "y", code=2)
        assert "exclude each other" in err, err
        eq(set(d.commands()), {"query-device-mapper"})


def test_create_wrong_key():
    """create with a wrong key leaves no secret, and hints at a newline"""
    with FakeDaemon({**devices(), "blockdev-add": [WRONG_KEY]}) as d:
        _, err = d.run("create", "x", d.image, "--key-file=-", code=1,
                       stdin=b"open sesame\n")
        with_key(d.calls[1:], 1)
        assert "Invalid password\nhint: the key ends with a newline" in err, err


def test_create_no_terminal():
    """an encrypted image, and nobody to ask: create says what to do"""
    with FakeDaemon({**devices(), "blockdev-add": [NO_KEY]}) as d:
        _, err = d.run("create", "x", d.image, code=1)
        eq(err, "blkctl: create: '%s' is encrypted, and there is no terminal "
           "to ask for its passphrase\nhint: --key-file FILE, or "
           "--key-keyring DESCRIPTION\n" % d.image)
        eq(d.commands(), ["query-device-mapper", "blockdev-add"])


def on_terminal(d, answers):
    """Runs create on a terminal; its exit status and all that was shown"""
    pid, fd = pty.fork()
    if not pid:
        # a shell ignores it for what it starts in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(os.path.join(BIN, "blkctl"),
                 ["blkctl", "--socket", d.path, "create", "x", d.image])
    shown = b""
    asked = 0
    while True:
        try:
            data = os.read(fd, 1000)
        except OSError:
            break
        if not data:
            break
        shown += data
        if shown.count(b"Passphrase for ") > asked:
            os.write(fd, answers[asked])
            asked += 1
    os.close(fd)
    return os.waitpid(pid, 0)[1], shown.decode()


def test_create_asks():
    """create asks for a passphrase when it is needed, three times"""
    good, bad = b"open sesame\n", b"wrong\n"
    for answers, replies, status in (
            ([good], [NO_KEY, OK], 0),
            ([bad, bad, good], [NO_KEY, WRONG_KEY, WRONG_KEY, OK], 0),
            ([bad, bad, bad], [NO_KEY, WRONG_KEY], 1)):
        with FakeDaemon({**devices(), "blockdev-add": replies}) as d:
            got, shown = on_terminal(d, answers)
            eq(os.waitstatus_to_exitcode(got), status, shown)
            assert "sesame" not in shown and "wrong\r" not in shown, shown
            eq(shown.count("that is not the passphrase"), len(answers) - 1)
            with_key(d.calls[2:2 + 3 * len(answers)], len(answers))
            if not status:
                assert shown.endswith("/dev/mapper/x\r\n"), shown
                eq({**d.calls[-4][1], "id": None}, ADD_OBJECT)
    with FakeDaemon({**devices(), "blockdev-add": [NO_KEY]}) as d:
        got, shown = on_terminal(d, [b"abc\3"])
        eq(os.WTERMSIG(got), 2, shown)
        eq(d.commands(), ["query-device-mapper", "blockdev-add"])


def test_create_name_taken():
    """create does nothing when the name is taken"""
    with FakeDaemon(devices({})) as d:
        _, err = d.run("create", "disk", d.image, code=4)
        assert "exists already, for image '/srv/disk.qcow2'" in err, err
        eq(d.commands(), ["query-device-mapper"])


def test_node_names():
    """names that QEMU would not allow for a node get another one"""
    for name in "1st", "a b", "n" * 32, "ä":
        with FakeDaemon(devices()) as d:
            d.run("create", name, d.image)
            node = d.calls[1][1]["node-name"]
            assert node.startswith("device-") and len(node) <= 31, node
            eq(d.calls[2][1]["name"], name)


def test_images():
    """create looks at what the image is"""
    with FakeDaemon(devices()) as d:
        d.run("create", "x", d.image + ".not", code=5)
        d.run("create", "x", d.dir.name, code=1)
        d.run("create", "x", "/dev/null", code=1)
        eq(d.calls, [])
        os.symlink("image", d.dir.name + "/link")
        d.run("create", "x", d.dir.name + "/link")
        eq(d.calls[1][1]["file"]["filename"], d.image)


def test_remove():
    """remove waits for the event, before or after the answer"""
    event = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": "disk"}}
    other = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": "other"}}
    for answer in [other, event, OK], [OK, other, event]:
        with FakeDaemon({**devices({}), "block-export-del": [answer]}) as d:
            eq(d.run("remove", "disk"), ("", ""))
            eq(d.calls[1:], [
                ("block-export-del", {"id": "disk", "mode": "safe"}),
                ("blockdev-del", {"node-name": "disk"})])


def test_remove_foreign():
    """remove leaves nodes alone that have names of their own"""
    event = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": "exp"}}
    with FakeDaemon({**devices({"id": "exp", "node-name": "mine"}),
                     "block-export-del": [[event, OK]]}) as d:
        d.run("remove", "disk")
        eq(d.commands(), ["query-device-mapper", "block-export-del"])


def test_remove_busy():
    """remove says who holds a device, and removes nothing"""
    with FakeDaemon({**devices({}), "block-export-del": [
            error("busy", "/dev/mapper/disk is mounted at /mnt")]}) as d:
        _, err = d.run("remove", "disk", code=4)
        eq(err, "blkctl: remove: /dev/mapper/disk is mounted at /mnt\n")
        eq(d.commands(), ["query-device-mapper", "block-export-del"])


def test_remove_node_stays():
    """remove warns when the daemon keeps the image"""
    event = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": "disk"}}
    with FakeDaemon({**devices({}), "block-export-del": [[event, OK]],
                     "blockdev-del": [error("busy", "in use")]}) as d:
        out, _ = d.run("remove", "--json", "disk")
        doc = json.loads(out)
        eq(doc["device"], {"name": "disk"})
        eq(len(doc["warnings"]), 1)


def test_unmanaged():
    """a device that the daemon does not manage is shown, not removed"""
    foreign = {k: v for k, v in DEVICE.items()
               if k not in ("id", "node-name", "image")}
    foreign["managed"] = False
    with FakeDaemon({"query-device-mapper": [{"return": [foreign]}]}) as d:
        out, err = d.run("list", "-n", "-o", "NAME,IMAGE,MANAGED")
        eq(out.split(), ["disk", "no"])
        assert "not managed" in err, err
        d.run("remove", "disk", code=1)


def test_list():
    """list, bare or not, with columns and sizes"""
    with FakeDaemon(devices({}, {"name": "b"})) as d:
        table = ("NAME SIZE MODE FORMAT IMAGE\n"
                 "disk 1.5G rw   qcow2  /srv/disk.qcow2\n"
                 "b    1.5G rw   qcow2  /srv/disk.qcow2\n")
        eq(d.run(), (table, ""))
        eq(d.run("list"), (table, ""))
        eq(d.run("-n", "-o", "size,name", "-b")[0],
           "1610612736 disk\n1610612736 b\n")
        d.run("-o", "NAME,NONE", code=2)


def test_list_json():
    """list in JSON has the whole model"""
    with FakeDaemon(devices({"host-full": True})) as d:
        doc = json.loads(d.run("--json")[0])
        want = {**DEVICE, "host-full": True, "path": "/dev/mapper/disk"}
        del want["device"]
        eq(doc["devices"], [want])
        eq(doc["warnings"], ["device 'disk': the host has no space left"])


def test_sizes():
    """sizes for people"""
    for size, text in ((0, "0B"), (512, "512B"), (1023, "1023B"),
                       (1024, "1K"), (1536, "1.5K"), (10 * 2**30, "10G"),
                       (2**40 + 2**39, "1.5T"), (2**63 - 1, "8E")):
        with FakeDaemon(devices({"size": size})) as d:
            eq(d.run("-n", "-o", "SIZE")[0].strip(), text)


def test_show():
    """show prints what is known, in lines or in JSON"""
    with FakeDaemon(devices({})) as d:
        lines = dict(line.rsplit(maxsplit=1)
                     for line in d.run("show", "disk")[0].splitlines())
        eq(lines["size"], "1.5G")
        eq(lines["read-mapped"], "5")
        eq(json.loads(d.run("show", "--json", "disk")[0])["device"]["stats"],
           {"read-mapped": 5})
        d.run("show", "other", code=5)


def test_show_layers():
    """show prints the chain; list has columns for it"""
    layers = [{"filename": "/a", "format": "qcow2", "node-name": "a",
               "data-file": "/d"},
              {"filename": "/b", "format": "raw", "node-name": "b"}]
    dev = {"layers": layers, "snapshot": "s",
           "image": {**DEVICE["image"], "backing-depth": 1}}
    with FakeDaemon(devices(dev)) as d:
        out = [line.split(maxsplit=2) for line in
               d.run("show", "disk")[0].splitlines()]
        assert ["layer", "0", "/a (qcow2, data in /d)"] in out, out
        assert ["layer", "1", "/b (raw)"] in out, out
        assert ["snapshot", "s"] in out, out
        eq(d.run("-n", "-o", "DEPTH,SNAPSHOT")[0].split(), ["1", "s"])
    with FakeDaemon(devices({"layers": layers[1:]})) as d:
        assert "layer" not in d.run("show", "disk")[0]


def test_qmp():
    """qmp sends what it is told and prints the answer"""
    with FakeDaemon({"query-x": [{"return": [1, None]}]}) as d:
        out, _ = d.run("qmp", "query-x", '{"a": {"b": 1}}')
        eq(json.loads(out), [1, None])
        eq(d.calls, [("query-x", {"a": {"b": 1}})])
        doc = json.loads(d.run("--json", "qmp", "query-x")[0])
        eq(doc["return"], [1, None])
        for bad in "[1]", "{", '"x"', '{"a": 1, "a": 2}':
            d.run("qmp", "query-x", bad, code=2)


def test_errors():
    """each class of error has its exit code"""
    for code, number in (("failed", 1), ("usage", 2), ("unavailable", 3),
                         ("busy", 4), ("not-found", 5), ("strange", 1)):
        with FakeDaemon({"x": [error(code, "so it is", "do that")]}) as d:
            _, err = d.run("qmp", "x", code=number)
            eq(err, "blkctl: qmp: so it is\nhint: do that\n")
            doc = json.loads(d.run("--json", "qmp", "x", code=number)[0])
            eq(doc["error"]["message"], "so it is")
            eq(doc["error"]["hint"], "do that")
    plain = {"error": {"class": "CommandNotFound", "desc": "unknown"}}
    with FakeDaemon({"x": [plain]}) as d:
        d.run("qmp", "x", code=2)


def test_no_daemon():
    """no daemon, or something else: exit code 3"""
    _, err = blkctl("--socket", "/nonexistent/sock", "list", code=3)
    assert "hint: systemctl start blkctld\n" in err, err
    blkctl("--socket", "x" * 200, "list", code=2)
    with FakeDaemon({}, greeting={"hello": 1}) as d:
        d.run("list", code=3)
    with FakeDaemon({"x": [HANG_UP]}) as d:
        _, err = d.run("qmp", "x", code=3)
        assert "closed the connection" in err, err


def test_usage():
    """mistakes are usage errors, with a hint"""
    for args, hint in ((["lst"], "did you mean 'list'"),
                       (["attach"], "did you mean 'create'"),
                       (["xyzzy"], "blkctl --help"),
                       (["list", "--frob"], "blkctl list --help"),
                       (["list", "-x"], ""), (["list", "a"], ""),
                       (["create"], "blkctl create --help"),
                       (["create", "-f"], ""), (["show"], ""),
                       (["create", "--json=1", "a", "b"], ""),
                       (["create", "a", "b", "--no-space-timeout=x"], ""),
                       (["create", "a", "b", "--no-space-timeout=86401"], ""),
                       (["create", "a", "b", "--no-space-timeout=-1"], ""),
                       (["create", "-f", "raw", "a", "b"], "")):
        out, err = blkctl(*args, code=2)
        eq(out, "")
        assert err.startswith("blkctl: ") and hint in err, err
        doc = json.loads(blkctl("--json", *args, code=2)[0])
        eq(doc["error"]["code"], "usage")


def test_help():
    """help and version, of everything"""
    for args in [], ["create"], ["remove"], ["resize"], ["list"], ["show"], \
            ["qmp"], ["doctor"]:
        assert "usage: blkctl" in blkctl(*args, "--help")[0]
        assert "usage: blkctl" in blkctl("-h", *args)[0]
    assert blkctl("--version")[0].startswith("blkctl ")


def test_full_output():
    """a full disk behind standard output is an error"""
    with open("/dev/full", "w", encoding="ascii") as full:
        p = subprocess.run([os.path.join(BIN, "blkctl"), "--version"],
                           stdout=full, stderr=subprocess.DEVNULL,
                           check=False)
    eq(p.returncode, 1)


def test_completion():
    """completion knows verbs, options, words, devices and commands"""
    eq(complete("blkctl", "rem"), ["remove"])
    eq(complete("blkctl", "re"), ["remove", "resize"])
    eq(complete("blkctl", "resize", "disk", "-1G", "--s"),
       ["--socket", "--shrink"])
    eq(complete("blkctl", "create", "--sn"), ["--snapshot"])
    eq(complete("blkctl", "create", "--no"), ["--no-space-timeout"])
    eq(complete("blkctl", "create", "-f", ""), ["qcow2"])
    eq(complete("blkctl", "create", "x", ""), [":file"])
    eq(complete("blkctl", "create", "--key"), ["--key-file", "--key-keyring"])
    eq(complete("blkctl", "create", "--key-file", ""), [":file"])
    eq(complete("blkctl", "--socket", ""), [":file"])
    with FakeDaemon({**devices({}), "query-commands": [
            {"return": [{"name": "quit"}, {"name": "query-x"}]}]}) as d:
        eq(complete("blkctl", "--socket", d.path, "remove", ""), ["disk"])
        eq(complete("blkctl", "--socket", d.path, "qmp", "query-"),
           ["query-x"])
        eq(complete("blkctl", "--socket", d.path, "resize", ""), ["disk"])
    eq(complete("blkctl", "--socket", "/nonexistent", "show", ""), [])


def test_completion_of_images():
    """completion knows the verbs behind image, and their options"""
    eq(complete("blkctl", "im"), ["image"])
    verbs = complete("blkctl", "image", "")
    assert "measure" in verbs and "create" not in complete(
        "blkctl", "image", "me"), verbs
    eq(complete("blkctl", "image", "me"), ["measure"])
    eq(complete("blkctl", "image", "measure", "--si"), ["--size"])
    eq(complete("blkctl", "image", "measure", "--output", ""),
       ["human", "json"])
    eq(complete("blkctl", "image", "measure", "--output", "=", "j"),
       ["json"])
    eq(complete("blkctl", "image", "measure", "--output", "="),
       ["human", "json"])
    eq(complete("blkctl", "image", "measure", "-O", "q"), ["qcow2"])
    eq(complete("blkctl", "image", "measure", "-O", "raw", ""), [":file"])
    for verb in verbs:
        opts = complete("blkctl", "image", verb, "--")
        assert "--json" in opts and len(opts) > 4, (verb, opts)


def test_image_suggestions():
    """a verb of images that stands alone, or is mistyped, is named"""
    _, err = blkctl("measure", code=2)
    assert "did you mean 'image measure'?" in err, err
    _, err = blkctl("image", "measur", code=2)
    assert "did you mean 'measure'?" in err, err
    _, err = blkctl("image", "ls", code=2)
    assert "'list'" not in err, err


qmptest.run(globals())
