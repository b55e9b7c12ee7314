/*
 * fastload-bench: one run of one contender.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A run is a process of its own: its memory, page tables, CPU time and bytes
 * read belong to the contender, and a crash is a failed run, not the end of the
 * program.  The child writes into memory that it shares with the parent.  A run
 * that does not end in time is killed and counts as failed.
 *
 * Before it, another process touches and frees as much memory as the run will
 * need.  In a virtual machine that gives free memory back to its host (free
 * page reporting, ballooning), the first touch of a page can take twenty times
 * as long as a later one, and the contender that runs second would win.  The
 * kernel reports memory two seconds after it became free.  So the memory that
 * the run before has freed must have been reported first, and then this run has
 * two seconds before the next report.  Where the kernel counts its passes, the
 * memory is freed when a pass has just ended.
 */
#include "bench.h"
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TICK_MS 100
#define POLL_US 1000
/* Memory of a run besides the guest's: staging, page tables, records. */
#define TOUCH_MORE_BYTES (128u << 20)
/* Linux mm/page_reporting.c waits 2 s; the reporting itself takes some time. */
#define TOUCH_HOLD_NS (2500 * 1000 * 1000ull)
#define TOUCH_POLL_US 5000
#define REPORTING_PATH "/sys/module/page_reporting"
#define TOUCH_TIMEOUT_NS (300 * 1000 * 1000 * 1000ull)

/* The child's side of a run. */
typedef struct Measure {
    const MeasureConfig *config;
    Clones *clones;          /* if it is one of several; or NULL */
    RunResult *result;
    LoaderRun run;
    Guest *guest;
    WriteCount *writes;
    uint64_t page_count;
    uint64_t base_rss_bytes;
    uint64_t base_pss_bytes;
    uint64_t base_table_bytes;
    uint64_t base_read_bytes;
    uint64_t base_cpu_ns;
    GThread *sampler;
    uint64_t sampled_begin_ns; /* what the samples' times count from */
    int is_over;             /* atomic: the sampler ends */
} Measure;

/* The number after @key in a file of /proc, times @unit; 0: none. */
static uint64_t proc_number(const char *path, const char *key, uint64_t unit)
{
    g_autofree char *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return 0;
    }
    at = strstr(text, key);
    return at ? g_ascii_strtoull(at + strlen(key), NULL, 10) * unit : 0;
}

/* The same from @file of a process; 0: none. */
static uint64_t proc_number_of(pid_t pid, const char *file, const char *key,
                               uint64_t unit)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, file);

    return pid ? proc_number(path, key, unit) : 0;
}

static uint64_t proc_cpu_ns(clockid_t clock)
{
    struct timespec ts = { 0 };

    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static pid_t measure_helper(const Measure *m)
{
    return __atomic_load_n(&m->run.helper_pid, __ATOMIC_RELAXED);
}

/* The sum over this process and the loader's helper, if there is one. */
static uint64_t measure_number(const Measure *m, const char *file,
                               const char *key, uint64_t unit)
{
    return proc_number_of(getpid(), file, key, unit) +
           proc_number_of(measure_helper(m), file, key, unit);
}

static uint64_t measure_resident_bytes(const Measure *m)
{
    return measure_number(m, "status", "VmRSS:", 1024);
}

/* Proportional set size: shared pages count in part. */
static uint64_t measure_pss_bytes(const Measure *m)
{
    return measure_number(m, "smaps_rollup", "\nPss:", 1024);
}

/* Bytes read so far; the kernel does not count reads through FUSE. */
static uint64_t measure_read_bytes(const Measure *m)
{
    const StorageMount *mount = m->config->snapshot->mount;
    const Rehearsal *rehearsal = m->config->variant->rehearsal;

    return !mount ? measure_number(m, "io", "\nread_bytes:", 1)
        : storage_mount_read_bytes(mount) +
          (rehearsal && rehearsal->mount
           ? storage_mount_read_bytes(rehearsal->mount) : 0);
}

static uint64_t measure_cpu_ns(const Measure *m)
{
    pid_t helper = measure_helper(m);
    clockid_t clock;

    return proc_cpu_ns(CLOCK_PROCESS_CPUTIME_ID) +
           (helper && !clock_getcpuclockid(helper, &clock)
            ? proc_cpu_ns(clock) : 0);
}

/* Huge pages in the mappings of guest memory. */
static uint64_t proc_huge_bytes(const uint8_t *hva, uint64_t len_bytes)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    uintptr_t begin = (uintptr_t)hva;
    uint64_t sum_kib = 0, kib;
    bool is_ours = false;
    char line[512];

    while (file && fgets(line, sizeof(line), file)) {
        uintptr_t from, to;

        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2) {
            is_ours = from >= begin && from < begin + len_bytes;
        } else if (is_ours &&
                   (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1 ||
                    sscanf(line, "FilePmdMapped: %" SCNu64, &kib) == 1)) {
            sum_kib += kib;
        }
    }
    if (file) {
        fclose(file);
    }
    return sum_kib << 10;
}

