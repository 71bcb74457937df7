#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs the tests and ends with "N passed, N failed, N skipped".
set -u

usage() {
	cat <<'USAGE'
usage: tests/run.sh [--only GROUP]... [--kernel K]... [--filter REGEX]

  --only GROUP   lint, build, sparse, dkms, model, unit, image, daemon,
                 fuzz, device, prop, crash (all)
  --kernel K     as for tests/vm/run (6.1 and 6.12); kasan and kcsan are built
                 when first used; all tests run on each that is named, some
                 only on one of the two otherwise
  --filter RE    only tests whose name matches, for example device/main

Results stay in build/test/: one KTAP file for each test, and kernel logs.
USAGE
}

TESTS=$(dirname "$(readlink -f "$0")")
REPO=$(dirname "$TESTS")
cd "$REPO" || exit 1
# Each make below stands alone, however this was started.
unset MAKEFLAGS MFLAGS MAKELEVEL

groups=() kernels=() filter=
while [ $# -gt 0 ]; do
	case $1 in
	--only) groups+=("$2") ;;
	--kernel) kernels+=("$2") ;;
	--filter) filter=$2 ;;
	*) usage; [ "$1" = --help ]; exit ;;
	esac
	shift 2
done
[ ${#groups[@]} -gt 0 ] || groups=(lint build sparse dkms model unit image daemon fuzz device prop crash)
asked=${#kernels[@]}
[ "$asked" -gt 0 ] || kernels=(6.1 6.12)
for g in "${groups[@]}"; do
	case $g in
	lint | build | sparse | dkms | model | unit | image | daemon | fuzz | device | prop | crash) ;;
	*) usage; exit 2 ;;
	esac
done

# --- results ----------------------------------------------------------------------

# Two runs in one tree do not disturb each other; the last is build/test.
mkdir -p build
out=$(mktemp -d "$REPO/build/test.XXXXXX")
ln -sfn "$(basename "$out")" build/test
find build -maxdepth 1 -name 'test.*' -mmin +180 -exec rm -rf {} +

wanted() { [[ -z $filter || $1 =~ $filter ]]; }

# any_wanted GROUP FILE...
any_wanted() {
	local group=$1 f
	shift
	for f in "$@"; do
		[ -e "$f" ] && wanted "$group/$(basename "${f%.*}")" && return 0
	done
	return 1
}

# count FILE: passed, failed and skipped tests of a KTAP file
count() {
	awk '/^1\.\.0 # SKIP/ { skip++ }
		/^ok .*# SKIP/ { skip++; next }
		/^ok / { pass++ }
		/^not ok / { fail++ }
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) }
		END {
			if (plan && plan > pass + fail + skip) fail++
			if (!(pass + fail + skip)) fail++
			print pass + 0, fail + 0, skip + 0
		}' "$1"
}

# report NAME SECONDS: one line for a test that has ended, more if it failed
report() {
	local file=$out/$1.ktap pass fail skip
	read -r pass fail skip < <(count "$file")
	if [ "$fail" -gt 0 ]; then
		printf 'FAIL %-50s %4d passed %d failed  %4d s\n' "$1" "$pass" "$fail" "$2"
		grep -v '^ok ' "$file" | head -n 60 | sed 's/^/     /'
	elif [ "$pass" = 0 ]; then
		printf 'skip %-50s %s\n' "$1" \
			"$(sed -n 's/.*# SKIP *//p' "$file" | head -n 1)"
	else
		printf 'ok   %-50s %4d tests  %4d s\n' "$1" "$pass" "$2"
	fi
}

# --- jobs -------------------------------------------------------------------------

jobs_max=$(nproc)
running=0

# spawn COMMAND...: in the background, as many at once as there are CPUs
spawn() {
	if [ "$running" -ge "$jobs_max" ]; then
		wait -n
		running=$((running - 1))
	fi
	"$@" &
	running=$((running + 1))
}

barrier() { wait; running=0; }

