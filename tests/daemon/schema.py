# SPDX-License-Identifier: GPL-2.0-or-later
"""query-qmp-schema: consistent in itself, with QEMU's, and with the replies."""
import json

from qmptest import Daemon, Qemu, Skip, eq, run

BUILTINS = {"str", "int", "number", "bool", "null", "any"}
JSON_TYPES = {"str": str, "int": int, "number": (int, float), "bool": bool,
              "null": type(None)}

# Commands, events and members that QEMU does not have
OURS = {
    "query-device-mapper", "DEVICE_MAPPER_STATE_CHANGE",
    "BLOCK_EXPORT_DELETED.warning",
    "block-export-add.type=device-mapper",
    "query-block-exports.type=device-mapper",
    "blockdev-add.allow-external", "block_resize.shrink",
}
# Members of newer versions than the one that is compared with
NEWER = {"blockdev-add.active", "blockdev-add.discard-no-unref",
         "blockdev-add.aio-max-batch", "block-export-add.allow-inactive",
         "query-named-block-nodes.active", "query-named-block-nodes.children"}


class Schema:
    def __init__(self, client):
        self.list = client.cmd("query-qmp-schema")
        self.by_name = {x["name"]: x for x in self.list}

    def of(self, meta):
        return {x["name"]: x for x in self.list if x["meta-type"] == meta}

    def check(self, name, value, where):
        """Is it a value of this type?"""
        t = self.by_name[name]
        getattr(self, "check_" + t["meta-type"])(t, value, where)

    def check_builtin(self, t, value, where):
        want = JSON_TYPES.get(t["name"])
        assert want is None or (
            isinstance(value, want) and
            (t["name"] == "bool" or not isinstance(value, bool))), \
            (where, value)

    def check_enum(self, t, value, where):
        assert value in t["values"], (where, value)

    def check_array(self, t, value, where):
        assert isinstance(value, list), (where, value)
        for i, v in enumerate(value):
            self.check(t["element-type"], v, "%s[%d]" % (where, i))

    def check_alternate(self, t, value, where):
        for m in t["members"]:
            try:
                return self.check(m["type"], value, where)
            except AssertionError:
                pass
        raise AssertionError((where, value))

    def check_object(self, t, value, where):
        assert isinstance(value, dict), (where, value)
        members = {m["name"]: m for m in t["members"]}
        for v in t.get("variants", []):
            if v["case"] == value.get(t["tag"]):
                members.update((m["name"], m) for m in
                               self.by_name[v["type"]]["members"])
        for name, m in members.items():
            if name in value:
                self.check(m["type"], value[name], where + "." + name)
            else:
                assert "default" in m, (where, name + " is missing")
        assert not set(value) - set(members), (where, set(value) -
                                               set(members))


def test_consistent():
    """every type that is named exists, every name is used once"""
    with Daemon() as d, d.client() as c:
        s = Schema(c)
        eq(len(s.by_name), len(s.list), "names")
        eq(set(s.of("builtin")), BUILTINS)
        used = set()
        for x in s.list:
            refs = [x[k] for k in ("arg-type", "ret-type", "element-type")
                    if k in x]
            refs += [m["type"] for m in x.get("members", []) if "type" in m]
            refs += [v["type"] for v in x.get("variants", [])]
            for r in refs:
                assert r in s.by_name, (x["name"], r)
            used.update(refs)
            if x["meta-type"] in ("command", "event"):
                eq(s.by_name[x["arg-type"]]["meta-type"], "object")
                continue
            assert x["name"] in BUILTINS or x["name"][0] in "0123456789[", x
            if x["meta-type"] == "enum":
                eq([m["name"] for m in x["members"]], x["values"])
            if "tag" in x:
                tag = [m for m in x["members"] if m["name"] == x["tag"]][0]
                cases = [v["case"] for v in x["variants"]]
                eq(len(set(cases)), len(cases))
                assert set(cases) <= set(s.by_name[tag["type"]]["values"])
            if x["meta-type"] == "object":
                names = [m["name"] for m in x["members"]]
                eq(len(set(names)), len(names), x["name"])
        unused = set(s.by_name) - used - set(s.of("command")) - \
            set(s.of("event")) - BUILTINS
        eq(unused, set(), "types that nobody uses")


def test_commands():
    """query-commands lists the commands of the schema"""
    with Daemon() as d, d.client() as c:
        names = [x["name"] for x in c.cmd("query-commands")]
        eq(len(set(names)), len(names))
        eq(set(names), set(Schema(c).of("command")))


