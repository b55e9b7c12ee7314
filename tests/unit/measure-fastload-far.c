/*
 * How fast the engine loads from far storage, which is simulated.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A measuring program, not a test: it prints figures and judges nothing.  The
 * engine reads through a backend that completes requests when such storage
 * would, in real time.  All reads share one line of a given rate, and return a
 * round trip later.  Some are lucky: they hit a cache on the way, return after
 * 60 us and do not use the line.
 *
 * No data is copied, since the DMA of a device takes no processor time.  Each
 * page only gets its number in its first word, which is checked after every
 * load.  So the figures show the engine, the kernel and memory, but no reading.
 *
 * With --file the engine reads a real file by io_uring or preadv() instead.
 *
 * Fails with one line on stderr if the machine refuses something.
 */
#include "qemu/osdep.h"
#include <poll.h>
#include <sys/prctl.h>
#include <time.h>
#include "qemu/fastload_int.h"

#define PAGE_BYTES FASTLOAD_PAGE_BYTES_MIN
#define HUGE_BYTES (2u << 20)
#define SECOND_NS 1000000000ull
#define LUCKY_NS 60000u
#define RUN_COUNT_MAX 1000
/* How often the toucher draws a page until it finds a missing one. */
#define DRAW_COUNT_MAX 64
#define SEED 1

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static uint64_t far_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * SECOND_NS + ts.tv_nsec;
}

G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN
static void far_die(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "measure-fastload-far: %s\n", text);
    exit(1);
}

/* ---- the storage ---- */

typedef struct FarStorage {
    /* constant during a load */
    uint64_t rtt_ns;
    uint64_t rate_bytes_per_s; /* of all reads together; 0: no limit */
    uint64_t lucky_every;      /* one read in so many is lucky; 0: none */
    uint64_t lucky_first;      /* the first so many are */
    /* lock */
    GMutex lock;
    uint64_t read_count;
    uint64_t line_ns;          /* the line is busy until then */
} FarStorage;

/* The storage of all backends, since open() has no parameter for it. */
static FarStorage far_storage;

typedef struct FarPending {
    FastloadIoReq *req;
    uint64_t due_ns;
} FarPending;

struct FastloadIo {
    struct pollfd watch[FASTLOAD_IO_WATCH_MAX];
    bool *is_ready;            /* the worker's */
    FarPending *pending;
    uint32_t pending_count;
    FastloadIoList done;       /* in the order in which they returned */
};

static uint64_t far_due_ns(uint64_t now_ns, uint64_t len_bytes)
{
    FarStorage *s = &far_storage;
    uint64_t due_ns, count;

    g_mutex_lock(&s->lock);
    count = s->read_count++;
    if (count < s->lucky_first ||
        (s->lucky_every && count % s->lucky_every == s->lucky_every - 1)) {
        due_ns = now_ns + MIN(LUCKY_NS, s->rtt_ns);
    } else {
        s->line_ns = MAX(s->line_ns, now_ns);
        if (s->rate_bytes_per_s) {
            s->line_ns += len_bytes * SECOND_NS / s->rate_bytes_per_s;
        }
        due_ns = s->line_ns + s->rtt_ns;
    }
    g_mutex_unlock(&s->lock);
    return due_ns;
}

static FastloadIo *far_open(const FastloadIoSetup *setup,
                            const char **ret_refusal)
{
    FastloadIo *io = g_new0(FastloadIo, 1);
    int i;

    for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
        io->watch[i].fd = setup->watch_fds[i];
        io->watch[i].events = POLLIN;
    }
    io->is_ready = setup->is_ready;
    io->pending = g_new0(FarPending, setup->req_count_max);
    /* No timer slack: the interrupt of a device is not 50 us late. */
    prctl(PR_SET_TIMERSLACK, 1);
    return io;
}

static void far_queue(FastloadIo *io, FastloadIoReq *req)
{
    req->done_bytes = 0;
    req->error = 0;
    req->again_count = 0;
    io->pending[io->pending_count++] = (FarPending) {
        .req = req, .due_ns = far_due_ns(far_now_ns(), req->len_bytes),
    };
}

