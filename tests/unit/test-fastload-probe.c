/*
 * What a process may not do: io_uring refused, userfaultfd refused.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each refusal is for good, so it happens in a child.
 */
#include "qemu/osdep.h"
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "fastload-fixture.h"

#define NOBODY 65534

static Fastload *probe_new(const Fixture *f, FastloadIoKind io_kind)
{
    FastloadConfig config = { .worker_count = 2, .io_kind = io_kind };
    FastloadRegion region;
    GError *error = NULL;
    Fastload *fl = fastload_new(f->fd, &config, &error);

    g_assert_no_error(error);
    fixture_region(f, &region);
    g_assert_true(fastload_add_region(fl, &region, &error));
    return fl;
}

static void test_io_uring_refused_falls_back(const void *opaque)
{
    /* Where io_uring is refused, "choose for me" is preadv, and works. */
    FixtureToucher toucher;
    FastloadStats stats;
    GError *error = NULL;
    Fastload *fl;
    Fixture *f;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse(SYS_io_uring_setup);
    f = fixture_new(FIXTURE_ANON, 3 * FIXTURE_CHUNK_PAGE_COUNT, fixture_mixed);
    fl = probe_new(f, FASTLOAD_IO_AUTO);
    fastload_start(fl, &error);
    g_assert_no_error(error);
    fixture_toucher_start(&toucher, f, 1, 100);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fastload_wait(fl, &error);
    g_assert_no_error(error);
    fastload_get_stats(fl, &stats);
    g_assert_cmpstr(stats.io_name, ==, "preadv");
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

static void test_io_uring_refused_is_an_error(const void *opaque)
{
    /* Who insists on io_uring is told that it cannot be had. */
    FixtureUse before;
    GError *error = NULL;
    Fastload *fl;
    Fixture *f;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse(SYS_io_uring_setup);
    f = fixture_new(FIXTURE_ANON, 600, fixture_all_data);
    fixture_use_get(&before);
    fl = probe_new(f, FASTLOAD_IO_IO_URING);
    g_assert_false(fastload_start(fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, "io_uring"));
    g_error_free(error);
    fastload_free(fl);
    fixture_use_check(&before);
    fixture_free(f);
}

/* NULL, or why userfaultfd cannot be refused here. */
static const char *probe_why_uffd_stays(void)
{
    g_autofree char *sysctl = NULL;
    struct stat st;

    if (getuid() != 0) {
        return "only root can become somebody who may do less";
    }
    if (!g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl,
                             NULL, NULL)) {
        return "this kernel has no vm.unprivileged_userfaultfd";
    }
    if (atoi(sysctl)) {
        return "vm.unprivileged_userfaultfd lets everybody";
    }
    if (stat("/dev/userfaultfd", &st) == 0 && (st.st_mode & 06)) {
        return "/dev/userfaultfd is open to everybody";
    }
    return NULL;
}

static void probe_child_become_nobody(void)
{
    g_assert_cmpint(syscall(SYS_setgroups, 0, NULL), ==, 0);
    g_assert_cmpint(setresgid(NOBODY, NOBODY, NOBODY), ==, 0);
    g_assert_cmpint(setresuid(NOBODY, NOBODY, NOBODY), ==, 0);
    /* The leak checker looks at its own process. */
    g_assert_cmpint(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), ==, 0);
}

