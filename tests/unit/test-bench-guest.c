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

/* Each vCPU stops after @touches; what they counted until then. */
static void guest_fixture_touch(GuestFixture *f, uint64_t touches,
                                GuestCounters *ret_counters)
{
    GError *error = NULL;
    Guest *guest = guest_new(&f->snapshot, &f->scenario, touches, &error);

    g_assert_no_error(error);
    guest_start(guest, &f->run, f->writes);
    guest_join(guest);
    guest_get_counters(guest, ret_counters);
    guest_free(guest);
}

/* It goes on touching for as long as nobody stops it. */
static Guest *guest_fixture_start(GuestFixture *f)
{
    GError *error = NULL;
    Guest *guest = guest_new(&f->snapshot, &f->scenario, 0, &error);

    g_assert_no_error(error);
    guest_start(guest, &f->run, f->writes);
    return guest;
}

/* Waits until the guest has touched a hundred pages more. */
static void guest_fixture_go_on(const Guest *guest)
{
    uint64_t count = guest_touch_count(guest);

    fixture_wait_until(guest_touch_count(guest) >= count + 100);
}

static void guest_fixture_stop(Guest *guest, GuestCounters *ret_counters)
{
    guest_stop(guest);
    guest_get_counters(guest, ret_counters);
    guest_free(guest);
}

/* ---- counting ---- */

static void test_waiting_is_the_sum_of_faults(void)
{
    /* Until the guest has worked, its faults add up to the time waited. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);

    guest_fixture_touch(f, PAGE_COUNT, counters);
    g_assert_cmpuint(counters->worked_ns, >, 0);
    g_assert_cmpuint(counters->faults.count, >, PAGE_COUNT / 2);
    g_assert_cmpuint(counters->faults.sum_ns, >=, counters->faults.max_ns);
    g_assert_cmpuint(counters->waited_ns, ==, counters->faults.sum_ns);
    guest_fixture_free(f);
}

static void test_waiting_goes_on_when_all_is_loaded(void)
{
    /* Faults after the load have a histogram of their own, and are waits. */
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
    /* A guest that runs only after the window has made no progress in it. */
    GuestFixture *f = guest_fixture_new();
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);
    Guest *guest;

    f->run.begin_ns -= 2 * f->scenario.window_ns;
    guest = guest_fixture_start(f);
    fixture_wait_until(guest_has_windowed(guest));
    guest_fixture_stop(guest, counters);
    g_assert_cmpuint(counters->request_touch_count, ==, 0);
    guest_fixture_free(f);
}

static void test_progress_from_the_request_is_less(void)
{
    /* The window since the request ends before that since "runs" does. */
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);
    uint64_t request_count, window_count, late_count;
    GuestFixture *f;
    Guest *guest;

    test_clock_stop();
    f = guest_fixture_new();
    f->scenario.window_ns = SECOND_NS;
    f->run.begin_ns = bench_now_ns();
    test_clock_skip(SECOND_NS / 4);
    guest = guest_fixture_start(f);
    guest_fixture_go_on(guest);
    test_clock_skip(SECOND_NS * 3 / 4 - 1); /* not quite */
    guest_fixture_go_on(guest);
    request_count = guest_touch_count(guest);
    test_clock_skip(1);
    guest_fixture_go_on(guest);
    test_clock_skip(SECOND_NS / 4 - 1);
    guest_fixture_go_on(guest);
    window_count = guest_touch_count(guest);
    g_assert_false(guest_has_windowed(guest));
    test_clock_skip(1);
    guest_fixture_go_on(guest);
    g_assert_true(guest_has_windowed(guest));
    late_count = guest_touch_count(guest);
    guest_fixture_go_on(guest);
    guest_fixture_stop(guest, counters);
    g_assert_cmpuint(counters->request_touch_count, >=, request_count);
    g_assert_cmpuint(counters->request_touch_count, <, window_count);
    g_assert_cmpuint(counters->window_touch_count, >=, window_count);
    g_assert_cmpuint(counters->window_touch_count, <=, late_count);
    g_assert_cmpuint(counters->touch_count, >, late_count);
    test_clock_go();
    guest_fixture_free(f);
}

/* ---- vCPUs share ---- */

/* What is at GUEST_WRITE_OFF of a page that held zeros. */
static uint64_t guest_written(const GuestFixture *f, uint32_t page)
{
    const uint8_t *hva = f->run.hva + ((uint64_t)page << BENCH_PAGE_SHIFT);

    return *(const uint64_t *)(hva + GUEST_WRITE_OFF);
}