static void measure_sample(Measure *m)
{
    RunResult *r = m->result;
    Sample *sample;
    uint64_t begin_ns = __atomic_load_n(&m->run.begin_ns, __ATOMIC_ACQUIRE);
    uint64_t now_ns = bench_now_ns(), resident_bytes, base_bytes;
    uint32_t c;

    if (begin_ns != m->sampled_begin_ns) {
        /* null begins when its memory is filled: drop earlier samples. */
        m->sampled_begin_ns = begin_ns;
        r->sample_count = 0;
    }
    sample = &r->samples[r->sample_count];
    sample->t_ns = now_ns > begin_ns ? now_ns - begin_ns : 0;
    sample->touch_count = guest_touch_count(m->guest);
    for (c = 0; c < ARRIVAL_COUNT; c++) {
        sample->loaded_bytes[c] = __atomic_load_n(&m->run.loaded_bytes[c],
                                                  __ATOMIC_RELAXED);
    }
    resident_bytes = measure_resident_bytes(m);
    base_bytes = __atomic_load_n(&m->base_rss_bytes, __ATOMIC_RELAXED);
    sample->resident_bytes = resident_bytes - MIN(resident_bytes, base_bytes);
    r->sample_count++;
}

static void *measure_sampler(void *opaque)
{
    Measure *m = opaque;

    while (!__atomic_load_n(&m->is_over, __ATOMIC_ACQUIRE) &&
           m->result->sample_count < MEASURE_SAMPLE_COUNT_MAX - 1) {
        measure_sample(m);
        g_usleep(MEASURE_SAMPLE_NS / 1000);
    }
    return NULL;
}

/* MAP_SHARED: after a fork() by the loader, writing causes no fault. */
static void *measure_map(uint64_t len_bytes)
{
    void *p = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* Notes the worst of both runs: for cold the most, for warm the least. */
static void measure_note_cached(Measure *m, bool is_idle)
{
    uint64_t before = m->result->cached_bytes;
    uint64_t now = storage_cached_after_open(m->config->snapshot);

    m->result->cached_bytes =
        !is_idle ? now : m->config->scenario->cache == CACHE_COLD
        ? MAX(before, now) : MIN(before, now);
}

/* Fewer touches on slow storage, so that the run does not take too long. */
static uint64_t measure_idle_touches(const Snapshot *snapshot)
{
    const StorageClass *class = snapshot->mount
        ? storage_mount_class(snapshot->mount) : NULL;
    uint64_t wait_ns = class ? class->rtt_ns + class->jitter_ns / 2 : 0;

    return wait_ns
        ? CLAMP(MEASURE_IDLE_NS / wait_ns, MEASURE_IDLE_TOUCHES_MIN,
                MEASURE_IDLE_TOUCHES)
        : MEASURE_IDLE_TOUCHES;
}

static bool measure_prepare(Measure *m, bool is_idle, GError **error)
{
    const Snapshot *snapshot = m->config->snapshot;
    const Scenario *scenario = m->config->scenario;
    uint64_t touches_max = is_idle
        ? MAX(measure_idle_touches(snapshot) / scenario->vcpu_count, 1) : 0;

    m->page_count = snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    m->run.snapshot = snapshot;
    m->run.variant = m->config->variant;
    m->run.is_background_off = is_idle;
    m->run.record_path = m->config->record_path;
    m->writes = measure_map(m->page_count * sizeof(*m->writes));
    m->run.arrivals = measure_map(m->page_count * sizeof(*m->run.arrivals));
    if (!m->writes || !m->run.arrivals) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot map memory for the books of a run: %s",
                    g_strerror(errno));
        return false;
    }
    m->guest = guest_new(snapshot, scenario, touches_max, error);
    m->run.hva = m->guest ? memory_map(snapshot->guest_bytes, error) : NULL;
    if (!m->run.hva) {
        return false;
    }
    measure_note_cached(m, is_idle);
    /* The limits are for the run only, not for preparation and checking. */
    if (m->config->box && !box_enter(m->config->box, error)) {
        return false;
    }
    if (m->clones) {
        /* The parent's memory is shared, in part, by all that are there. */
        clones_meet(m->clones, CLONES_THERE);
        m->base_pss_bytes = measure_pss_bytes(m);
    }
    m->base_rss_bytes = measure_resident_bytes(m);
    m->base_table_bytes = measure_number(m, "status", "VmPTE:", 1024);
    m->base_read_bytes = measure_read_bytes(m);
    m->base_cpu_ns = measure_cpu_ns(m);
    return true;
}

