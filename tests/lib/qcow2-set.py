#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets a field of a qcow2 image, to damage it on purpose.

usage: qcow2-set.py IMAGE FIELD VALUE [FIELD VALUE]...
       qcow2-set.py IMAGE --get FIELD

FIELD: a name in the header, "l1[I]", or "l2[I]" (entry I of the table that
l1[0] names), or "@OFFSET" (eight bytes there). VALUE: an integer as Python writes it, which may use the
names eof (end of the file, rounded up to a cluster), cluster, old (the
value there), and the header's fields.
"""
import re
import struct
import sys

HEADER = {  # name: (offset, bytes)
    "magic": (0, 4), "version": (4, 4), "backing_file_offset": (8, 8),
    "backing_file_size": (16, 4), "cluster_bits": (20, 4), "size": (24, 8),
    "crypt_method": (32, 4), "l1_size": (36, 4), "l1_table_offset": (40, 8),
    "refcount_table_offset": (48, 8), "refcount_table_clusters": (56, 4),
    "nb_snapshots": (60, 4), "snapshots_offset": (64, 8),
    "incompatible_features": (72, 8), "compatible_features": (80, 8),
    "autoclear_features": (88, 8), "refcount_order": (96, 4),
    "header_length": (100, 4), "compression_type": (104, 1),
    "extension_type": (112, 4), "extension_length": (116, 4),
}
FORMATS = {1: ">B", 4: ">I", 8: ">Q"}
OFFSET = 0x00FFFFFFFFFFFE00


class Image:
    def __init__(self, path):
        self.f = open(path, "r+b")

    def read(self, where):
        self.f.seek(where[0])
        data = self.f.read(where[1]).ljust(where[1], b"\0")
        return struct.unpack(FORMATS[where[1]], data)[0]

    def write(self, where, value):
        self.f.seek(where[0])
        self.f.write(struct.pack(FORMATS[where[1]], value))

    def place(self, field):
        if field in HEADER:
            return HEADER[field]
        if field.startswith("@"):
            return int(field[1:], 0), 8
        table, index = re.fullmatch(r"(l1|l2)\[(\d+)\]", field).groups()
        start = self.read(HEADER["l1_table_offset"])
        if table == "l2":
            start = self.read((start, 8)) & OFFSET
        return start + 8 * int(index), 8

    def names(self):
        cluster = 1 << self.read(HEADER["cluster_bits"])
        self.f.seek(0, 2)
        eof = -(-self.f.tell() // cluster) * cluster
        return {"cluster": cluster, "eof": eof,
                **{name: self.read(where) for name, where in HEADER.items()}}


def main():
    image = Image(sys.argv[1])
    if sys.argv[2] == "--get":
        print(image.read(image.place(sys.argv[3])))
        return
    names = image.names()
    for field, value in zip(sys.argv[2::2], sys.argv[3::2]):
        where = image.place(field)
        names["old"] = image.read(where)
        # The expressions are the tests' own.
        image.write(where, eval(value, {"__builtins__": {}}, names))


main()
