/*
 * What a process may not do: io_uring refused or limited, userfaultfd refused.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each refusal is for good, so it happens in a child.
 */
#include "qemu/osdep.h"
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "fastload-fixture.h"

#define NOBODY 65534
/* What the kernel charges a user for a worker's ring, in pages. */
#define RING_PAGE_COUNT 2

static Fastload *probe_new_workers(const Fixture *f, FastloadIoKind io_kind,
                                   uint32_t worker_count)
{
    FastloadConfig config = {
        .worker_count = worker_count,
        .io_kind = io_kind,
    };
    FastloadRegion region;
    GError *error = NULL;
    Fastload *fl = fastload_new(f->fd, &config, &error);

    g_assert_no_error(error);
    fixture_region(f, &region);
    g_assert_true(fastload_add_region(fl, &region, &error));
    return fl;
}

static Fastload *probe_new(const Fixture *f, FastloadIoKind io_kind)
{
    return probe_new_workers(f, io_kind, 2);
}

/* Starts @fl; the statistics, and how many rings there are, are of then. */
static FastloadStats probe_load(Fastload *fl, Fixture *f,
                                uint32_t *ret_ring_count)
{
    FixtureToucher toucher;
    FastloadStats stats;
    GError *error = NULL;
    FixtureUse use;

    fastload_set_background_rate(fl, FASTLOAD_BACKGROUND_OFF);
    fastload_start(fl, &error);
    g_assert_no_error(error);
    fastload_get_stats(fl, &stats);
    fixture_use_get(&use);
    fixture_toucher_start(&toucher, f, 1, 100);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    fastload_set_background_rate(fl, 0);
    fastload_wait(fl, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
    *ret_ring_count = use.uring_count;
    return stats;
}

static Fixture *probe_fixture(void)
{
    return fixture_new(FIXTURE_ANON, 3 * FIXTURE_CHUNK_PAGE_COUNT,
                       fixture_mixed);
}

/* What io_uring lacks is told, with @text in the sentence. */
static void probe_check_lack(const FastloadStats *stats, const char *text)
{
    g_assert_nonnull(stats->io_fallback);
    g_assert_nonnull(strstr(stats->io_fallback, text));
}

typedef struct ProbeRefusal {
    const char *path;
    int error_number;
    const char *text; /* what the sentence has */
} ProbeRefusal;

static void test_io_uring_refused_falls_back(const void *opaque)
{
    /* Where io_uring is refused, "choose for me" is preadv, and says why. */
    const ProbeRefusal *refusal = opaque;
    FastloadStats stats;
    uint32_t ring_count;
    Fixture *f;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse_with(SYS_io_uring_setup, refusal->error_number);
    f = probe_fixture();
    stats = probe_load(probe_new(f, FASTLOAD_IO_AUTO), f, &ring_count);
    g_assert_cmpstr(stats.io_name, ==, "preadv");
    g_assert_cmpuint(stats.preadv_count, ==, 2);
    g_assert_cmpuint(ring_count, ==, 0);
    probe_check_lack(&stats, refusal->text);
}

static void test_preadv_by_choice_lacks_nothing(const void *opaque)
{
    /* A caller that asks for preadv gets no reason why io_uring is not used. */
    Fixture *f = probe_fixture();
    FastloadStats stats;
    uint32_t ring_count;

    stats = probe_load(probe_new(f, FASTLOAD_IO_PREADV), f, &ring_count);
    g_assert_cmpstr(stats.io_name, ==, "preadv");
    g_assert_cmpuint(stats.preadv_count, ==, 2);
    g_assert_cmpstr(stats.io_fallback, ==, NULL);
}

static void test_no_descriptor_for_rings(const void *opaque)
{
    /* With descriptors for all but the rings, the load says what they lack. */
    struct rlimit limit = { .rlim_max = 1024 };
    FastloadStats stats;
    Fastload *fl = NULL;
    uint32_t room;
    Fixture *f;
    int next;

    if (fixture_run_child()) {
        return;
    }
    f = probe_fixture();
    next = dup(f->fd);
    g_assert_cmpint(next, >=, 0);
    close(next);
    /* The least with which it starts; how much that is, the kernel decides. */
    for (room = 1; room < 16; room++) {
        limit.rlim_cur = next + room;
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
        fl = probe_new(f, FASTLOAD_IO_AUTO);
        if (fastload_start(fl, NULL)) {
            break;
        }
        fastload_free(fl);
    }
    g_assert_cmpuint(room, <, 16);
    g_assert_true(fastload_wait(fl, NULL));
    fastload_get_stats(fl, &stats);
    g_assert_cmpstr(stats.io_name, ==, "preadv");
    g_assert_cmpuint(stats.preadv_count, ==, 2);
    probe_check_lack(&stats, "RLIMIT_NOFILE");
    g_assert_cmpuint(fixture_wrong_count(f), ==, 0);
    fastload_free(fl);
    fixture_free(f);
}

/* ---- locked memory ---- */

/*
 * Becomes a user of its own, since the kernel counts for all processes of one,
 * also those that have just ended; keeps what userfaultfd asks for.  Calls the
 * kernel directly, as a child may between fork and exit.  Returns an errno.
 */
static int probe_become_limited(uint64_t locked_bytes)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {
        [CAP_TO_INDEX(CAP_SYS_PTRACE)] = {
            .effective = CAP_TO_MASK(CAP_SYS_PTRACE),
            .permitted = CAP_TO_MASK(CAP_SYS_PTRACE),
        },
    };
    struct rlimit limit = {
        .rlim_cur = locked_bytes, .rlim_max = locked_bytes,
    };
    uid_t user = 0x40000000 + getpid();

    if (setrlimit(RLIMIT_MEMLOCK, &limit) ||
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) ||
        syscall(SYS_setresuid, user, user, user) ||
        syscall(SYS_capset, &header, caps) ||
        /* The leak checker, and /proc/self, look at their own process. */
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)) {
        return errno;
    }
    return 0;
}