/* The loader has set begin_ns: forgets what was counted before. */
static void measure_begin_anew(Measure *m)
{
    pid_t helper = measure_helper(m);

    m->base_cpu_ns = measure_cpu_ns(m);
    m->base_read_bytes = measure_read_bytes(m);
    /* Memory that the helper has inherited takes no extra memory. */
    __atomic_fetch_add(&m->base_rss_bytes,
                       proc_number_of(helper, "status", "VmRSS:", 1024),
                       __ATOMIC_RELAXED);
    m->base_table_bytes += proc_number_of(helper, "status", "VmPTE:", 1024);
}

/* Notes the CPU time so far, without the guest's own computing. */
static void measure_note_cpu(Measure *m)
{
    uint64_t cpu_ns = measure_cpu_ns(m) - m->base_cpu_ns;
    uint64_t guest_ns = guest_thought_ns(m->guest);

    m->result->cpu_ns = cpu_ns > guest_ns ? cpu_ns - guest_ns : 0;
}

static void measure_note_read(Measure *m)
{
    m->result->read_bytes = measure_read_bytes(m) - m->base_read_bytes;
}

/* From the moment the guest may run until everything is loaded. */
static bool measure_load_lazily(Measure *m, GError **error)
{
    const BenchLoader *loader = m->config->variant->loader;

    if (loader->has_end) {
        if (!loader->wait(&m->run, error)) {
            return false;
        }
        m->result->load_ns = bench_now_ns() - m->run.begin_ns;
        guest_set_loaded(m->guest);
        if (loader->settle) {
            loader->settle(&m->run);
        }
    } else {
        /* A loader without an end is measured until the guest has worked. */
        while (!guest_worked_ns(m->guest)) {
            g_usleep(POLL_US);
        }
    }
    measure_note_cpu(m);
    return true;
}

static bool measure_load(Measure *m, GError **error)
{
    const BenchLoader *loader = m->config->variant->loader;
    RunResult *r = m->result;
    uint64_t asked_ns;

    /* Time that a clone waits for a processor counts as well. */
    asked_ns = m->clones ? clones_meet(m->clones, CLONES_BEGIN)
                         : bench_now_ns();
    m->run.begin_ns = asked_ns;
    m->sampler = g_thread_new("sampler", measure_sampler, m);
    if (!loader->start(&m->run, error)) {
        return false;
    }
    r->run_ns = bench_now_ns() - m->run.begin_ns;
    if (m->run.begin_ns != asked_ns) {
        measure_begin_anew(m);
    }
    if (!loader->is_lazy) {
        /* Everything is loaded: starting the vCPUs is no part of that. */
        r->load_ns = r->run_ns;
        measure_note_cpu(m);
        guest_set_loaded(m->guest);
    }
    guest_start(m->guest, &m->run, m->writes);
    if (loader->is_lazy && !measure_load_lazily(m, error)) {
        return false;
    }
    measure_note_read(m);
    while (!guest_worked_ns(m->guest) || !guest_has_windowed(m->guest)) {
        g_usleep(POLL_US);
    }
    return true;
}

