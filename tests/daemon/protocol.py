# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP as bytes on a socket: framing, negotiation, echoes, limits."""
import json
import socket
import time

from qmptest import Daemon, Client, PATIENCE, eq, run, wait_until

VERSION = '{"execute": "query-version", "id": %s}'


def sync(c, tag="sync"):
    """The connection still works: throws away what comes before the answer."""
    c.send(VERSION % json.dumps(tag))
    before = []
    while True:
        msg = c.reply()
        assert msg is not None, "the connection was closed"
        if msg.get("id") == tag:
            assert "return" in msg, msg
            return before
        before.append(msg)


def test_greeting():
    """greeting: version and capabilities, nothing else"""
    with Daemon() as d, d.client(negotiate=False) as c:
        eq(set(c.greeting), {"QMP"})
        eq(set(c.greeting["QMP"]), {"version", "capabilities"})
        eq(c.greeting["QMP"]["capabilities"], [])
        qemu = c.greeting["QMP"]["version"]["qemu"]
        eq(set(qemu), {"major", "minor", "micro"})
        for v in qemu.values():
            assert isinstance(v, int)


def test_negotiation():
    """nothing but qmp_capabilities before the negotiation, and that once"""
    with Daemon() as d, d.client(negotiate=False) as c:
        for name in ("query-version", "quit", "no-such-command"):
            eq(c.err(name)["class"], "CommandNotFound", name)
        eq(c.err("qmp_capabilities", enable=["oob"])["class"], "GenericError")
        eq(c.err("qmp_capabilities", enable="x")["class"], "GenericError")
        eq(c.err("qmp_capabilities", bogus=1)["class"], "GenericError")
        eq(c.err("query-version")["class"], "CommandNotFound")
        eq(c.cmd("qmp_capabilities", enable=[]), {})
        eq(c.err("qmp_capabilities")["class"], "CommandNotFound")
        c.cmd("query-version")


def test_id():
    """id: any JSON value comes back, in answers and in errors"""
    ids = [0, -1, 2 ** 63 - 1, -2 ** 63, 1.5, "", "\u00e9\U0001f600\n\"\\",
           "\0", None, True, False, [], {}, [1, [2, {"a": None}]],
           {"a": {"b": [{}]}}]
    with Daemon() as d, d.client() as c:
        for i in ids:
            c.send(json.dumps({"execute": "query-version", "id": i}))
            msg = c.reply()
            assert "return" in msg, msg
            eq(msg["id"], i)
            eq(type(msg["id"]), type(i))
            c.send(json.dumps({"execute": "nonsense", "id": i}))
            msg = c.reply()
            eq(msg["id"], i)
        c.send('{"execute": "query-version"}')
        assert "id" not in c.reply()
        # Bigger than what is kept exactly: an error, not another number
        c.send(VERSION % (2 ** 63))
        assert "error" in c.reply()


def test_members():
    """requests: unknown members, wrong types, no command"""
    cases = [
        ('{}', "QMP input lacks member 'execute'"),
        ('{"arguments": {}}', "QMP input lacks member 'execute'"),
        ('{"execute": 5}', "QMP input member 'execute' must be a string"),
        ('{"execute": "query-version", "x": 1}',
         "QMP input member 'x' is unexpected"),
        ('{"exec-oob": "query-version"}',
         "QMP input member 'exec-oob' is unexpected"),
        ('{"execute": "query-version", "arguments": []}',
         "QMP input member 'arguments' must be an object"),
        ('{"execute": "query-version", "arguments": null}',
         "QMP input member 'arguments' must be an object"),
        ('[]', "QMP input must be a JSON object"),
        ('"s" ', "QMP input must be a JSON object"),
        ('5 ', "QMP input must be a JSON object"),
        ('null ', "QMP input must be a JSON object"),
    ]
    with Daemon() as d, d.client() as c:
        for text, desc in cases:
            c.send(text)
            msg = c.reply()
            eq(msg["error"]["class"], "GenericError", text)
            eq(msg["error"]["desc"], desc, text)
            eq(msg["error"]["data"]["code"], "usage", text)


