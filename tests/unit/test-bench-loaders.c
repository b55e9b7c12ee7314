/*
 * The benchmark's contenders, one by one: they load the right bytes, nothing
 * ahead when told so, and say what cannot be read.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/syscall.h>
#include "bench.h"
#include "fastload-fixture.h"

#define LEN_BYTES (6ull << 20)
#define PAGE BENCH_PAGE_BYTES

/* A run as measure.c makes it, but in this process and without a guest. */
typedef struct Load {
    Snapshot *snapshot;
    PageSums *sums;
    Variant variant;
    LoaderRun run;
    uint64_t page_count;
} Load;

static void load_open(Load *l, const BenchLoader *loader)
{
    const GenerateConfig config = {
        .len_bytes = LEN_BYTES,
        .zero_share = 0.3,
        .run_bytes = 64 << 10,
        .seed = 7,
    };
    g_autofree char *path = NULL;
    g_autofree char *name = NULL;
    g_autoptr(GError) error = NULL;
    static const int not_stopped;
    int fd = g_file_open_tmp("test-bench-loaders-XXXXXX", &name, &error);

    g_assert_no_error(error);
    unlink(name);
    fixture_restart_deadline();
    generate_snapshot(fd, &config, NULL, NULL, &not_stopped, &error);
    g_assert_no_error(error);
    path = g_strdup_printf("/proc/self/fd/%d", fd);
    *l = (Load) {
        .snapshot = snapshot_open_fd(fd, path, "the snapshot", &error),
        .variant = { .loader = loader, .thread_count = 2 },
    };
    g_assert_no_error(error);
    l->sums = memory_sums_new(l->snapshot, &error);
    g_assert_no_error(error);
    l->page_count = l->snapshot->guest_bytes / PAGE;
    l->run = (LoaderRun) {
        .snapshot = l->snapshot,
        .variant = &l->variant,
        .hva = memory_map(l->snapshot->guest_bytes, &error),
        .begin_ns = bench_now_ns(),
        .arrivals = g_new0(uint32_t, l->page_count),
    };
    g_assert_no_error(error);
}

static void load_close(Load *l)
{
    munmap(l->run.hva, l->snapshot->guest_bytes);
    g_free(l->run.arrivals);
    memory_sums_free(l->sums);
    snapshot_free(l->snapshot);
}

/* False, and the test is skipped, where the machine lacks what it needs. */
static bool load_start(Load *l, GError **error)
{
    const BenchLoader *loader = l->variant.loader;

    if (loader->start(&l->run, error)) {
        return true;
    }
    if (strstr((*error)->message, "userfaultfd")) {
        g_test_skip((*error)->message);
        g_clear_error(error);
    }
    return false;
}

/* The first page of the guest from @page on that has data, or has none. */
static uint64_t load_find(const Load *l, uint64_t page, bool has_data)
{
    while (snapshot_has_page(l->snapshot, page) != has_data) {
        page++;
    }
    return page;
}

/* All that has data is in the page tables: no touch will have to wait. */
static void load_check_present(const Load *l)
{
    g_autofree uint64_t *entries = g_new(uint64_t, l->page_count);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t page;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, entries, l->page_count * sizeof(*entries),
                          (uintptr_t)l->run.hva / PAGE * sizeof(*entries)),
                    ==, l->page_count * sizeof(*entries));
    close(fd);
    for (page = 0; page < l->page_count; page++) {
        if (snapshot_has_page(l->snapshot, page)) {
            /* In memory or swapped out: Documentation/admin-guide/mm. */
            g_assert_cmpuint(entries[page] >> 62, !=, 0);
        }
    }
}

static void test_loads_all(const void *opaque)
{
    /* After a load, memory has the file's data, and zeros elsewhere. */
    const BenchLoader *loader = opaque;
    g_autoptr(GError) error = NULL;
    Load l;

    load_open(&l, loader);
    if (load_start(&l, &error)) {
        if (loader->is_lazy && loader->has_end) {
            loader->wait(&l.run, &error);
            g_assert_no_error(error);
        }
        if (loader->has_end) {
            load_check_present(&l);
            loader->stop(&l.run);
        }
        memory_verify(l.snapshot, l.sums, l.run.hva, NULL, NULL, &error);
        if (!loader->has_end) {
            loader->stop(&l.run);
        }
    }
    g_assert_no_error(error);
    load_close(&l);
}

/* How @page came.  The loader's threads may still be noting others. */
static uint32_t load_arrival(const Load *l, uint64_t page)
{
    return __atomic_load_n(&l->run.arrivals[page], __ATOMIC_RELAXED);
}