/* Completes @req. */
static void far_finish(FastloadIo *io, FastloadIoReq *req)
{
    uint64_t at;

    /* Offsets in the file and in memory are the same. */
    for (at = 0; at < req->len_bytes; at += PAGE_BYTES) {
        uint64_t page_idx = (req->file_off + at) / PAGE_BYTES;

        memcpy(req->buf + at, &page_idx, sizeof(page_idx));
    }
    req->done_bytes = req->len_bytes;
    fastload_io_list_append(&io->done, req);
}

/* Completes what is due; returns when the next read is, or UINT64_MAX. */
static uint64_t far_collect(FastloadIo *io, uint64_t now_ns)
{
    uint64_t next_ns = UINT64_MAX;
    uint32_t i, left = 0;

    for (i = 0; i < io->pending_count; i++) {
        FarPending pending = io->pending[i];

        if (pending.due_ns <= now_ns) {
            far_finish(io, pending.req);
        } else {
            next_ns = MIN(next_ns, pending.due_ns);
            io->pending[left++] = pending;
        }
    }
    io->pending_count = left;
    return next_ns;
}

/* Sets is_ready; without a sleep, it has not looked at the descriptors. */
static void far_tell(FastloadIo *io, bool has_slept)
{
    int i;

    for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
        if (has_slept ? io->watch[i].revents : i == FASTLOAD_IO_WATCH_FAULTS) {
            io->is_ready[i] = true;
        }
    }
}

static bool far_poll(FastloadIo *io, int64_t timeout_ns, bool serves_faults)
{
    uint64_t now_ns = far_now_ns();
    uint64_t next_ns = far_collect(io, now_ns);
    struct timespec ts;

    if (io->done.head || !timeout_ns) {
        far_tell(io, false);
        return true;
    }
    if (timeout_ns > 0) {
        next_ns = MIN(next_ns, now_ns + timeout_ns);
    }
    ts.tv_sec = (next_ns - now_ns) / SECOND_NS;
    ts.tv_nsec = (next_ns - now_ns) % SECOND_NS;
    io->watch[FASTLOAD_IO_WATCH_FAULTS].events = serves_faults ? POLLIN : 0;
    if (ppoll(io->watch, FASTLOAD_IO_WATCH_MAX,
              next_ns == UINT64_MAX ? NULL : &ts, NULL) > 0) {
        far_tell(io, true);
    }
    far_collect(io, far_now_ns());
    return true;
}

static FastloadIoReq *far_reap(FastloadIo *io)
{
    return fastload_io_list_take(&io->done);
}

static void far_close(FastloadIo *io)
{
    if (io) {
        g_free(io->pending);
        g_free(io);
    }
}

static const FastloadIoOps far_ops = {
    .name = "far",
    .tells_ready = true,
    .open = far_open,
    .queue = far_queue,
    .poll = far_poll,
    .reap = far_reap,
    .close = far_close,
};

/* ---- options ---- */

typedef struct FarOptions {
    char *rtt, *rate, *size, *memory, *file, *folder;
    int64_t fast_every, first, faults_per_second, only_faults;
    int worker_count, run_count;
    gboolean is_json;
    /* parsed from the texts */
    uint64_t size_bytes;
} FarOptions;

static FarOptions options = { .worker_count = 2, .run_count = 10 };

