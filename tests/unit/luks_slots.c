// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Key slots that are filled and erased: power cuts at every write.
 */
#include "fmt/luks.h"
#include "powercut.h"

#define PASS	"open sesame"
#define OTHER	"other words"

static struct blk_luks_amend fill(int slot)
{
	return (struct blk_luks_amend){
		.passphrase = PASS, .passphrase_len = strlen(PASS),
		.secret = OTHER, .secret_len = strlen(OTHER),
		.activate = true, .slot = slot, .iter_ms = 1,
	};
}

/* An image with one slot.  QEMU finds a hash too fast, now and then. */
static bool make(void)
{
	int tries = 100;

	while (sh("rm -f *.qcow2; qemu-img create -q --object secret,id=s,data='" PASS
		  "' -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 i.qcow2 1M 2>/dev/null"))
		if (!--tries)
			return false;
	return true;
}

static bool opens(const char *path, const char *pass)
{
	struct blk_luks_key *k = NULL;
	struct img i;
	bool ok = img_open(&i, path) &&
		!blk_luks_unlock(i.q, pass, strlen(pass), &k, &i.e);

	blk_luks_free(k);
	img_close(&i);
	return ok;
}

/* The passphrase that stays opens it, whatever happens. */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	bool ok = cut_seen(path, 0, false) || opens(path, opaque);

	if (ok)
		cut_seen(path, 0, true);
	else
		ksft_print_msg("%s: op %zu of %zu: it cannot be opened", path,
			       k, n_ops);
	return ok;
}

static bool recovers(void *opaque, const char *path)
{
	(void)opaque;
	(void)path;
	return true;
}

static void test_power(const char *what, const struct blk_luks_amend *a,
		       const char *stays, const char *comes,
		       const char *goes)
{
	struct cut_judge j = { state_ok, recovers, (void *)stays };
	unsigned int states = 0;
	struct img i;
	bool ok;

	cut_forget();
	ok = !sh("cp i.qcow2 base.qcow2") && img_open(&i, "i.qcow2");
	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, blk_luks_amend(i.q, a, &i.e), what);
		img_close(&i);
	}
	ok = ok && opens("i.qcow2", stays) &&
		(!comes || opens("i.qcow2", comes)) &&
		(!goes || !opens("i.qcow2", goes)) &&
		cut_replay(&j, 1, &states);
	ksft_test_result(ok, "%u states of %zu writes: %s", states, n_ops,
			 what);
}

int main(void)
{
	struct blk_luks_amend six = fill(6), zero = fill(-1), seven = fill(7);

	img_start_fast();
	if (!make())
		ksft_exit_skip("QEMU makes no LUKS here\n");
	/* its words are in two sectors */
	test_power("fill slot 6", &six, PASS, OTHER, NULL);
	zero.activate = false;
	zero.secret = PASS;
	zero.passphrase = OTHER;
	test_power("erase slot 0", &zero, OTHER, NULL, PASS);
	seven.passphrase = OTHER;
	seven.secret = PASS;
	test_power("fill slot 7", &seven, OTHER, PASS, NULL);
	six.activate = false;
	test_power("erase slot 6", &six, PASS, NULL, OTHER);
	cut_forget();
	ksft_finished();
}