def test_arguments():
    """arguments: missing, unknown, of the wrong type, with a NUL inside"""
    with Daemon() as d, d.client() as c:
        eq(c.err("blockdev-del")["desc"], "Parameter 'node-name' is missing")
        eq(c.err("blockdev-del", node_name=1)["desc"],
           "Invalid parameter type for 'node-name', expected: string")
        eq(c.err("blockdev-del", node_name="a", b=1)["desc"],
           "Parameter 'b' is unexpected")
        eq(c.err("query-version", b=1)["desc"], "Parameter 'b' is unexpected")
        c.err("blockdev-del", node_name="a\0b")
        c.err("blockdev-del", **{"a\\b\"": 1})


def test_split():
    """a request in single bytes, and many requests in one packet"""
    with Daemon() as d, d.client() as c:
        for b in (VERSION % '"one"').encode():
            c.send(bytes([b]))
            time.sleep(0.001)
        eq(c.reply()["id"], "one")
        n = 2000
        c.send("".join(VERSION % i for i in range(n)))
        for i in range(n):
            eq(c.reply()["id"], i)


def test_order():
    """answers come in the order of the requests, slow ones too"""
    with Daemon() as d, d.client() as c:
        for i in range(50):
            c.send(json.dumps({"execute": "query-device-mapper", "id": [i]}))
            c.send(json.dumps({"execute": "blockdev-add", "id": [i, 0],
                               "arguments": {"driver": "file", "filename":
                                             "/nonexistent",
                                             "node-name": "n"}}))
            c.send(VERSION % i)
        for i in range(50):
            eq(c.reply()["id"], [i])
            eq(c.reply()["id"], [i, 0])
            eq(c.reply()["id"], i)


def test_quotes():
    """QEMU's single quotes"""
    with Daemon() as d, d.client() as c:
        c.send("{'execute': 'query-version', 'id': 'it\\'s \"so\" \\u0041'}")
        eq(c.reply()["id"], 'it\'s "so" A')
        c.send('{"execute": "query-version", "id": "it\\\'s"}')
        eq(c.reply()["id"], "it's")


def test_garbage():
    """garbage is answered with an error, and 0xFF begins anew"""
    garbage = [
        b"foo ", b"}", b"]", b",", b":", b"}}}}", b"{]", b"[}",
        b'{"execute"', b'{"execute": "query-ver', b'{"a": "\\', b"'",
        b'"', b"[[[[", b"{{{{", b'{"a": \x01}', b"\x00", b"\x00\x01\x02",
        b'{"a": "\x01"}', b'{"a": "\n"}', b'{"a": "\x80"}',
        b'{"a": "\xc0\x80"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}',
        b'{"a": "\\x"}', b'{"a": 01}', b'{"a": 1e999}', b'{"a": -}',
        b'{"a": tru}', b'{"a": 1,}', b'{"a" 1}', b'{1: 1}', b'{"a": 1 "b": 2}',
        b'{"a": 1, "a": 2}', b'{"\\u0000": 1}', b"\xfe", b"\xff\xff\xff",
        b"\xef\xbb\xbf", b"%s", b"{%s}", b"a" * 5000, b"\\",
        b"GET / HTTP/1.0\r\n\r\n",
    ]
    with Daemon() as d, d.client() as c:
        for i, g in enumerate(garbage):
            c.send(g + b"\xff")
            before = sync(c, i)
            assert before, (g, "no error")
            for msg in before:
                eq(msg["error"]["class"], "GenericError", g)
        # And with nothing but the next request behind it
        for i, g in enumerate(garbage):
            c.send(b"\xff" + g + b"\n\xff\n")
            sync(c, i)


