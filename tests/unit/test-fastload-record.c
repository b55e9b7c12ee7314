/*
 * Recording what is touched first, and replaying it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/syscall.h>
#include "fastload-fixture.h"
#include "fastload-sim.h"

#define PAGE FIXTURE_PAGE_BYTES
#define CHUNK_PAGES FIXTURE_CHUNK_PAGE_COUNT
#define CHUNK_BYTES (CHUNK_PAGES * PAGE)
#define MS_NS (1000 * 1000ull)
#define SEED_COUNT 25
#define FOLDER_VARIABLE "FASTLOAD_TEST_FOLDER"

/* The program's own: a process may end just before a file gets its name. */
static bool is_to_crash;

int rename(const char *old_path, const char *new_path)
{
    if (is_to_crash) {
        syscall(SYS_exit_group, 0); /* no sanitizer looks at what is left */
    }
    return renameat(AT_FDCWD, old_path, AT_FDCWD, new_path);
}

typedef struct RecordTest {
    Fixture *f;
    Fastload *fl;
    FixtureEvents events;
    FixturePlaced placed;
    char *folder;
    char *path;
    FastloadWorksetConfig workset;
    /* the set's callback; atomic, and read when it is not 0 */
    uint32_t told_count;
    FastloadWorksetState told_state;
    char *told_error;
} RecordTest;

static void record_told(const FastloadWorksetStats *stats,
                        const GError *error, void *opaque)
{
    RecordTest *t = opaque;

    g_assert_true(!error == (stats->state == FASTLOAD_WORKSET_WRITTEN));
    t->told_state = stats->state;
    t->told_error = error ? g_strdup(error->message) : NULL;
    __atomic_add_fetch(&t->told_count, 1, __ATOMIC_RELEASE);
}

static uint32_t record_told_count(RecordTest *t)
{
    return __atomic_load_n(&t->told_count, __ATOMIC_ACQUIRE);
}

static char *record_folder_new(void)
{
    GError *error = NULL;
    char *folder = g_dir_make_tmp("fastload-record-XXXXXX", &error);

    g_assert_no_error(error);
    return folder;
}

static void record_folder_remove(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_clear_pointer(&dir, g_dir_close);
    g_rmdir(folder);
}

/* How many files in the folder have names that end so. */
static uint32_t record_folder_count(const char *folder, const char *suffix)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    uint32_t count = 0;

    while (dir && (name = g_dir_read_name(dir))) {
        count += g_str_has_suffix(name, suffix);
    }
    g_clear_pointer(&dir, g_dir_close);
    return count;
}

/* A load of the test's memory, which it had or not; it has not started. */
static void record_load_new(RecordTest *t, const FastloadIoOps *ops,
                            FastloadConfig config)
{
    FastloadRegion region;
    GError *error = NULL;

    config.event_func = fixture_events_func;
    config.event_opaque = &t->events;
    config.placed_func = config.placed_func ? config.placed_func
                                            : fixture_placed_func;
    config.placed_opaque = config.placed_opaque ? config.placed_opaque
                                                : &t->placed;
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    if (ops) {
        fastload_set_io_ops(t->fl, ops);
    }
    fixture_region(t->f, &region);
    region.label = "pc.ram";
    g_assert_true(fastload_add_region(t->fl, &region, &error));
}

/* NULL: there is no such memory, and the test was skipped. */
static RecordTest *record_new_config(const FastloadIoOps *ops,
                                     FastloadConfig config,
                                     FixtureMemory memory,
                                     uint64_t page_count,
                                     FixtureHasData *has_data)
{
    Fixture *f = fixture_new(memory, page_count, has_data);
    RecordTest *t = g_new0(RecordTest, 1);

    if (!f) {
        g_free(t);
        return NULL;
    }
    t->f = f;
    fixture_events_init(&t->events);
    fixture_placed_init(&t->placed, f);
    t->folder = record_folder_new();
    t->path = g_build_filename(t->folder, "set", NULL);
    t->workset = (FastloadWorksetConfig) {
        .path = t->path, .func = record_told, .opaque = t,
    };
    record_load_new(t, ops, config);
    return t;
}

/* On the simulator, whose clock stands still; or NULL, see above. */
static RecordTest *record_new_workers(FixtureMemory memory, uint64_t page_count,
                                      FixtureHasData *has_data,
                                      uint32_t worker_count)
{
    SimConfig sim_config = { .seed = 1 };
    FastloadConfig config = { .worker_count = worker_count };

    sim_reset(&sim_config);
    test_clock_stop();
    return record_new_config(&sim_ops, config, memory, page_count, has_data);
}

static RecordTest *record_new_memory(FixtureMemory memory, uint64_t page_count,
                                     FixtureHasData *has_data)
{
    return record_new_workers(memory, page_count, has_data, 2);
}

/* Eight chunks. */
static RecordTest *record_new(FixtureHasData *has_data)
{
    return record_new_memory(FIXTURE_ANON, 8 * CHUNK_PAGES, has_data);
}

static void record_use(RecordTest *t)
{
    GError *error = NULL;

    fastload_use_workset(t->fl, &t->workset, &error);
    g_assert_no_error(error);
}

static void record_start(RecordTest *t)
{
    GError *error = NULL;

    record_use(t);
    fastload_start(t->fl, &error);
    g_assert_no_error(error);
}

static FastloadStats record_stats(RecordTest *t)
{
    FastloadStats stats;

    fastload_get_stats(t->fl, &stats);
    return stats;
}

static FastloadWorksetState record_state(RecordTest *t)
{
    return record_stats(t).workset.state;
}

static void record_run_until(RecordTest *t, FastloadWorksetState state)
{
    sim_run_until(record_state(t) == state);
}

static void record_run(RecordTest *t)
{
    GError *error = NULL;

    sim_run_until(record_stats(t).remaining_bytes == 0);
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
}

static void record_free(RecordTest *t)
{
    fastload_free(t->fl);
    record_folder_remove(t->folder);
    fixture_free(t->f);
    fixture_events_clear(&t->events);
    fixture_placed_clear(&t->placed);
    g_free(t->folder);
    g_free(t->path);
    g_free(t->told_error);
    g_free(t);
}

/* The load is over, all is right, and all has been told. */
static void record_finish(RecordTest *t)
{
    FastloadStats stats = record_stats(t);

    fixture_placed_check(&t->placed, &stats);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    record_free(t);
}

static void record_touch(RecordTest *t, uint64_t page_idx)
{
    g_assert_true(fixture_page_is_right(t->f, page_idx));
}

/*
 * Time passes while no worker is at work: one in the middle of a turn would
 * sleep for as long as it had to when the turn began.
 */
static void record_skip(uint64_t ns)
{
    sim_wait_asleep();
    sim_skip(ns);
    sim_wait_asleep();
}

/* NULL: there is no file. */
static FastloadWorkset *record_read(const char *path)
{
    g_autofree char *bytes = NULL;
    FastloadWorkset *set;
    const char *refusal = NULL;
    gsize len_bytes;

    if (!g_file_get_contents(path, &bytes, &len_bytes, NULL)) {
        return NULL;
    }
    set = fastload_workset_parse((uint8_t *)bytes, len_bytes, &refusal);
    g_assert_cmpstr(refusal, ==, NULL);
    return set;
}

typedef struct RecordRun {
    uint64_t first_page;
    uint32_t page_count;
} RecordRun;

static void record_check_file(RecordTest *t, const RecordRun *want,
                              uint32_t count)
{
    g_autoptr(FastloadWorkset) set = record_read(t->path);
    uint32_t i;

    g_assert_nonnull(set);
    g_assert_cmpuint(set->block_count, ==, 1);
    g_assert_cmpstr(set->blocks[0].label, ==, "pc.ram");
    g_assert_cmpuint(set->blocks[0].len_bytes, ==, t->f->len_bytes);
    g_assert_cmpuint(set->run_count, ==, count);
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(set->runs[i].first_page, ==, want[i].first_page);
        g_assert_cmpuint(set->runs[i].page_count, ==, want[i].page_count);
        g_assert_cmpuint(set->runs[i].seen_count, ==, 1);
    }
}

/* Of every 16 pages one is zero. */
static bool record_some_zero(uint64_t page_idx)
{
    return page_idx % 16 != 5;
}

/* ---- recording ---- */

static void test_first_touches_in_order(const void *opaque)
{
    /* Touched pages, data or zero, are recorded once, in order. */
    static const RecordRun want[] = {
        { 700, 2 }, { 3, 1 }, { 5, 1 }, { 2000, 1 },
    };
    RecordTest *t = record_new(record_some_zero);
    FastloadStats stats;

    record_start(t);
    record_touch(t, 700);
    record_touch(t, 3);
    record_touch(t, 5);
    record_touch(t, 701);
    record_touch(t, 2000);
    record_touch(t, 3);
    sim_wait_asleep();
    stats = record_stats(t);
    g_assert_cmpint(stats.workset.state, ==, FASTLOAD_WORKSET_RECORDING);
    g_assert_cmpuint(stats.workset.page_count, ==, 5);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==, 0);
    g_assert_cmpuint(stats.read_bytes, ==, 4 * PAGE);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    stats = record_stats(t);
    g_assert_cmpint(stats.workset.state, ==, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(stats.workset.page_count, ==, 5);
    g_assert_cmpuint(stats.workset.run_count, ==, 4);
    g_assert_cmpuint(record_told_count(t), ==, 1);
    g_assert_cmpint(t->told_state, ==, FASTLOAD_WORKSET_WRITTEN);
    record_finish(t);
}

static void test_wanted_pages_are_touches(const void *opaque)
{
    /* Pages that another process wants are recorded among the touched ones. */
    static const RecordRun want[] = { { 700, 1 }, { 3, 1 }, { 2000, 1 } };
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 700);
    g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, 3)), ==,
                    FASTLOAD_WANTED_QUEUED);
    fixture_wait_until(fastload_is_loaded(t->fl, fixture_page(t->f, 3), 1));
    g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, 3)), ==,
                    FASTLOAD_WANTED_THERE);
    record_touch(t, 2000);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_free(t);
}