# ktap NAME COMMAND...: a program that prints KTAP
ktap() {
	local name=$1 file=$out/$1.ktap rc start=$SECONDS
	shift
	mkdir -p "$(dirname "$file")"
	"$@" >"$file" 2>&1 </dev/null
	rc=$?
	if [ "$rc" != 0 ] && [ "$rc" != 4 ] && ! grep -q '^not ok' "$file"; then
		echo "not ok - exit code $rc" >>"$file"
	fi
	report "$name" $((SECONDS - start))
}

# check NAME COMMAND...: one test, passed if the command succeeds
check() {
	local name=$1
	shift
	ktap "$name" as_ktap "$name" "$@"
}

as_ktap() {
	local name=$1 log rc
	shift
	log=$("$@" 2>&1)
	rc=$?
	case $rc in
	0) echo "ok 1 $name" ;;
	4) echo "ok 1 $name # SKIP $log" ;;
	*) echo "not ok 1 $name"; tail -n 60 <<<"$log" | sed 's/^/# /' ;;
	esac
}

run_check() { wanted "$1" && spawn check "$@"; }
run_ktap() { wanted "$1" && spawn ktap "$@"; }

# --- groups -----------------------------------------------------------------------

# The release of a kernel as tests/vm/run names it; nothing for a debug kernel.
release_of() {
	case $1 in
	kasan | kcsan | */*) ;;
	# Like tests/vm/run: X.Y is the newest of its series.
	*) ls -d /lib/modules/"$1"{,.*}/build 2>/dev/null | sort -V |
		tail -n 1 | cut -d/ -f4 ;;
	esac
}

releases() {
	local k
	for k in "${kernels[@]}"; do release_of "$k"; done
}

# Builds without a word from the compiler.
build_clean() {
	local log
	log=$("$@" 2>&1) || { echo "$log"; return 1; }
	! grep -E 'warning|WARNING' <<<"$log"
}

group_lint() {
	local f
	for f in tests/lint/*; do
		[ -x "$f" ] && run_check "lint/$(basename "$f")" "$f"
	done
}

group_build() {
	local cc r
	for r in $(releases); do
		run_check "build/module-$r" build_clean make -s -j2 module KVER="$r"
	done
	for cc in gcc clang; do
		run_check "build/user-$cc" build_clean make -s -j2 user CC="$cc"
	done
	run_check "build/install" tests/install
}

group_sparse() {
	local r
	for r in $(releases); do
		run_check "sparse/$r" make -s sparse KVER="$r"
	done
}

group_dkms() {
	local r
	for r in $(releases); do
		run_check "dkms/$r" tests/dkms.sh "$r"
	done
}

# It takes all CPUs by itself.
group_model() { run_ktap model/commit tests/model/run; }

group_unit() {
	local f name
	any_wanted unit tests/unit/*.{c,sh} || return 0
	check unit/build make -s -j2 user
	check unit/build-sanitized make -s -j2 unit-build SAN=1
	for f in tests/unit/*.c; do
		name=$(basename "$f" .c)
		[ ! -x build/user/gcc-san/unit/"$name" ] ||
			run_ktap "unit/$name" build/user/gcc-san/unit/"$name"
	done
	scripts unit
}

# scripts GROUP [VARIANT]: of tests/GROUP, which run here and find the programs in
# $BIN
scripts() {
	local f bin=$REPO/build/user/gcc${2-}
	for f in "tests/$1"/*.sh; do
		# lib.sh: what they share
		[ ! -e "$f" ] || [ "${f##*/}" = lib.sh ] || run_ktap "$1/$(basename "$f" .sh)" \
			env BIN="$bin" bash "$f"
	done
}