static void test_background_is_off(const void *opaque)
{
    /* With the background off, only what is touched is loaded. */
    const BenchLoader *loader = opaque;
    g_autoptr(GError) error = NULL;
    uint64_t touched, zero, page;
    Load l;

    load_open(&l, loader);
    l.run.is_background_off = true;
    if (load_start(&l, &error)) {
        touched = load_find(&l, 100, true);
        zero = load_find(&l, 100, false);
        g_assert_cmpuint(memory_hash_page(l.run.hva + zero * PAGE), ==,
                         memory_hash_page((uint8_t[PAGE]) { 0 }));
        g_assert_cmpuint(memory_hash_page(l.run.hva + touched * PAGE), !=,
                         memory_hash_page((uint8_t[PAGE]) { 0 }));
        loader->stop(&l.run);
        for (page = 0; page < l.page_count; page++) {
            if (page != touched && page != zero) {
                g_assert_cmpuint(arrival_class(load_arrival(&l, page)), !=,
                                 ARRIVAL_BACKGROUND);
            }
        }
        g_assert_cmpuint(l.run.loaded_bytes[ARRIVAL_BACKGROUND], ==, 0);
    }
    g_assert_no_error(error);
    load_close(&l);
}

static void test_short_file_is_told(const void *opaque)
{
    /* A file that has become shorter is an error with the loader's name. */
    const BenchLoader *loader = opaque;
    g_autoptr(GError) error = NULL;
    bool is_loaded = false;
    Load l;

    load_open(&l, loader);
    g_assert_cmpint(ftruncate(l.snapshot->fd,
                              l.snapshot->blocks[0].file_off +
                              LEN_BYTES / 2), ==, 0);
    if (loader->start(&l.run, &error)) {
        is_loaded = !loader->is_lazy || loader->wait(&l.run, &error);
        loader->stop(&l.run);
    } else if (strstr(error->message, "userfaultfd")) {
        g_test_skip(error->message);
        load_close(&l);
        return;
    }
    g_assert_false(is_loaded);
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_FAILED);
    g_assert_true(g_str_has_prefix(error->message, loader->name));
    g_assert_nonnull(strstr(error->message, "the snapshot"));
    load_close(&l);
}

/* A name for a file that does not exist. */
static char *load_new_name(void)
{
    g_autoptr(GError) error = NULL;
    char *name = NULL;
    int fd = g_file_open_tmp("test-bench-loaders-XXXXXX", &name, &error);

    g_assert_no_error(error);
    close(fd);
    unlink(name);
    return name;
}

/* What a guest touches: with data and without, runs and single pages. */
static uint32_t load_choose(const Load *l, uint64_t *ret_pages)
{
    uint64_t first = load_find(l, 700, true);

    ret_pages[0] = first;
    ret_pages[1] = load_find(l, 100, true);
    ret_pages[2] = ret_pages[1] + 1;
    ret_pages[3] = load_find(l, 300, false);
    ret_pages[4] = ret_pages[1] + 2;
    ret_pages[5] = load_find(l, first + 50, true);
    return 6;
}

static void load_touch(const Load *l, uint64_t page)
{
    (void)*(const volatile uint8_t *)(l->run.hva + page * PAGE);
}

/* A run that records; false, and the test is skipped, without userfaultfd. */
static bool load_record(const BenchLoader *loader, const char *path,
                        GError **error)
{
    uint64_t pages[6];
    uint32_t count, i;
    bool is_started;
    Load l;

    load_open(&l, loader);
    l.run.record_path = path;
    is_started = load_start(&l, error);
    if (is_started) {
        count = load_choose(&l, pages);
        for (i = 0; i < count; i++) {
            load_touch(&l, pages[i]);
            load_touch(&l, pages[0]);
        }
        g_assert_true(loader->record(&l.run, error));
        loader->stop(&l.run);
    }
    load_close(&l);
    return is_started;
}

static void load_check_file(const Load *l, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) pages = serve_read_pages(path, &error);
    g_autoptr(Set) set = l->variant.loader->read_set(l->snapshot, path,
                                                     &error);
    uint64_t chosen[6], last = 0;
    uint32_t count = load_choose(l, chosen), i;

    g_assert_no_error(error);
    g_assert_nonnull(set);
    g_assert_cmpuint(pages->len, ==, count);
    for (i = 0; i < count; i++) {
        uint64_t page = g_array_index(pages, uint64_t, i);

        if (l->variant.loader->has_set_pages) {
            g_assert_cmpuint(page, >=, last);
        } else {
            g_assert_cmpuint(page, ==, chosen[i]);
        }
        last = page;
    }
}