static void test_page_that_faults_again(const void *opaque)
{
    /* A page that faults twice is in the set once, at its first touch. */
    static const RecordRun want[] = { { 9, 1 }, { 20, 1 } };
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 9);
    /* Until it counts as placed, the snapshot's bytes would come again. */
    fixture_wait_until(record_stats(t).remaining_bytes < t->f->len_bytes);
    record_touch(t, 20);
    g_assert_cmpint(madvise(fixture_page(t->f, 9), PAGE, MADV_DONTNEED), ==,
                    0);
    g_assert_cmpuint(*fixture_page(t->f, 9), ==, 0);
    fixture_wait_until(record_stats(t).fault_count == 3);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 2);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_free(t);
}

static void test_ends_when_it_is_quiet(const void *opaque)
{
    /* Recording ends after quiet_ns without a new page. */
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 1);
    record_skip(290 * MS_NS);
    record_touch(t, 2);
    record_skip(250 * MS_NS);
    record_touch(t, 1);
    record_skip(49 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 590 * MS_NS);
    record_run(t);
    record_finish(t);
}

static void test_ends_not_while_a_page_is_waited_for(const void *opaque)
{
    /* A guest that waits for slow storage is not quiet. */
    RecordTest *t = record_new(fixture_all_data);
    FixtureToucher toucher;

    sim_hold_range(t->f->file_off + 1000 * PAGE, PAGE);
    record_start(t);
    record_touch(t, 1);
    fixture_toucher_start_page(&toucher, t->f, 1000);
    fixture_wait_until(record_stats(t).workset.page_count == 2);
    record_skip(900 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    sim_hold_range(0, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    record_skip(290 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    record_touch(t, 2000);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 3);
    record_run(t);
    record_finish(t);
}

static void test_ends_at_the_most_though_a_page_is_waited_for(
    const void *opaque)
{
    RecordTest *t = record_new(fixture_all_data);
    FixtureToucher toucher;

    sim_hold_range(t->f->file_off + 1000 * PAGE, PAGE);
    record_start(t);
    fixture_toucher_start_page(&toucher, t->f, 1000);
    fixture_wait_until(record_stats(t).workset.page_count == 1);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 2000 * MS_NS);
    sim_hold_range(0, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    record_run(t);
    record_finish(t);
}

/* Makes two regions of the memory, each of half of it. */
static void record_split(RecordTest *t, bool is_first_early)
{
    FastloadConfig config = {
        .worker_count = 2,
        .event_func = fixture_events_func,
        .event_opaque = &t->events,
    };
    FastloadRegion first, second;
    GError *error = NULL;

    fastload_free(t->fl);
    t->fl = fastload_new(t->f->fd, &config, &error);
    g_assert_no_error(error);
    fastload_set_io_ops(t->fl, &sim_ops);
    fixture_region(t->f, &first);
    first.len_bytes /= 2;
    second = first;
    first.is_early = is_first_early;
    second.hva = (uint8_t *)first.hva + first.len_bytes;
    second.file_off += first.len_bytes;
    g_assert_true(fastload_add_region(t->fl, &first, &error));
    g_assert_true(fastload_add_region(t->fl, &second, &error));
}

static void test_waits_for_no_region_that_was_dropped(const void *opaque)
{
    RecordTest *t = record_new(fixture_all_data);
    FixtureToucher toucher;

    record_split(t, false);
    sim_hold_range(t->f->file_off, PAGE);
    record_start(t);
    fixture_toucher_start_page(&toucher, t->f, 0);
    fixture_wait_until(record_stats(t).workset.page_count == 1);
    record_skip(400 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    /* Nobody waits any more: no worker sleeps until the most is over. */
    fastload_drop_region(t->fl, t->f->hva);
    fixture_toucher_join(&toucher);
    fixture_wait_until(record_state(t) == FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 400 * MS_NS);
    sim_hold_range(0, 0);
    record_run(t);
    record_free(t);
}

static void test_page_that_an_early_chunk_brings(const void *opaque)
{
    RecordTest *t = record_new(fixture_all_data);
    FixtureToucher toucher;

    record_split(t, true);
    sim_hold(SIM_HOLD_URGENT);
    sim_hold_range(t->f->file_off, t->f->len_bytes / 2);
    record_start(t);
    fixture_toucher_start_page(&toucher, t->f, 700);
    fixture_wait_until(record_stats(t).workset.page_count == 1);
    record_skip(400 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    sim_hold_range(0, 0);
    g_assert_cmpuint(fixture_toucher_join(&toucher), ==, 0);
    record_skip(290 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    sim_hold(SIM_HOLD_NONE);
    record_run(t);
    record_free(t);
}

static void test_ends_without_a_background(const void *opaque)
{
    /* Recording ends also while nothing may be read in the background. */
    RecordTest *t = record_new(fixture_all_data);

    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    record_touch(t, 1);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 300 * MS_NS);
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    record_finish(t);
}

static void test_ends_not_before(const void *opaque)
{
    /* Recording lasts for least_ns, even without touches. */
    RecordTest *t = record_new(fixture_all_data);

    t->workset.quiet_ns = 1;
    t->workset.least_ns = 50 * MS_NS;
    record_start(t);
    record_touch(t, 1);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 50 * MS_NS);
    record_run(t);
    record_finish(t);
}

static void test_ends_at_the_most(const void *opaque)
{
    /* Recording ends after most_ns, even with touches. */
    RecordTest *t = record_new(fixture_all_data);
    uint64_t page;

    record_start(t);
    for (page = 0; page < 10; page++) {
        record_touch(t, page * 20);
        record_skip(200 * MS_NS);
    }
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 2000 * MS_NS);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 10);
    record_run(t);
    record_finish(t);
}

static void test_ends_when_it_is_full(const void *opaque)
{
    /* Recording ends when the set is full, and the set says so. */
    RecordTest *t = record_new(fixture_all_data);
    g_autoptr(FastloadWorkset) set = NULL;

    record_start(t);
    /* As if so many had been touched. */
    __atomic_store_n(&t->fl->record.touch_count, FASTLOAD_TOUCH_COUNT_MAX - 1,
                     __ATOMIC_RELAXED);
    record_touch(t, 300);
    sim_run_until(record_state(t) == FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 0);
    set = record_read(t->path);
    g_assert_true(set->is_cut);
    g_assert_cmpuint(set->page_count, ==, 1);
    record_run(t);
    record_finish(t);
}

static void test_times_begin_with_the_guest(const void *opaque)
{
    /* Touches before the guest runs are recorded; it may run late. */
    static const RecordRun want[] = { { 9, 1 }, { 100, 1 } };
    RecordTest *t = record_new(fixture_all_data);

    t->workset.awaits_guest = true;
    record_start(t);
    record_touch(t, 9);
    record_skip(3000 * MS_NS);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_RECORDING);
    fastload_guest_runs(t->fl);
    record_touch(t, 100);
    record_skip(100 * MS_NS);
    fastload_guest_runs(t->fl); /* once more is no matter */
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 3300 * MS_NS);
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_run(t);
    record_finish(t);
}

static void test_guest_that_never_runs(const void *opaque)
{
    /* If the guest never runs, nothing is written, and the load goes on. */
    RecordTest *t = record_new(fixture_all_data);

    t->workset.awaits_guest = true;
    record_start(t);
    record_touch(t, 9);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_FAILED);
    g_assert_cmpuint(record_stats(t).workset.took_ns, ==, 10000 * MS_NS);
    g_assert_cmpuint(record_told_count(t), ==, 1);
    g_assert_true(g_str_has_suffix(t->told_error, "the guest did not run"));
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 0);
    record_finish(t);
}

static void test_nothing_was_touched(const void *opaque)
{
    /* Without a touch no set is written, so that the next load records. */
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_FAILED);
    g_assert_true(g_str_has_suffix(t->told_error, "nothing was touched"));
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 0);
    record_finish(t);
}

static void test_cancelled_load_writes(const void *opaque)
{
    /* A load that is cancelled writes what it has recorded. */
    static const RecordRun want[] = { { 77, 1 }, { 7, 1 } };
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 77);
    record_touch(t, 7);
    fastload_cancel(t->fl);
    g_assert_false(fastload_wait(t->fl, NULL));
    g_assert_cmpuint(record_told_count(t), ==, 1);
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_free(t);
}

static void test_freed_load_writes(const void *opaque)
{
    /* A load that is freed writes what it has recorded. */
    static const RecordRun want[] = { { 77, 1 } };
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 77);
    fastload_free(t->fl);
    t->fl = NULL;
    record_check_file(t, want, G_N_ELEMENTS(want));
    record_free(t);
}

static void test_guest_that_touches_all(const void *opaque)
{
    /* If the load completes while it records, one run has all pages. */
    static const RecordRun want[] = { { 0, 8 * CHUNK_PAGES } };
    RecordTest *t = record_new(fixture_mixed);
    uint64_t page;

    record_start(t);
    for (page = 0; page < 8 * CHUNK_PAGES; page++) {
        record_touch(t, page);
    }
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_WRITTEN);
    /* Zero chunks are not trapped, so nobody is seen to touch them. */
    if (record_stats(t).workset.page_count == 8 * CHUNK_PAGES) {
        record_check_file(t, want, 1);
    } else {
        g_autoptr(FastloadWorkset) set = record_read(t->path);

        g_assert_cmpuint(set->run_count, ==, 2);
        g_assert_cmpuint(set->runs[0].page_count, ==, 4 * CHUNK_PAGES);
    }
    record_finish(t);
}

static void test_failed_start_leaves_nothing(const void *opaque)
{
    /* A load that fails to start, or never starts, leaves no file. */
    SimConfig sim_config = { .seed = 1 };
    RecordTest *t = record_new(fixture_all_data);

    record_use(t);
    sim_refuse(true);
    t->fl->config.io_kind = FASTLOAD_IO_IO_URING;
    g_assert_false(fastload_start(t->fl, NULL));
    fastload_free(t->fl);
    sim_reset(&sim_config);
    record_load_new(t, &sim_ops, (FastloadConfig) { 0 });
    record_use(t);
    fastload_free(t->fl);
    t->fl = NULL;
    g_assert_cmpuint(record_told_count(t), ==, 0);
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 0);
    record_free(t);
}