def test_depth():
    """nesting: 1024 levels are read, 1025 are not"""
    with Daemon() as d, d.client() as c:
        deep = "[" * 1023 + "]" * 1023
        c.send(VERSION % deep)
        assert "return" in c.reply()
        c.send(VERSION % ("[" + deep + "]"))
        msg = c.reply()
        eq(msg["error"]["desc"], "JSON nesting depth limit exceeded")
        c.send(b"\xff")
        sync(c)


def test_size():
    """a request may have 1 MiB; more ends the connection, no other"""
    with Daemon() as d, d.client() as c, d.client() as other:
        c.send(VERSION % ('"' + "a" * 1000000 + '"'))
        eq(len(c.reply()["id"]), 1000000)
        try:
            c.send('{"id": "' + "a" * (2 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            msg = c.recv()
            assert "limit" in msg["error"]["desc"], msg
            eq(c.recv(), None, "end of the connection")
        except ConnectionResetError:
            pass
        sync(other)
        wait_until(lambda: d.status("VmRSS") < 200000, "memory given back")


def test_half_close():
    """a client that sends and shuts down gets its answers, then EOF"""
    with Daemon() as d, d.client() as c:
        for i in range(20):
            c.send('{"execute": "query-device-mapper", "id": %d}' % i)
        c.sock.shutdown(socket.SHUT_WR)
        for i in range(20):
            eq(c.reply()["id"], i)
        eq(c.recv(), None)


def test_gone():
    """clients that vanish with requests under way"""
    with Daemon() as d:
        for i in range(50):
            c = d.client()
            c.send('{"execute": "query-device-mapper"}' * (i % 7 + 1))
            c.close()
        with d.client() as c:
            sync(c)


def test_slow_reader():
    """a client that does not read: bounded memory, nobody else waits"""
    with Daemon() as d, d.client() as c, d.client() as other:
        sync(other)
        before = d.status("VmData")
        ask = b'{"execute": "query-qmp-schema"}'
        c.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 20000:
                c.sock.sendall(ask)
                sent += 1
        except socket.timeout:
            pass
        assert sent < 20000, "nothing held the client up"
        start = time.monotonic()
        for _ in range(20):
            sync(other)
        assert time.monotonic() - start < PATIENCE / 2
        grown = d.status("VmData") - before
        assert grown < 16384, "grown by %d KiB" % grown
        c.sock.settimeout(PATIENCE)
        for _ in range(sent):
            assert "return" in c.reply()
        sync(other)


def test_slow_reader_tiny_errors():
    """many small errors do not pile up either"""
    with Daemon() as d, d.client() as c, d.client() as other:
        before = d.status("VmData")
        c.sock.settimeout(0.5)
        try:
            for _ in range(1000):
                c.sock.sendall(b"]" * 10000)
        except socket.timeout:
            pass
        sync(other)
        assert d.status("VmData") - before < 16384


def test_connections():
    """64 connections at once; one more is told so"""
    with Daemon() as d:
        clients = [d.client() for _ in range(64)]
        extra = Client(d.sock, negotiate=None)
        eq(extra.recv()["error"]["desc"], "Too many connections")
        eq(extra.recv(), None)
        for c in clients:
            sync(c)
        clients.pop().close()

        def again():
            c = Client(d.sock, negotiate=None)
            ok = "QMP" in (c.recv() or {})
            c.close()
            return ok
        wait_until(again, "room for one more")
        for c in clients:
            c.close()


def test_idle():
    """connections that say nothing, or half a request, hold up nobody"""
    with Daemon() as d:
        idle = [d.client(negotiate=False) for _ in range(10)]
        half = [d.client() for _ in range(10)]
        for c in half:
            c.send('{"execute": "quer')
        with d.client() as c:
            sync(c)
        for c in half:
            c.send('y-version"}')
            assert "return" in c.reply()
        for c in idle + half:
            c.close()


run(globals())