static void measure_end_sampler(Measure *m)
{
    if (m->sampler) {
        __atomic_store_n(&m->is_over, 1, __ATOMIC_RELEASE);
        g_thread_join(m->sampler);
        m->sampler = NULL;
        measure_sample(m);
    }
}

static int measure_by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Zero pages count as ARRIVAL_NONE, even if the loader has placed them. */
static void measure_fill_cell(Cell *cell, const Measure *m, uint64_t page,
                              uint64_t count, uint32_t *times)
{
    const uint32_t *arrivals = m->run.arrivals + page;
    uint64_t counts[ARRIVAL_COUNT] = { 0 };
    uint64_t i, placed_count = 0;
    uint32_t c;

    for (i = 0; i < count; i++) {
        ArrivalClass class =
            snapshot_has_page(m->config->snapshot, page + i)
            ? arrival_class(arrivals[i]) : ARRIVAL_NONE;

        counts[class]++;
        if (class != ARRIVAL_NONE) {
            times[placed_count++] = arrival_ns(arrivals[i]) / 1000;
        }
    }
    for (c = 0; c < ARRIVAL_COUNT; c++) {
        cell->shares[c] = counts[c] * 255 / count;
    }
    if (placed_count) {
        qsort(times, placed_count, sizeof(*times), measure_by_value);
        cell->t_us = times[placed_count / 2];
    }
}

static void measure_fill_cells(Measure *m)
{
    RunResult *r = m->result;
    uint64_t cell_pages = (m->page_count + MEASURE_CELL_COUNT_MAX - 1) /
                          MEASURE_CELL_COUNT_MAX;
    g_autofree uint32_t *times = g_new(uint32_t, cell_pages);
    uint64_t page;

    r->cell_page_count = cell_pages;
    for (page = 0; page < m->page_count; page += cell_pages) {
        measure_fill_cell(&r->cells[r->cell_count++], m, page,
                          MIN(cell_pages, m->page_count - page), times);
    }
}

static void measure_memory(Measure *m)
{
    RunResult *r = m->result;
    uint64_t peak = measure_number(m, "status", "VmHWM:", 1024);
    uint64_t tables = measure_number(m, "status", "VmPTE:", 1024);
    uint64_t now = measure_resident_bytes(m);

    r->rss_peak_bytes = peak - MIN(peak, m->base_rss_bytes);
    r->rss_end_bytes = now - MIN(now, m->base_rss_bytes);
    r->page_table_bytes = tables - MIN(tables, m->base_table_bytes);
    if (!m->config->variant->is_direct) {
        r->page_cache_bytes = storage_cached_bytes(m->config->snapshot);
    }
    r->huge_bytes = proc_huge_bytes(m->run.hva,
                                    m->config->snapshot->guest_bytes);
}

/* While all clones still exist and share memory. */
static void measure_pss(Measure *m)
{
    uint64_t pss_bytes;

    clones_meet(m->clones, CLONES_END);
    pss_bytes = measure_pss_bytes(m);
    m->result->pss_bytes = pss_bytes - MIN(pss_bytes, m->base_pss_bytes);
    clones_meet(m->clones, CLONES_LEAVE);
}

static bool measure_verify(Measure *m, const uint64_t *only, GError **error)
{
    if (m->config->box) {
        box_leave(m->config->box);
    }
    return memory_verify(m->config->snapshot, m->config->sums, m->run.hva,
                         m->writes, only, error);
}