static void test_far_faults_come_alone(const void *opaque)
{
    /*
     * While recording, a fault reads its page alone: a neighbour's first touch
     * would be hidden.
     */
    RecordTest *t = record_new(fixture_all_data);

    t->fl->window.round_trip_ns = 10 * MS_NS;
    t->fl->window.rate_bytes_per_s = 1000 * 1000 * 1000;
    record_start(t);
    record_touch(t, 40);
    record_touch(t, 41);
    sim_wait_asleep();
    g_assert_cmpuint(record_stats(t).read_bytes, ==, 2 * PAGE);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 2);
    record_run(t);
    record_finish(t);
}

static void test_mode_is_the_umasks(const void *opaque)
{
    /* The file's mode is what the umask allows. */
    RecordTest *t = record_new(fixture_all_data);
    mode_t mask = umask(027);
    struct stat st;

    record_start(t);
    record_touch(t, 1);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    umask(mask);
    g_assert_cmpint(stat(t->path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0640);
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 1);
    record_finish(t);
}

static void test_two_record_one_file(const void *opaque)
{
    /* Two loads that record to one file leave one that is whole. */
    RecordTest *t = record_new(fixture_all_data);
    RecordTest *other = record_new_config(&sim_ops,
                                          (FastloadConfig) { 0 },
                                          FIXTURE_ANON, CHUNK_PAGES,
                                          fixture_all_data);
    g_autoptr(FastloadWorkset) set = NULL;

    other->workset.path = t->path;
    record_start(t);
    record_start(other);
    record_touch(t, 1);
    record_touch(other, 2);
    record_run(t);
    record_run(other);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    fixture_events_wait(&other->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(t->told_state, ==, FASTLOAD_WORKSET_WRITTEN);
    g_assert_cmpint(other->told_state, ==, FASTLOAD_WORKSET_WRITTEN);
    set = record_read(t->path);
    g_assert_nonnull(set);
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 1);
    record_finish(other);
    record_finish(t);
}

static void test_folder_that_goes(const void *opaque)
{
    /*
     * If the folder is gone, recording fails and says why; the load does not.
     */
    RecordTest *t = record_new(fixture_all_data);

    record_start(t);
    record_touch(t, 1);
    g_assert_cmpint(g_rmdir(t->folder), ==, 0);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_FAILED);
    g_assert_cmpuint(record_told_count(t), ==, 1);
    g_assert_nonnull(strstr(t->told_error, "cannot be written: No such file"));
    record_finish(t);
}

static void test_disk_that_is_full(const void *opaque)
{
    /* On a full disk neither a file is left nor a part of one. */
    RecordTest *t;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    t = record_new(fixture_all_data);
    record_start(t);
    record_touch(t, 1);
    sim_wait_asleep();
    fixture_refuse_with(SYS_fsync, ENOSPC);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_FAILED);
    g_assert_nonnull(strstr(t->told_error, "No space left"));
    g_assert_cmpuint(record_folder_count(t->folder, ""), ==, 0);
    record_finish(t);
}

static void record_crash(const char *folder)
{
    RecordTest *t = record_new(fixture_all_data);
    g_autofree char *path = g_build_filename(folder, "set", NULL);

    t->workset.path = path;
    is_to_crash = true;
    record_start(t);
    record_touch(t, 1);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_not_reached();
}

static void test_crash_before_the_name(const void *opaque)
{
    /* After a crash the file is whole, or not there. */
    g_autofree char *folder = NULL;

    if (g_test_subprocess()) {
        record_crash(g_getenv(FOLDER_VARIABLE));
        return;
    }
    folder = record_folder_new();
    setenv(FOLDER_VARIABLE, folder, true);
    g_assert_true(fixture_run_child());
    unsetenv(FOLDER_VARIABLE);
    g_assert_cmpuint(record_folder_count(folder, ""), ==, 1);
    g_assert_cmpuint(record_folder_count(folder, ".tmp"), ==, 1);
    record_folder_remove(folder);
}

/* ---- which file it is ---- */

/* Has the load refuse the set at its path, with an error that ends so. */
static void record_check_refused(RecordTest *t, const char *suffix)
{
    GError *error = NULL;

    g_assert_false(fastload_use_workset(t->fl, &t->workset, &error));
    g_assert_nonnull(error);
    if (!g_str_has_suffix(error->message, suffix)) {
        g_error("%s", error->message);
    }
    g_error_free(error);
}

/* The same, and then it loads as ever, and the file is as it was. */
static void record_check_without(RecordTest *t, const char *suffix)
{
    g_autofree char *before = NULL, *after = NULL;
    gsize before_bytes, after_bytes;
    GError *error = NULL;

    g_assert_true(g_file_get_contents(t->path, &before, &before_bytes, NULL));
    record_check_refused(t, suffix);
    g_assert_true(fastload_start(t->fl, &error));
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_NONE);
    g_assert_cmpuint(record_told_count(t), ==, 0);
    g_assert_true(g_file_get_contents(t->path, &after, &after_bytes, NULL));
    g_assert_cmpmem(before, before_bytes, after, after_bytes);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==, 0);
}

/* What this load's snapshot is known by. */
static uint64_t record_digest_of(const Fixture *f, const FastloadRegion *region,
                                 uint64_t stream_off)
{
    g_autofree char *folder = record_folder_new();
    g_autofree char *path = g_build_filename(folder, "none", NULL);
    FastloadWorksetConfig workset = { .path = path };
    FastloadConfig config = { .stream_off = stream_off };
    Fastload *fl = fastload_new(f->fd, &config, NULL);
    uint64_t digest;

    g_assert_true(fastload_add_region(fl, region, NULL));
    g_assert_true(fastload_use_workset(fl, &workset, NULL));
    digest = fl->record.snapshot_digest;
    fastload_free(fl);
    record_folder_remove(folder);
    return digest;
}

/* Writes a set of these pages for the test's snapshot; changes it first. */
static void record_write_set(RecordTest *t, const RecordRun *runs,
                             uint32_t count,
                             void (*change)(FastloadWorkset *set))
{
    g_autoptr(FastloadWorkset) set = g_new0(FastloadWorkset, 1);
    g_autofree uint8_t *bytes = NULL;
    FastloadRegion region;
    size_t len_bytes;
    uint32_t i;

    fixture_region(t->f, &region);
    region.label = "pc.ram";
    set->snapshot_digest = record_digest_of(t->f, &region, 0);
    set->block_count = 1;
    set->blocks = g_new0(FastloadWorksetBlock, 1);
    strcpy(set->blocks[0].label, "pc.ram");
    set->blocks[0].len_bytes = t->f->len_bytes;
    set->blocks[0].stream_off = t->f->file_off;
    set->run_count = count;
    set->runs = g_new0(FastloadWorksetRun, count);
    for (i = 0; i < count; i++) {
        set->runs[i].first_page = runs[i].first_page;
        set->runs[i].page_count = runs[i].page_count;
        set->runs[i].seen_count = 1;
        set->page_count += runs[i].page_count;
    }
    if (change) {
        change(set);
    }
    bytes = fastload_workset_format(set, &len_bytes);
    g_assert_true(g_file_set_contents(t->path, (char *)bytes, len_bytes,
                                      NULL));
}

static const RecordRun record_one_run[] = { { 10, 4 } };

static void record_change_digest(FastloadWorkset *set)
{
    set->snapshot_digest++;
}

static void record_change_block(FastloadWorkset *set)
{
    set->blocks[0].stream_off += PAGE;
}

static void test_set_of_another_snapshot(const void *opaque)
{
    /* A set of another snapshot is not used, and stays as it is. */
    RecordTest *t = record_new(fixture_all_data);

    record_write_set(t, record_one_run, 1, record_change_digest);
    record_check_without(t, "it was recorded of another snapshot");
    record_finish(t);
}

static void test_set_of_another_block(const void *opaque)
{
    /* A set with a block that the snapshot lacks is not used. */
    RecordTest *t = record_new(fixture_all_data);

    record_write_set(t, record_one_run, 1, record_change_block);
    record_check_without(t, "it has a block that the snapshot does not have");
    record_finish(t);
}

static void test_damaged_set(const void *opaque)
{
    /* A damaged set is not used. */
    RecordTest *t = record_new(fixture_all_data);

    record_write_set(t, record_one_run, 1, NULL);
    g_assert_cmpint(truncate(t->path, 80), ==, 0);
    record_check_without(t, "its length is not the one in its header");
    record_finish(t);
}

static void test_what_is_no_file(const void *opaque)
{
    /* A folder, a pipe and a file as long as memory are refused. */
    RecordTest *t = record_new(fixture_all_data);

    g_assert_cmpint(g_mkdir(t->path, 0700), ==, 0);
    record_check_refused(t, "it is not a regular file");
    g_assert_cmpint(g_rmdir(t->path), ==, 0);
    g_assert_cmpint(mkfifo(t->path, 0600), ==, 0);
    record_check_refused(t, "it is not a regular file");
    g_assert_cmpint(g_unlink(t->path), ==, 0);
    g_assert_true(g_file_set_contents(t->path, "", 0, NULL));
    g_assert_cmpint(truncate(t->path, 1ull << 40), ==, 0);
    record_check_refused(t, "it is longer than the file of a working set can "
                         "be");
    record_free(t);
}

static void test_folder_that_is_not_there(const void *opaque)
{
    /* A missing folder is refused before anything is loaded. */
    RecordTest *t = record_new(fixture_all_data);
    g_autofree char *path = g_build_filename(t->folder, "no", "set", NULL);

    t->workset.path = path;
    record_check_refused(t, "No such file or directory");
    record_free(t);
}

static void test_what_a_snapshot_is(const void *opaque)
{
    /* The digest depends on all of a snapshot, not on its addresses. */
    Fixture *f = fixture_new(FIXTURE_ANON, 2 * CHUNK_PAGES, fixture_mixed);
    FastloadRegion region, other;
    uint64_t digest;

    fixture_region(f, &region);
    region.label = "pc.ram";
    digest = record_digest_of(f, &region, 0);
    g_assert_cmpuint(record_digest_of(f, &region, 0), ==, digest);
    other = region;
    other.wants_huge = other.is_early = other.is_off_grid = true;
    other.hva = (uint8_t *)region.hva + PAGE;
    g_assert_cmpuint(record_digest_of(f, &other, 0), ==, digest);
    other = region;
    other.label = "pc.ran";
    g_assert_cmpuint(record_digest_of(f, &other, 0), !=, digest);
    other = region;
    other.len_bytes -= PAGE;
    g_assert_cmpuint(record_digest_of(f, &other, 0), !=, digest);
    other = region;
    other.file_off += PAGE;
    g_assert_cmpuint(record_digest_of(f, &other, 0), !=, digest);
    f->data_bits[3] ^= 1ull << 17;
    g_assert_cmpuint(record_digest_of(f, &region, 0), !=, digest);
    f->data_bits[3] ^= 1ull << 17;
    g_assert_cmpuint(record_digest_of(f, &region, 0), ==, digest);
    g_assert_cmpint(ftruncate(f->fd, region.file_off + region.len_bytes +
                              3 * PAGE), ==, 0);
    g_assert_cmpuint(record_digest_of(f, &region, 0), !=, digest);
    fixture_free(f);
}

