/*
 * A snapshot file and the memory to load it into, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <math.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define PAGE FIXTURE_PAGE_BYTES
#define WORDS (PAGE / sizeof(uint64_t))
#define HUGE_BYTES (2u << 20)
/* More than vm.max_map_count, in any sensible setting. */
#define FIXTURE_MAPPING_COUNT_MAX (1u << 21)
#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"

static struct {
    char note[256];
    char hugepages[32]; /* the setting to restore */
    int hugepages_fd;   /* -1: nothing to restore */
} fixture = {
    .hugepages_fd = -1,
};

/* ---- deadline, notes ---- */

static void fixture_say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) {
        return;
    }
}

static void fixture_put_back_hugepages(void)
{
    int fd = fixture.hugepages_fd;

    if (fd >= 0) {
        if (pwrite(fd, fixture.hugepages, strlen(fixture.hugepages), 0) < 0) {
            fixture_say("# " NR_HUGEPAGES " could not be put back\n");
        }
        fixture.hugepages_fd = -1;
        close(fd); /* unlocks */
    }
}

/* Handles SIGABRT and SIGALRM; only calls what signal-safety(7) allows. */
static void fixture_on_signal(int signal_number)
{
    if (fixture.note[0]) {
        fixture_say("# ");
        fixture_say(fixture.note);
        fixture_say("\n");
    }
    fixture_put_back_hugepages();
    if (signal_number == SIGALRM) {
        fixture_say("# the deadline of a test has passed\n");
        _exit(1);
    }
}

void fixture_note(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_vsnprintf(fixture.note, sizeof(fixture.note), format, args);
    va_end(args);
}

void fixture_note_clear(void)
{
    fixture.note[0] = '\0';
}

void fixture_restart_deadline(void)
{
    alarm(FIXTURE_DEADLINE_S);
}

static void *fixture_nothing_main(void *opaque)
{
    return NULL;
}

/* Lets a sanitizer do its late initialization before a test counts threads. */
static void fixture_warm_up(void)
{
    if (FIXTURE_IS_TSAN) {
        /* The sanitizer starts a thread of its own with the first thread. */
        g_thread_join(g_thread_new("warm-up", fixture_nothing_main, NULL));
        /* G_DEFINE_QUARK() stores the same value twice, on purpose. */
        fastload_error_quark();
    }
}

void fixture_init(int *argc, char ***argv)
{
    struct sigaction action = {
        .sa_handler = fixture_on_signal,
        .sa_flags = SA_RESETHAND,
    };

    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    fixture_restart_deadline();
    g_test_init(argc, argv, NULL);
    fastload_crowd_first_look_ns = UINT64_MAX;
    fixture_warm_up();
}

void fixture_run_seeds(FixtureSeedFunc *func, uint32_t count)
{
    const char *text = g_getenv("FASTLOAD_TEST_SEED");
    const char *seconds = g_getenv("FASTLOAD_TEST_SECONDS");
    uint32_t seed = text ? strtoul(text, NULL, 10) : g_test_rand_int();
    int64_t end_us = g_get_monotonic_time() +
                     (seconds ? strtoul(seconds, NULL, 10) : 0) *
                     G_USEC_PER_SEC;
    uint64_t page_count = 0;
    uint32_t done_count = 0;

    do {
        fixture_note("FASTLOAD_TEST_SEED=%u", seed + done_count);
        page_count += func(seed + done_count);
        done_count++;
    } while (!text && (seconds ? g_get_monotonic_time() < end_us
                               : done_count < count));
    g_test_message("%u loads of %" PRIu64 " pages, from seed %u", done_count,
                   page_count, seed);
}

uint64_t fixture_random_ns(GRand *rand)
{
    return (uint64_t)(1000.0 * exp2(g_rand_double(rand) * 20));
}

static int fixture_compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

void fixture_sort_ns(uint64_t *times_ns, uint32_t count)
{
    qsort(times_ns, count, sizeof(times_ns[0]), fixture_compare_ns);
}

/* ---- what is needed ---- */

typedef struct FixtureTest {
    uint32_t needs;
    GTestDataFunc func;
    const void *data;
} FixtureTest;