static bool measure_main(Measure *m, GError **error)
{
    const BenchLoader *loader = m->config->variant->loader;
    RunResult *r = m->result;
    GuestCounters counters;
    bool is_loaded, is_right;

    if (!measure_prepare(m, false, error)) {
        return false;
    }
    is_loaded = measure_load(m, error);
    if (is_loaded) {
        guest_stop(m->guest);
        measure_end_sampler(m);
    }
    if (m->run.io_name) {
        g_strlcpy(r->io_name, m->run.io_name, sizeof(r->io_name));
    }
    if (m->run.io_fallback) {
        g_strlcpy(r->io_fallback, m->run.io_fallback, sizeof(r->io_fallback));
    }
    if (!is_loaded) {
        /* vCPUs may wait for pages that never come: does not join them. */
        return false;
    }
    if (m->run.record_path && loader->record &&
        !loader->record(&m->run, error)) {
        return false;
    }
    if (loader->has_end) {
        loader->stop(&m->run);
    }
    guest_get_counters(m->guest, &counters);
    r->work_ns = counters.worked_ns;
    r->window_touch_count = counters.window_touch_count;
    r->request_touch_count = counters.request_touch_count;
    r->waited_ns = counters.waited_ns;
    r->faults = counters.faults;
    measure_memory(m);
    if (m->clones) {
        measure_pss(m);
    }
    measure_fill_cells(m);
    if (loader->has_end) {
        r->speed = guest_measure_speed(m->config->snapshot, m->run.hva,
                                       m->config->scenario->seed,
                                       MIN(m->config->scenario->window_ns,
                                           MEASURE_SPEED_NS));
    }
    is_right = measure_verify(m, NULL, error);
    if (!loader->has_end) {
        /* It was needed until now, to bring pages that the check touches. */
        loader->stop(&m->run);
    }
    return is_right;
}

/* Measures faults without disturbance, with the background off. */
static bool measure_idle(Measure *m, GError **error)
{
    const BenchLoader *loader = m->config->variant->loader;
    GuestCounters counters;
    bool is_right;

    if (!measure_prepare(m, true, error)) {
        return false;
    }
    m->run.begin_ns = bench_now_ns();
    if (!loader->start(&m->run, error)) {
        return false;
    }
    guest_start(m->guest, &m->run, m->writes);
    guest_join(m->guest);
    is_right = measure_verify(m, guest_touched(m->guest), error);
    loader->stop(&m->run);
    guest_get_counters(m->guest, &counters);
    m->result->faults_idle = counters.faults;
    return is_right;
}

/* How much becomes resident if each page with data is in a huge page. */
static uint64_t measure_wanted_bytes(const Snapshot *snapshot)
{
    uint64_t word_count = snapshot->guest_bytes / BENCH_PAGE_BYTES / 64;
    uint64_t step = BENCH_HUGE_BYTES / BENCH_PAGE_BYTES / 64;
    uint64_t bytes = 0, word, i;

    for (word = 0; word < word_count; word += step) {
        uint64_t any = 0;

        for (i = word; i < word + step; i++) {
            any |= snapshot->data_bits[i];
        }
        bytes += any ? BENCH_HUGE_BYTES : 0;
    }
    return bytes;
}

/*
 * Waits until free memory will not be reported to the host for two seconds.
 * Only some kernels have the counter of passes; with others it waits for a
 * fixed time.
 */
static void measure_hold(uint8_t *hva)
{
    const char *passes = REPORTING_PATH "/parameters/passes";
    uint64_t end_ns = bench_now_ns() + TOUCH_HOLD_NS;
    uint64_t before = proc_number(passes, "", 1);

    if (!g_file_test(REPORTING_PATH, G_FILE_TEST_IS_DIR)) {
        return;
    }
    /* A pass only takes place after something became free. */
    madvise(hva, BENCH_HUGE_BYTES, MADV_DONTNEED);
    while (bench_now_ns() < end_ns &&
           proc_number(passes, "", 1) == before) {
        g_usleep(TOUCH_POLL_US);
    }
}

static uint8_t *measure_touch_pages(uint64_t len_bytes, int advice,
                                    GError **error)
{
    uint8_t *hva = len_bytes ? memory_map(len_bytes, error) : NULL;
    uint64_t at;

    if (hva) {
        madvise(hva, len_bytes, advice);
    }
    for (at = 0; hva && at < len_bytes; at += BENCH_PAGE_BYTES) {
        hva[at] = 1;
    }
    return hva;
}

/*
 * Touches memory and frees it, so that the host backs it: part of it as small
 * pages, which the kernel hands out first, and part as huge pages.
 */