static void test_stream_that_begins_elsewhere(const void *opaque)
{
    /* The digest does not depend on what lies before the stream. */
    Fixture *f = fixture_new(FIXTURE_ANON, CHUNK_PAGES, fixture_all_data);
    FastloadRegion region;
    uint64_t digest;

    fixture_region(f, &region);
    g_assert_cmpint(ftruncate(f->fd, region.file_off + region.len_bytes), ==,
                    0);
    digest = record_digest_of(f, &region, 2 * PAGE);
    region.file_off += PAGE;
    g_assert_cmpint(ftruncate(f->fd, region.file_off + region.len_bytes), ==,
                    0);
    g_assert_cmpuint(record_digest_of(f, &region, 3 * PAGE), ==, digest);
    fixture_free(f);
}

/* ---- replaying ---- */

/* Runs of one page each, so many pages apart. */
static void replay_set_apart(RecordRun *runs, uint32_t count, uint64_t step)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        runs[i] = (RecordRun) { i * step, 1 };
    }
}

/* As record_new(), and there is a set of these runs. */
static RecordTest *replay_new_pages(uint64_t page_count,
                                    FixtureHasData *has_data,
                                    const RecordRun *runs, uint32_t count)
{
    RecordTest *t = record_new_memory(FIXTURE_ANON, page_count, has_data);

    record_write_set(t, runs, count, NULL);
    return t;
}

static RecordTest *replay_new(FixtureHasData *has_data, const RecordRun *runs,
                              uint32_t count)
{
    return replay_new_pages(8 * CHUNK_PAGES, has_data, runs, count);
}

/* As storage tells that is short of requests: each costs @req_bytes. */
static void replay_short_of_requests(Fastload *fl, uint64_t req_bytes)
{
    FastloadPace *pace = &fl->window.pace;

    pace->is_dear = 1;
    pace->skip_count = UINT32_MAX; /* what the simulator takes tells nothing */
    pace->req_ns = 10 * MS_NS / pace->count;
    fl->window.rate = fl->window.rate_bytes_per_s = req_bytes * pace->count *
                                                    100;
}

/* Replays the set, and nothing is read ahead before that is over. */
static void replay_set(RecordTest *t)
{
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
}

/* The rest as well. */
static void replay_finish(RecordTest *t)
{
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    fixture_events_wait(&t->events, FASTLOAD_EVENT_SETTLED);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(record_told_count(t), ==, 0);
    record_finish(t);
}

static FastloadClass replay_class(RecordTest *t, uint64_t page_idx)
{
    return fixture_placed_class(&t->placed, page_idx);
}

static uint32_t replay_taken_count(RecordTest *t)
{
    FastloadArea *area = g_ptr_array_index(t->fl->areas, 0);
    uint32_t count = 0;
    uint64_t c;

    g_mutex_lock(&t->fl->sched.lock);
    for (c = 0; c < area->chunk_count; c++) {
        count += area->chunk_states[c] != FASTLOAD_CHUNK_PENDING &&
                 area->chunk_states[c] != FASTLOAD_CHUNK_UNTRAPPED;
    }
    g_mutex_unlock(&t->fl->sched.lock);
    return count;
}

typedef struct ReplayOrder {
    const Fixture *f;
    uint64_t pages[64];
    uint32_t count;
} ReplayOrder;

/* With one worker it is called by one thread. */
static void replay_note(void *hva, uint64_t len_bytes, FastloadClass class,
                        bool has_data, void *opaque)
{
    ReplayOrder *order = opaque;

    if (order->count < G_N_ELEMENTS(order->pages)) {
        order->pages[order->count++] = ((uint8_t *)hva - order->f->hva) / PAGE;
    }
    g_assert_true(class == FASTLOAD_CLASS_HINT || order->count > 4);
}

static void test_order_of_touch(const void *opaque)
{
    /* Hints are read in order of touch, before anything else. */
    static const RecordRun runs[] = {
        { 3000, 1 }, { 20, 1 }, { 4000, 1 }, { 1100, 1 },
    };
    ReplayOrder order = { 0 };
    FastloadConfig config = {
        .worker_count = 1, .io_kind = FASTLOAD_IO_PREADV,
        .placed_func = replay_note, .placed_opaque = &order,
    };
    RecordTest *t = record_new_config(NULL, config, FIXTURE_ANON,
                                      8 * CHUNK_PAGES, fixture_all_data);
    GError *error = NULL;
    uint32_t i;

    order.f = t->f;
    record_write_set(t, runs, G_N_ELEMENTS(runs), NULL);
    record_start(t);
    fastload_wait(t->fl, &error);
    g_assert_no_error(error);
    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        g_assert_cmpuint(order.pages[i], ==, runs[i].first_page);
    }
    g_assert_cmpuint(record_stats(t).hint_count, ==, G_N_ELEMENTS(runs));
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    record_free(t);
}

static void test_faults_then_hints_then_the_rest(const void *opaque)
{
    /* Faults come first, then hints, then the rest. */
    RecordRun runs[100];
    RecordTest *t;
    uint32_t i;

    replay_set_apart(runs, G_N_ELEMENTS(runs), 40);
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    sim_hold(SIM_HOLD_BACKGROUND);
    record_start(t);
    sim_wait_asleep();
    /* Hints are out, not too many, and no chunk is. */
    g_assert_cmpuint(sim_pending_count(), >, 8);
    g_assert_cmpuint(sim_pending_count(), <, 32);
    g_assert_cmpuint(replay_taken_count(t), ==, 0);
    record_touch(t, 41);
    record_touch(t, 40);
    /* It is there, and then it is counted. */
    fixture_wait_until(replay_class(t, 40) != FASTLOAD_CLASS_MAX);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_REPLAYING);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    sim_hold(SIM_HOLD_NONE);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    g_assert_cmpint(replay_class(t, 41), ==, FASTLOAD_CLASS_URGENT);
    g_assert_cmpint(replay_class(t, 40), ==, FASTLOAD_CLASS_URGENT);
    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        if (i != 1) {
            g_assert_cmpint(replay_class(t, 40 * i), ==, FASTLOAD_CLASS_HINT);
        }
    }
    g_assert_cmpint(replay_class(t, 42), ==, FASTLOAD_CLASS_BACKGROUND);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     99 * PAGE);
    replay_finish(t);
}

/* The file is in the page cache, so reading is work for a processor. */
static void replay_from_the_page_cache(RecordTest *t)
{
    t->fl->file.is_cached = 1;
    t->fl->window.first_ns = 1; /* it is near */
}

static RecordTest *replay_new_cached(void)
{
    RecordRun runs[60];
    RecordTest *t;

    replay_set_apart(runs, G_N_ELEMENTS(runs), 64);
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    replay_from_the_page_cache(t);
    return t;
}

static void test_one_hint_beside_faults(const void *opaque)
{
    /* The worker that serves faults reads one hint at a time, others many. */
    RecordTest *t = replay_new_cached();

    sim_hold(SIM_HOLD_BACKGROUND);
    record_start(t);
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].ahead_count, ==, 1);
    g_assert_cmpuint(t->fl->workers[1].ahead_count, >, 4);
    record_touch(t, 1);
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

static void test_the_first_leaves_hints(const void *opaque)
{
    /*
     * Before the guest runs, the worker that is not nice leaves a set that is
     * in the page cache to the others.
     */
    RecordTest *t = replay_new_cached();

    t->workset.awaits_guest = true;
    sim_hold(SIM_HOLD_BACKGROUND);
    record_start(t);
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].ahead_count, ==, 0);
    g_assert_cmpuint(t->fl->workers[1].ahead_count, >, 4);
    fastload_guest_runs(t->fl);
    sim_wait_asleep();
    g_assert_cmpuint(t->fl->workers[0].ahead_count, ==, 1);
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

/* ---- a working set while processors are short ---- */

static void replay_took_100_ms(FastloadWorkset *set)
{
    set->took_ns = 100 * MS_NS;
}

static void replay_took_long(FastloadWorkset *set)
{
    set->took_ns = UINT64_MAX;
}

/* Of a cached file; @change says how long it took to record the set. */
static void replay_crowd(RecordTest *t, const RecordRun *runs, uint32_t count,
                         void (*change)(FastloadWorkset *set))
{
    record_write_set(t, runs, count, change);
    replay_from_the_page_cache(t);
    t->fl->crowd.is_short = 1;
}

/* Of eight chunks, with a set of 60 pages that are read one by one. */
static RecordTest *replay_new_crowd(uint32_t worker_count,
                                    void (*change)(FastloadWorkset *set))
{
    RecordTest *t = record_new_workers(FIXTURE_ANON, 8 * CHUNK_PAGES,
                                       fixture_all_data, worker_count);
    RecordRun runs[60];

    replay_set_apart(runs, G_N_ELEMENTS(runs), 64);
    replay_crowd(t, runs, G_N_ELEMENTS(runs), change);
    return t;
}

static uint64_t replay_age_ns(RecordTest *t)
{
    return fastload_stats_now_ns() - t->fl->start_ns;
}

/*
 * Replays the set, and only then lets the background read: before, a worker
 * that finds nothing left of the set in its turn would take one chunk.
 */
static void replay_set_of_crowd(RecordTest *t)
{
    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 60);
    fastload_set_background_rate(t->fl, 0);
    sim_wait_asleep();
    g_assert_cmpuint(replay_taken_count(t), ==, 0);
}