group_image() {
	any_wanted image tests/image/*.sh || return 0
	check image/build make -s -j2 user SAN=1
	scripts image -san
}

group_daemon() {
	any_wanted daemon tests/daemon/*.sh || return 0
	check daemon/build make -s -j2 user
	scripts daemon
}

# Asked for a time, a fuzzer goes on from the corpus that it keeps; else it takes
# the same way from the seeds in the tree each time, as far as it gets.
fuzz() {
	local name=$1 corpus how=(-seed=1) seeds=()
	[ ! -d "tests/fuzz/$name.seeds" ] || seeds=("tests/fuzz/$name.seeds")
	corpus=$out/fuzz/$name.corpus
	rm -rf "$corpus"
	if [ -n "${FUZZ_SECONDS-}" ]; then
		corpus=${XDG_CACHE_HOME:-$HOME/.cache}/dm-qcow/corpus/$name
		how=()
	fi
	mkdir -p "$corpus" "$out/fuzz"
	build/user/clang-san/fuzz/"$name" "${how[@]}" \
		-max_total_time="${FUZZ_SECONDS:-12}" -timeout=10 \
		-rss_limit_mb=4096 -artifact_prefix="$out/fuzz/$name-" \
		-verbosity=0 -print_final_stats=1 "$corpus" "${seeds[@]}"
}

group_fuzz() {
	local f
	any_wanted fuzz tests/fuzz/*.c || return 0
	check fuzz/build make -s -j2 fuzz-build CC=clang SAN=1
	for f in tests/fuzz/*.c; do
		f=$(basename "$f" .c)
		[ ! -x build/user/clang-san/fuzz/"$f" ] ||
			run_check "fuzz/$f" fuzz "$f"
	done
}

# --- device tests -----------------------------------------------------------------

header() { sed -n "s/^# $2: *//p" "$1" | head -n 1; }

# tests_for KERNEL: the scripts for it, each after its guest's options and a tab
tests_for() {
	local f only
	for f in "tests/$suite"/*.sh; do
		[ -e "$f" ] && wanted "$suite/$(basename "$f" .sh)@$1" || continue
		only=$(header "$f" kernels)
		[ -z "$only" ] || [[ " $only " == *" $1 "* ]] || continue
		only=$(header "$f" once)
		[ -z "$only" ] || [ "$asked" -gt 0 ] || [ "$only" = "$1" ] || continue
		printf '%s\t%s\n' "$(header "$f" vm)" "$f"
	done
}

# take_results KERNEL SHARE: reports the tests that have ended
take_results() {
	local f name
	mkdir -p "$out/$suite"
	for f in "$2"/results/*.done; do
		[ -e "$f" ] || continue
		name=$(basename "$f" .done)
		mv "${f%.done}.ktap" "$out/$suite/$name@$1.ktap"
		report "$suite/$name@$1" "$(cat "$f")"
		rm "$f"
	done
}

# take_victims KERNEL SHARE: the test in which the guest died
take_victims() {
	local f
	for f in "$2"/results/*.ktap; do
		[ -e "$f" ] || continue
		echo "not ok - the guest survives" >>"$f"
		tail -n 60 "$2/kernel.log" | sed 's/^/# /' >>"$f"
		echo 0 >"${f%.ktap}.done"
	done
	take_results "$@"
}

# The debug kernels take this many times longer.
slow() { case $1 in kasan | kcsan) echo 10 ;; *) echo 1 ;; esac; }

# boot_guest KERNEL NUMBER OPTIONS TEST...: until all have run, in as many
# guests as they kill
boot_guest() {
	local kernel=$1 n=$2 opts=$3 try rc left share f
	shift 3
	for try in 1 2 3 4 5; do
		share=$out/$suite-$kernel-$n.$try
		mkdir -p "$share"
		# Every line says that one more test has ended.
		# shellcheck disable=SC2086
		tests/vm/run --kernel "$kernel" --share "$share" --timeout $((3000 * ${STRESS:-1} * $(slow "$kernel"))) \
			--log "$share/kernel.log" --env "PROP_SECONDS=${PROP_SECONDS-}" \
			--env "PROP_SEED=${PROP_SEED-}" \
			--env "STOP_EVERY=${STOP_EVERY-}" \
			--env "TEST_FEATURES=${TEST_FEATURES-}" \
			--env "STRESS=${STRESS:-1}" \
			--env "FUZZ_TIME=${FUZZ_TIME-}" --env "FUZZ_SEED=${FUZZ_SEED-}" $opts \
			-- tests/vm/guest-suite "$@" 2>"$share/output" |
			while read -r _; do take_results "$kernel" "$share"; done
		rc=${PIPESTATUS[0]}
		take_results "$kernel" "$share"
		take_victims "$kernel" "$share"
		left=()
		for f in "$@"; do
			[ -e "$out/$suite/$(basename "$f" .sh)@$kernel.ktap" ] ||
				left+=("$f")
		done
		[ "$rc" = 0 ] || guest_failed "$share" "$@" >/dev/null ||
			check "$suite/guest-$n.$try@$kernel" guest_failed "$share" "$@"
		[ ${#left[@]} -gt 0 ] && [ ${#left[@]} -lt $# ] || return
		set -- "${left[@]}"
	done
}

# A guest that failed without one of its tests failing has a test of its own.
guest_failed() {
	local share=$1 f
	shift
	for f in "$@"; do
		grep -qs '^not ok' "$out/$suite/$(basename "$f" .sh)"@*.ktap && return 0
	done
	cat "$share/output"
	return 1
}

run_kernel() {
	local kernel=$1 n=0 opts files
	while IFS= read -r opts; do
		n=$((n + 1))
		mapfile -t files < <(tests_for "$kernel" |
			awk -F '\t' -v o="$opts" '$1 == o { print $2 }')
		boot_guest "$kernel" "$n" "$opts" "${files[@]}"
	done < <(tests_for "$kernel" | cut -f1 | sort -u)
}

in_guests() {
	local suite=$1 k
	[ -n "$(for k in "${kernels[@]}"; do tests_for "$k"; done)" ] || return 0
	# Guests have no network: what tests need is made here.
	[ "$suite" != device ] ||
		{ tests/lib/rootfs.sh && tests/lib/make-images; } >/dev/null
	for k in "${kernels[@]}"; do
		spawn run_kernel "$k"
	done
}

group_device() { in_guests device; }

# Random rounds: as many as PROP_SECONDS allow, from PROP_SEED on.
group_prop() { in_guests prop; }

# Power cuts, and machines that die. They run here, with guests of their own; a
# short form, from CRASH_SEED on.
group_crash() {
	local k seed=${CRASH_SEED:-1}
	wanted crash/power-cuts || wanted crash/machine-dies || return 0
	check crash/build make -s -j2 crash-build
	for k in "${kernels[@]}"; do
		wanted crash/power-cuts && spawn ktap "crash/power-cuts@$k" \
			tests/crash/run --kernel "$k" --seed "$seed" --jobs 1 \
			--dir "$out"
		wanted crash/machine-dies && spawn ktap "crash/machine-dies@$k" \
			tests/crash/kill --kernel "$k" --seed "$seed" --kills 1 \
			--dir "$out"
	done
}

# --- all of it --------------------------------------------------------------------

# In functions and with an exit: an edit of this file does not reach a bash
# that is running it.
run_groups() {
	local g
	for g in "${groups[@]}"; do
		"group_$g"
		# What groups build is used later; checks overlap, and so do guests.
		case $g in build | model | unit | image | daemon | fuzz | crash) barrier ;; esac
	done
	barrier
}

main() {
	local pass fail skip total=(0 0 0)
	run_groups
	while read -r pass fail skip; do
		total=($((total[0] + pass)) $((total[1] + fail)) $((total[2] + skip)))
	done < <(find "$out" -name '*.ktap' -not -path '*/results/*' |
		while read -r f; do count "$f"; done)
	echo "took $((SECONDS / 60)) min $((SECONDS % 60)) s, results in build/test"
	echo "${total[0]} passed, ${total[1]} failed, ${total[2]} skipped"
	[ "${total[1]}" = 0 ] && [ "${total[0]}" -gt 0 ]
	exit
}

main
