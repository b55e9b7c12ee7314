/*
 * The guest's /init: a program that knows what every page must hold
 *
 * It fills memory with a pattern that follows from (seed, page, version),
 * then for ever picks random pages, checks every word of them and writes
 * some of them anew with the next version.  A page that was lost, swapped
 * with another, torn, zeroed, or set back to an older version is noticed at
 * the next visit, and a sweep visits every page.
 *
 * What it does not do: drive the host.  It talks lines on the serial port,
 * see the list below; whoever started QEMU reads them.  When something
 * fails it says "FASTLOAD FAIL reason" and stays, since PID 1 must not exit.
 *
 * The versions live in guest memory too, so they are restored by the loader
 * under test.  Each entry carries a tag of its page: a version that became
 * zero, or that belongs to another page, cannot be taken for the truth.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/*
 * Lines written:
 *   FASTLOAD READY pages=N zero=N cpus=N fill_ms=N
 *   FASTLOAD TICK ms=N verified=N written=N wrong=N worst_us=N io=N
 *   FASTLOAD SWEEP pages=N wrong=N ms=N worst_us=N
 *   FASTLOAD WRONG page=N got=... expected=...
 *   FASTLOAD KEEPS page=N cpu=N
 *   FASTLOAD FAIL reason
 * Bytes read:
 *   's'  sweep over every page, in random order
 *   'p'  a TICK at once
 *   'q'  quiet: TICK every 50 ms instead of every 10 ms
 *   'k'  the last CPU keeps to one page from now on, which is there: it says
 *        which, verifies and writes it as ever, and sees to the serial port
 *   'r'  reboot
 *
 * The figures of a TICK are sums since the start, but worst_us, which is the
 * longest single first touch of a page since the TICK before.
 */

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = PAGE_BYTES / sizeof(uint64_t),
    CHUNK_PAGES = 512,
    CPUS_MAX = 16,
    WRONG_PRINTED_MAX = 10,
    TICK_MS = 10,
    TICK_QUIET_MS = 50,
    VERSION_BITS = 16,
    VERSION_MASK = (1 << VERSION_BITS) - 1,
    WRITE_SHARE = 4,        /* one visited page in so many is written anew */
};

typedef struct Worker {
    pthread_t thread;
    unsigned idx;
    uint64_t rng;
    unsigned sweep_seen;
    bool has_kept;
    _Atomic uint64_t verified_pages;
    _Atomic uint64_t written_pages;
    _Atomic uint64_t sweep_pages;
} Worker;

/* constant once the workers run */
static uint8_t *area;
static uint32_t *versions;
static uint64_t page_count;
static uint64_t seed = 1;
static uint64_t zero_pct = 10;
static uint64_t think_us;       /* of work between two pages */
static uint64_t think_rounds;   /* the same, in rounds of think() */
static uint64_t fill_mib = 64;
static unsigned worker_count = 1;
static Worker workers[CPUS_MAX];
static int tty = -1;