static const GOptionEntry far_entries[] = {
    { "rtt", 0, 0, G_OPTION_ARG_STRING, &options.rtt,
      "round-trip time of every read (1ms)", "TIME" },
    { "rate", 0, 0, G_OPTION_ARG_STRING, &options.rate,
      "bytes a second of all reads together, or none (2G)", "SIZE" },
    { "fast-every", 0, 0, G_OPTION_ARG_INT64, &options.fast_every,
      "one read in N comes after 60 us; 0: none does (0)", "N" },
    { "first", 0, 0, G_OPTION_ARG_INT64, &options.first,
      "the first N reads come after 60 us (0)", "N" },
    { "workers", 0, 0, G_OPTION_ARG_INT, &options.worker_count,
      "threads of the engine (2)", "N" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &options.size,
      "memory to load, all of it data (512M)", "SIZE" },
    { "memory", 0, 0, G_OPTION_ARG_STRING, &options.memory,
      "thp: with huge pages; anon: without (thp)", "KIND" },
    { "runs", 0, 0, G_OPTION_ARG_INT, &options.run_count,
      "loads, one after the other (10)", "N" },
    { "faults-per-second", 0, 0, G_OPTION_ARG_INT64,
      &options.faults_per_second,
      "a thread touches missing pages at this pace; 0: none does (0)", "N" },
    { "only-faults", 0, 0, G_OPTION_ARG_INT64, &options.only_faults,
      "load nothing ahead; a thread touches N pages, one after the other",
      "N" },
    { "file", 0, 0, G_OPTION_ARG_STRING, &options.file,
      "read a real file instead, that is cold or warm", "STATE" },
    { "dir", 0, 0, G_OPTION_ARG_FILENAME, &options.folder,
      "where the file goes, on a disk (/var/tmp)", "FOLDER" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &options.is_json,
      "print one object of JSON", NULL },
    { NULL }
};

typedef struct FarUnit {
    const char *name;
    double factor;
} FarUnit;

/* Parses a number with one of @units, a list that ends with NULL. */
static uint64_t far_parse(const char *option, const char *text,
                          const FarUnit *units, const char *expected)
{
    char *end;
    double number = g_ascii_strtod(text, &end);

    for (; end != text && number >= 0 && number < 1e9 && units->name;
         units++) {
        if (!strcmp(end, units->name)) {
            return number * units->factor;
        }
    }
    far_die("--%s: '%s' is not %s", option, text, expected);
}

static uint64_t far_parse_time(const char *option, const char *text)
{
    static const FarUnit units[] = {
        { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { NULL, 0 },
    };

    return far_parse(option, text, units, "a time with its unit, as in 1ms");
}

static uint64_t far_parse_size(const char *option, const char *text)
{
    static const FarUnit units[] = {
        { "", 1 }, { "K", 1 << 10 }, { "M", 1 << 20 }, { "G", 1 << 30 },
        { NULL, 0 },
    };

    return far_parse(option, text, units, "a size, as in 512M");
}

static bool far_is_one_of(const char *option, const char *text, const char *a,
                          const char *b)
{
    if (strcmp(text, a) && strcmp(text, b)) {
        far_die("--%s: '%s' is not %s or %s", option, text, a, b);
    }
    return !strcmp(text, a);
}

static void far_parse_options(int *argc, char ***argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    FarOptions *o = &options;

    g_option_context_set_summary(
        context, "Measures how fast the engine loads from simulated storage.");
    g_option_context_add_main_entries(context, far_entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error)) {
        far_die("%s; see --help", error->message);
    }
    if (*argc > 1) {
        far_die("'%s' is no option; see --help", (*argv)[1]);
    }
    far_storage.rtt_ns = far_parse_time("rtt", o->rtt ?: "1ms");
    far_storage.rate_bytes_per_s = !g_strcmp0(o->rate, "none")
        ? 0 : far_parse_size("rate", o->rate ?: "2G");
    far_storage.lucky_every = MAX(o->fast_every, 0);
    far_storage.lucky_first = MAX(o->first, 0);
    o->size_bytes = far_parse_size("size", o->size ?: "512M");
    if (!o->size_bytes || o->size_bytes % HUGE_BYTES) {
        far_die("--size: '%s' is no multiple of 2M", o->size);
    }
    if (o->worker_count < 1 || o->worker_count > FASTLOAD_WORKER_COUNT_MAX) {
        far_die("--workers: %d is not 1 to %d", o->worker_count,
                FASTLOAD_WORKER_COUNT_MAX);
    }
    if (o->run_count < 1 || o->run_count > RUN_COUNT_MAX) {
        far_die("--runs: %d is not 1 to %d", o->run_count, RUN_COUNT_MAX);
    }
    if (o->only_faults < 0 || o->only_faults > o->size_bytes / PAGE_BYTES) {
        far_die("--only-faults: there are %" PRIu64 " pages",
                o->size_bytes / PAGE_BYTES);
    }
    if (o->file) {
        far_is_one_of("file", o->file, "cold", "warm");
    }
}

/* ---- file and memory ---- */

