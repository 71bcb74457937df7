#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# KTAP; the programs are in $BIN, or in build/user/gcc.
exec python3 "$(dirname "$0")/image_held.py" "$@"