/* Have all pages of the set arrived, ahead of the guest? */
static bool load_has_set(const Load *l)
{
    uint64_t pages[6];
    uint32_t count = load_choose(l, pages), i;

    for (i = 0; i < count; i++) {
        if (arrival_class(load_arrival(l, pages[i])) !=
            ARRIVAL_HINT) {
            return false;
        }
    }
    return true;
}

static void test_replays_what_was_recorded(const void *opaque)
{
    /* The pages that one guest touched are there for the next one. */
    const BenchLoader *loader = opaque;
    g_autofree char *path = load_new_name();
    Rehearsal rehearsal = { .path = path, .contents_path = path };
    g_autoptr(GError) error = NULL;
    uint64_t other, page;
    uint32_t arrived_count = 0;
    Load l;

    if (!load_record(loader, path, &error)) {
        return;
    }
    load_open(&l, loader);
    load_check_file(&l, path);
    l.variant.rehearsal = &rehearsal;
    g_assert_true(load_start(&l, &error));
    other = load_find(&l, 1200, true);
    if (loader == &loader_reap) {
        /* Fetched, and placed at the first fault. */
        for (page = 0; page < l.page_count; page++) {
            g_assert_cmpuint(load_arrival(&l, page), ==, 0);
        }
    }
    load_touch(&l, other);
    /* A page is noted when it has been placed. */
    fixture_wait_until(load_has_set(&l) &&
                       load_arrival(&l, other));
    for (page = 0; page < l.page_count; page++) {
        arrived_count += load_arrival(&l, page) != 0;
    }
    g_assert_cmpuint(arrived_count, ==, 7);
    g_assert_cmpint(arrival_class(load_arrival(&l, other)), ==,
                    ARRIVAL_URGENT);
    memory_verify(l.snapshot, l.sums, l.run.hva, NULL, NULL, &error);
    g_assert_no_error(error);
    loader->stop(&l.run);
    load_close(&l);
    unlink(path);
}

static void test_bad_set_is_told(const void *opaque)
{
    /* A set that is cut is an error, and no page comes from behind its end. */
    const BenchLoader *loader = opaque;
    const uint64_t lone[] = { 100, 1 }, too_many[] = { 100, 2 };
    const struct {
        const void *bytes;
        size_t len_bytes;
    } files[] = { { lone, 7 }, { too_many, sizeof(too_many) },
                  { lone, sizeof(lone) } };
    g_autofree char *path = load_new_name();
    Rehearsal rehearsal = { .path = path, .contents_path = path };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autoptr(GError) error = NULL;
        bool is_right = i == 2 && !loader->has_set_pages;
        Load l;

        g_assert_true(g_file_set_contents(path, files[i].bytes,
                                          files[i].len_bytes, NULL));
        load_open(&l, loader);
        l.variant.rehearsal = &rehearsal;
        g_assert_cmpint(loader->start(&l.run, &error), ==, is_right);
        if (error && strstr(error->message, "userfaultfd")) {
            g_test_skip(error->message);
        } else if (!is_right) {
            g_assert_nonnull(strstr(error->message, "working set"));
        }
        loader->stop(&l.run);
        load_close(&l);
    }
    unlink(path);
}

static void test_touches_where_it_cannot_populate(void)
{
    /* Without MADV_POPULATE_READ in the kernel, as much is loaded. */
    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    fixture_refuse_with(SYS_madvise, EINVAL);
    test_loads_all(&loader_mmap_ahead);
}

static void test_says_whether_it_needs_a_trap(const void *opaque)
{
    /* Without userfaultfd, just those with LOADER_NEEDS_TRAP cannot start. */
    const BenchLoader *loader = opaque;
    g_autoptr(GError) error = NULL;
    Load l;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    load_open(&l, loader);
    l.run.is_background_off = true;
    fixture_refuse(SYS_ioctl);
    fixture_refuse(SYS_userfaultfd);
    g_assert_cmpint(loader->start(&l.run, &error), !=,
                    !!(loader->knobs & LOADER_NEEDS_TRAP));
    loader->stop(&l.run);
    load_close(&l);
}