enum {
    PROBE_IS_LIMITED,
    PROBE_IS_NOBODY_ELSE,
    PROBE_HAS_NO_UFFD,
    PROBE_IS_FREE,
};

/* NULL, or why a ring cannot be refused for want of locked memory here. */
static const char *probe_why_rings_are_free(void)
{
    static const char *const reasons[] = {
        [PROBE_IS_NOBODY_ELSE] = "only root can become a user who may do less",
        [PROBE_HAS_NO_UFFD] = "CAP_SYS_PTRACE alone does not give userfaultfd",
        [PROBE_IS_FREE] = "this kernel does not count rings as locked memory",
    };
    struct io_uring_params params = { 0 };
    pid_t child = fork();
    int status, code;

    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        code = probe_become_limited(0) ? PROBE_IS_NOBODY_ELSE
             : syscall(SYS_userfaultfd, O_CLOEXEC) < 0 ? PROBE_HAS_NO_UFFD
             : syscall(SYS_io_uring_setup, 1, &params) >= 0 ? PROBE_IS_FREE
             : PROBE_IS_LIMITED;
        _exit(code);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), <, G_N_ELEMENTS(reasons));
    return reasons[WEXITSTATUS(status)];
}

/* True in the parent, and the test is over or skipped. */
static bool probe_run_limited_child(void)
{
    const char *why = g_test_subprocess() ? NULL : probe_why_rings_are_free();

    if (why) {
        g_test_skip(why);
        return true;
    }
    return fixture_run_child();
}

/* For so many rings, the one included that start tries and closes. */
static uint64_t probe_ring_bytes(uint32_t ring_count)
{
    return (uint64_t)ring_count * RING_PAGE_COUNT * sysconf(_SC_PAGESIZE);
}

static FastloadStats probe_limited_load(uint64_t locked_bytes,
                                        uint32_t worker_count,
                                        uint32_t *ret_ring_count)
{
    Fixture *f = probe_fixture();
    Fastload *fl;

    g_assert_cmpint(probe_become_limited(locked_bytes), ==, 0);
    fl = probe_new_workers(f, FASTLOAD_IO_AUTO, worker_count);
    return probe_load(fl, f, ret_ring_count);
}

static void test_rings_lock_little(const void *opaque)
{
    /* 64 KiB, the limit of many systems, are rings for seven workers. */
    FastloadStats stats;
    uint32_t ring_count;

    if (probe_run_limited_child()) {
        return;
    }
    stats = probe_limited_load(probe_ring_bytes(8), 7, &ring_count);
    g_assert_cmpstr(stats.io_fallback, ==, NULL);
    g_assert_cmpstr(stats.io_name, ==, "io_uring");
    g_assert_cmpuint(stats.preadv_count, ==, 0);
    g_assert_cmpuint(ring_count, ==, 7);
}

static void test_only_rings_are_locked(const void *opaque)
{
    /* What a user may lock is not spent on registered memory. */
    FastloadStats stats;
    uint32_t ring_count;

    if (probe_run_limited_child()) {
        return;
    }
    /* Registered memory of two workers would leave room for one ring more. */
    stats = probe_limited_load(probe_ring_bytes(20), 8, &ring_count);
    g_assert_cmpstr(stats.io_fallback, ==, NULL);
    g_assert_cmpuint(stats.preadv_count, ==, 0);
    g_assert_cmpuint(ring_count, ==, 8);
}