/* atomic */
static _Atomic uint64_t wrong_pages;
static _Atomic uint64_t io_count;
static _Atomic uint64_t worst_ns;
static _Atomic uint64_t sweep_worst_ns;
static _Atomic uint64_t tick_last_ns;
static _Atomic unsigned tick_ms = TICK_MS;
static _Atomic unsigned sweep_asked;
static _Atomic unsigned sweep_done_workers;
static _Atomic bool is_keep_asked;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* One line, one write(): lines of two threads do not mix. */
__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    char line[256];
    va_list ap;
    size_t used;
    int n;

    n = snprintf(line, sizeof(line), "FASTLOAD ");
    va_start(ap, format);
    n += vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
    va_end(ap);
    used = (size_t)n > sizeof(line) - 2 ? sizeof(line) - 2 : (size_t)n;
    line[used++] = '\n';

    pthread_mutex_lock(&lock);
    for (size_t done = 0; done < used; ) {
        ssize_t w = write(tty, line + done, used - done);

        if (w > 0) {
            done += w;
        } else if (errno != EINTR && errno != EAGAIN) {
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

__attribute__((format(printf, 1, 2), noreturn))
static void fail(const char *format, ...)
{
    char text[200];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    say("FAIL %s", text);
    for (;;) {
        pause();
    }
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t rng_next(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15ULL);
}

/*
 * The pattern.  Version 0 is a page of zeros.  Otherwise word 0 names page
 * and version in clear, so that a misplaced page can be told from a torn one;
 * the others depend on both and on their position.
 */

static uint64_t pattern_head(uint64_t page, unsigned version)
{
    return ((seed & 0xff) << 56) | ((uint64_t)version << 40) | page;
}

static uint64_t pattern_base(uint64_t page, unsigned version)
{
    return mix(seed * 0x9e3779b97f4a7c15ULL + page * CHUNK_PAGES + 1) +
           mix(version + (page << 20));
}

static inline uint64_t pattern_word(uint64_t base, unsigned word)
{
    return (base ^ ((uint64_t)word << 52)) + word * 0xd6e8feb86659fd93ULL;
}

static void pattern_write(uint64_t *mem, uint64_t page, unsigned version)
{
    uint64_t base = pattern_base(page, version);

    mem[0] = pattern_head(page, version);
    for (unsigned i = 1; i < PAGE_WORDS; i++) {
        mem[i] = pattern_word(base, i);
    }
}

/* The first wrong word, or PAGE_WORDS. */
static unsigned pattern_check(const uint64_t *mem, uint64_t page,
                              unsigned version)
{
    uint64_t base = pattern_base(page, version);

    if (version == 0) {
        for (unsigned i = 0; i < PAGE_WORDS; i++) {
            if (mem[i] != 0) {
                return i;
            }
        }
        return PAGE_WORDS;
    }
    if (mem[0] != pattern_head(page, version)) {
        return 0;
    }
    for (unsigned i = 1; i < PAGE_WORDS; i++) {
        if (mem[i] != pattern_word(base, i)) {
            return i;
        }
    }
    return PAGE_WORDS;
}

static uint32_t version_entry(uint64_t page, unsigned version)
{
    uint32_t tag = mix(seed ^ (page + 0x1234567)) >> (32 + VERSION_BITS);

    return ((tag | 1) << VERSION_BITS) | (version & VERSION_MASK);
}

/*
 * Which pages are zero at first.  By chunk of 2 MiB, so that a loader meets
 * empty chunks, chunks with a few pages, chunks with runs, chunks with holes
 * of one page, and full ones.  The shares add up to about zero_pct.
 */
static bool page_starts_zero(uint64_t page)
{
    uint64_t chunk = mix(seed + page / CHUNK_PAGES * 77) % 1000;
    uint64_t hash = mix(seed ^ (page * 0x51ed27));
    uint64_t share = zero_pct * 10;

    if (zero_pct == 0) {
        return false;
    }
    if (chunk < share * 4 / 10) {               /* empty */
        return true;
    }
    if (chunk < share * 6 / 10) {               /* one page in 16 has data */
        return hash % 16 != 0;
    }
    if (chunk < share * 9 / 10) {               /* runs of 1 to 64 pages */
        uint64_t run = 1ULL << (mix(chunk) % 7);

        return mix(seed + page / run) & 1;
    }
    if (chunk < share * 12 / 10) {              /* one page in two, by chance */
        return hash & 1;
    }
    return hash % 64 == 0;                      /* dense, a few holes */
}

static void report_wrong(uint64_t page, const uint64_t *mem, unsigned version,
                         unsigned word)
{
    uint64_t got = word < PAGE_WORDS ? mem[word] : 0;
    uint64_t expected = version == 0 ? 0 : word == 0 ?
        pattern_head(page, version) :
        pattern_word(pattern_base(page, version), word);

    if (atomic_fetch_add(&wrong_pages, 1) >= WRONG_PRINTED_MAX) {
        return;
    }
    say("WRONG page=%llu got=%016llx expected=%016llx word=%u version=%u "
        "head=%016llx hva=%p",
        (unsigned long long)page, (unsigned long long)got,
        (unsigned long long)expected, word, version,
        (unsigned long long)mem[0], (const void *)mem);
}

static void raise_to(_Atomic uint64_t *max, uint64_t value)
{
    uint64_t old = atomic_load_explicit(max, memory_order_relaxed);

    while (value > old && !atomic_compare_exchange_weak(max, &old, value)) {
        ;
    }
}

static void tick(uint64_t now)
{
    uint64_t verified = 0, written = 0;

    for (unsigned i = 0; i < worker_count; i++) {
        verified += atomic_load(&workers[i].verified_pages);
        written += atomic_load(&workers[i].written_pages);
    }
    say("TICK ms=%llu verified=%llu written=%llu wrong=%llu worst_us=%llu "
        "io=%llu",
        (unsigned long long)(now / 1000000), (unsigned long long)verified,
        (unsigned long long)written,
        (unsigned long long)atomic_load(&wrong_pages),
        (unsigned long long)(atomic_exchange(&worst_ns, 0) / 1000),
        (unsigned long long)atomic_load(&io_count));
}

/*
 * After every page, so that one slow page delays a line by one page, and the
 * first line after a resume comes at most TICK_MS and one page later.
 */
static void tick_maybe(uint64_t now)
{
    uint64_t last = atomic_load_explicit(&tick_last_ns, memory_order_relaxed);
    uint64_t period_ns = atomic_load_explicit(&tick_ms, memory_order_relaxed) *
                         1000000ULL;

    if (now - last >= period_ns &&
        atomic_compare_exchange_strong(&tick_last_ns, &last, now)) {
        tick(now);
    }
}

static void visit(Worker *w, uint64_t page, bool may_write,
                  _Atomic uint64_t *ret_worst)
{
    uint64_t *mem = (uint64_t *)(area + page * PAGE_BYTES);
    uint64_t begin = now_ns(), after;
    bool write_first = may_write && rng_next(&w->rng) % 16 == 0;
    unsigned version, word;
    uint32_t entry;

    if (write_first) {
        /* A vCPU that faults by a write: no change, but a store. */
        __asm__ volatile("lock; orq $0, %0" : "+m" (mem[PAGE_WORDS / 2]));
    } else {
        (void)*(volatile uint64_t *)&mem[w->rng % PAGE_WORDS];
    }
    after = now_ns();
    raise_to(ret_worst, after - begin);

    entry = *(volatile uint32_t *)&versions[page];
    version = entry & VERSION_MASK;
    if (entry != version_entry(page, version)) {
        if (atomic_fetch_add(&wrong_pages, 1) < WRONG_PRINTED_MAX) {
            say("WRONG page=%llu got=%08x expected=%08x the version itself",
                (unsigned long long)page, entry,
                version_entry(page, version));
        }
        versions[page] = version_entry(page, 1);
        pattern_write(mem, page, 1);
        return;
    }
    word = pattern_check(mem, page, version);
    if (word < PAGE_WORDS) {
        report_wrong(page, mem, version, word);
        pattern_write(mem, page, version ? version : 1);
        versions[page] = version_entry(page, version ? version : 1);
        return;
    }
    /* Pages that began as zeros are rarely written, or none would be left. */
    if (may_write && rng_next(&w->rng) %
        (version ? WRITE_SHARE : WRITE_SHARE * 16) == 0) {
        version = version == VERSION_MASK ? 1 : version + 1;
        pattern_write(mem, page, version);
        versions[page] = version_entry(page, version);
        atomic_fetch_add_explicit(&w->written_pages, 1, memory_order_relaxed);
    }
}

/* A permutation of 0..count-1: four Feistel rounds, walked into the range. */
static uint64_t permute(uint64_t i, uint64_t count, uint64_t key)
{
    unsigned half = 1;

    while ((1ULL << (2 * half)) < count) {
        half++;
    }
    do {
        uint64_t mask = (1ULL << half) - 1, l = i >> half, r = i & mask;

        for (unsigned round = 0; round < 4; round++) {
            uint64_t t = l ^ (mix(r + key + round) & mask);

            l = r;
            r = t;
        }
        i = (l << half) | r;
    } while (i >= count);
    return i;
}

/* Every page with page % worker_count == w->idx belongs to w alone. */
static void sweep_own_pages(Worker *w, unsigned number)
{
    uint64_t own = (page_count - w->idx + worker_count - 1) / worker_count;

    for (uint64_t i = 0; i < own; i++) {
        uint64_t page = permute(i, own, number * 1315423911ULL) *
                        worker_count + w->idx;

        visit(w, page, false, &sweep_worst_ns);
        atomic_fetch_add_explicit(&w->sweep_pages, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&w->verified_pages, 1, memory_order_relaxed);
        tick_maybe(now_ns());
    }
}

static void think(uint64_t rounds)
{
    static volatile uint64_t thought;
    uint64_t sum = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        sum += mix(i);
    }
    thought = sum;
}

/* Counted in work, not in time: a vCPU that is held up thinks longer. */
static void think_calibrate(void)
{
    const uint64_t rounds = 4 << 20;
    uint64_t begin;

    think(rounds / 16);
    begin = now_ns();
    think(rounds);
    think_rounds = think_us * 1000 * rounds / (now_ns() - begin);
}

/* Whether @w is the one that keeps to its page; @page is there already. */
static bool keeps_page(Worker *w, uint64_t page)
{
    if (w->idx != worker_count - 1 || !atomic_load(&is_keep_asked)) {
        return false;
    }
    if (!w->has_kept) {
        w->has_kept = true;
        say("KEEPS page=%llu cpu=%u", (unsigned long long)page, w->idx);
    }
    return true;
}

static void *worker_main(void *opaque)
{
    Worker *w = opaque;
    uint64_t own = (page_count - w->idx + worker_count - 1) / worker_count;
    uint64_t page = w->idx;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(w->idx, &set);
    sched_setaffinity(0, sizeof(set), &set);

    for (;;) {
        unsigned asked = atomic_load(&sweep_asked);

        if (asked != w->sweep_seen) {
            w->sweep_seen = asked;
            sweep_own_pages(w, asked);
            atomic_fetch_add(&sweep_done_workers, 1);
            continue;
        }
        if (!keeps_page(w, page)) {
            page = rng_next(&w->rng) % own * worker_count + w->idx;
        }
        visit(w, page, true, &worst_ns);
        atomic_fetch_add_explicit(&w->verified_pages, 1, memory_order_relaxed);
        tick_maybe(now_ns());
        think(think_rounds);
    }
    return NULL;
}

static void fill(void)
{
    for (uint64_t page = 0; page < page_count; page++) {
        uint64_t *mem = (uint64_t *)(area + page * PAGE_BYTES);

        if (page_starts_zero(page)) {
            *(volatile uint64_t *)mem = 0;      /* a page of its own */
            versions[page] = version_entry(page, 0);
        } else {
            pattern_write(mem, page, 1);
            versions[page] = version_entry(page, 1);
        }
    }
}

/* Keeps virtqueues in use: a device that lost its state stops counting. */
static void *io_main(void *opaque)
{
    int rng = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
    int disk = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);
    void *buf = NULL;

    if (posix_memalign(&buf, PAGE_BYTES, PAGE_BYTES) != 0) {
        return NULL;
    }
    for (;;) {
        struct timespec pause_time = { .tv_nsec = 50 * 1000 * 1000 };

        if (rng >= 0 && read(rng, buf, 64) > 0) {
            atomic_fetch_add(&io_count, 1);
        }
        if (disk >= 0 && pread(disk, buf, PAGE_BYTES, 0) == PAGE_BYTES) {
            atomic_fetch_add(&io_count, 1);
        }
        nanosleep(&pause_time, NULL);
    }
    return opaque;
}