/* Nothing else is read until then. */
static void replay_check_held(RecordTest *t, uint64_t hold_ns)
{
    replay_set_of_crowd(t);
    while (replay_age_ns(t) + FASTLOAD_CROWD_HELD_LOOK_NS < hold_ns) {
        g_assert_true(sim_step());
        sim_wait_asleep();
        g_assert_cmpuint(replay_taken_count(t), ==, 0);
    }
    sim_run_until(replay_taken_count(t));
    g_assert_cmpuint(replay_age_ns(t), >=, hold_ns);
    g_assert_cmpuint(replay_age_ns(t), <, hold_ns + 5 * MS_NS);
    replay_finish(t);
}

static void test_crowd_holds_behind_the_set(const void *opaque)
{
    /* A guest has what it needs: the rest waits, and lets others run. */
    replay_check_held(replay_new_crowd(2, replay_took_100_ms), 300 * MS_NS);
}

static void test_crowd_holds_for_a_time(const void *opaque)
{
    /* But not for long, whatever the file says. */
    replay_check_held(replay_new_crowd(2, replay_took_long),
                      FASTLOAD_HOLD_SET_NS);
}

/* With so many workers, once the first one sees that there are enough. */
static void replay_check_hold_ends(uint32_t worker_count)
{
    static const char calm[] = "1000000 0 1\n"; /* it ran, and never waited */
    RecordTest *t = replay_new_crowd(worker_count, replay_took_long);
    g_autofree char *path = g_build_filename(t->folder, "schedstat", NULL);
    uint64_t over_ns;

    g_assert_true(g_file_set_contents(path, calm, -1, NULL));
    replay_set_of_crowd(t);
    t->fl->crowd.fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(t->fl->crowd.fd, >=, 0);
    g_unlink(path);
    t->fl->crowd.look_ns = 0;
    over_ns = replay_age_ns(t);
    sim_run_until(replay_taken_count(t));
    g_assert_cmpuint(replay_age_ns(t), <=,
                     over_ns + FASTLOAD_CROWD_HELD_LOOK_NS);
    replay_finish(t);
}

static void test_crowd_holds_while_it_lasts(const void *opaque)
{
    /* Nor when processors are not short any more. */
    replay_check_hold_ends(1);
    replay_check_hold_ends(2);
}

static void test_crowd_holds_no_chunk_of_the_set(const void *opaque)
{
    /* What is of the set is placed, though all of it has been taken. */
    static const RecordRun run = { 3 * CHUNK_PAGES, 3 * CHUNK_PAGES };
    RecordTest *t = record_new(fixture_all_data);

    replay_crowd(t, &run, 1, replay_took_long);
    record_start(t);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(replay_age_ns(t), <, FASTLOAD_CROWD_HELD_LOOK_NS);
    g_assert_cmpint(replay_class(t, 6 * CHUNK_PAGES - 1), ==,
                    FASTLOAD_CLASS_HINT);
    g_assert_cmpuint(replay_taken_count(t), <=, 4);
    replay_finish(t);
}

static void test_crowd_looks_whoever_took_the_set(const void *opaque)
{
    /* The first worker may sleep when another one takes the last of it. */
    static const RecordRun run = { 3 * CHUNK_PAGES, 3 * CHUNK_PAGES };
    RecordTest *t = record_new_workers(FIXTURE_ANON, 8 * CHUNK_PAGES,
                                       fixture_all_data, 3);
    uint64_t age_ns;

    replay_crowd(t, &run, 1, replay_took_long);
    record_start(t);
    sim_run_until(t->fl->hints.is_over);
    age_ns = replay_age_ns(t);
    g_assert_true(sim_step());
    g_assert_cmpuint(replay_age_ns(t), <=,
                     age_ns + FASTLOAD_CROWD_HELD_LOOK_NS);
    replay_finish(t);
}

static void test_crowd_brings_no_chunk_before_the_set(const void *opaque)
{
    /* Without a set a fault brings its chunk; here the set would wait. */
    static const RecordRun run = { 1000, 1 };
    RecordTest *t = record_new_memory(FIXTURE_THP, 8 * CHUNK_PAGES,
                                      fixture_all_data);

    replay_crowd(t, &run, 1, replay_took_long);
    sim_hold_range(t->f->file_off + run.first_page * PAGE, PAGE);
    record_start(t);
    sim_run_until(t->fl->hints.is_over);
    record_touch(t, run.first_page + 1);
    fixture_wait_until(record_stats(t).fault_count == 1);
    g_assert_cmpint(replay_class(t, 1001), ==, FASTLOAD_CLASS_URGENT);
    g_assert_cmpint(replay_class(t, 1000), ==, FASTLOAD_CLASS_MAX);
    g_assert_cmpint(replay_class(t, 1023), ==, FASTLOAD_CLASS_MAX);
    sim_hold_range(0, 0);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpint(replay_class(t, 1000), ==, FASTLOAD_CLASS_HINT);
    replay_finish(t);
}

static void test_first_worker_leaves_the_guest_alone(const void *opaque)
{
    /*
     * After a replay the first worker places nothing ahead: the guest does not
     * fault, but it would without the set.
     */
    RecordTest *t = replay_new_cached();

    replay_set(t);
    record_skip(100 * FASTLOAD_FAULT_QUIET_NS);
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    g_assert_cmpuint(t->fl->workers[0].counters.loaded_bytes[
                         FASTLOAD_CLASS_BACKGROUND], ==, 0);
    replay_finish(t);
}

static void test_others_learn_that_it_is_cached(const void *opaque)
{
    /*
     * When a read of the set shows that reading costs processor time, the first
     * worker leaves it to the others, who sleep: they do not wait until the
     * guest is quiet.
     */
    RecordRun runs[60];
    uint64_t begin_ns = fastload_stats_now_ns();
    RecordTest *t;

    replay_set_apart(runs, G_N_ELEMENTS(runs), 64);
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    begin_ns = fastload_stats_now_ns();
    t->fl->file.is_direct_lost = true; /* none of it counts as cached */
    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    __atomic_store_n(&t->fl->file.is_direct_lost, false, __ATOMIC_RELAXED);
    sim_hold(SIM_HOLD_NONE);
    record_run(t);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <,
                     FASTLOAD_HINT_CALM_NS);
    replay_finish(t);
}

static void test_hint_that_hangs(const void *opaque)
{
    /* A hint that hangs delays nothing: the background brings its page. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 }, { 2000, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    sim_hold_range(t->f->file_off + 1000 * PAGE, PAGE);
    record_start(t);
    sim_run_until(record_stats(t).remaining_bytes == 0);
    g_assert_cmpint(replay_class(t, 1000), ==, FASTLOAD_CLASS_BACKGROUND);
    sim_hold_range(0, 0);
    replay_finish(t);
}

static void test_late_pages_are_counted(const void *opaque)
{
    /* Pages touched before they were placed count as late, once each. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 }, { 2000, 1 } };
    FixtureToucher touchers[3];
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    uint32_t i;

    sim_hold_range(t->f->file_off + 1000 * PAGE, PAGE);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    sim_run_until(record_stats(t).hint_count == 2);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        fixture_toucher_start_page(&touchers[i], t->f, 1000);
    }
    sim_run_until(record_stats(t).workset.late_count);
    record_touch(t, 100);
    record_touch(t, 101);
    sim_hold_range(0, 0);
    for (i = 0; i < G_N_ELEMENTS(touchers); i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    g_assert_cmpuint(record_stats(t).workset.late_count, ==, 1);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 3);
    replay_finish(t);
}

static void test_wanted_pages_are_late(const void *opaque)
{
    /* So do pages that another process wanted; no hint reads them again. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 }, { 2000, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    uint32_t i;

    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    for (i = 0; i < 2; i++) {
        g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, 2000)), ==,
                        FASTLOAD_WANTED_QUEUED);
    }
    g_assert_cmpint(fastload_want(t->fl, fixture_page(t->f, 101)), ==,
                    FASTLOAD_WANTED_QUEUED);
    g_assert_cmpuint(record_stats(t).workset.late_count, ==, 1);
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

static void test_near_pages_share_a_read(const void *opaque)
{
    /* Near pages of the set share a read, even if touched much later. */
    static const RecordRun runs[] = {
        { 1110, 1 }, { 3000, 1 }, { 1114, 2 }, { 1104, 1 },
        { 1125, 1 }, /* too far from 1115, by a page */
        { 1537, 1 }, { 1535, 1 }, /* of two chunks */
    };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    FastloadStats stats;
    uint64_t page;

    replay_set(t);
    stats = record_stats(t);
    g_assert_cmpuint(stats.hint_count, ==, 5);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_HINT], ==, 16 * PAGE);
    g_assert_cmpuint(stats.read_bytes, ==, 16 * PAGE);
    for (page = 1104; page < 1116; page++) {
        g_assert_cmpint(replay_class(t, page), ==, FASTLOAD_CLASS_HINT);
    }
    replay_finish(t);
}

static void test_far_pages_share_a_read(const void *opaque)
{
    /* Hints read over longer holes if the storage is farther away. */
    static const RecordRun runs[] = { { 1110, 1 }, { 1126, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    t->fl->window.round_trip_ns = 10 * MS_NS;
    t->fl->window.rate_bytes_per_s = 1000 * 1000 * 1000;
    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 1);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     17 * PAGE);
    replay_finish(t);
}

/* Chunks of the set of replay_scatter(), with so many runs in each. */
#define SCATTER_CHUNKS 24
#define SCATTER_RUNS 8

/* A page in each chunk, another one in each, and so on. */
static void replay_scatter(RecordRun runs[SCATTER_CHUNKS * SCATTER_RUNS])
{
    uint32_t i;

    for (i = 0; i < SCATTER_CHUNKS * SCATTER_RUNS; i++) {
        runs[i] = (RecordRun) {
            i % SCATTER_CHUNKS * CHUNK_PAGES +
            i / SCATTER_CHUNKS * (CHUNK_PAGES / SCATTER_RUNS), 1,
        };
    }
}

static void test_few_requests_are_in_flight(const void *opaque)
{
    /* No more short reads are in flight than the storage serves at once. */
    RecordRun runs[30];
    RecordTest *t;

    replay_set_apart(runs, G_N_ELEMENTS(runs), 64);
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    t->fl->window.pace.count = 4;
    t->fl->window.pace.skip_count = UINT32_MAX;
    sim_hold(SIM_HOLD_ALL);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    sim_wait_asleep();
    /* Of each worker, as they do not know yet that the file is cached. */
    g_assert_cmpuint(t->fl->hints.out_count, >=, 4);
    g_assert_cmpuint(t->fl->hints.out_count, <=, 2 * 4);
    sim_hold(SIM_HOLD_NONE);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(record_stats(t).hint_count, ==, G_N_ELEMENTS(runs));
    replay_finish(t);
}

