/*
 * Fast load of mapped-ram files, within QEMU's migration-test.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test guest increments a byte in every page and the framework checks
 * after the restore that no page fell behind: the RAM that arrives while the
 * guest runs must be the RAM that was saved.
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "qobject/qdict.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"

static char *tmpfs;

static char *fastload_uri(void)
{
    return g_strdup_printf("file:%s/%s", tmpfs, FILE_TEST_FILENAME);
}

static void *fastload_set_threads(QTestState *from, QTestState *to,
                                  int thread_count)
{
    migrate_set_capability(from, "mapped-ram", true);
    migrate_set_capability(to, "mapped-ram", true);
    migrate_set_parameter_int(to, "x-fast-load-threads", thread_count);
    return NULL;
}

static void *fastload_hook_two(QTestState *from, QTestState *to)
{
    return fastload_set_threads(from, to, 2);
}

static void *fastload_hook_one(QTestState *from, QTestState *to)
{
    return fastload_set_threads(from, to, 1);
}

/* What query-migrate must say once everything is loaded. */
static void fastload_check_stats(QTestState *from, QTestState *to,
                                 void *opaque)
{
    QDict *rsp, *info, *stats;

    wait_for_migration_complete(to);
    rsp = qtest_qmp_assert_success_ref(to, "{'execute': 'query-migrate'}");
    info = rsp;
    stats = qdict_get_qdict(info, "fast-load");
    g_assert_nonnull(stats);
    g_assert_cmpint(qdict_get_int(stats, "remaining-bytes"), ==, 0);
    g_assert_cmpint(qdict_get_int(stats, "total-bytes"), >, 0);
    g_assert_cmpint(qdict_get_int(stats, "urgent-bytes") +
                    qdict_get_int(stats, "background-bytes"), >, 0);
    g_assert_true(qdict_haskey(stats, "time-to-run-us"));
    g_assert_true(qdict_haskey(stats, "time-to-complete-us"));
    qobject_unref(rsp);
}

static void fastload_check(TestMigrateStartHook hook,
                           TestMigrateEndHook end_hook, bool stop_src)
{
    g_autofree char *uri = fastload_uri();
    MigrateCommon args = {
        .connect_uri = uri,
        .listen_uri = "defer",
        .start_hook = hook,
        .end_hook = end_hook,
    };

    test_file_common(&args, stop_src);
}

/* A file saved from a stopped guest loads with two threads. */
static void test_fastload_stopped(void)
{
    fastload_check(fastload_hook_two, fastload_check_stats, true);
}

/* A file saved from a running guest, with stale pages, loads too. */
static void test_fastload_live(void)
{
    fastload_check(fastload_hook_two, fastload_check_stats, false);
}

/* A file loads with one thread, which serves faults and reads ahead. */
static void test_fastload_one_thread(void)
{
    fastload_check(fastload_hook_one, fastload_check_stats, true);
}

static void *fastload_hook_detached(QTestState *from, QTestState *to)
{
    migrate_set_parameter_bool(to, "x-fast-load-detach", true);
    return fastload_set_threads(from, to, 2);
}

/* The migration is completed before the load, which tells its own state. */
static void fastload_check_detached(QTestState *from, QTestState *to,
                                    void *opaque)
{
    bool is_complete = false;

    wait_for_migration_complete(to);
    while (!is_complete) {
        QDict *stats = qtest_qmp_assert_success_ref(
            to, "{'execute': 'x-query-fast-load'}");
        const char *state = qdict_get_str(stats, "state");

        is_complete = !strcmp(state, "completed");
        g_assert_true(is_complete || !strcmp(state, "loading"));
        qobject_unref(stats);
        g_usleep(1000);
    }
    fastload_check_stats(from, to, opaque);
}

/* With x-fast-load-detach the migration completes when the guest can run. */
static void test_fastload_detached(void)
{
    fastload_check(fastload_hook_detached, fastload_check_detached, false);
}

