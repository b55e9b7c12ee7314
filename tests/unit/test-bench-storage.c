/*
 * The benchmark's classes of storage: how they are written, and when one
 * answers.  Time is the test's own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "bench.h"
#include "fastload-fixture.h"

#define MS 1000000ull
#define SECOND (1000 * MS)

static const StorageClass *storage_parse(const char *text)
{
    uint64_t value = 77;

    g_assert_true(storage_class_parse(text, &value));
    return storage_class_get(value);
}

static void test_file_is_no_class(void)
{
    /* Storage that is not simulated has the value 0. */
    uint64_t value = 77;
    g_autofree char *text = storage_class_text(0);

    g_assert_true(storage_class_parse("file", &value));
    g_assert_cmpuint(value, ==, 0);
    g_assert_null(storage_class_get(0));
    g_assert_cmpstr(text, ==, "file");
}

static void test_names_are_known(void)
{
    /* Each named class is farther away than the one before it. */
    static const char *const names[] = { "nvme", "ssd", "network", "object" };
    uint64_t rtt_ns = 0;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(names); i++) {
        const StorageClass *class = storage_parse(names[i]);

        g_assert_cmpstr(class->name, ==, names[i]);
        g_assert_cmpuint(class->rtt_ns, >, rtt_ns);
        g_assert_cmpuint(class->rate_bytes_per_s, >=, 100u << 20);
        rtt_ns = class->rtt_ns;
    }
}

static void test_parameters_are_read(void)
{
    /* Parameters may come in any order, with any of three separators. */
    static const char *const texts[] = {
        "rtt=1ms+rate=2G+jitter=0.2ms", "rtt=1ms:rate=2G:jitter=200us",
        "rate=2048M,jitter=200us,rtt=1000us",
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        uint64_t value;
        g_autofree char *text = NULL;

        g_assert_true(storage_class_parse(texts[i], &value));
        text = storage_class_text(value);
        g_assert_cmpstr(text, ==, "rtt=1ms,rate=2G,jitter=200us");
        g_assert_cmpuint(storage_class_get(value)->rtt_ns, ==, MS);
        g_assert_cmpuint(storage_class_get(value)->jitter_ns, ==, MS / 5);
        g_assert_cmpuint(storage_class_get(value)->rate_bytes_per_s, ==,
                         2ull << 30);
    }
}

static void test_texts_are_read_again(void)
{
    /* What a result calls a class is the same class on a command line. */
    static const char *const texts[] = {
        "nvme", "rtt=0ns", "rtt=1500us,rate=1000000",
        "rtt=20ms,rate=200M,jitter=3ms", "rtt=1ms,fast=1%,first=1",
        "rtt=1ms,rate=2G,jitter=1us,fast=0.0001%", "rtt=1ms,first=1000000",
        "rtt=0ns,rate=5T",
    };
    uint32_t i;

    for (i = 0; i + 1 < G_N_ELEMENTS(texts); i++) {
        uint64_t value, again;
        g_autofree char *text = NULL;

        g_assert_true(storage_class_parse(texts[i], &value));
        text = storage_class_text(value);
        g_assert_cmpstr(text, ==, texts[i]);
        g_assert_true(storage_class_parse(text, &again));
        g_assert_cmpuint(value, ==, again);
    }
    g_assert_false(storage_class_parse(texts[i], &(uint64_t) { 0 }));
}

static void test_luck_is_read(void)
{
    /* Lucky shares and counts are read; none of both is no luck. */
    const StorageClass *class = storage_parse("rtt=1ms:first=3:fast=0.01");
    uint64_t plain, none;

    g_assert_cmpuint(class->lucky_millionths, ==, 10000);
    g_assert_cmpuint(class->lucky_first_count, ==, 3);
    g_assert_true(storage_class_parse("rtt=1ms", &plain));
    g_assert_true(storage_class_parse("rtt=1ms+fast=0%+first=0", &none));
    g_assert_cmpuint(none, ==, plain);
}

static void test_bad_classes_are_refused(void)
{
    /* What is no class is refused, and the value stays as it was. */
    static const char *const texts[] = {
        "", "disk", "NVME", "rtt", "rtt=", "rtt=1", "rtt=-1ms", "rtt=1h",
        "rtt=11s", "rate=0", "rate=1K", "rtt=1ms,rtt=2ms", "jitter=1ms",
        "rtt=1ms,", "rtt=1ms,nvme", "nvme+jitter=1ms", "latency=1ms",
        "rtt=1ms rate=2G", "fast=1%", "first=1", "rtt=1ms,fast=101%",
        "rtt=1ms,fast=-1%", "rtt=1ms,fast=", "rtt=1ms,first=-1",
        "rtt=1ms,first=1000001", "rtt=1ms,first=1.5", "rtt=1ms,first=1ms",
        "rtt=1ms,fast=1%,fast=1%", "nvme,first=1",
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        uint64_t value = 77;

        g_assert_false(storage_class_parse(texts[i], &value));
        g_assert_cmpuint(value, ==, 77);
    }
}

