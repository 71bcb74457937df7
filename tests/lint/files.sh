# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the checks share. Each prints the lines that break its rule and fails
# if there are any.

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." || exit 1

# files PATTERN...: of the tree, tracked or new
files() {
	git ls-files --cached --others --exclude-standard -- "$@" |
		while read -r f; do [ -f "$f" ] && echo "$f"; done
}

c_files() { files '*.c' '*.h'; }

# Files that begin with a line for a shell.
scripts() {
	files | while read -r f; do
		head -c 64 "$f" | head -n 1 | grep -q -a -E '^#!.*\b(ba)?sh\b' &&
			echo "$f"
	done
	files 'tests/*.sh'
}

# fail_if_any: passes standard input on and fails if there was some
fail_if_any() { ! grep .; }