static void test_userfaultfd_refused_says_what_to_do(const void *opaque)
{
    /* Without the right to userfaultfd, probe and start name both remedies. */
    const char *why = probe_why_uffd_stays();
    FixtureUse before;
    GError *error = NULL;
    Fastload *fl;
    Fixture *f;

    if (why && !g_test_subprocess()) {
        g_test_skip(why);
        return;
    }
    if (fixture_run_child()) {
        return;
    }
    f = fixture_new(FIXTURE_ANON, 600, fixture_all_data);
    probe_child_become_nobody();
    fixture_use_get(&before);
    g_assert_false(fastload_probe(&error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "/dev/userfaultfd"));
    g_assert_nonnull(strstr(error->message, "vm.unprivileged_userfaultfd"));
    g_clear_error(&error);

    fl = probe_new(f, FASTLOAD_IO_PREADV);
    g_assert_false(fastload_start(fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_UNSUPPORTED);
    g_error_free(error);
    fastload_free(fl);
    fixture_use_check(&before);
    fixture_free(f);
}

static void probe_refused_call_leaves_device(int error_number)
{
    FixtureUse before;
    GError *error = NULL;

    if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
        g_test_skip("this user may not open /dev/userfaultfd");
        return;
    }
    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_use_get(&before);
    fixture_refuse_with(SYS_userfaultfd, error_number);
    fastload_probe(&error);
    g_assert_no_error(error);
    fixture_use_check(&before);
}

static void test_any_refusal_leaves_the_device(const void *opaque)
{
    /* Whatever userfaultfd(2) answers, the device is tried. */
    probe_refused_call_leaves_device(GPOINTER_TO_INT(opaque));
}

static void test_both_ways_refused_names_both(const void *opaque)
{
    /* The sentence has both ways with their errnos, in one line. */
    const char *why = probe_why_uffd_stays();
    GError *error = NULL;

    if (why && !g_test_subprocess()) {
        g_test_skip(why);
        return;
    }
    if (access("/dev/userfaultfd", F_OK) < 0) {
        g_test_skip("there is no /dev/userfaultfd");
        return;
    }
    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    probe_child_become_nobody();
    fixture_refuse_with(SYS_userfaultfd, EINVAL);
    g_assert_false(fastload_probe(&error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_UNSUPPORTED);
    g_assert_true(g_regex_match_simple(
        "^[^\n]*userfaultfd\\(2\\) \\(Invalid argument\\)"
        "[^\n]*/dev/userfaultfd \\(Permission denied\\)"
        "[^\n]*/dev/userfaultfd[^\n]*vm\\.unprivileged_userfaultfd"
        "[^\n]*a security module[^\n]*$", error->message, 0, 0));
    g_error_free(error);
}

static void test_probe_leaves_nothing_open(const void *opaque)
{
    /* A probe that succeeds closes what it opened. */
    GError *error = NULL;
    FixtureUse before;

    fixture_use_get(&before);
    g_assert_true(fastload_probe(&error));
    g_assert_no_error(error);
    fixture_use_check(&before);
}

/* As a sysctl, a security module, a filter and an old kernel say it. */
static void probe_add_refusals(void)
{
    static const struct {
        const char *path;
        int error_number;
    } refusals[] = {
        { "/fastload/probe/device-after-eperm", EPERM },
        { "/fastload/probe/device-after-eacces", EACCES },
        { "/fastload/probe/device-after-einval", EINVAL },
        { "/fastload/probe/device-after-enosys", ENOSYS },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(refusals); i++) {
        fixture_add_test(refusals[i].path, FIXTURE_NEEDS_UFFD,
                         test_any_refusal_leaves_the_device,
                         GINT_TO_POINTER(refusals[i].error_number));
    }
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    fixture_add_test("/fastload/probe/leaves-nothing-open",
                     FIXTURE_NEEDS_UFFD, test_probe_leaves_nothing_open, NULL);
    fixture_add_test("/fastload/probe/io-uring-refused-falls-back",
                     FIXTURE_NEEDS_UFFD, test_io_uring_refused_falls_back,
                     NULL);
    fixture_add_test("/fastload/probe/io-uring-refused-is-an-error",
                     FIXTURE_NEEDS_UFFD, test_io_uring_refused_is_an_error,
                     NULL);
    fixture_add_test("/fastload/probe/userfaultfd-refused-says-what-to-do", 0,
                     test_userfaultfd_refused_says_what_to_do, NULL);
    probe_add_refusals();
    fixture_add_test("/fastload/probe/both-ways-refused-names-both", 0,
                     test_both_ways_refused_names_both, NULL);
    return g_test_run();
}