static void test_minor_faults_are_probed(void)
{
    /* Where the kernel lacks minor faults, an error says what to do. */
    g_autoptr(GError) error = NULL;
    Load l;

    if (!fixture_may_refuse() || fixture_run_child()) {
        return;
    }
    load_open(&l, &loader_continue);
    fixture_refuse_with(SYS_ioctl, EINVAL);
    g_assert_false(loader_continue.start(&l.run, &error));
    if (!strstr(error->message, "cannot create a userfaultfd")) {
        g_assert_nonnull(strstr(error->message, "UFFD_FEATURE_MINOR_SHMEM"));
        g_assert_nonnull(strstr(error->message, "leave this contender out"));
    }
    load_close(&l);
}

/* Whether the kernel says @flag of the mapping that begins at @hva. */
static bool load_has_flag(const void *hva, const char *flag)
{
    g_autofree char *text = NULL;
    g_autofree char *begin = g_strdup_printf("\n%" PRIxPTR "-",
                                             (uintptr_t)hva);
    const char *at;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    at = strstr(text, begin);
    g_assert_nonnull(at);
    at = strstr(at, "\nVmFlags:");
    g_assert_nonnull(at);
    return g_strstr_len(at, strchr(at + 1, '\n') - at, flag);
}

static void test_huge_pages_stay_advised(void)
{
    /* two-thread does not switch huge pages off, as QEMU does not. */
    g_autoptr(GError) error = NULL;
    Load l;

    load_open(&l, &loader_two_thread);
    if (!load_has_flag(l.run.hva, " hg")) {
        g_test_skip("this kernel has no huge pages to advise");
    } else {
        l.run.is_background_off = true;
        if (load_start(&l, &error)) {
            g_assert_true(load_has_flag(l.run.hva, " hg"));
            g_assert_false(load_has_flag(l.run.hva, " nh"));
            loader_two_thread.stop(&l.run);
        }
        g_assert_no_error(error);
    }
    load_close(&l);
}

static void test_arrivals_are_packed(void)
{
    /*
     * A packed arrival keeps its class, and its time within a unit; no time at
     * all is some.
     */
    static const uint64_t times[] = { 0, 1, 15999, 16000, 1000000007,
                                      3600 * 1000000000ull };
    uint32_t class, i;

    for (class = ARRIVAL_BEFORE; class < ARRIVAL_COUNT; class++) {
        for (i = 0; i < G_N_ELEMENTS(times); i++) {
            uint32_t arrival = arrival_pack(class, times[i]);
            uint64_t least = MAX(times[i], ARRIVAL_UNIT_NS);

            g_assert_cmpuint(arrival_class(arrival), ==, class);
            g_assert_cmpuint(arrival_ns(arrival), <=, least);
            g_assert_cmpuint(arrival_ns(arrival) + ARRIVAL_UNIT_NS, >, least);
        }
        g_assert_cmpuint(arrival_class(arrival_pack(class, UINT64_MAX)), ==,
                         class);
    }
    g_assert_cmpuint(arrival_class(0), ==, ARRIVAL_NONE);
    g_assert_cmpuint(arrival_class(UINT32_MAX), <, ARRIVAL_COUNT);
}

static void loaders_add(const BenchLoader *loader, const char *name,
                        GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/bench/loaders/%s/%s",
                                            loader->name, name);

    g_test_add_data_func(path, loader, func);
}

int main(int argc, char **argv)
{
    uint32_t i;

    fixture_init(&argc, &argv);
    for (i = 0; bench_loaders[i]; i++) {
        const BenchLoader *loader = bench_loaders[i];

        loaders_add(loader, "loads-all", test_loads_all);
        loaders_add(loader, "says-whether-it-needs-a-trap",
                    test_says_whether_it_needs_a_trap);
        if (loader->is_lazy) {
            loaders_add(loader, "background-is-off", test_background_is_off);
        }
        /* The engine's own tests are about its errors. */
        /* The engine waits for a file that is put right. */
        if (loader->has_end && loader != &loader_fastload &&
            loader != &loader_null) {
            loaders_add(loader, "short-file-is-told",
                        test_short_file_is_told);
        }
        if (loader->record) {
            loaders_add(loader, "replays-what-was-recorded",
                        test_replays_what_was_recorded);
            loaders_add(loader, "bad-set-is-told", test_bad_set_is_told);
        }
    }
    g_test_add_func("/bench/loaders/mmap-ahead/touches-where-it-cannot-"
                    "populate", test_touches_where_it_cannot_populate);
    g_test_add_func("/bench/loaders/continue/minor-faults-are-probed",
                    test_minor_faults_are_probed);
    g_test_add_func("/bench/loaders/two-thread/huge-pages-stay-advised",
                    test_huge_pages_stay_advised);
    g_test_add_func("/bench/loaders/arrivals-are-packed",
                    test_arrivals_are_packed);
    return g_test_run();
}
