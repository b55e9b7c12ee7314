/*
 * The benchmark's guest: what it touches, and what it counts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "bench.h"
#include "fastload-fixture.h"

#define PAGE_COUNT 512u
#define SECOND_NS 1000000000ull

/* Memory of 2 MiB, all of it data. */
typedef struct GuestFixture {
    SnapshotBlock block;
    Snapshot snapshot;
    uint64_t data_bits[PAGE_COUNT / 64];
    Scenario scenario;
    Variant variant;
    LoaderRun run;
    uint32_t arrivals[PAGE_COUNT];
    WriteCount writes[PAGE_COUNT];
} GuestFixture;

static GuestFixture *guest_fixture_new(void)
{
    GuestFixture *f = g_new0(GuestFixture, 1);
    GError *error = NULL;

    f->block = (SnapshotBlock) {
        .name = "pc.ram", .len_bytes = BENCH_HUGE_BYTES,
        .data_page_count = PAGE_COUNT,
    };
    memset(f->data_bits, 0xff, sizeof(f->data_bits));
    f->snapshot = (Snapshot) {
        .guest_bytes = BENCH_HUGE_BYTES, .len_bytes = BENCH_HUGE_BYTES,
        .data_bytes = BENCH_HUGE_BYTES, .blocks = &f->block,
        .block_count = 1, .data_bits = f->data_bits,
    };
    f->scenario = (Scenario) {
        .pattern = PATTERN_UNIFORM, .vcpu_count = 1, .write_share = 0.5,
        .working_set_bytes = BENCH_HUGE_BYTES, .window_ns = 1000, .seed = 1,
    };
    f->variant.loader = &loader_eager;
    f->run.snapshot = &f->snapshot;
    f->run.variant = &f->variant;
    f->run.arrivals = f->arrivals;
    f->run.hva = memory_map(BENCH_HUGE_BYTES, &error);
    g_assert_no_error(error);
    /* A fault a page, not one for all. */
    g_assert_cmpint(madvise(f->run.hva, BENCH_HUGE_BYTES, MADV_NOHUGEPAGE),
                    ==, 0);
    f->run.begin_ns = bench_now_ns();
    return f;
}

static void guest_fixture_free(GuestFixture *f)
{
    munmap(f->run.hva, BENCH_HUGE_BYTES);
    g_free(f);
}

/* Runs it until it has worked and its window is over. */
static void guest_fixture_run(GuestFixture *f, GuestCounters *ret_counters)
{
    GError *error = NULL;
    Guest *guest = guest_new(&f->snapshot, &f->scenario, 0, &error);

    g_assert_no_error(error);
    guest_start(guest, &f->run, f->writes);
    while (!guest_worked_ns(guest) || !guest_has_windowed(guest)) {
        g_usleep(1000);
    }
    guest_stop(guest);
    guest_get_counters(guest, ret_counters);
    guest_free(guest);
}

/* ---- counting ---- */

static void test_waiting_is_the_sum_of_faults(void)
{
    /* Nothing faults after the guest has worked: it waited for all faults. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);

    guest_fixture_run(f, counters);
    g_assert_cmpuint(counters->faults.count, >, PAGE_COUNT / 2);
    g_assert_cmpuint(counters->faults.sum_ns, >=, counters->faults.max_ns);
    g_assert_cmpuint(counters->waited_ns, ==, counters->faults.sum_ns);
    guest_fixture_free(f);
}

static void test_waiting_goes_on_when_all_is_loaded(void)
{
    /* Faults after the load are in a histogram of their own, and waited for. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);
    GError *error = NULL;
    Guest *guest = guest_new(&f->snapshot, &f->scenario, PAGE_COUNT, &error);

    g_assert_no_error(error);
    guest_set_loaded(guest);
    guest_start(guest, &f->run, f->writes);
    guest_join(guest);
    guest_get_counters(guest, counters);
    g_assert_cmpuint(counters->faults.count, ==, 0);
    g_assert_cmpuint(counters->faults_after.count, >, PAGE_COUNT / 2);
    g_assert_cmpuint(counters->waited_ns, ==, counters->faults_after.sum_ns);
    guest_free(guest);
    guest_fixture_free(f);
}

static void test_progress_counts_from_the_request(void)
{
    /* Who gets the guest to run after the window has no progress in it. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);

    f->run.begin_ns -= 2 * f->scenario.window_ns;
    guest_fixture_run(f, counters);
    g_assert_cmpuint(counters->request_touch_count, ==, 0);
    g_assert_cmpuint(counters->window_touch_count, >, 0);
    guest_fixture_free(f);
}

static void test_progress_from_the_request_is_no_more(void)
{
    /* The window since the request ends before that since "runs" does. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);

    f->scenario.window_ns = SECOND_NS / 20;
    f->run.begin_ns = bench_now_ns() - SECOND_NS / 50;
    guest_fixture_run(f, counters);
    g_assert_cmpuint(counters->request_touch_count, <=,
                     counters->window_touch_count);
    g_assert_cmpuint(counters->window_touch_count, <=,
                     counters->touch_count);
    guest_fixture_free(f);
}

static void guest_add(const char *name, GTestFunc func)
{
    g_autofree char *path = g_strconcat("/bench/guest/", name, NULL);

    g_test_add_func(path, func);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
    guest_calibrate();
    guest_add("waiting-is-the-sum-of-faults",
              test_waiting_is_the_sum_of_faults);
    guest_add("waiting-goes-on-when-all-is-loaded",
              test_waiting_goes_on_when_all_is_loaded);
    guest_add("progress-counts-from-the-request",
              test_progress_counts_from_the_request);
    guest_add("progress-from-the-request-is-no-more",
              test_progress_from_the_request_is_no_more);
    return g_test_run();
}
