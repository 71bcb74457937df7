# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What images may have, and which of it the tests below tests/device try.
# TEST_FEATURES in the environment takes the place of the table: names, or
# "every".

features_on="
	plain		one image with nothing special
	errors		damaged images are refused, or their I/O fails
	bitmaps		persistent bitmaps that do not record
	zero		write zeroes without data
	discard		discard
	backing		backing chains
	compressed	zlib
	zstd		zstd
	extl2		extended L2 entries
	datafile	external data files
	snapshots	internal snapshots
	luks		encryption
"

# has_feature NAME
has_feature() {
	case ${TEST_FEATURES-} in
	every) return 0 ;;
	"") grep -qE "^[[:space:]]*$1[[:space:]]" <<<"$features_on" ;;
	*) [[ " ${TEST_FEATURES//,/ } " == *" $1 "* ]] ;;
	esac
}

# feature NAME[+NAME]... COMMAND...: only if all of them are switched on
feature() {
	local names=$1 f
	shift
	for f in ${names//+/ }; do
		has_feature "$f" ||
			{ skip "$names: $*" "$f is not switched on"; return; }
	done
	"$@"
}