/* Requests cost @req_bytes: so many chunks are read whole for that. */
static void test_the_test_read_counts(const void *opaque)
{
    /* How long the test of O_DIRECT took tells how much is in flight. */
    RecordRun run = { 0, 1 };
    RecordTest *t = replay_new(fixture_all_data, &run, 1);

    t->fl->file.try_ns = 10 * MS_NS;
    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    g_assert_cmpuint(fastload_window_bytes(&t->fl->window, t->fl->start_ns, 0),
                     ==, 2500 * 1000);
    sim_hold(SIM_HOLD_NONE);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    replay_finish(t);
}

static void check_dear(uint64_t req_bytes, uint64_t bytes_per_s,
                       FixtureHasData *has_data, uint32_t chunk_count)
{
    RecordRun runs[SCATTER_CHUNKS * SCATTER_RUNS];
    RecordTest *t;

    replay_scatter(runs);
    t = replay_new_pages(SCATTER_CHUNKS * CHUNK_PAGES, has_data, runs,
                         G_N_ELEMENTS(runs));
    replay_short_of_requests(t->fl, req_bytes);
    fastload_set_background_rate(t->fl, bytes_per_s);
    /* As a slow device may: a chunk that is read whole brings it sooner. */
    sim_hold_range(t->f->file_off + runs[FASTLOAD_HINT_FIRST_COUNT - 1]
                   .first_page * PAGE, PAGE);
    record_start(t);
    sim_run_until(t->fl->hints.is_over);
    sim_hold_range(0, 0);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    /* The first ones are asked for in strict order, whatever it costs. */
    g_assert_cmpuint(t->fl->hints.short_count, >=, FASTLOAD_HINT_FIRST_COUNT);
    g_assert_cmpuint(t->fl->hints.dear_count, ==, chunk_count);
    replay_finish(t);
}

static void test_dear_requests_read_chunks(const void *opaque)
{
    /*
     * Where requests are dear, chunks are read whole after the first reads:
     * some to learn the rate, the others if that is cheaper.
     */
    check_dear(1 << 20, 0, fixture_all_data, SCATTER_CHUNKS);
    check_dear(FASTLOAD_GAP_BYTES_MAX, 0, fixture_all_data,
               FASTLOAD_HINT_TRIAL_COUNT);
}

static void test_dear_requests_keep_the_rate(const void *opaque)
{
    /* No chunk is read whole for that while the background has a rate. */
    check_dear(1 << 20, FASTLOAD_BACKGROUND_OFF, fixture_all_data, 0);
    check_dear(1 << 20, 1 << 30, fixture_all_data, 0);
}

/* Of the pages of replay_scatter(), only the first ones have data. */
static bool replay_begins_with_data(uint64_t page_idx)
{
    uint64_t run_pages = CHUNK_PAGES / SCATTER_RUNS;

    return page_idx % run_pages ||
           page_idx % CHUNK_PAGES / run_pages * SCATTER_CHUNKS +
           page_idx / CHUNK_PAGES < FASTLOAD_HINT_FIRST_COUNT;
}

static void test_dear_requests_are_none_for_zeros(const void *opaque)
{
    /* Nor for pages of the set that need no request. */
    check_dear(1 << 20, 0, replay_begins_with_data, 0);
}

static void test_reads_are_short(const void *opaque)
{
    /* A long run of a chunk that has more is read in pieces. */
    static const RecordRun runs[] = { { 512, 200 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==,
                     (200 + FASTLOAD_HINT_BYTES_MAX / PAGE - 1) /
                     (FASTLOAD_HINT_BYTES_MAX / PAGE));
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     200 * PAGE);
    replay_finish(t);
}

static void test_short_reads_tell_no_rate(const void *opaque)
{
    /* Hints are no samples for the window, which would shrink with them. */
    RecordRun runs[60];
    RecordTest *t;

    replay_set_apart(runs, G_N_ELEMENTS(runs), 64);
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    t->fl->file.is_direct_lost = true; /* none of it counts as cached */
    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, G_N_ELEMENTS(runs));
    g_assert_cmpuint(t->fl->window.delivered_bytes, ==, 0);
    g_assert_cmpuint(t->fl->window.inflight_count, ==, 0);
    replay_finish(t);
}

static void test_zero_pages_need_no_read(const void *opaque)
{
    /* Zero pages of the set are placed at once, without a read. */
    static const RecordRun runs[] = { { 5, 1 }, { 21, 1 }, { 1029, 1 } };
    RecordTest *t = replay_new(record_some_zero, runs, G_N_ELEMENTS(runs));
    uint32_t i;

    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        g_assert_cmpint(replay_class(t, runs[i].first_page), ==,
                        FASTLOAD_CLASS_HINT);
        record_touch(t, runs[i].first_page);
    }
    g_assert_cmpuint(record_stats(t).fault_count, ==, 0);
    g_assert_cmpuint(record_stats(t).read_bytes, ==, 0);
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

/* Two chunks have data, two have none and are not trapped, and so on. */
static bool replay_every_other(uint64_t page_idx)
{
    return page_idx / (2 * CHUNK_PAGES) % 2 == 0;
}

static void test_pages_that_are_not_trapped(const void *opaque)
{
    /* Pages of the set that are not trapped are neither read nor awaited. */
    static const RecordRun runs[] = { { 1000, 100 }, { 1500, 2 }, { 9, 1 } };
    RecordTest *t = replay_new(replay_every_other, runs, G_N_ELEMENTS(runs));

    replay_set(t);
    g_assert_cmpint(replay_class(t, 1023), ==, FASTLOAD_CLASS_HINT);
    g_assert_cmpint(replay_class(t, 9), ==, FASTLOAD_CLASS_HINT);
    g_assert_cmpint(replay_class(t, 1024), ==, FASTLOAD_CLASS_MAX);
    replay_finish(t);
}

static void test_zeros_are_not_searched(const void *opaque)
{
    /* Pages that are not trapped are passed over before the load runs. */
    RecordRun runs[41];
    const FastloadArea *area;
    RecordTest *t;
    uint32_t i;

    replay_set_apart(runs, 40, 20);
    runs[40] = (RecordRun) { 1020, 1000 };
    t = replay_new(replay_every_other, runs, G_N_ELEMENTS(runs));
    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    /* No worker has come so far. */
    area = g_ptr_array_index(t->fl->areas, 0);
    g_assert_cmpuint(t->fl->hints.next_run, <, 40);
    for (i = 1020; i < 1020 + 1000; i++) {
        g_assert_cmpint(fastload_bit_test(area->unread, i), ==, i < 1024);
    }
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

static void *record_ask(void *opaque)
{
    RecordTest *t = opaque;
    FastloadStats stats;

    do {
        fastload_get_stats(t->fl, &stats);
    } while (stats.workset.state != FASTLOAD_WORKSET_REPLAYED);
    return NULL;
}

static void test_figures_at_any_time(const void *opaque)
{
    /* Any thread may ask for figures, also before there is a set. */
    static const RecordRun runs[] = { { 1000, 3 }, { 9, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    GThread *thread = g_thread_new("figures", record_ask, t);

    record_start(t);
    record_run(t);
    g_thread_join(thread);
    replay_finish(t);
}

static void test_chunk_is_read_whole(const void *opaque)
{
    /* A chunk that is mostly in the set is read whole, as a huge page. */
    static const RecordRun runs[] = { { 600, 300 }, { 1024, 200 } };
    SimConfig sim_config = { .seed = 1 };
    RecordTest *t;
    FastloadStats stats;

    sim_reset(&sim_config);
    t = record_new_config(&sim_ops, (FastloadConfig) { 0 }, FIXTURE_THP,
                          4 * CHUNK_PAGES, fixture_all_data);
    record_write_set(t, runs, G_N_ELEMENTS(runs), NULL);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    fixture_wait_until(record_state(t) == FASTLOAD_WORKSET_REPLAYED);
    stats = record_stats(t);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     CHUNK_BYTES + 200 * PAGE);
    g_assert_cmpuint(stats.hint_count, ==, 1 + 7);
    g_assert_cmpuint(stats.loaded_bytes[FASTLOAD_CLASS_BACKGROUND], ==, 0);
    g_assert_cmpuint(stats.moved_bytes, ==,
                     fixture_has_move() ? CHUNK_BYTES : 0);
    fastload_set_background_rate(t->fl, 0);
    fastload_wait(t->fl, NULL);
    record_finish(t);
}

static void test_staging_is_there_for_a_chunk(const void *opaque)
{
    /*
     * Staging of chunks is made ready while pages are read, so that a chunk of
     * the set need not wait for the guest to be quiet.
     */
    static const RecordRun runs[] = { { 5, 1 }, { 600, 300 } };
    RecordTest *t = record_new_memory(FIXTURE_THP, 4 * CHUNK_PAGES,
                                      fixture_all_data);
    uint64_t begin_ns;

    record_write_set(t, runs, G_N_ELEMENTS(runs), NULL);
    sim_hold(SIM_HOLD_ALL);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    sim_wait_asleep();
    sim_hold(SIM_HOLD_NONE);
    begin_ns = fastload_stats_now_ns();
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(fastload_stats_now_ns() - begin_ns, <,
                     FASTLOAD_FAULT_QUIET_NS);
    replay_finish(t);
}

static void test_sparse_chunk_is_read_whole(const void *opaque)
{
    /* A chunk is read whole if most of its data is in the set. */
    static const RecordRun runs[] = { { 513, 290 } };
    RecordTest *t = replay_new(fixture_mixed, runs, G_N_ELEMENTS(runs));

    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 1);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     256 * PAGE);
    replay_finish(t);
}

static void test_scattered_chunk_is_read_whole(const void *opaque)
{
    /* A chunk is read whole if many small reads would cost more. */
    RecordRun runs[51];
    RecordTest *t;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        runs[i] = (RecordRun) { 512 + i * 10, 1 };
    }
    t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 1);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     CHUNK_BYTES);
    replay_finish(t);
}