typedef struct FarLoad {
    int fd;
    uint8_t *hva;
    uint64_t len_bytes;
    uint64_t *data_bits;
    GArray *touch_ns;        /* of uint64_t: how long touches took */
    uint64_t zero_ns;        /* the least that zeroing all of it took */
    uint32_t is_over;        /* atomic: the toucher ends */
} FarLoad;

/* Writes the number of each page into it, through to the disk. */
static void far_write_file(const FarLoad *l)
{
    g_autofree uint8_t *buf = g_malloc0(HUGE_BYTES);
    uint64_t at, page;

    for (at = 0; at < l->len_bytes; at += HUGE_BYTES) {
        for (page = 0; page < HUGE_BYTES; page += PAGE_BYTES) {
            uint64_t page_idx = (at + page) / PAGE_BYTES;

            memcpy(buf + page, &page_idx, sizeof(page_idx));
        }
        if (pwrite(l->fd, buf, HUGE_BYTES, at) != HUGE_BYTES) {
            far_die("cannot write the file: %s", g_strerror(errno));
        }
    }
    if (fsync(l->fd) < 0) {
        far_die("cannot write the file: %s", g_strerror(errno));
    }
}

/* Makes an unnamed file: a hole as large as memory, or a real file. */
static void far_make_file(FarLoad *l)
{
    g_autofree char *path = g_build_filename(options.folder ?: "/var/tmp",
                                             "measure-fastload-XXXXXX", NULL);

    l->fd = g_mkstemp(path);
    if (l->fd < 0 || unlink(path) < 0 || ftruncate(l->fd, l->len_bytes) < 0) {
        far_die("cannot make a file in %s: %s; --dir names another folder",
                options.folder ?: "/var/tmp", g_strerror(errno));
    }
    if (options.file) {
        far_write_file(l);
    } else if (fcntl(l->fd, F_SETFL, O_DIRECT) < 0) {
        /* With O_DIRECT the engine does not expect cached pages. */
        far_die("there is no O_DIRECT in %s: %s; --dir names another folder",
                options.folder ?: "/var/tmp", g_strerror(errno));
    }
}