static void test_no_ring_for_some(const void *opaque)
{
    /* If some workers have no ring, the first one has, and that is said. */
    FastloadStats stats;
    uint32_t ring_count;

    if (probe_run_limited_child()) {
        return;
    }
    stats = probe_limited_load(probe_ring_bytes(4), 8, &ring_count);
    g_assert_cmpstr(stats.io_name, ==, "io_uring");
    probe_check_lack(&stats, "RLIMIT_MEMLOCK");
    g_assert_cmpuint(ring_count, >=, 3);
    g_assert_cmpuint(ring_count, <=, 4);
    g_assert_cmpuint(stats.preadv_count, ==, 8 - ring_count);
}

static void test_no_ring_for_any(const void *opaque)
{
    /* Without locked memory preadv reads, and the limit is named. */
    FastloadStats stats;
    uint32_t ring_count;

    if (probe_run_limited_child()) {
        return;
    }
    stats = probe_limited_load(0, 8, &ring_count);
    g_assert_cmpstr(stats.io_name, ==, "preadv");
    probe_check_lack(&stats, "RLIMIT_MEMLOCK");
    g_assert_cmpuint(stats.preadv_count, ==, 8);
    g_assert_cmpuint(ring_count, ==, 0);
}

static void test_ring_insisted_on_names_the_limit(const void *opaque)
{
    /* FASTLOAD_IO_IO_URING fails with the limit that is in the way. */
    FixtureUse before;
    GError *error = NULL;
    Fastload *fl;
    Fixture *f;

    if (probe_run_limited_child()) {
        return;
    }
    f = probe_fixture();
    g_assert_cmpint(probe_become_limited(0), ==, 0);
    fixture_use_get(&before);
    fl = probe_new(f, FASTLOAD_IO_IO_URING);
    g_assert_false(fastload_start(fl, &error));
    g_assert_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, "RLIMIT_MEMLOCK"));
    g_error_free(error);
    fastload_free(fl);
    fixture_use_check(&before);
    fixture_free(f);
}

static void test_io_uring_refused_is_an_error(const void *opaque)
{
    /* FASTLOAD_IO_IO_URING fails where io_uring is refused. */
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
    /* If both ways are refused, one line names them with their errnos. */
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

static void probe_add_uring_refusals(void)
{
    static const ProbeRefusal refusals[] = {
        { "/fastload/probe/io-uring-refused-falls-back", EPERM,
          "not permitted" },
        { "/fastload/probe/io-uring-eacces", EACCES, "not permitted" },
        { "/fastload/probe/io-uring-enosys", ENOSYS, "no io_uring" },
        { "/fastload/probe/io-uring-einval", EINVAL, "too old" },
        { "/fastload/probe/io-uring-emfile", EMFILE, "RLIMIT_NOFILE" },
        { "/fastload/probe/io-uring-enfile", ENFILE, "fs.file-max" },
        { "/fastload/probe/io-uring-enomem", ENOMEM, "memory" },
        { "/fastload/probe/io-uring-enxio", ENXIO, "cannot be set up" },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(refusals); i++) {
        fixture_add_test(refusals[i].path, FIXTURE_NEEDS_UFFD,
                         test_io_uring_refused_falls_back, &refusals[i]);
    }
    fixture_add_test("/fastload/probe/preadv-by-choice", FIXTURE_NEEDS_UFFD,
                     test_preadv_by_choice_lacks_nothing, NULL);
}

static void probe_add_limits(void)
{
    static const struct {
        const char *path;
        GTestDataFunc func;
    } tests[] = {
        { "/fastload/probe/no-descriptor-for-rings",
          test_no_descriptor_for_rings },
        { "/fastload/probe/rings-lock-little", test_rings_lock_little },
        { "/fastload/probe/only-rings-are-locked",
          test_only_rings_are_locked },
        { "/fastload/probe/no-ring-for-some", test_no_ring_for_some },
        { "/fastload/probe/no-ring-for-any", test_no_ring_for_any },
        { "/fastload/probe/ring-insisted-on-names-the-limit",
          test_ring_insisted_on_names_the_limit },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(tests); i++) {
        fixture_add_test(tests[i].path,
                         FIXTURE_NEEDS_UFFD | FIXTURE_NEEDS_URING,
                         tests[i].func, NULL);
    }
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    fixture_add_test("/fastload/probe/leaves-nothing-open",
                     FIXTURE_NEEDS_UFFD, test_probe_leaves_nothing_open, NULL);
    probe_add_uring_refusals();
    probe_add_limits();
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