/* Returns 0 or an errno. */
static int fixture_try_uring(void)
{
    struct io_uring_params params = { 0 };
    int fd = syscall(SYS_io_uring_setup, 1, &params);

    if (fd < 0) {
        return errno;
    }
    close(fd);
    return 0;
}

static void fixture_run_test(const void *opaque)
{
    const FixtureTest *test = opaque;
    g_autoptr(GError) error = NULL;
    int ret = test->needs & FIXTURE_NEEDS_URING ? fixture_try_uring() : 0;

    if (ret) {
        g_autofree char *reason = g_strdup_printf("no io_uring here: %s",
                                                  g_strerror(ret));

        g_test_skip(reason);
    } else if ((test->needs & FIXTURE_NEEDS_UFFD) && !fastload_probe(&error)) {
        g_test_skip(error->message);
    } else if ((test->needs & FIXTURE_NEEDS_MOVE) && !fixture_has_move()) {
        g_test_skip("no huge page can be moved here");
    } else {
        fixture_restart_deadline();
        test_clock_go();
        test->func(test->data);
        fixture_note_clear();
    }
}

void fixture_add_test(const char *path, uint32_t needs, GTestDataFunc func,
                      const void *data)
{
    FixtureTest *test = g_new(FixtureTest, 1);

    *test = (FixtureTest) { .needs = needs, .func = func, .data = data };
    g_test_add_data_func_full(path, test, fixture_run_test, g_free);
}

/* ---- file ---- */

static uint64_t fixture_pattern(uint64_t page_idx, uint64_t word_idx)
{
    return (page_idx * WORDS + word_idx + 1) * 0x9e3779b97f4a7c15ull;
}

bool fixture_page_has_data(const Fixture *f, uint64_t page_idx)
{
    return f->data_bits[page_idx / 64] >> (page_idx % 64) & 1;
}

uint64_t fixture_page_count(const Fixture *f)
{
    return f->len_bytes / PAGE;
}

uint64_t fixture_word(const Fixture *f, uint64_t page_idx, uint64_t word_idx)
{
    return fixture_page_has_data(f, page_idx)
        ? fixture_pattern(page_idx, word_idx) : 0;
}

/* Pages that follow each other in the file, to be written at once. */
typedef struct FixturePages {
    uint64_t *words;
    uint64_t first_idx;
    uint64_t count;
} FixturePages;

static void fixture_flush_pages(const Fixture *f, FixturePages *pages)
{
    ssize_t len_bytes = pages->count * PAGE;

    g_assert_cmpint(pwrite(f->fd, pages->words, len_bytes,
                           f->file_off + pages->first_idx * PAGE), ==,
                    len_bytes);
    pages->count = 0;
}

void fixture_write_file(Fixture *f)
{
    g_autofree uint64_t *words = g_malloc(FIXTURE_CHUNK_PAGE_COUNT * PAGE);
    FixturePages pages = { .words = words };
    uint64_t i, w;

    for (i = 0; i < fixture_page_count(f); i++) {
        bool has_data = fixture_page_has_data(f, i);
        uint64_t *page;

        if (!has_data && i % 7) {
            continue; /* a hole of the file */
        }
        if (pages.count == FIXTURE_CHUNK_PAGE_COUNT ||
            i != pages.first_idx + pages.count) {
            fixture_flush_pages(f, &pages);
            pages.first_idx = i;
        }
        page = words + pages.count++ * WORDS;
        for (w = 0; w < WORDS; w++) {
            page[w] = has_data ? fixture_pattern(i, w) : 0xdeadull;
        }
    }
    fixture_flush_pages(f, &pages);
    g_assert_cmpint(ftruncate(f->fd, f->file_off + f->len_bytes + PAGE),
                    ==, 0);
}

static void fixture_set_bits(Fixture *f, FixtureHasData *has_data)
{
    uint64_t count = fixture_page_count(f);
    uint64_t i, k;

    f->data_bits = g_new0(uint64_t, count / 64 + 1);
    for (i = 0; i < count; i++) {
        if (has_data(i)) {
            f->data_bits[i / 64] |= 1ull << (i % 64);
        }
    }
    for (i = 0; i < count; i += f->page_bytes / PAGE) {
        bool any = false;

        for (k = 0; k < f->page_bytes / PAGE; k++) {
            any = any || fixture_page_has_data(f, i + k);
        }
        f->data_bytes += any ? f->page_bytes : 0;
    }
}