static void test_lists_are_split(void)
{
    /* In a list, a key that the entry already has begins the next entry. */
    static const struct {
        const char *list, *entries;
    } cases[] = {
        { "file", "file" },
        { "nvme, object", "nvme|object" },
        { "rtt=1ms,rate=2G", "rtt=1ms+rate=2G" },
        { "nvme,rtt=1ms,rate=2G,file", "nvme|rtt=1ms+rate=2G|file" },
        { "rtt=1ms,rate=2G,rtt=2ms,rate=1G",
          "rtt=1ms+rate=2G|rtt=2ms+rate=1G" },
        { "rtt=1ms:rate=2G,rtt=2ms", "rtt=1ms:rate=2G|rtt=2ms" },
        { "rtt=1ms,rate=2G+jitter=1ms,jitter=2ms",
          "rtt=1ms+rate=2G+jitter=1ms|jitter=2ms" },
        { "rtt=1ms,fast=1%,first=1,fast=2%",
          "rtt=1ms+fast=1%+first=1|fast=2%" },
        { "rtt=1ms,", "rtt=1ms|" },
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) entries = storage_class_split(cases[i].list);
        g_autofree char *text = g_strjoinv("|", entries);

        g_assert_cmpstr(text, ==, cases[i].entries);
    }
}

/* ---- the schedule ---- */

static void test_one_read_takes_its_way_and_its_bytes(void)
{
    /* A single read takes the round trip and its time on the line. */
    StorageClass class = { .rtt_ns = MS, .rate_bytes_per_s = 1000000000 };
    StorageSchedule schedule;

    storage_schedule_init(&schedule, &class, 1);
    g_assert_cmpuint(storage_schedule_next(&schedule, 5 * SECOND, 4096), ==,
                     5 * SECOND + MS + 4096);
    /* Later, nothing is left of it. */
    g_assert_cmpuint(storage_schedule_next(&schedule, 6 * SECOND, 4096), ==,
                     6 * SECOND + MS + 4096);
}

static void test_reads_share_the_line(void)
{
    /*
     * Reads that begin together return one after the other, a round trip later.
     */
    StorageClass class = { .rtt_ns = MS, .rate_bytes_per_s = 1000000000 };
    StorageSchedule schedule;
    uint32_t i;

    storage_schedule_init(&schedule, &class, 1);
    for (i = 1; i <= 100; i++) {
        g_assert_cmpuint(storage_schedule_next(&schedule, SECOND, 1000000),
                         ==, SECOND + MS + i * MS);
    }
}

static void test_rate_is_exact(void)
{
    /* Small reads in a row have exactly the rate: roundings do not add up. */
    StorageClass class = { .rate_bytes_per_s = 3000000007ull };
    uint64_t count = class.rate_bytes_per_s / 4096, due_ns = 0, i;
    StorageSchedule schedule;

    storage_schedule_init(&schedule, &class, 1);
    for (i = 0; i < count; i++) {
        due_ns = storage_schedule_next(&schedule, 0, 4096);
    }
    g_assert_cmpuint(due_ns, ==, count * 4096 * SECOND /
                     class.rate_bytes_per_s);
}

static void test_without_a_rate_only_the_way_counts(void)
{
    /* Without a rate, a read of any size takes the round trip. */
    StorageClass class = { .rtt_ns = 7 };
    StorageSchedule schedule;

    storage_schedule_init(&schedule, &class, 1);
    g_assert_cmpuint(storage_schedule_next(&schedule, 100, 1 << 30), ==, 107);
    g_assert_cmpuint(storage_schedule_next(&schedule, 100, 1 << 30), ==, 107);
}

static void test_jitter_comes_from_the_seed(void)
{
    /* Jitter is between 0 and its maximum, the same for the same seed. */
    StorageClass class = { .rtt_ns = MS, .jitter_ns = MS };
    StorageSchedule a, b, other;
    uint64_t least_ns = UINT64_MAX, most_ns = 0;
    uint32_t i, same_count = 0;

    storage_schedule_init(&a, &class, 1);
    storage_schedule_init(&b, &class, 1);
    storage_schedule_init(&other, &class, 2);
    for (i = 0; i < 1000; i++) {
        uint64_t due_ns = storage_schedule_next(&a, 0, 1);

        g_assert_cmpuint(due_ns, ==, storage_schedule_next(&b, 0, 1));
        same_count += due_ns == storage_schedule_next(&other, 0, 1);
        least_ns = MIN(least_ns, due_ns);
        most_ns = MAX(most_ns, due_ns);
    }
    g_assert_cmpuint(least_ns, >=, MS);
    g_assert_cmpuint(most_ns, <=, 2 * MS);
    g_assert_cmpuint(most_ns - least_ns, >, MS / 2);
    g_assert_cmpuint(same_count, <, 10);
}