static void far_make_memory(FarLoad *l)
{
    bool is_huge = far_is_one_of("memory", options.memory ?: "thp", "thp",
                                 "anon");
    uint8_t *map = mmap(NULL, l->len_bytes + HUGE_BYTES,
                        PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED) {
        far_die("there is no memory: %s", g_strerror(errno));
    }
    l->hva = map + (-(uintptr_t)map & (HUGE_BYTES - 1));
    madvise(l->hva, l->len_bytes, is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

/*
 * Prepares empty memory that the host of a virtual machine backs already, and a
 * file that is cached or not.  Measures how long the kernel takes to zero
 * memory, as it has to in every load: no load can be faster.
 */
static void far_prepare(FarLoad *l)
{
    uint64_t begin_ns;

    madvise(l->hva, l->len_bytes, MADV_DONTNEED);
    begin_ns = far_now_ns();
    if (madvise(l->hva, l->len_bytes, MADV_POPULATE_WRITE) < 0) {
        far_die("there is no memory: %s", g_strerror(errno));
    }
    l->zero_ns = MIN(l->zero_ns, far_now_ns() - begin_ns);
    madvise(l->hva, l->len_bytes, MADV_DONTNEED);
    far_storage.read_count = far_storage.line_ns = 0;
    /* Since it was just written, it is warm. */
    if (!g_strcmp0(options.file, "cold")) {
        posix_fadvise(l->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
}

static uint64_t far_page(const FarLoad *l, uint64_t page_idx)
{
    return *(volatile uint64_t *)(l->hva + page_idx * PAGE_BYTES);
}

static void far_check(const FarLoad *l)
{
    uint64_t i;

    for (i = 0; i < l->len_bytes / PAGE_BYTES; i++) {
        if (far_page(l, i) != i) {
            far_die("page %" PRIu64 " holds %" PRIu64, i, far_page(l, i));
        }
    }
}

/* ---- the guest ---- */

/* A page that is missing, or the number of pages if none was found. */
static uint64_t far_missing_page(const FarLoad *l, GRand *rand)
{
    uint64_t page_count = l->len_bytes / PAGE_BYTES;
    uint32_t i;

    for (i = 0; i < DRAW_COUNT_MAX; i++) {
        uint64_t page_idx = g_rand_int(rand) % page_count;
        unsigned char is_resident = 1;

        mincore(l->hva + page_idx * PAGE_BYTES, PAGE_BYTES, &is_resident);
        if (!(is_resident & 1)) {
            return page_idx;
        }
    }
    return page_count;
}

static void far_touch(FarLoad *l, uint64_t page_idx)
{
    uint64_t begin_ns = far_now_ns(), took_ns;
    uint64_t found = far_page(l, page_idx);

    took_ns = far_now_ns() - begin_ns;
    if (found != page_idx) {
        far_die("page %" PRIu64 " held %" PRIu64, page_idx, found);
    }
    g_array_append_val(l->touch_ns, took_ns);
}

/* Sleeps until it is time for the touch after the one at @at_ns. */
static uint64_t far_next_touch(uint64_t at_ns)
{
    struct timespec ts;

    if (options.faults_per_second <= 0) {
        return at_ns;
    }
    at_ns = MAX(at_ns + SECOND_NS / options.faults_per_second, far_now_ns());
    ts.tv_sec = at_ns / SECOND_NS;
    ts.tv_nsec = at_ns % SECOND_NS;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
    return at_ns;
}

static void *far_guest_main(void *opaque)
{
    FarLoad *l = opaque;
    uint64_t page_count = l->len_bytes / PAGE_BYTES, page_idx;
    g_autoptr(GRand) rand = g_rand_new_with_seed(SEED);
    uint64_t at_ns = far_now_ns();

    prctl(PR_SET_TIMERSLACK, 1);
    while (!__atomic_load_n(&l->is_over, __ATOMIC_RELAXED)) {
        at_ns = far_next_touch(at_ns);
        page_idx = far_missing_page(l, rand);
        if (page_idx < page_count) {
            far_touch(l, page_idx);
        }
    }
    return NULL;
}

/* Touches pages far from each other, none twice, without system calls. */
static void far_touch_only(FarLoad *l)
{
    uint64_t page_count = l->len_bytes / PAGE_BYTES, at_ns = far_now_ns();
    uint64_t step = page_count / 2 - page_count / 8 - 1; /* odd */
    int64_t i;

    for (i = 0; i < options.only_faults; i++) {
        at_ns = far_next_touch(at_ns);
        far_touch(l, i * step % page_count);
    }
}

/* ---- loads ---- */

static Fastload *far_start(const FarLoad *l)
{
    FastloadRegion region = {
        .hva = l->hva,
        .len_bytes = l->len_bytes,
        .page_bytes = PAGE_BYTES,
        .data_bits = l->data_bits,
        .granule_bytes = PAGE_BYTES,
        .wants_huge = g_strcmp0(options.memory, "anon"),
    };
    FastloadConfig config = {
        .worker_count = options.worker_count,
        .background_bytes_per_s = options.only_faults
            ? FASTLOAD_BACKGROUND_OFF : 0,
    };
    g_autoptr(GError) error = NULL;
    Fastload *fl = fastload_new(l->fd, &config, &error);

    if (fl && !options.file) {
        fastload_set_io_ops(fl, &far_ops);
    }
    if (!fl || !fastload_add_region(fl, &region, &error) ||
        !fastload_start(fl, &error)) {
        far_die("%s", error->message);
    }
    return fl;
}

/* Bytes a second; 0 when nothing is loaded ahead. */
static double far_run(FarLoad *l)
{
    g_autoptr(GError) error = NULL;
    GThread *guest = NULL;
    FastloadStats stats;
    Fastload *fl;

    far_prepare(l);
    l->is_over = 0;
    fl = far_start(l);
    if (options.only_faults) {
        far_touch_only(l);
        fastload_free(fl);
        return 0;
    }
    if (options.faults_per_second > 0) {
        guest = g_thread_new("guest", far_guest_main, l);
    }
    if (!fastload_wait(fl, &error)) {
        far_die("%s", error->message);
    }
    __atomic_store_n(&l->is_over, 1, __ATOMIC_RELAXED);
    if (guest) {
        g_thread_join(guest);
    }
    fastload_get_stats(fl, &stats);
    fastload_free(fl);
    far_check(l);
    return l->len_bytes / (stats.complete_ns / 1e9);
}

/* ---- what is printed ---- */

static int far_compare_rates(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int far_compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* A percentile of sorted times in us; 0: there are none. */
static double far_touch_us(const GArray *touch_ns, uint32_t permille)
{
    guint last = touch_ns->len - 1;

    return touch_ns->len
        ? g_array_index(touch_ns, uint64_t,
                        (uint64_t)last * permille / 1000) / 1e3 : 0;
}

/* @rates: sorted.  A figure that does not exist is null. */
static void far_print_json(const double *rates, double median,
                           const FarLoad *l)
{
    const GArray *touch_ns = l->touch_ns;
    uint64_t rate = options.file ? 0 : far_storage.rate_bytes_per_s;
    int i;

    printf("{\"rates_bytes_per_s\": [");
    for (i = 0; i < options.run_count && !options.only_faults; i++) {
        printf("%s%.0f", i ? ", " : "", rates[i]);
    }
    printf("], \"median_bytes_per_s\": %.0f, \"storage_bytes_per_s\": %"
           PRIu64 ", \"zeroing_bytes_per_s\": %.0f, ", median, rate,
           l->len_bytes / (l->zero_ns / 1e9));
    printf("\"touches\": {\"count\": %u, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f}}\n", touch_ns->len,
           far_touch_us(touch_ns, 500), far_touch_us(touch_ns, 990),
           far_touch_us(touch_ns, 1000));
}

static void far_print(double *rates, const FarLoad *l)
{
    GArray *touch_ns = l->touch_ns;
    int last = options.run_count - 1;
    double median;

    qsort(rates, options.run_count, sizeof(*rates), far_compare_rates);
    g_array_sort(touch_ns, far_compare_ns);
    median = (rates[last / 2] + rates[(last + 1) / 2]) / 2;
    if (options.is_json) {
        far_print_json(rates, median, l);
        return;
    }
    if (!options.only_faults) {
        printf("least %.0f, median %.0f, most %.0f MB/s; fastest to slowest "
               "%.2f", rates[0] / 1e6, median / 1e6, rates[last] / 1e6,
               rates[last] / rates[0]);
        if (far_storage.rate_bytes_per_s && !options.file) {
            printf("; %.1f %% of the storage's",
                   100 * median / far_storage.rate_bytes_per_s);
        }
        printf("\n");
    }
    printf("zeroing memory alone, one thread: %.0f MB/s\n",
           l->len_bytes / 1e6 / (l->zero_ns / 1e9));
    if (touch_ns->len) {
        printf("%u touches of missing pages: p50 %.0f us, p99 %.0f us, "
               "max %.0f us\n", touch_ns->len, far_touch_us(touch_ns, 500),
               far_touch_us(touch_ns, 990), far_touch_us(touch_ns, 1000));
    }
}

int main(int argc, char **argv)
{
    g_autofree double *rates = NULL;
    FarLoad l = { .fd = -1, .zero_ns = UINT64_MAX };
    int i;

    far_parse_options(&argc, &argv);
    l.len_bytes = options.size_bytes;
    l.data_bits = g_malloc(l.len_bytes / PAGE_BYTES / 8);
    memset(l.data_bits, 0xff, l.len_bytes / PAGE_BYTES / 8);
    l.touch_ns = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    rates = g_new0(double, options.run_count);
    far_make_file(&l);
    far_make_memory(&l);
    if (!options.is_json && !options.file) {
        printf("all pages alike but for their numbers; nothing is copied by "
               "the storage\n");
    }
    for (i = 0; i < options.run_count; i++) {
        rates[i] = far_run(&l);
        if (!options.is_json && !options.only_faults) {
            printf("run %d: %.0f MB/s\n", i + 1, rates[i] / 1e6);
            fflush(stdout);
        }
    }
    far_print(rates, &l);
    g_array_free(l.touch_ns, TRUE);
    g_free(l.data_bits);
    close(l.fd);
    return 0;
}