/* Each vCPU stops after @touches; when the guest had worked, or 0. */
static uint64_t guest_fixture_work(GuestFixture *f, uint64_t touches)
{
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);

    guest_fixture_touch(f, touches, counters);
    return counters->worked_ns;
}

static void test_vcpus_touch_the_same_pages(void)
{
    /* Each of three vCPUs touches each page once before it begins again. */
    static const GuestPattern patterns[] = {
        PATTERN_UNIFORM, PATTERN_SEQUENTIAL,
    };
    uint32_t i, page;

    for (i = 0; i < G_N_ELEMENTS(patterns); i++) {
        GuestFixture *f = guest_fixture_new();

        f->scenario.pattern = patterns[i];
        f->scenario.vcpu_count = 3;
        f->scenario.write_share = 1;
        g_assert_cmpuint(guest_fixture_work(f, PAGE_COUNT), >, 0);
        for (page = 0; page < PAGE_COUNT; page++) {
            g_assert_cmpuint(f->writes[page], ==, 3);
            g_assert_cmpuint(guest_written(f, page), ==,
                             3 * GUEST_WRITE_STEP);
        }
        guest_fixture_free(f);
    }
}

static void test_vcpus_have_orders_of_their_own(void)
{
    /* Two vCPUs begin with different quarters of the pages. */
    GuestFixture *f = guest_fixture_new();
    uint32_t page, once_count = 0, twice_count = 0;

    f->scenario.vcpu_count = 2;
    f->scenario.write_share = 1;
    guest_fixture_work(f, PAGE_COUNT / 4);
    for (page = 0; page < PAGE_COUNT; page++) {
        once_count += f->writes[page] == 1;
        twice_count += f->writes[page] == 2;
    }
    g_assert_cmpuint(once_count, >, 0);
    g_assert_cmpuint(twice_count, >, 0);
    g_assert_cmpuint(once_count + 2 * twice_count, ==, PAGE_COUNT / 2);
    guest_fixture_free(f);
}

static void test_zipf_shares_the_hot_pages(void)
{
    /* What one vCPU writes most, the other ones write often as well. */
    GuestFixture *f = guest_fixture_new();
    uint32_t page, most = 0;

    f->scenario.pattern = PATTERN_ZIPF;
    f->scenario.write_share = 1;
    guest_fixture_work(f, PAGE_COUNT);
    for (page = 0; page < PAGE_COUNT; page++) {
        most = f->writes[page] > f->writes[most] ? page : most;
    }
    /* One in seven touches: 512 pages with weights 1, 1/2, 1/3, ... */
    g_assert_cmpuint(f->writes[most], >, PAGE_COUNT / 16);
    memset(f->writes, 0, sizeof(f->writes));
    f->scenario.vcpu_count = 4;
    guest_fixture_work(f, PAGE_COUNT);
    g_assert_cmpuint(f->writes[most], >, 4 * PAGE_COUNT / 16);
    guest_fixture_free(f);
}

static void test_worked_is_when_all_pages_were_touched(void)
{
    /* The guest has worked when all pages were touched, by any vCPU. */
    GuestFixture *f = guest_fixture_new();

    f->scenario.pattern = PATTERN_SEQUENTIAL;
    f->scenario.vcpu_count = 2;
    g_assert_cmpuint(guest_fixture_work(f, PAGE_COUNT / 2 - 1), ==, 0);
    g_assert_cmpuint(guest_fixture_work(f, PAGE_COUNT / 2), >, 0);
    guest_fixture_free(f);
}

static void test_writes_of_many_are_all_counted(void)
{
    /* Of four vCPUs' writes to 16 pages none is lost, none invented. */
    GuestFixture *f = guest_fixture_new();
    uint64_t sum = 0;
    uint32_t page;

    f->scenario.pattern = PATTERN_ZIPF;
    f->scenario.vcpu_count = 4;
    f->scenario.write_share = 1;
    f->scenario.working_set_bytes = 16 * BENCH_PAGE_BYTES;
    guest_fixture_work(f, 20000);
    for (page = 0; page < PAGE_COUNT; page++) {
        g_assert_cmpuint(guest_written(f, page), ==,
                         f->writes[page] * GUEST_WRITE_STEP);
        sum += f->writes[page];
    }
    g_assert_cmpuint(sum, ==, 4 * 20000);
    guest_fixture_free(f);
}