static void test_first_reads_of_a_run_are_lucky(void)
{
    /* Lucky first reads do not use the line, and come again in each run. */
    StorageClass class = {
        .rtt_ns = MS, .rate_bytes_per_s = 1000000000, .lucky_first_count = 2,
    };
    StorageSchedule schedule;
    uint32_t run;

    storage_schedule_init(&schedule, &class, 1);
    for (run = 1; run <= 2; run++) {
        g_assert_cmpuint(storage_schedule_next(&schedule, SECOND, 1000000),
                         ==, SECOND + STORAGE_LUCKY_NS);
        g_assert_cmpuint(storage_schedule_next(&schedule, SECOND, 1000000),
                         ==, SECOND + STORAGE_LUCKY_NS);
        g_assert_cmpuint(storage_schedule_next(&schedule, SECOND, 1000000),
                         ==, SECOND + 2 * MS);
        g_assert_cmpuint(storage_schedule_next(&schedule, SECOND, 1000000),
                         ==, SECOND + 3 * MS);
        storage_schedule_restart(&schedule);
    }
}

static void test_lucky_reads_come_from_the_seed(void)
{
    /* About the share asked for is lucky, the same for the same seed. */
    StorageClass class = { .rtt_ns = MS, .lucky_millionths = 10000 };
    StorageSchedule a, b, other;
    uint32_t i, lucky_count = 0, same_count = 0;

    storage_schedule_init(&a, &class, 1);
    storage_schedule_init(&b, &class, 1);
    storage_schedule_init(&other, &class, 2);
    for (i = 0; i < 100000; i++) {
        uint64_t due_ns = storage_schedule_next(&a, SECOND, 1);
        bool is_lucky = due_ns == SECOND + STORAGE_LUCKY_NS;

        g_assert_true(is_lucky || due_ns == SECOND + MS);
        g_assert_cmpuint(due_ns, ==, storage_schedule_next(&b, SECOND, 1));
        lucky_count += is_lucky;
        same_count += storage_schedule_next(&other, SECOND, 1) == due_ns &&
                      is_lucky;
    }
    g_assert_cmpuint(lucky_count, >, 800);
    g_assert_cmpuint(lucky_count, <, 1200);
    g_assert_cmpuint(same_count, <, lucky_count / 4);
}

static void test_luck_is_not_slower(void)
{
    /* A lucky read is never slower than others. */
    StorageClass class = { .rtt_ns = 7, .lucky_millionths = 1000000 };
    StorageSchedule schedule;

    storage_schedule_init(&schedule, &class, 1);
    g_assert_cmpuint(storage_schedule_next(&schedule, 100, 4096), ==, 107);
}

static void storage_add(const char *name, GTestFunc func)
{
    g_autofree char *path = g_strconcat("/bench/storage/", name, NULL);

    g_test_add_func(path, func);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    storage_add("file-is-no-class", test_file_is_no_class);
    storage_add("names-are-known", test_names_are_known);
    storage_add("parameters-are-read", test_parameters_are_read);
    storage_add("texts-are-read-again", test_texts_are_read_again);
    storage_add("luck-is-read", test_luck_is_read);
    storage_add("bad-classes-are-refused", test_bad_classes_are_refused);
    storage_add("lists-are-split", test_lists_are_split);
    storage_add("one-read-takes-its-way-and-its-bytes",
                test_one_read_takes_its_way_and_its_bytes);
    storage_add("reads-share-the-line", test_reads_share_the_line);
    storage_add("rate-is-exact", test_rate_is_exact);
    storage_add("without-a-rate-only-the-way-counts",
                test_without_a_rate_only_the_way_counts);
    storage_add("jitter-comes-from-the-seed",
                test_jitter_comes_from_the_seed);
    storage_add("first-reads-of-a-run-are-lucky",
                test_first_reads_of_a_run_are_lucky);
    storage_add("lucky-reads-come-from-the-seed",
                test_lucky_reads_come_from_the_seed);
    storage_add("luck-is-not-slower", test_luck_is_not_slower);
    return g_test_run();
}