/* Of every eight pages one has data. */
static bool replay_few(uint64_t page_idx)
{
    return page_idx % 8 == 0;
}

static void test_zero_pages_make_no_chunk(const void *opaque)
{
    /* Zero pages of the set are not read. */
    static const RecordRun runs[] = { { 512, 80 } };
    RecordTest *t = replay_new(replay_few, runs, G_N_ELEMENTS(runs));

    replay_set(t);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     10 * PAGE);
    g_assert_cmpuint(replay_taken_count(t), ==, 0);
    replay_finish(t);
}

static void replay_check_memory(FixtureMemory memory, uint64_t hint_bytes)
{
    static const RecordRun runs[] = { { 1500, 3 }, { 20, 2 }, { 1030, 1 } };
    RecordTest *t = record_new_config(NULL, (FastloadConfig) { 0 }, memory,
                                      4 * CHUNK_PAGES, fixture_all_data);
    GError *error = NULL;

    if (!t) {
        return;
    }
    record_write_set(t, runs, G_N_ELEMENTS(runs), NULL);
    fastload_set_background_rate(t->fl, FASTLOAD_BACKGROUND_OFF);
    record_start(t);
    fixture_wait_until(record_state(t) == FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     hint_bytes);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_BACKGROUND],
                     ==, 0);
    fastload_set_background_rate(t->fl, 0);
    g_assert_true(fastload_wait(t->fl, &error));
    record_finish(t);
}

static void test_anonymous_memory(const void *opaque)
{
    /* In anonymous memory just the pages of the set are replayed. */
    replay_check_memory(FIXTURE_ANON, 6 * PAGE);
}

static void test_shared_memory(const void *opaque)
{
    /* In shared memory just the pages of the set are replayed. */
    replay_check_memory(FIXTURE_SHARED, 6 * PAGE);
}

static void test_hugetlb(const void *opaque)
{
    /* With hugetlb, a page of the set brings its whole huge page. */
    replay_check_memory(FIXTURE_HUGETLB, 2 * CHUNK_BYTES);
}

static void test_hugetlb_that_is_not_trapped(const void *opaque)
{
    /*
     * A page of the set in a chunk that is not trapped is no hint: it could not
     * be placed, and would fail again and again.
     */
    static const RecordRun runs[] = { { 1024, 1 }, { 9, 1 } };
    RecordTest *t = record_new_memory(FIXTURE_HUGETLB, 8 * CHUNK_PAGES,
                                      replay_every_other);

    if (!t) {
        return;
    }
    record_write_set(t, runs, G_N_ELEMENTS(runs), NULL);
    replay_set(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 1);
    g_assert_false(fastload_is_failing(t->fl, &(FastloadFailure) { 0 }));
    replay_finish(t);
}

static void test_hugetlb_is_recorded(const void *opaque)
{
    /* With hugetlb, a touch is recorded as all pages that it brought. */
    static const RecordRun want[] = { { 512, 512 } };
    RecordTest *t = record_new_memory(FIXTURE_HUGETLB, 4 * CHUNK_PAGES,
                                      fixture_all_data);

    if (!t) {
        return;
    }
    record_start(t);
    record_touch(t, 600);
    g_assert_cmpuint(record_stats(t).workset.page_count, ==, 512);
    record_run_until(t, FASTLOAD_WORKSET_WRITTEN);
    record_check_file(t, want, 1);
    record_run(t);
    record_finish(t);
}

static void test_no_rate_holds_hints_back(const void *opaque)
{
    /* The background's rate neither holds hints back nor counts them. */
    static const RecordRun runs[] = { { 600, 400 }, { 2000, 3 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    fastload_set_background_rate(t->fl, 1);
    record_start(t);
    record_run_until(t, FASTLOAD_WORKSET_REPLAYED);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     CHUNK_BYTES + 3 * PAGE);
    g_assert_cmpuint(replay_taken_count(t), ==, 1);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_BACKGROUND],
                     ==, 0);
    replay_finish(t);
}

static void test_early_regions_come_first(const void *opaque)
{
    /* Early regions are read before hints. */
    static const RecordRun runs[] = { { 600, 1 }, { 2000, 3 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    FastloadArea *area = g_ptr_array_index(t->fl->areas, 0);

    area->is_early = true;
    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    g_assert_cmpuint(replay_taken_count(t), >, 0);
    g_assert_cmpuint(t->fl->hints.out_count, ==, 0);
    sim_hold(SIM_HOLD_NONE);
    replay_finish(t);
}

static void test_bad_hint_is_given_up(const void *opaque)
{
    /* A hint that fails is left to the background, without an event. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 }, { 2000, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    sim_add_bad(t->f->file_off + 1000 * PAGE, PAGE, EIO,
                FASTLOAD_READ_TRIES_MAX);
    replay_set(t);
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    g_assert_cmpuint(sim_failed_count(), ==, FASTLOAD_READ_TRIES_MAX);
    g_assert_cmpint(replay_class(t, 1000), ==, FASTLOAD_CLASS_BACKGROUND);
    g_assert_cmpint(replay_class(t, 2000), ==, FASTLOAD_CLASS_HINT);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 2);
    g_assert_cmpuint(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED),
                     ==, 0);
    g_assert_false(fastload_is_failing(t->fl, &(FastloadFailure) { 0 }));
    replay_finish(t);
}

static void test_bad_whole_chunk_is_retried(const void *opaque)
{
    /* A chunk of hints that fails stalls and heals as another chunk does. */
    static const RecordRun runs[] = { { 600, 300 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    uint64_t bad_off = t->f->file_off + 700 * PAGE;

    sim_add_bad(bad_off, PAGE, EIO, 0);
    record_start(t);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED));
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_REPLAYED);
    sim_heal(bad_off);
    record_run(t);
    g_assert_cmpint(replay_class(t, 700), ==, FASTLOAD_CLASS_BACKGROUND);
    replay_finish(t);
}

static void test_page_given_back(const void *opaque)
{
    /* A page that a hint has placed is zero after it was given back. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    replay_set(t);
    g_assert_cmpint(madvise(fixture_page(t->f, 100), PAGE, MADV_DONTNEED), ==,
                    0);
    g_assert_cmpuint(*fixture_page(t->f, 100), ==, 0);
    g_assert_cmpuint(record_stats(t).workset.late_count, ==, 0);
    fastload_set_background_rate(t->fl, 0);
    record_run(t);
    g_assert_cmpuint(*fixture_page(t->f, 100), ==, 0);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 1);
    record_free(t);
}

static void test_region_that_goes(const void *opaque)
{
    /* Hints of a region that was dropped place nothing in it. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 300 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    fastload_drop_region(t->fl, t->f->hva);
    sim_hold(SIM_HOLD_NONE);
    g_assert_true(fastload_wait(t->fl, NULL));
    g_assert_cmpuint(*fixture_page(t->f, 100), ==, 0);
    g_assert_cmpint(record_state(t), ==, FASTLOAD_WORKSET_REPLAYED);
    record_free(t);
}

static void test_set_of_all_memory(const void *opaque)
{
    /* A set of all memory is read in whole chunks, as without a set. */
    static const RecordRun runs[] = { { 0, 8 * CHUNK_PAGES } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));

    record_start(t);
    record_run(t);
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==,
                     8 * CHUNK_BYTES);
    g_assert_cmpuint(record_stats(t).read_bytes, ==, 8 * CHUNK_BYTES);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 8);
    replay_finish(t);
}

static void test_empty_set(const void *opaque)
{
    /* An empty set has no hints, and all is loaded. */
    RecordTest *t = replay_new(fixture_mixed, NULL, 0);

    record_start(t);
    record_run(t);
    g_assert_cmpuint(record_stats(t).hint_count, ==, 0);
    replay_finish(t);
}

static void test_cancel_with_hints_out(const void *opaque)
{
    /* A load may be cancelled while hints are in flight. */
    RecordRun runs[50];
    RecordTest *t;
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(runs); i++) {
        runs[i] = (RecordRun) { i * 64, 1 + i % 30 };
    }
    t = replay_new(fixture_mixed, runs, G_N_ELEMENTS(runs));
    test_clock_go();
    sim_hold(SIM_HOLD_BACKGROUND);
    record_start(t);
    fixture_wait_until(sim_pending_count() > 5);
    fastload_cancel(t->fl);
    g_usleep(1000);
    sim_hold(SIM_HOLD_NONE);
    g_assert_false(fastload_wait(t->fl, NULL));
    record_free(t);
}

static void test_another_copy(const void *opaque)
{
    /* Hints in flight at a recovery are dropped; all pages come anyway. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 1 }, { 1600, 300 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    Fixture *copy = fixture_new(FIXTURE_ANON, 8 * CHUNK_PAGES,
                                fixture_all_data);
    GError *error = NULL;

    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    g_assert_true(fastload_recover(t->fl, copy->fd, &error));
    sim_hold(SIM_HOLD_NONE);
    record_run(t);
    g_assert_cmpuint(fixture_wrong_count(t->f), ==, 0);
    fixture_free(copy);
    replay_finish(t);
}

static void test_file_that_changes(const void *opaque)
{
    /* While the file counts as changed, hints are not placed; they wait. */
    static const RecordRun runs[] = { { 100, 1 }, { 1000, 300 } };
    RecordTest *t = replay_new(fixture_all_data, runs, G_N_ELEMENTS(runs));
    struct stat st;

    sim_hold(SIM_HOLD_ALL);
    record_start(t);
    sim_wait_asleep();
    g_assert_cmpint(fstat(t->f->fd, &st), ==, 0);
    g_assert_cmpint(ftruncate(t->f->fd, st.st_size + PAGE), ==, 0);
    sim_hold(SIM_HOLD_NONE);
    sim_run_until(fixture_events_count(&t->events, FASTLOAD_EVENT_STALLED));
    g_assert_cmpuint(record_stats(t).loaded_bytes[FASTLOAD_CLASS_HINT], ==, 0);
    g_assert_cmpint(ftruncate(t->f->fd, st.st_size), ==, 0);
    g_assert_true(fastload_recover(t->fl, -1, NULL));
    replay_finish(t);
}

/* ---- at random ---- */