def test_replies():
    """replies are what the schema says"""
    with Daemon() as d, d.client() as c:
        s = Schema(c)
        path = d.image()
        c.cmd("blockdev-add", driver="qcow2", node_name="a",
              file={"driver": "file", "filename": path})
        c.cmd("blockdev-add", driver="qcow2", node_name="b", read_only=True,
              file={"driver": "file", "node-name": "bf", "filename":
                    d.image("v2", opts=("-o", "compat=0.10"))})
        for name in s.of("command"):
            if name.startswith("query-"):
                s.check(s.by_name[name]["ret-type"], c.cmd(name), name)
        nodes = c.cmd("query-named-block-nodes", flat=True)
        eq(len(nodes), 4)
        by = {n["node-name"]: n for n in nodes}
        eq(by["a"]["image"]["virtual-size"], 64 << 20)
        eq(by["b"]["image"]["format-specific"]["data"]["compat"], "0.10")
        eq(by["b"]["ro"], True)
        eq(by["bf"]["drv"], "file")


def same_kind(ours, theirs, a, b):
    """Arguments that fit our type fit QEMU's."""
    ta, tb = ours.by_name[a]["meta-type"], theirs.by_name[b]["meta-type"]
    if ta == "builtin" and tb == "builtin":
        return a == b or a == "any"
    return ta == tb or a == "any"


def compare(ours, theirs, a, b, where, wrong, seen):
    """Is every member of our object type a in QEMU's b, and of its kind?"""
    if (a, b) in seen:
        return
    seen.add((a, b))
    ta, tb = ours.by_name[a], theirs.by_name[b]
    mb = {m["name"]: m for m in tb["members"]}
    top = where.split(".")[0]
    their_cases = {v["case"]: v["type"] for v in tb.get("variants", [])}
    for v in ta.get("variants", []):
        path = "%s.%s=%s" % (top, ta["tag"], v["case"])
        if v["case"] in their_cases:
            compare(ours, theirs, v["type"], their_cases[v["case"]], path,
                    wrong, seen)
        elif path not in OURS:
            wrong.append(path + " is not QEMU's")
    for m in ta["members"]:
        name = m["name"]
        path = "%s.%s" % (top, name)
        if name not in mb:
            if path not in NEWER | OURS:
                wrong.append(path + " is not QEMU's")
            continue
        if not same_kind(ours, theirs, m["type"], mb[name]["type"]):
            wrong.append("%s: %s and %s" % (path, m["type"],
                                            mb[name]["type"]))
        x, y = ours.by_name[m["type"]], theirs.by_name[mb[name]["type"]]
        if x["meta-type"] == "enum":
            for v in set(x["values"]) - set(y.get("values", [])):
                if "%s=%s" % (path, v) not in OURS:
                    wrong.append("%s: value %s" % (path, v))
        if x["meta-type"] == y["meta-type"] == "object":
            compare(ours, theirs, m["type"], mb[name]["type"], path, wrong,
                    seen)


def test_qemu():
    """what has QEMU's names has QEMU's members and kinds"""
    with Daemon() as d, d.client() as c, Qemu() as q, q.client() as qc:
        ours, theirs = Schema(c), Schema(qc)
        wrong = []
        for meta, keys in (("command", ("arg-type", "ret-type")),
                           ("event", ("arg-type",))):
            for name, x in ours.of(meta).items():
                if name in OURS:
                    continue
                y = theirs.by_name.get(name)
                if not y:
                    wrong.append(name + " is not QEMU's")
                    continue
                for k in keys:
                    a, b = ours.by_name[x[k]], theirs.by_name[y[k]]
                    if a["meta-type"] == "array":
                        a = ours.by_name[a["element-type"]]
                        b = theirs.by_name[b["element-type"]]
                    if a["meta-type"] != "object":
                        continue
                    compare(ours, theirs, a["name"], b["name"], name, wrong,
                            set())
        eq(wrong, [])


def test_values():
    """every option whose value is fixed takes this value and no other"""
    fixed = {
        "discard": ("ignore", "unmap"), "detect-zeroes": ("off", "on"),
        "force-share": (False, True), "active": (True, False),
        "cache": ({"direct": False, "no-flush": False}, {"no-flush": True}),
        "pass-discard-request": (False, True),
        "pass-discard-snapshot": (True, False),
        "pass-discard-other": (False, True),
        "discard-no-unref": (False, True),
        "overlap-check": ("cached", "none"),
        "cache-clean-interval": (600, 0),
        "lazy-refcounts": (False, True),
    }
    with Daemon() as d, d.client() as c:
        args = {"driver": "qcow2", "node-name": "a",
                "file": {"driver": "file", "filename": d.image()}}
        for name, (good, bad) in fixed.items():
            c.cmd("blockdev-add", **dict(args, **{name: good}))
            c.cmd("blockdev-del", node_name="a")
            e = c.err("blockdev-add", **dict(args, **{name: bad}))
            assert "default" in e["desc"] or "header" in e["desc"], e
        c.err("blockdev-add", driver="raw", node_name="r", offset=512,
              file={"driver": "file", "filename": args["file"]["filename"]})
        for name in ("cache-size", "l2-cache-size", "refcount-cache-size",
                     "l2-cache-entry-size"):
            e = c.err("blockdev-add", **dict(args, **{name: 1 << 20}))
            assert "not supported" in e["desc"], e
        eq(c.cmd("query-named-block-nodes"), [])


run(globals())