static void sweep_begin(uint64_t *ret_begin_ns)
{
    for (unsigned i = 0; i < worker_count; i++) {
        atomic_store(&workers[i].sweep_pages, 0);
    }
    atomic_store(&sweep_done_workers, 0);
    atomic_store(&sweep_worst_ns, 0);
    *ret_begin_ns = now_ns();
    atomic_fetch_add(&sweep_asked, 1);
}

static void sweep_report(uint64_t begin_ns)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < worker_count; i++) {
        pages += atomic_load(&workers[i].sweep_pages);
    }
    say("SWEEP pages=%llu wrong=%llu ms=%llu worst_us=%llu",
        (unsigned long long)pages,
        (unsigned long long)atomic_load(&wrong_pages),
        (unsigned long long)((now_ns() - begin_ns) / 1000000),
        (unsigned long long)(atomic_load(&sweep_worst_ns) / 1000));
}

/* The other CPUs may stop to answer: its interrupts go to the last one. */
static void keep(void)
{
    int fd = open("/proc/irq/4/smp_affinity_list", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || dprintf(fd, "%u\n", worker_count - 1) < 0) {
        fail("the serial port's interrupt: %s", strerror(errno));
    }
    close(fd);
    atomic_store(&is_keep_asked, true);
}

static void serve_serial(void)
{
    uint64_t sweep_begin_ns = 0;
    bool sweeping = false, sweep_again = false;

    for (;;) {
        struct pollfd pfd = { .fd = tty, .events = POLLIN };
        char bytes[16];
        ssize_t n = 0;

        if (poll(&pfd, 1, sweeping ? 5 : 1000) > 0) {
            n = read(tty, bytes, sizeof(bytes));
        }
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == 's') {
                sweep_again = true;
            } else if (bytes[i] == 'p') {
                tick(now_ns());
            } else if (bytes[i] == 'q') {
                atomic_store(&tick_ms, TICK_QUIET_MS);
            } else if (bytes[i] == 'k') {
                keep();
            } else if (bytes[i] == 'r') {
                reboot(RB_AUTOBOOT);
            }
        }
        if (sweeping && atomic_load(&sweep_done_workers) == worker_count) {
            sweep_report(sweep_begin_ns);
            sweeping = false;
        }
        if (sweep_again && !sweeping) {
            sweep_begin(&sweep_begin_ns);
            sweeping = true;
            sweep_again = false;
        }
    }
}