static RecordTest *random_new(GRand *rand, uint32_t seed,
                              FixtureMemory memory, uint64_t page_count,
                              FixtureHasData *has_data)
{
    SimConfig config = {
        .seed = seed,
        .eio_permille = g_rand_int_range(rand, 0, 4) * 25,
        .eagain_permille = g_rand_int_range(rand, 0, 3) * 25,
        .delay_turns_max = g_rand_int_range(rand, 0, 30),
        .break_turn = g_rand_int_range(rand, 0, 4) == 0
            ? g_rand_int_range(rand, 1, 60) : 0,
    };
    FastloadConfig load_config = {
        .worker_count = g_rand_int_range(rand, 1, 9),
    };

    sim_reset(&config);
    return record_new_config(&sim_ops, load_config, memory, page_count,
                             has_data);
}

static void random_touch(RecordTest *t, GRand *rand, uint32_t seed)
{
    FixtureToucher touchers[3];
    uint32_t count = g_rand_int_range(rand, 1, 4);
    uint32_t i;

    for (i = 0; i < count; i++) {
        fixture_toucher_start(&touchers[i], t->f, seed + i, 60);
    }
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(fixture_toucher_join(&touchers[i]), ==, 0);
    }
}

/* Once to record, once to replay, with other storage and other workers. */
static uint64_t random_load(uint32_t seed)
{
    static FixtureHasData *const contents[] = {
        fixture_mixed, fixture_all_data, record_some_zero, replay_every_other,
    };
    static const FixtureMemory memories[] = {
        FIXTURE_ANON, FIXTURE_SHARED, FIXTURE_THP, FIXTURE_THP,
    };
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    FixtureMemory memory = memories[g_rand_int_range(rand, 0, 4)];
    FixtureHasData *has_data = contents[g_rand_int_range(rand, 0, 4)];
    uint64_t page_count = g_rand_int_range(rand, 1, 6 * CHUNK_PAGES);
    RecordTest *first = random_new(rand, seed, memory, page_count, has_data);
    RecordTest *t;
    FastloadStats stats;

    first->workset.quiet_ns = g_rand_int_range(rand, 1, 5) * MS_NS;
    first->workset.least_ns = g_rand_int_range(rand, 1, 5) * MS_NS;
    record_start(first);
    random_touch(first, rand, seed);
    g_assert_true(fastload_wait(first->fl, NULL));
    fastload_settle(first->fl);
    sim_wait_late();
    t = random_new(rand, seed + 1, memory, page_count, has_data);
    t->workset.path = first->path;
    if (g_rand_boolean(rand)) {
        replay_short_of_requests(t->fl, 1ull << g_rand_int_range(rand, 0, 22));
    }
    record_start(t);
    random_touch(t, rand, seed + g_rand_int_range(rand, 0, 2));
    g_assert_true(fastload_wait(t->fl, NULL));
    fastload_settle(t->fl);
    sim_wait_late();
    stats = record_stats(t);
    /* Memory that is all zero is touched without a fault. */
    if (record_state(first) == FASTLOAD_WORKSET_WRITTEN) {
        g_assert_cmpint(stats.workset.state, ==, FASTLOAD_WORKSET_REPLAYED);
        g_assert_cmpuint(stats.workset.page_count, ==,
                         record_stats(first).workset.page_count);
    }
    record_finish(t);
    record_finish(first);
    return 2 * page_count;
}

static void test_many_seeds(const void *opaque)
{
    /* Random recordings are replayed, each on storage of its own. */
    fixture_run_seeds(random_load, SEED_COUNT);
}

static const struct {
    const char *path;
    GTestDataFunc func;
} record_tests[] = {
    { "record/first-touches-in-order", test_first_touches_in_order },
    { "record/page-that-faults-again", test_page_that_faults_again },
    { "record/ends-when-it-is-quiet", test_ends_when_it_is_quiet },
    { "record/ends-not-while-a-page-is-waited-for",
      test_ends_not_while_a_page_is_waited_for },
    { "record/waits-for-no-region-that-was-dropped",
      test_waits_for_no_region_that_was_dropped },
    { "record/page-that-an-early-chunk-brings",
      test_page_that_an_early_chunk_brings },
    { "record/ends-at-the-most-though-a-page-is-waited-for",
      test_ends_at_the_most_though_a_page_is_waited_for },
    { "record/wanted-pages-are-touches", test_wanted_pages_are_touches },
    { "record/ends-without-a-background", test_ends_without_a_background },
    { "record/ends-not-before", test_ends_not_before },
    { "record/ends-at-the-most", test_ends_at_the_most },
    { "record/ends-when-it-is-full", test_ends_when_it_is_full },
    { "record/times-begin-with-the-guest", test_times_begin_with_the_guest },
    { "record/guest-that-never-runs", test_guest_that_never_runs },
    { "record/nothing-was-touched", test_nothing_was_touched },
    { "record/cancelled-load-writes", test_cancelled_load_writes },
    { "record/freed-load-writes", test_freed_load_writes },
    { "record/guest-that-touches-all", test_guest_that_touches_all },
    { "record/failed-start-leaves-nothing", test_failed_start_leaves_nothing },
    { "record/far-faults-come-alone", test_far_faults_come_alone },
    { "record/mode-is-the-umasks", test_mode_is_the_umasks },
    { "record/two-record-one-file", test_two_record_one_file },
    { "record/folder-that-goes", test_folder_that_goes },
    { "record/disk-that-is-full", test_disk_that_is_full },
    { "record/crash-before-the-name", test_crash_before_the_name },
    { "record/hugetlb", test_hugetlb_is_recorded },
    { "replay/set-of-another-snapshot", test_set_of_another_snapshot },
    { "replay/set-of-another-block", test_set_of_another_block },
    { "replay/damaged-set", test_damaged_set },
    { "replay/what-is-no-file", test_what_is_no_file },
    { "replay/folder-that-is-not-there", test_folder_that_is_not_there },
    { "replay/what-a-snapshot-is", test_what_a_snapshot_is },
    { "replay/stream-that-begins-elsewhere",
      test_stream_that_begins_elsewhere },
    { "replay/order-of-touch", test_order_of_touch },
    { "replay/faults-then-hints-then-the-rest",
      test_faults_then_hints_then_the_rest },
    { "replay/one-hint-beside-faults", test_one_hint_beside_faults },
    { "replay/the-first-leaves-hints", test_the_first_leaves_hints },
    { "replay/crowd-holds-behind-the-set", test_crowd_holds_behind_the_set },
    { "replay/crowd-holds-for-a-time", test_crowd_holds_for_a_time },
    { "replay/crowd-holds-while-it-lasts", test_crowd_holds_while_it_lasts },
    { "replay/crowd-holds-no-chunk-of-the-set",
      test_crowd_holds_no_chunk_of_the_set },
    { "replay/crowd-looks-whoever-took-the-set",
      test_crowd_looks_whoever_took_the_set },
    { "replay/crowd-brings-no-chunk-before-the-set",
      test_crowd_brings_no_chunk_before_the_set },
    { "replay/first-worker-leaves-the-guest-alone",
      test_first_worker_leaves_the_guest_alone },
    { "replay/others-learn-that-it-is-cached",
      test_others_learn_that_it_is_cached },
    { "replay/hint-that-hangs", test_hint_that_hangs },
    { "replay/late-pages-are-counted", test_late_pages_are_counted },
    { "replay/wanted-pages-are-late", test_wanted_pages_are_late },
    { "replay/near-pages-share-a-read", test_near_pages_share_a_read },
    { "replay/far-pages-share-a-read", test_far_pages_share_a_read },
    { "replay/few-requests-are-in-flight", test_few_requests_are_in_flight },
    { "replay/the-test-read-counts", test_the_test_read_counts },
    { "replay/dear-requests-read-chunks", test_dear_requests_read_chunks },
    { "replay/dear-requests-keep-the-rate", test_dear_requests_keep_the_rate },
    { "replay/dear-requests-are-none-for-zeros",
      test_dear_requests_are_none_for_zeros },
    { "replay/reads-are-short", test_reads_are_short },
    { "replay/short-reads-tell-no-rate", test_short_reads_tell_no_rate },
    { "replay/zero-pages-need-no-read", test_zero_pages_need_no_read },
    { "replay/pages-that-are-not-trapped", test_pages_that_are_not_trapped },
    { "replay/zeros-are-not-searched", test_zeros_are_not_searched },
    { "replay/figures-at-any-time", test_figures_at_any_time },
    { "replay/chunk-is-read-whole", test_chunk_is_read_whole },
    { "replay/staging-is-there-for-a-chunk",
      test_staging_is_there_for_a_chunk },
    { "replay/sparse-chunk-is-read-whole", test_sparse_chunk_is_read_whole },
    { "replay/scattered-chunk-is-read-whole",
      test_scattered_chunk_is_read_whole },
    { "replay/zero-pages-make-no-chunk", test_zero_pages_make_no_chunk },
    { "replay/anonymous-memory", test_anonymous_memory },
    { "replay/shared-memory", test_shared_memory },
    { "replay/hugetlb", test_hugetlb },
    { "replay/hugetlb-that-is-not-trapped", test_hugetlb_that_is_not_trapped },
    { "replay/no-rate-holds-hints-back", test_no_rate_holds_hints_back },
    { "replay/early-regions-come-first", test_early_regions_come_first },
    { "replay/bad-hint-is-given-up", test_bad_hint_is_given_up },
    { "replay/bad-whole-chunk-is-retried", test_bad_whole_chunk_is_retried },
    { "replay/page-given-back", test_page_given_back },
    { "replay/region-that-goes", test_region_that_goes },
    { "replay/set-of-all-memory", test_set_of_all_memory },
    { "replay/empty-set", test_empty_set },
    { "replay/cancel-with-hints-out", test_cancel_with_hints_out },
    { "replay/another-copy", test_another_copy },
    { "replay/file-that-changes", test_file_that_changes },
    { "replay/many-seeds", test_many_seeds },
};

int main(int argc, char **argv)
{
    uint32_t i;

    fixture_init(&argc, &argv);
    for (i = 0; i < G_N_ELEMENTS(record_tests); i++) {
        g_autofree char *path = g_strdup_printf("/fastload/%s",
                                                record_tests[i].path);

        fixture_add_test(path, FIXTURE_NEEDS_UFFD, record_tests[i].func, NULL);
    }
    return g_test_run();
}
