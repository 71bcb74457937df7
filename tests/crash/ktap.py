# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs of the crash test share: where things are, and KTAP."""
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
CHECK = os.path.join(REPO, "build/user/gcc/crash/check")


class Test:
    """KTAP lines, numbered."""

    def __init__(self):
        self.number = self.failed = 0

    def result(self, good, name, text=""):
        self.number += 1
        self.failed += not good
        print("%s %d %s" % ("ok" if good else "not ok", self.number, name))
        for line in text.splitlines():
            print("# " + line)
        sys.stdout.flush()

    def end(self):
        print("1..%d" % self.number)
        return 1 if self.failed or not self.number else 0