static void mount_all(void)
{
    static const char *const all[][3] = {
        { "devtmpfs", "/dev", "devtmpfs" },
        { "proc", "/proc", "proc" },
        { "sysfs", "/sys", "sysfs" },
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        mkdir(all[i][1], 0755);
        mount(all[i][0], all[i][1], all[i][2], 0, NULL);
    }
}

static void open_serial(void)
{
    struct termios tio;

    tty = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (tty < 0) {
        tty = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (tcgetattr(tty, &tio) == 0) {
        cfmakeraw(&tio);
        tio.c_cflag |= CLOCAL | CREAD;
        cfsetspeed(&tio, B115200);
        tcsetattr(tty, TCSANOW, &tio);
    }
}

static uint64_t parameter(const char *cmdline, const char *name,
                          uint64_t otherwise)
{
    const char *at = strstr(cmdline, name);

    return at ? strtoull(at + strlen(name), NULL, 0) : otherwise;
}

static void read_parameters(void)
{
    char cmdline[4096];
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, cmdline, sizeof(cmdline) - 1);

    if (n < 0) {
        fail("/proc/cmdline: %s", strerror(errno));
    }
    cmdline[n] = 0;
    close(fd);
    fill_mib = parameter(cmdline, "fl.fill_mib=", fill_mib);
    zero_pct = parameter(cmdline, "fl.zero_pct=", zero_pct);
    think_us = parameter(cmdline, "fl.think_us=", think_us);
    seed = parameter(cmdline, "fl.seed=", seed);
}