static bool measure_touch(Measure *m, GError **error)
{
    const uint64_t mask = ~(uint64_t)(BENCH_HUGE_BYTES - 1);
    const Snapshot *snapshot = m->config->snapshot;
    uint64_t wanted = measure_wanted_bytes(snapshot) *
                      m->config->scenario->clone_count;
    uint64_t available = proc_number("/proc/meminfo", "MemAvailable:", 1024);
    uint64_t limit, small, huge;
    CgroupMemory memory;
    uint8_t *hva;

    cgroup_get_memory("", &memory);
    limit = MIN(available, memory.free_bytes) / 10 * 8;

    if (m->config->scenario->cache == CACHE_COLD &&
        !m->config->variant->is_direct) {
        wanted += snapshot->data_bytes; /* for the page cache */
    }
    /* More, since the allocator does not hand out exactly these pages. */
    wanted += wanted / 8 + TOUCH_MORE_BYTES;
    huge = MIN(wanted, limit) & mask;
    small = MIN(wanted, limit - huge) & mask;
    if (small && !measure_touch_pages(small, MADV_NOHUGEPAGE, error)) {
        return false;
    }
    hva = measure_touch_pages(huge, MADV_HUGEPAGE, error);
    if (hva) {
        measure_hold(hva);
    }
    return hva || !huge;
}

typedef bool MeasureFunc(Measure *m, GError **error);

/* A process of a run, as its parent sees it. */
typedef struct MeasureChild {
    pid_t pid;               /* 0: it has ended */
    int status;
    RunResult *result;
} MeasureChild;

/* A function that runs in one or more processes, and their state. */
typedef struct MeasureJob {
    const MeasureConfig *config;
    MeasureFunc *func;
    Clones *clones;          /* NULL: one process */
    MeasureTick *tick;
    void *opaque;
    uint32_t child_count;
    MeasureChild *children;
    struct pollfd *fds;      /* their pidfds; -1: none */
} MeasureJob;

/* If memory runs out, the OOM killer should take a run, not the parent. */
static void measure_offer_to_oom_killer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t put = write(fd, "1000", 4);

        (void)put; /* else the kernel chooses */
        close(fd);
    }
}

static void measure_child(const MeasureJob *job, pid_t parent,
                          RunResult *result)
{
    Measure m = {
        .config = job->config,
        .clones = job->clones,
        .result = result,
    };
    GError *error = NULL;

    signal(SIGINT, SIG_IGN); /* the parent decides */
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    measure_offer_to_oom_killer();
    result->is_ok = job->func(&m, &error);
    if (error) {
        g_strlcpy(result->error, error->message, sizeof(result->error));
    }
    /* Ends everything that is left, waiting vCPUs included. */
    _exit(0);
}

/* Describes how a process ended that should have ended regularly. */
static void measure_say_status(const MeasureConfig *config, int status,
                               bool is_oom, RunResult *result)
{
    uint64_t max_bytes = config->scenario->memory_max_bytes;
    CgroupMemory memory;

    cgroup_get_memory("", &memory);
    if (is_oom && max_bytes) {
        memory.limit_bytes = MIN(memory.limit_bytes, max_bytes);
    }
    if (is_oom && memory.limit_bytes != CGROUP_UNLIMITED) {
        snprintf(result->error, sizeof(result->error), "killed by the kernel, "
                 "for the memory limit of its cgroup, %" PRIu64 " MiB, was "
                 "reached; raise it, or choose a smaller guest",
                 memory.limit_bytes >> 20);
    } else if (is_oom) {
        snprintf(result->error, sizeof(result->error), "killed by the kernel, "
                 "for the machine has no more memory; choose a smaller guest");
    } else if (WIFSIGNALED(status)) {
        snprintf(result->error, sizeof(result->error), "ended by signal %d "
                 "(%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        snprintf(result->error, sizeof(result->error), "ended with exit "
                 "code %d", WEXITSTATUS(status));
    }
}

static uint64_t measure_oom_kill_count(const MeasureConfig *config)
{
    return cgroup_oom_kill_count("") +
           (config->box ? box_oom_kill_count(config->box) : 0);
}

static void measure_kill(const MeasureJob *job)
{
    uint32_t i;

    for (i = 0; i < job->child_count; i++) {
        if (job->children[i].pid) {
            kill(job->children[i].pid, SIGKILL);
        }
    }
}