/* ---- system calls that are refused ---- */

/* Shorter than the deadline of the parent, which would not end the child. */
#define CHILD_TIMEOUT_US ((FIXTURE_DEADLINE_S - 20) * G_USEC_PER_SEC)

bool fixture_run_child(void)
{
    if (g_test_subprocess()) {
        return false;
    }
    g_test_trap_subprocess(NULL, CHILD_TIMEOUT_US,
                           G_TEST_SUBPROCESS_INHERIT_STDERR);
    if (!g_test_trap_has_passed() || g_test_trap_reached_timeout()) {
        g_error("the child that may not has failed");
    }
    return true;
}

bool fixture_may_refuse(void)
{
    /* Fails with EINVAL where the kernel was built without seccomp. */
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0) {
        g_test_skip("this kernel has no seccomp");
        return false;
    }
    return true;
}

void fixture_refuse(int number)
{
    fixture_refuse_with(number, EPERM);
}

void fixture_refuse_with(int number, int error_number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error_number),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {
        .len = G_N_ELEMENTS(code), .filter = code,
    };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                SECCOMP_FILTER_FLAG_TSYNC, &program)) {
        g_error("seccomp: %s", g_strerror(errno));
    }
}

int fixture_temp_file(void)
{
    g_autofree char *name = NULL;
    int fd = g_file_open_tmp("fastload-test-XXXXXX", &name, NULL);

    g_assert_cmpint(fd, >=, 0);
    unlink(name);
    return fd;
}

uint64_t fixture_cached_bytes(const Fixture *f)
{
    uint64_t len_bytes = f->file_off + f->len_bytes;
    g_autofree unsigned char *resident = g_malloc(len_bytes / PAGE + 1);
    void *map = mmap(NULL, len_bytes, PROT_READ, MAP_SHARED, f->fd, 0);
    uint64_t i, count = 0;

    g_assert(map != MAP_FAILED);
    g_assert_cmpint(mincore(map, len_bytes, resident), ==, 0);
    for (i = 0; i < (len_bytes + PAGE - 1) / PAGE; i++) {
        count += resident[i] & 1;
    }
    munmap(map, len_bytes);
    return count * PAGE;
}

uint64_t fixture_drop_cache(const Fixture *f)
{
    int i;

    for (i = 0; i < 5 && fixture_cached_bytes(f); i++) {
        g_assert_cmpint(fsync(f->fd), ==, 0);
        posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    return fixture_cached_bytes(f);
}

uint64_t fixture_storage_bytes(void)
{
    g_autofree char *text = NULL;
    const char *found;

    g_assert_true(g_file_get_contents("/proc/self/io", &text, NULL, NULL));
    found = strstr(text, "\nread_bytes: ");
    g_assert_nonnull(found);
    return g_ascii_strtoull(found + strlen("\nread_bytes: "), NULL, 10);
}

/* ---- memory ---- */

/* As root, reserves huge pages for a test, in one process at a time. */
static void fixture_get_hugepages(uint64_t map_bytes)
{
    g_autofree char *want = NULL;
    int fd = open(NR_HUGEPAGES, O_RDWR | O_CLOEXEC);
    ssize_t got;

    if (fd < 0) {
        return;
    }
    while (flock(fd, LOCK_EX) < 0 && errno == EINTR) {
        continue;
    }
    got = pread(fd, fixture.hugepages, sizeof(fixture.hugepages) - 1, 0);
    if (got <= 0) {
        close(fd);
        return;
    }
    fixture.hugepages[got] = '\0';
    fixture.hugepages_fd = fd;
    want = g_strdup_printf("%" PRIu64 "\n",
                           g_ascii_strtoull(fixture.hugepages, NULL, 10) +
                           map_bytes / HUGE_BYTES);
    if (pwrite(fd, want, strlen(want), 0) < 0) {
        fixture_put_back_hugepages();
    }
}

static int fixture_memory_fd(FixtureMemory memory, uint64_t map_bytes)
{
    g_autofree uint8_t *rubbish = NULL;
    uint64_t at;
    int fd;

    switch (memory) {
    case FIXTURE_SHARED:
        fd = memfd_create("fixture", MFD_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, map_bytes), ==, 0);
        return fd;
    case FIXTURE_PRIVATE_FILE:
        fd = fixture_temp_file();
        rubbish = g_malloc(PAGE);
        memset(rubbish, 0xa5, PAGE);
        for (at = 0; at < map_bytes; at += PAGE) {
            g_assert_cmpint(pwrite(fd, rubbish, PAGE, at), ==, PAGE);
        }
        return fd;
    case FIXTURE_ANON:
    case FIXTURE_THP:
    case FIXTURE_HUGETLB:
        break;
    }
    return -1;
}