static void load_modules(void)
{
    FILE *order = fopen("/modules/order", "re");
    char name[128];

    if (!order) {
        return;
    }
    while (fscanf(order, "%127s", name) == 1) {
        char path[160];
        int fd;

        snprintf(path, sizeof(path), "/modules/%s", name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 &&
                       errno != EEXIST)) {
            fail("module %s: %s", name, strerror(errno));
        }
        close(fd);
    }
    fclose(order);
}

/* The disk appears a moment after its module; not being there is no error. */
static void wait_for_disk(void)
{
    for (int i = 0; i < 100 && access("/dev/vda", F_OK) != 0; i++) {
        usleep(10 * 1000);
    }
}

/* Memory devices are plugged, or plug their memory, while we start. */
static bool wait_for_memory(uint64_t bytes, struct sysinfo *ret_info)
{
    for (int i = 0; i < 1000; i++) {
        sysinfo(ret_info);
        if (ret_info->freeram >= bytes) {
            return true;
        }
        usleep(10 * 1000);
    }
    return false;
}

static void *map_memory(uint64_t bytes)
{
    const uint64_t huge = CHUNK_PAGES * PAGE_BYTES;
    uint8_t *mem = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mem == MAP_FAILED) {
        fail("mmap of %llu MiB: %s", (unsigned long long)(bytes >> 20),
             strerror(errno));
    }
    mem = (uint8_t *)(((uintptr_t)mem + huge - 1) & ~(huge - 1));
    madvise(mem, bytes, MADV_HUGEPAGE);
    return mem;
}

int main(void)
{
    uint64_t begin_ns, zeros = 0;
    pthread_t io_thread;
    struct sysinfo info;

    mount_all();
    open_serial();
    read_parameters();
    load_modules();
    wait_for_disk();

    page_count = (fill_mib << 20) / PAGE_BYTES;
    if (!wait_for_memory((fill_mib << 20) + (24 << 20), &info)) {
        fail("fl.fill_mib=%llu does not fit: %llu MiB are free",
             (unsigned long long)fill_mib,
             (unsigned long long)(info.freeram >> 20));
    }
    worker_count = get_nprocs() > CPUS_MAX ? CPUS_MAX : get_nprocs();
    area = map_memory(page_count * PAGE_BYTES);
    versions = map_memory(page_count * sizeof(*versions));

    begin_ns = now_ns();
    fill();
    if (think_us) {
        think_calibrate();
    }
    for (uint64_t page = 0; page < page_count; page++) {
        zeros += page_starts_zero(page);
    }
    say("READY pages=%llu zero=%llu cpus=%u fill_ms=%llu",
        (unsigned long long)page_count, (unsigned long long)zeros,
        worker_count,
        (unsigned long long)((now_ns() - begin_ns) / 1000000));

    for (unsigned i = 0; i < worker_count; i++) {
        workers[i] = (Worker) { .idx = i, .rng = mix(seed + i) };
        if (pthread_create(&workers[i].thread, NULL, worker_main,
                           &workers[i]) != 0) {
            fail("pthread_create: %s", strerror(errno));
        }
    }
    if (pthread_create(&io_thread, NULL, io_main, NULL) != 0) {
        fail("pthread_create: %s", strerror(errno));
    }
    serve_serial();
    return 0;
}