/* Reaps children; returns how many still run.  *@failed: the first failed. */
static uint32_t measure_reap(MeasureJob *job, MeasureChild **failed)
{
    uint32_t left_count = 0, i;

    for (i = 0; i < job->child_count; i++) {
        MeasureChild *child = &job->children[i];

        if (!child->pid) {
            continue;
        }
        if (waitpid(child->pid, &child->status, WNOHANG) == 0) {
            left_count++;
            continue;
        }
        child->pid = 0;
        if (job->fds[i].fd >= 0) {
            close(job->fds[i].fd);
            job->fds[i].fd = -1;
        }
        if (!*failed && (child->status || !child->result->is_ok)) {
            *failed = child;
        }
    }
    return left_count;
}

static void measure_pause(const MeasureJob *job)
{
    if (job->tick) {
        job->tick(job->opaque);
    }
    if (job->fds[0].fd >= 0 || job->child_count > 1) {
        poll(job->fds, job->child_count, TICK_MS);
    } else {
        g_usleep(TICK_MS * 1000 / 10);
    }
}

/* Waits for all children; false when they were stopped, or one has failed. */
static bool measure_await(MeasureJob *job, uint64_t timeout_ns,
                          RunResult *result)
{
    const MeasureConfig *config = job->config;
    uint64_t end_ns = bench_now_ns() + timeout_ns;
    uint64_t oom_kill_count = measure_oom_kill_count(config);
    bool is_late = false, is_other = false, is_killed = false;
    MeasureChild *failed = NULL;

    while (measure_reap(job, &failed)) {
        is_late = is_late || (bench_now_ns() > end_ns && !failed);
        /* fastload waits for ever after its file was changed. */
        is_other = config->is_watched && !snapshot_is_same(config->snapshot);
        /* The other clones would wait for a failed one for ever. */
        if ((is_late || is_other || failed || *config->is_stopped) &&
            !is_killed) {
            measure_kill(job);
            is_killed = true;
        }
        measure_pause(job);
    }
    if (!failed) {
        return true;
    }
    if (failed->result != result) {
        g_strlcpy(result->error, failed->result->error,
                  sizeof(result->error));
    }
    result->is_ok = false;
    if (is_late) {
        snprintf(result->error, sizeof(result->error),
                 "not done after %" PRIu64 " s: killed; --timeout gives it "
                 "longer", timeout_ns / 1000000000);
    } else if (failed->status) {
        bool is_oom = WIFSIGNALED(failed->status) &&
                      WTERMSIG(failed->status) == SIGKILL &&
                      measure_oom_kill_count(config) != oom_kill_count;

        measure_say_status(config, failed->status, is_oom, result);
    }
    return false;
}

/* False: it cannot be started, so the others have to be killed. */
static bool measure_start_child(MeasureJob *job, uint32_t idx,
                                RunResult *result)
{
    MeasureChild *child = &job->children[idx];
    pid_t parent = getpid();

    child->result = job->clones ? clones_result(job->clones, idx) : result;
    child->result->is_ok = false;
    child->pid = fork();
    if (child->pid == 0) {
        measure_child(job, parent, child->result);
    }
    if (child->pid < 0) {
        child->pid = 0;
        snprintf(result->error, sizeof(result->error),
                 "cannot start a process: %s", g_strerror(errno));
        return false;
    }
    job->fds[idx] = (struct pollfd) {
        .fd = syscall(SYS_pidfd_open, child->pid, 0),
        .events = POLLIN,
    };
    return true;
}

static bool measure_fork(const MeasureConfig *config, MeasureFunc *func,
                         Clones *clones, MeasureTick *tick, void *opaque,
                         RunResult *result)
{
    uint32_t count = clones ? config->scenario->clone_count : 1, i;
    g_autofree MeasureChild *children = g_new0(MeasureChild, count);
    g_autofree struct pollfd *fds = g_new0(struct pollfd, count);
    MeasureJob job = {
        .config = config,
        .func = func,
        .clones = clones,
        .tick = tick,
        .opaque = opaque,
        .child_count = count,
        .children = children,
        .fds = fds,
    };
    MeasureChild *failed = NULL;

    fflush(NULL);
    for (i = 0; i < count; i++) {
        fds[i].fd = -1;
    }
    for (i = 0; i < count; i++) {
        if (!measure_start_child(&job, i, result)) {
            measure_kill(&job);
            while (measure_reap(&job, &failed)) {
                g_usleep(POLL_US);
            }
            result->is_ok = false;
            return false;
        }
    }
    /* The time limit is for runs, not for preparing the machine. */
    return measure_await(&job, func == measure_touch
                         ? MAX(config->timeout_ns, TOUCH_TIMEOUT_NS)
                         : config->timeout_ns, result);
}