static bool fixture_map(Fixture *f, FixtureMemory memory, uint64_t skew_bytes)
{
    int flags = memory == FIXTURE_SHARED ? MAP_SHARED : MAP_PRIVATE;
    void *map;

    /* Room for any start relative to 2 MiB, and for two guard pages. */
    f->map_bytes = f->len_bytes + skew_bytes + HUGE_BYTES + 2 * PAGE;
    if (memory == FIXTURE_HUGETLB) {
        f->map_bytes = f->len_bytes;
        f->page_bytes = HUGE_BYTES;
        flags |= MAP_HUGETLB;
        fixture_get_hugepages(f->map_bytes);
    }
    f->memory_fd = fixture_memory_fd(memory, f->map_bytes);
    if (f->memory_fd < 0) {
        flags |= MAP_ANONYMOUS | MAP_NORESERVE;
    }
    map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE, flags,
               f->memory_fd, 0);
    if (map == MAP_FAILED) {
        return false;
    }
    f->map = map;
    if (memory == FIXTURE_HUGETLB) {
        f->hva = f->map;
        /* MAP_NORESERVE: are there enough huge pages? */
        return madvise(map, f->map_bytes, MADV_POPULATE_WRITE) == 0 &&
               madvise(map, f->map_bytes, MADV_DONTNEED) == 0;
    }
    f->hva = (uint8_t *)(((uintptr_t)map + PAGE + HUGE_BYTES - 1) /
                         HUGE_BYTES * HUGE_BYTES) + skew_bytes;
    g_assert_true(f->hva + f->len_bytes + PAGE <= f->map + f->map_bytes);
    if (memory == FIXTURE_THP) {
        /* Where huge pages are off, it is memory like any other. */
        f->wants_huge = true;
        madvise(map, f->map_bytes, MADV_HUGEPAGE);
    }
    /* Guard pages, or the kernel would merge it with its neighbours. */
    return mprotect(map, PAGE, PROT_NONE) == 0 &&
           mprotect(f->map + f->map_bytes - PAGE, PAGE, PROT_NONE) == 0;
}

bool fixture_may_fill_mappings(void)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL,
                             NULL) ||
        g_ascii_strtoull(text, NULL, 10) >= FIXTURE_MAPPING_COUNT_MAX) {
        g_test_skip("vm.max_map_count is too high to be reached");
        return false;
    }
    /* 30 MB for each new thread; without it the program ends. */
    if (FIXTURE_IS_TSAN) {
        g_test_skip("TSan asks for mappings itself");
        return false;
    }
    return true;
}