/* x-fast-load-detach without x-fast-load-threads is refused. */
static void test_fastload_detached_alone(void)
{
    QTestState *qts = qtest_init("-machine none -incoming defer");
    QDict *rsp;

    migrate_set_capability(qts, "mapped-ram", true);
    migrate_set_parameter_bool(qts, "x-fast-load-detach", true);
    rsp = qtest_qmp_assert_failure_ref(
        qts, "{'execute': 'migrate-incoming',"
        " 'arguments': {'uri': 'file:/nonexistent'}}");
    g_assert_nonnull(strstr(qdict_get_str(rsp, "desc"),
                            "needs x-fast-load-threads"));
    qobject_unref(rsp);
    qtest_quit(qts);
}

/* A number of threads out of range is refused. */
static void test_fastload_range(void)
{
    QTestState *qts = qtest_init("-machine none");
    QDict *rsp = qtest_qmp_assert_failure_ref(
        qts, "{'execute': 'migrate-set-parameters',"
        " 'arguments': {'x-fast-load-threads': 65}}");

    g_assert_nonnull(strstr(qdict_get_str(rsp, "desc"), "0 and 64"));
    qobject_unref(rsp);
    qtest_quit(qts);
}

/* HMP sets and shows the number of threads, and refuses one out of range. */
static void test_fastload_hmp(void)
{
    QTestState *qts = qtest_init("-machine none");
    char *set = qtest_hmp(qts, "migrate_set_parameter x-fast-load-threads 3");
    char *bad = qtest_hmp(qts, "migrate_set_parameter x-fast-load-threads 99");
    char *info = qtest_hmp(qts, "info migrate_parameters");

    g_assert_cmpstr(set, ==, "");
    g_assert_nonnull(strstr(bad, "0 and 64"));
    g_assert_nonnull(strstr(info, "x-fast-load-threads: 3"));
    g_free(set);
    g_free(bad);
    g_free(info);
    qtest_quit(qts);
}

static void fastload_check_refused(bool mapped_ram, const char *uri,
                                   const char *expected)
{
    QTestState *qts = qtest_init("-machine none -incoming defer");
    QDict *rsp;

    if (mapped_ram) {
        migrate_set_capability(qts, "mapped-ram", true);
    }
    migrate_set_parameter_int(qts, "x-fast-load-threads", 2);
    rsp = qtest_qmp_assert_failure_ref(
        qts, "{'execute': 'migrate-incoming', 'arguments': {'uri': %s}}",
        uri);
    if (!strstr(qdict_get_str(rsp, "desc"), expected)) {
        g_test_message("no \"%s\" in: %s", expected,
                       qdict_get_str(rsp, "desc"));
        g_test_fail();
    }
    qobject_unref(rsp);
    qtest_quit(qts);
}

/* Fast load without the capability mapped-ram is refused. */
static void test_fastload_no_mapped_ram(void)
{
    fastload_check_refused(false, "file:/nonexistent", "'mapped-ram'");
}

/* A URI that is no file is refused. */
static void test_fastload_no_file(void)
{
    fastload_check_refused(true, "exec:true", "seekable");
}

/* A missing file is refused, and named. */
static void test_fastload_missing(void)
{
    fastload_check_refused(true, "file:/nonexistent", "/nonexistent");
}

void migration_test_add_fastload(MigrationTestEnv *env)
{
    tmpfs = env->tmpfs;

    migration_test_add("/migration/fastload/stopped", test_fastload_stopped);
    migration_test_add("/migration/fastload/live", test_fastload_live);
    migration_test_add("/migration/fastload/one-thread",
                       test_fastload_one_thread);
    migration_test_add("/migration/fastload/detached",
                       test_fastload_detached);
    migration_test_add("/migration/fastload/detached-alone",
                       test_fastload_detached_alone);
    migration_test_add("/migration/fastload/range", test_fastload_range);
    migration_test_add("/migration/fastload/hmp", test_fastload_hmp);
    migration_test_add("/migration/fastload/no-mapped-ram",
                       test_fastload_no_mapped_ram);
    migration_test_add("/migration/fastload/no-file", test_fastload_no_file);
    migration_test_add("/migration/fastload/missing", test_fastload_missing);
}