/* Brings machine and page cache into the state of the scenario. */
static bool measure_set_up(const MeasureConfig *config, bool is_idle,
                           MeasureTick *tick, void *opaque, RunResult *result)
{
    g_autoptr(GError) error = NULL;

    /*
     * A run that loads little, or before the clock starts, needs none, and one
     * that counts nowhere.
     */
    bool is_touched = config->scenario->is_pretouched && !is_idle &&
                      !config->record_path &&
                      (config->variant->loader->has_end ||
                       config->variant->rehearsal) &&
                      config->variant->loader != &loader_null;
    const Rehearsal *rehearsal = config->variant->rehearsal;

    result->is_ok = false;
    if (is_touched && !measure_fork(config, measure_touch, NULL, tick, opaque,
                                    result)) {
        return false;
    }
    /* Last, for the touching may have evicted the file from the cache. */
    if (!storage_set_cache(config->snapshot, config->scenario->cache,
                           &error)) {
        g_strlcpy(result->error, error->message, sizeof(result->error));
        result->is_ok = false;
        return false;
    }
    /* The next read of the set is the first of a run. */
    if (rehearsal && rehearsal->mount &&
        (!storage_mount_set_fast(rehearsal->mount, true, &error) ||
         !storage_mount_set_fast(rehearsal->mount, false, &error))) {
        g_strlcpy(result->error, error->message, sizeof(result->error));
        result->is_ok = false;
        return false;
    }
    return true;
}

static bool measure_clones(const MeasureConfig *config, MeasureTick *tick,
                           void *opaque, RunResult *result)
{
    Clones *clones = clones_new(config->scenario->clone_count);
    uint64_t before_bytes, after_bytes;
    bool is_known, is_right;

    if (!clones) {
        g_strlcpy(result->error, "no memory for the results of the clones",
                  sizeof(result->error));
        return false;
    }
    is_known = storage_device_read(config->snapshot, &before_bytes);
    is_right = measure_fork(config, measure_main, clones, tick, opaque,
                            result);
    is_known = is_known && storage_device_read(config->snapshot,
                                               &after_bytes);
    if (is_right) {
        clones_sum_up(clones, result);
    }
    if (is_right && is_known) {
        result->clone_figures[CLONE_DEVICE_READ] = after_bytes - before_bytes;
    }
    if (is_right && is_known && config->snapshot->mount) {
        /* Simulated storage counts the reads of all clones together. */
        result->clone_figures[CLONE_READ] = after_bytes - before_bytes;
        result->read_bytes = (after_bytes - before_bytes) /
                             config->scenario->clone_count;
    }
    clones_free(clones);
    return is_right;
}

bool measure_run(const MeasureConfig *config, MeasureTick *tick, void *opaque,
                 RunResult *ret_result)
{
    const BenchLoader *loader = config->variant->loader;
    bool is_right;

    memset(ret_result, 0, sizeof(*ret_result));
    is_right = measure_set_up(config, false, tick, opaque, ret_result) &&
        (config->scenario->clone_count > 1
         ? measure_clones(config, tick, opaque, ret_result)
         : measure_fork(config, measure_main, NULL, tick, opaque,
                        ret_result));
    if (is_right && loader->is_lazy && loader->has_end &&
        !config->record_path && !*config->is_stopped &&
        measure_set_up(config, true, tick, opaque, ret_result)) {
        measure_fork(config, measure_idle, NULL, tick, opaque, ret_result);
    }
    return !*config->is_stopped;
}

RunResult *measure_result_new(void)
{
    RunResult *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return result == MAP_FAILED ? NULL : result;
}

void measure_result_free(RunResult *result)
{
    if (result) {
        munmap(result, sizeof(*result));
    }
}