static void test_a_page_arrives_once(void)
{
    /* A page counts once, though several accesses may fault on it. */
    GuestFixture *f = guest_fixture_new();
    uint64_t came_bytes = 0;
    uint32_t page;

    f->variant.loader = &loader_mmap;
    f->scenario.vcpu_count = 4;
    guest_fixture_work(f, 2 * PAGE_COUNT);
    for (page = 0; page < PAGE_COUNT; page++) {
        came_bytes += f->arrivals[page] ? BENCH_PAGE_BYTES : 0;
    }
    g_assert_cmpuint(came_bytes, >, BENCH_HUGE_BYTES / 2);
    g_assert_cmpuint(f->run.loaded_bytes[ARRIVAL_URGENT], ==, came_bytes);
    guest_fixture_free(f);
}

/* ---- recorded times ---- */

/* A guest that replays @text at the pace of its times. */
static Guest *guest_replay(GuestFixture *f, const char *text,
                           uint64_t touches, GError **error)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("bench-guest-XXXXXX", &path, NULL);
    Guest *guest;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    close(fd);
    f->scenario.pattern = PATTERN_TRACE;
    f->scenario.think_ns = THINK_RECORDED;
    f->scenario.trace_path = path;
    guest = guest_new(&f->snapshot, &f->scenario, touches, error);
    unlink(path);
    return guest;
}

static void test_recorded_times_are_the_pace(void)
{
    /* A vCPU computes for as long as lies between its recorded touches. */
    static const struct {
        uint32_t vcpu_count;
        uint64_t touches, thought_ns;
    } cases[] = {
        { 1, 3, 4000000 }, { 1, 4, 4000000 }, { 2, 1, 4000000 },
    };
    g_autofree GuestCounters *counters = g_new0(GuestCounters, 1);
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        GuestFixture *f = guest_fixture_new();
        GError *error = NULL;
        Guest *guest;

        f->scenario.vcpu_count = cases[i].vcpu_count;
        guest = guest_replay(f, "0 @0.001\n4096 @0.003\n8192 @0.004\n",
                             cases[i].touches, &error);
        g_assert_no_error(error);
        guest_start(guest, &f->run, f->writes);
        guest_join(guest);
        guest_get_counters(guest, counters);
        g_assert_cmpuint(counters->thought_ns, ==, cases[i].thought_ns);
        g_assert_cmpuint(guest_thought_ns(guest), ==, cases[i].thought_ns);
        guest_free(guest);
        guest_fixture_free(f);
    }
}

static void test_a_long_pause_can_be_stopped(void)
{
    /* A guest that is stopped does not compute to the end of a pause. */
    GuestFixture *f = guest_fixture_new();
    GError *error = NULL;
    Guest *guest = guest_replay(f, "0 @0\n4096 @100000\n", 0, &error);

    g_assert_no_error(error);
    guest_start(guest, &f->run, f->writes);
    fixture_wait_until(guest_touch_count(guest));
    guest_stop(guest);
    guest_free(guest);
    guest_fixture_free(f);
}

static void test_a_pace_needs_all_times(void)
{
    /* A recorded pace is refused if a line of the trace has no time. */
    GuestFixture *f = guest_fixture_new();
    g_autoptr(GError) error = NULL;

    g_assert_null(guest_replay(f, "0 @0\n4096\n", 0, &error));
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "--think"));
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
    guest_add("progress-from-the-request-is-less",
              test_progress_from_the_request_is_less);
    guest_add("vcpus-touch-the-same-pages", test_vcpus_touch_the_same_pages);
    guest_add("vcpus-have-orders-of-their-own",
              test_vcpus_have_orders_of_their_own);
    guest_add("zipf-shares-the-hot-pages", test_zipf_shares_the_hot_pages);
    guest_add("worked-is-when-all-pages-were-touched",
              test_worked_is_when_all_pages_were_touched);
    guest_add("writes-of-many-are-all-counted",
              test_writes_of_many_are_all_counted);
    guest_add("a-page-arrives-once", test_a_page_arrives_once);
    guest_add("recorded-times-are-the-pace",
              test_recorded_times_are_the_pace);
    guest_add("a-long-pause-can-be-stopped",
              test_a_long_pause_can_be_stopped);
    guest_add("a-pace-needs-all-times", test_a_pace_needs_all_times);
    return g_test_run();
}