void fixture_fill_mappings(uint32_t room_count)
{
    uint64_t i, max = FIXTURE_MAPPING_COUNT_MAX;
    /* MAP_SHARED, so that it is not merged with a neighbour. */
    uint8_t *map = mmap(NULL, max * PAGE, PROT_NONE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(map != MAP_FAILED);
    for (i = 1; i + 1 < max; i += 2) {
        /* One mapping becomes three. */
        if (mprotect(map + i * PAGE, PAGE, PROT_READ) < 0) {
            g_assert_cmpint(errno, ==, ENOMEM);
            break;
        }
    }
    g_assert_cmpuint(i + 1, <, max);
    g_assert_cmpuint(i, >, room_count);
    for (; room_count > 1; room_count -= 2) {
        i -= 2;
        g_assert_cmpint(mprotect(map + i * PAGE, PAGE, PROT_NONE), ==, 0);
    }
}

Fixture *fixture_new_skewed(FixtureMemory memory, uint64_t page_count,
                            uint64_t skew_count, FixtureHasData *has_data)
{
    Fixture *f = g_new0(Fixture, 1);

    fixture_restart_deadline();
    f->memory_fd = -1;
    f->page_bytes = PAGE;
    f->len_bytes = page_count * PAGE;
    f->file_off = 3 * PAGE;
    f->fd = fixture_temp_file();
    if (!fixture_map(f, memory, skew_count * PAGE)) {
        g_test_skip("not enough free huge pages (vm.nr_hugepages)");
        fixture_free(f);
        return NULL;
    }
    fixture_set_bits(f, has_data);
    fixture_write_file(f);
    return f;
}

Fixture *fixture_new(FixtureMemory memory, uint64_t page_count,
                     FixtureHasData *has_data)
{
    return fixture_new_skewed(memory, page_count, 0, has_data);
}

void fixture_free(Fixture *f)
{
    if (f->map) {
        munmap(f->map, f->map_bytes);
    }
    if (f->memory_fd >= 0) {
        close(f->memory_fd);
    }
    close(f->fd);
    fixture_put_back_hugepages();
    g_free(f->data_bits);
    g_free(f);
}

void fixture_region(const Fixture *f, FastloadRegion *ret_region)
{
    *ret_region = (FastloadRegion) {
        .hva = f->hva,
        .len_bytes = f->len_bytes,
        .file_off = f->file_off,
        .page_bytes = f->page_bytes,
        .granule_bytes = PAGE,
        .data_bits = f->data_bits,
        .wants_huge = f->wants_huge,
    };
}

uint64_t *fixture_page(const Fixture *f, uint64_t page_idx)
{
    return (uint64_t *)(f->hva + page_idx * PAGE);
}

bool fixture_page_is_right(const Fixture *f, uint64_t page_idx)
{
    const uint64_t *page = fixture_page(f, page_idx);
    uint64_t w;

    for (w = 0; w < WORDS; w++) {
        if (page[w] != fixture_word(f, page_idx, w)) {
            return false;
        }
    }
    return true;
}

uint64_t fixture_wrong_count(const Fixture *f)
{
    uint64_t i, wrong = 0;

    for (i = 0; i < fixture_page_count(f); i++) {
        wrong += !fixture_page_is_right(f, i);
    }
    return wrong;
}

bool fixture_page_is_resident(const Fixture *f, uint64_t page_idx)
{
    unsigned char vec;

    g_assert_cmpint(mincore(fixture_page(f, page_idx), PAGE, &vec), ==, 0);
    return vec & 1;
}

bool fixture_has_move(void)
{
    g_autofree char *enabled = NULL;
    struct uffdio_api api = { .api = UFFD_API, .features = 1ull << 16 };
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    bool has_move = uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0;
    uint64_t nothing[5] = { 0 };

    /* EINVAL: the kernel knows the call; EPERM: a seccomp filter refused it */
    has_move = has_move && ioctl(uffd, _IOWR(UFFDIO, 0x05, nothing), nothing)
                           < 0 && errno == EINVAL;
    if (uffd >= 0) {
        close(uffd);
    }
    return has_move &&
           g_file_get_contents("/sys/kernel/mm/transparent_hugepage/enabled",
                               &enabled, NULL, NULL) &&
           !strstr(enabled, "[never]");
}

/*
 * The sum of "@field: N kB" in smaps over the region's mappings; NULL: their
 * number.
 */
static uint64_t fixture_smaps_sum(const Fixture *f, const char *field)
{
    g_autofree char *format = g_strdup_printf("%s: %%lu",
                                              field ? field : "");
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    bool is_ours = false;
    uint64_t sum = 0;
    char **line;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (line = lines; *line; line++) {
        unsigned long from, to, kib;

        if (sscanf(*line, "%lx-%lx ", &from, &to) == 2) {
            is_ours = from < (uintptr_t)f->hva + f->len_bytes &&
                      (uintptr_t)f->hva < to;
            sum += is_ours && !field;
        } else if (is_ours && field && sscanf(*line, format, &kib) == 1) {
            sum += kib * 1024;
        }
    }
    return sum;
}

uint64_t fixture_huge_bytes(const Fixture *f)
{
    return fixture_smaps_sum(f, "AnonHugePages");
}

uint64_t fixture_khugepaged_count(void)
{
    g_autofree char *text = NULL;

    return g_file_get_contents("/sys/kernel/mm/transparent_hugepage/"
                               "khugepaged/pages_collapsed", &text, NULL,
                               NULL) ? g_ascii_strtoull(text, NULL, 10) : 0;
}

uint64_t fixture_own_bytes(const Fixture *f)
{
    return fixture_smaps_sum(f, "Rss");
}

uint32_t fixture_mapping_count(const Fixture *f)
{
    return fixture_smaps_sum(f, NULL);
}

bool fixture_all_data(uint64_t page_idx)
{
    return true;
}

bool fixture_all_zero(uint64_t page_idx)
{
    return false;
}

bool fixture_mixed(uint64_t page_idx)
{
    switch (page_idx / FIXTURE_CHUNK_PAGE_COUNT % 6) {
    case 0:
        return true;
    case 1:
        return page_idx % 2;
    case 2:
        return page_idx / 5 % 3 == 0;
    case 3:
        return page_idx % FIXTURE_CHUNK_PAGE_COUNT == 300;
    case 4:
        return false;
    default:
        return page_idx / 1536 % 2;
    }
}

/* ---- events ---- */

void fixture_events_init(FixtureEvents *events)
{
    memset(events, 0, sizeof(*events));
    g_mutex_init(&events->lock);
    g_cond_init(&events->cond);
}

void fixture_events_clear(FixtureEvents *events)
{
    g_mutex_clear(&events->lock);
    g_cond_clear(&events->cond);
}

void fixture_events_func(FastloadEvent event, const FastloadFailure *failure,
                         void *opaque)
{
    FixtureEvents *events = opaque;

    g_mutex_lock(&events->lock);
    g_assert_true((event == FASTLOAD_EVENT_STALLED) == (failure != NULL));
    if (events->count < G_N_ELEMENTS(events->events)) {
        events->events[events->count++] = event;
    }
    if (failure) {
        events->failure = *failure;
    }
    g_cond_broadcast(&events->cond);
    g_mutex_unlock(&events->lock);
}

static uint32_t events_count_locked(const FixtureEvents *events,
                                    FastloadEvent event)
{
    uint32_t i, count = 0;

    for (i = 0; i < events->count; i++) {
        count += events->events[i] == event;
    }
    return count;
}

uint32_t fixture_events_count(FixtureEvents *events, FastloadEvent event)
{
    uint32_t count;

    g_mutex_lock(&events->lock);
    count = events_count_locked(events, event);
    g_mutex_unlock(&events->lock);
    return count;
}

void fixture_events_wait(FixtureEvents *events, FastloadEvent event)
{
    g_mutex_lock(&events->lock);
    while (!events_count_locked(events, event)) {
        g_cond_wait(&events->cond, &events->lock);
    }
    g_mutex_unlock(&events->lock);
}

/* ---- placed pages ---- */

void fixture_placed_init(FixturePlaced *placed, const Fixture *f)
{
    *placed = (FixturePlaced) {
        .f = f,
        .told = g_new0(uint8_t, fixture_page_count(f)),
    };
}

void fixture_placed_clear(FixturePlaced *placed)
{
    g_free(placed->told);
}

static bool placed_has_data(const Fixture *f, uint64_t page_idx)
{
    uint64_t per_page = f->page_bytes / PAGE;
    uint64_t first = page_idx / per_page * per_page;
    bool has_data = false;
    uint64_t i;

    for (i = first; i < first + per_page; i++) {
        has_data = has_data || fixture_page_has_data(f, i);
    }
    return has_data;
}

void fixture_placed_func(void *hva, uint64_t len_bytes, FastloadClass class,
                         bool has_data, void *opaque)
{
    FixturePlaced *placed = opaque;
    const Fixture *f = placed->f;
    uint64_t page = ((uint8_t *)hva - f->hva) / PAGE;
    uint64_t end = page + len_bytes / PAGE;

    g_assert_cmpuint(len_bytes, >, 0);
    g_assert_cmpuint(len_bytes % f->page_bytes, ==, 0);
    g_assert_cmpuint(end, <=, fixture_page_count(f));
    __atomic_fetch_add(has_data ? &placed->data_bytes[class]
                                : &placed->zero_bytes,
                       len_bytes, __ATOMIC_RELAXED);
    for (; page < end; page++) {
        g_assert_true(has_data == placed_has_data(f, page));
        /* A page that is not there would make this thread wait for itself. */
        g_assert_true(fixture_page_is_right(f, page));
        g_assert_cmpuint(__atomic_exchange_n(&placed->told[page], 1 + class,
                                             __ATOMIC_RELEASE), ==, 0);
    }
}

FastloadClass fixture_placed_class(FixturePlaced *placed, uint64_t page_idx)
{
    uint8_t told = __atomic_load_n(&placed->told[page_idx], __ATOMIC_ACQUIRE);

    return told ? told - 1 : FASTLOAD_CLASS_MAX;
}

void fixture_placed_check(FixturePlaced *placed, const FastloadStats *stats)
{
    uint64_t i;

    for (i = 0; i < FASTLOAD_CLASS_MAX; i++) {
        g_assert_cmpuint(placed->data_bytes[i], ==, stats->loaded_bytes[i]);
    }
    g_assert_cmpuint(placed->zero_bytes, <=, stats->zero_bytes);
    for (i = 0; i < fixture_page_count(placed->f); i++) {
        g_assert_true(placed->told[i] || !placed_has_data(placed->f, i));
    }
}

/* ---- threads ---- */

uint64_t fixture_unread_fault_count(int uffd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", uffd);
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "pending:");
    g_assert_nonnull(line);
    return strtoull(line + strlen("pending:"), NULL, 10);
}

bool fixture_thread_waits(pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/syscall",
                                            tid);
    g_autofree char *text = NULL;

    /* The number of the system call; "running": in none. */
    return g_file_get_contents(path, &text, NULL, NULL) &&
           atoi(text) == SYS_futex;
}

/* ---- touchers ---- */

static void *toucher_main(void *opaque)
{
    FixtureToucher *t = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(t->seed);
    uint32_t i;

    for (i = 0; i < t->touch_count; i++) {
        uint64_t page = g_rand_int_range(rand, 0, fixture_page_count(t->f));

        t->wrong_count += !fixture_page_is_right(t->f, page);
    }
    __atomic_store_n(&t->is_done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void *toucher_page_main(void *opaque)
{
    FixtureToucher *t = opaque;

    t->wrong_count = !fixture_page_is_right(t->f, t->seed);
    __atomic_store_n(&t->is_done, 1, __ATOMIC_RELEASE);
    return NULL;
}

void fixture_toucher_start(FixtureToucher *t, const Fixture *f, uint32_t seed,
                           uint32_t touch_count)
{
    *t = (FixtureToucher) {
        .f = f, .seed = seed, .touch_count = touch_count,
    };
    t->thread = g_thread_new("toucher", toucher_main, t);
}

void fixture_toucher_start_page(FixtureToucher *t, const Fixture *f,
                                uint64_t page_idx)
{
    *t = (FixtureToucher) { .f = f, .seed = page_idx };
    t->thread = g_thread_new("toucher", toucher_page_main, t);
}

bool fixture_toucher_is_done(FixtureToucher *t)
{
    return __atomic_load_n(&t->is_done, __ATOMIC_ACQUIRE);
}

uint32_t fixture_toucher_join(FixtureToucher *t)
{
    g_thread_join(t->thread);
    return t->wrong_count;
}

/* ---- use ---- */

static uint32_t use_count_tasks(void)
{
    GDir *dir = g_dir_open("/proc/self/task", 0, NULL);
    uint32_t count = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        count++;
    }
    g_dir_close(dir);
    return count;
}

void fixture_use_get(FixtureUse *ret_use)
{
    FixtureUse use = { .thread_count = use_count_tasks() };
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%s", name);
        g_autofree char *to = g_file_read_link(path, NULL);

        use.fd_count++;
        use.uffd_count += to && strstr(to, "userfaultfd");
        use.uring_count += to && strstr(to, "io_uring");
    }
    g_dir_close(dir);
    *ret_use = use;
}

void fixture_use_check(const FixtureUse *before)
{
    FixtureUse now;

    /* A joined thread may still be in /proc for a moment, while it exits. */
    fixture_wait_until(use_count_tasks() <= before->thread_count);
    fixture_use_get(&now);
    g_assert_cmpuint(now.uffd_count, ==, before->uffd_count);
    g_assert_cmpuint(now.uring_count, ==, before->uring_count);
    g_assert_cmpuint(now.fd_count, ==, before->fd_count);
}
