/*
 * fastload-bench: what its files share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The benchmark maps memory, lets one contender fill it from a snapshot file
 * while a guest model touches it, measures, and checks every page.  It needs
 * no QEMU.  It knows a contender only through its BenchLoader, and the engine,
 * which is one of them, only through qemu/fastload.h.
 *
 * The map of the tool:
 *
 *   main.c         the command line
 *   snapshot.c     a mapped-ram file to blocks and bitmaps, all of it checked
 *   generate.c     a mapped-ram file from a seed
 *   inspect.c      what is in a snapshot, for people
 *   set.c          what is in a recorded working set, for people
 *   memory.c       guest memory: mapping it, checking every page of it
 *   guest.c        vCPU threads: what they touch, when, how long it took
 *   trace.c        the file of touches that a guest model can replay
 *   record.c       such a file from the log of a real guest
 *   measure.c      one run of one contender, in a process of its own
 *   rehearsal.c    a run that records what the guest touches, and its set
 *   clones.c       processes that restore the same file at once
 *   storage.c      page cache dropped or filled; what the device can do
 *   cgroup.c       limits of memory, CPU and threads that this process has
 *   doctor.c       what a load needs of this host: runs probes and reports
 *   doctor-trap.c  its probes: userfaultfd
 *   doctor-host.c  its probes: io_uring, huge pages, limits, KVM
 *   doctor-place.c its probes: storage, and the snapshot on it
 *   doctor-qemu.c  its probes: a QEMU
 *   storage-class.c  classes of simulated storage, and when one answers
 *   storage-fuse.c simulated storage, as a file that all contenders read
 *   box.c          a cgroup with limits, for the processes of a run
 *   environment.c  the machine, as far as it matters to a result
 *   plan.c         knobs, and lists of their values
 *   progress.c     progress of the runs, on stderr
 *   lacks.c        what this machine lacks: which contenders are left out
 *   rounds.c       rounds of runs, interleaved; medians, spreads, ratios
 *   notes.c        sentences that stand beside the figures
 *   figures.c      medians, ratios and intervals over rounds
 *   result.c       results to JSON and back
 *   output.c       where results go: files and standard output
 *   tree.c         reading the members of a result
 *   compare.c      one result beside another
 *   text.c         figures as text and back, and messages
 *   sheet.c        tables and paragraphs, as wide as the terminal
 *   table.c        results for people
 *   csv.c          results for other programs
 *   html.c         results with pictures: report.html, filled
 *   html-set.c     the part of such a page that is about working sets
 *   chart.c        bars, lines and strips of memory in such a page
 *   sweep.c        which knobs a result sweeps
 *   trap.c         userfaultfd for contenders that are not the engine: blocks
 *                  registered, faults waited for, pages placed
 *   pool.c         threads that read ahead, and one for faults
 *   serve.c        faults answered from a mapping of the file, and a record of
 *                  them
 *   hist.c         histograms of latencies
 *   loader.c       the table of contenders, and functions that they share
 *   loader-NAME.c  one contender each
 *
 * Ownership: the caller owns what a function returns, unless "borrowed" is
 *   said.
 * Threads: the parent process has one thread.  Each run forks; in the child
 *   the main thread calls the loader, and the vCPUs and a sampler have threads
 *   of their own.
 * Errors: functions with a GError ** set it once, with one sentence that says
 *   what to do.  Only the parent prints.
 * Units: as the engine's: _bytes, _ns, _count; a page has 4096 bytes here.
 */
#ifndef FASTLOAD_BENCH_H
#define FASTLOAD_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>
#include <glib.h>
#include <json-glib/json-glib.h>

#define BENCH_PAGE_BYTES 4096u
#define BENCH_PAGE_SHIFT 12
#define BENCH_HUGE_BYTES (2u << 20)
#define BENCH_THREAD_COUNT_MAX 64
#define BENCH_VCPU_COUNT_MAX 64
#define BENCH_CLONE_COUNT_MAX 256
#define BENCH_REPEAT_COUNT_MAX 1000

typedef enum BenchError {
    BENCH_ERROR_USAGE,    /* exit code 2 */
    BENCH_ERROR_FAILED,   /* exit code 1 */
} BenchError;
#define BENCH_ERROR bench_error_quark()
GQuark bench_error_quark(void);

/* ---- snapshot.c ---- */

/* Blocks of more than this together are taken for a damaged file. */
#define SNAPSHOT_LEN_BYTES_MAX (64ull << 40)
#define SNAPSHOT_BLOCK_COUNT_MAX 4096

typedef struct SnapshotBlock {
    char name[256];
    uint64_t len_bytes;      /* a multiple of the page size, not 0 */
    uint64_t file_off;       /* of the block's first page */
    uint64_t bitmap_off;     /* of the block's bitmap in the file */
    uint64_t guest_off;      /* where it lies in the guest's memory: 2 MiB
                              * aligned, blocks in file order, no overlap */
    uint64_t data_page_count;
    bool is_left_out;        /* not in the file; both offsets are 0 */
} SnapshotBlock;

/* What shows that a file was changed or replaced. */
typedef struct SnapshotIdentity {
    bool is_regular;         /* of others, the times say nothing */
    bool has_times;          /* the file system does not invent times */
    uint64_t device, inode, len_bytes;
    int64_t changed_ns;      /* its contents */
    int64_t touched_ns;      /* its contents, name or rights */
} SnapshotIdentity;

typedef struct Snapshot {
    char *path;              /* opens the file; may be /proc/self/fd/N */
    char *label;             /* what to call it in results */
    int fd;                  /* read-only, buffered; owned */
    SnapshotIdentity identity; /* as it was opened */
    uint64_t file_bytes;
    char *machine;           /* machine type of the guest; "": unknown; not
                              * trusted */
    uint64_t devices_off;    /* where the state of devices begins */
    uint64_t guest_bytes;    /* from 0 to the end of the last block, 2 MiB
                              * aligned; what lies between blocks is unused */
    uint64_t len_bytes;      /* of all blocks */
    uint64_t data_bytes;     /* of their pages that the file has */
    SnapshotBlock *blocks;
    uint32_t block_count;
    /* A bit for each page of guest_bytes: the file has it.  Least significant
     * bit of word 0 first. */
    uint64_t *data_bits;
    struct StorageMount *mount; /* simulated storage that it is read through,
                                 * or NULL; borrowed */
    const struct Snapshot *origin; /* with a mount: the snapshot behind it;
                                 * borrowed */
} Snapshot;

/*
 * Takes over @fd, even on failure.  @path and @label are copied.  The file is
 * not trusted: returns a snapshot that keeps the promises above, or NULL and an
 * error that says what is wrong and where.
 */
Snapshot *snapshot_open_fd(int fd, const char *path, const char *label,
                           GError **error);
Snapshot *snapshot_open(const char *path, GError **error);
/*
 * Does the snapshot's path still name the same file, unchanged?  With a mount,
 * this is about the file behind it.
 */
bool snapshot_is_same(const Snapshot *snapshot);
/* Run state of the saved guest: "running", "paused"...; NULL: unknown. */
char *snapshot_run_state(const Snapshot *snapshot);
void snapshot_free(Snapshot *snapshot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Snapshot, snapshot_free)

static inline bool snapshot_has_page(const Snapshot *snapshot, uint64_t page)
{
    return snapshot->data_bits[page / 64] >> (page % 64) & 1;
}

/* The block that a page of the guest lies in, or NULL; borrowed. */
const SnapshotBlock *snapshot_block_of(const Snapshot *snapshot,
                                       uint64_t page);

/*
 * The run of pages at @page, inside one block, all with data or all without:
 * *ret_count pages from *ret_file_off on.  Returns whether they have data.
 * @page must lie in a block.
 */
bool snapshot_run(const Snapshot *snapshot, const SnapshotBlock *block,
                  uint64_t page, uint64_t *ret_count, uint64_t *ret_file_off);

/* ---- generate.c ---- */

typedef struct GenerateConfig {
    uint64_t len_bytes;      /* of RAM; a multiple of 4096 */
    double zero_share;       /* 0..1, of pages */
    uint64_t run_bytes;      /* mean length of a run of pages with data */
    uint64_t seed;
} GenerateConfig;

typedef void GenerateProgress(uint64_t done_bytes, uint64_t total_bytes,
                              void *opaque);

/*
 * Writes a mapped-ram file with one block to @fd, an empty file.  The same
 * config makes the same bytes.  Checks for room on the file system first.
 * @progress may be NULL; generating stops with an error when *is_stopped.
 */
bool generate_snapshot(int fd, const GenerateConfig *config,
                       GenerateProgress *progress, void *opaque,
                       const volatile int *is_stopped, GError **error);

/* ---- inspect.c ---- */

/* Prints blocks, sizes, zero share and a histogram of run lengths. */
void inspect_print(const Snapshot *snapshot, FILE *out);

/* ---- set.c ---- */

/* A working set: which pages, and in which order they were touched. */
typedef struct FastloadWorkset Set;

/* The file that fast load has recorded; it is not trusted. */
Set *set_read(const char *path, GError **error);
/*
 * @pages: of uint64_t, pages of the guest in the order of their first touch,
 * none twice.
 */
Set *set_of_pages(const Snapshot *snapshot, const GArray *pages);
void set_free(Set *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Set, set_free)
/* Prints its blocks and runs, and where they are; @path: what it is called. */
void set_print(const Set *set, const char *path, FILE *out);
/* The same as JSON, for html-set.c; docs/benchmarks.md describes it. */
JsonNode *set_node(const Set *set);

/* ---- hist.c ---- */

/* Log2 buckets of nanoseconds, each in 16 equal parts: within 6 %. */
#define HIST_SUB_BITS 4
#define HIST_COUNT (64 << HIST_SUB_BITS)

typedef struct Hist {
    uint64_t count;
    uint64_t max_ns;
    uint64_t sum_ns;
    uint64_t buckets[HIST_COUNT];
} Hist;

void hist_add(Hist *hist, uint64_t ns);
void hist_merge(Hist *hist, const Hist *other);
uint64_t hist_bucket_floor_ns(uint32_t bucket);
/* The value below which @permille thousandths lie; 0 when empty. */
uint64_t hist_percentile_ns(const Hist *hist, uint32_t permille);

uint64_t bench_now_ns(void);

/* ---- what one run does ---- */

typedef enum CacheState { CACHE_COLD, CACHE_WARM } CacheState;
typedef enum GuestPattern {
    PATTERN_UNIFORM,    /* each page of the working set once, shuffled */
    PATTERN_ZIPF,       /* few pages often, many seldom (exponent 0.99) */
    PATTERN_SEQUENTIAL, /* ascending, from a place of each vCPU's own on */
    PATTERN_TRACE,      /* as recorded, dealt out to the vCPUs in turn */
} GuestPattern;
typedef enum BenchIo { BENCH_IO_AUTO, BENCH_IO_URING, BENCH_IO_PREADV } BenchIo;

typedef struct Touch {
    uint32_t page;      /* of the guest: guest_off / 4096 */
    bool is_write;
    uint64_t at_ns;     /* of a trace, since it began; or TOUCH_HAS_NO_TIME */
} Touch;
#define TOUCH_HAS_NO_TIME UINT64_MAX

/* think_ns: as long as between these two touches in the recorded trace. */
#define THINK_RECORDED UINT64_MAX

/* What all contenders of a comparison have in common. */
typedef struct Scenario {
    CacheState cache;
    GuestPattern pattern;
    uint32_t vcpu_count;
    uint32_t clone_count;    /* processes that restore the file at once */
    uint64_t think_ns;       /* of computing between two touches, or
                              * THINK_RECORDED */
    double write_share;      /* 0..1, of touches */
    uint64_t working_set_bytes;
    uint64_t window_ns;      /* progress is counted for this long, from the
                              * request and again from "runs" */
    uint64_t cpu_quota;      /* millionths of one CPU; 0: none */
    uint64_t memory_max_bytes; /* of a run, all clones together; 0: none */
    bool is_pretouched;      /* see measure.c */
    uint64_t seed;
    const char *trace_path;  /* PATTERN_TRACE; borrowed */
} Scenario;

/* A contender: a loader and its knobs. */
typedef struct Variant {
    const struct BenchLoader *loader;
    uint32_t thread_count;
    bool is_direct;          /* O_DIRECT */
    BenchIo io;
    bool is_replayed;        /* of a loader with LOADER_HAS_REPLAY */
    const struct Rehearsal *rehearsal; /* what it has recorded; NULL: nothing;
                              * borrowed */
} Variant;

/* ---- loaders ---- */

/* When and how a page arrived. */
typedef enum ArrivalClass {
    ARRIVAL_NONE,            /* was not placed: zero, or never loaded */
    ARRIVAL_BEFORE,          /* before the guest ran */
    ARRIVAL_URGENT,
    ARRIVAL_HINT,
    ARRIVAL_BACKGROUND,
    ARRIVAL_COUNT,
} ArrivalClass;

/*
 * Both in one word: the class in the upper bits, and below it the time since
 * the restore was requested, which is never 0.  The word is 0 for a page that
 * has not arrived.
 */
#define ARRIVAL_UNIT_NS 16000u
#define ARRIVAL_TIME_BITS 28
#define ARRIVAL_TIME_MASK ((1u << ARRIVAL_TIME_BITS) - 1)
G_STATIC_ASSERT(ARRIVAL_COUNT <= 1u << (32 - ARRIVAL_TIME_BITS));

static inline uint32_t arrival_pack(ArrivalClass class, uint64_t ns)
{
    return (uint32_t)class << ARRIVAL_TIME_BITS |
           CLAMP(ns / ARRIVAL_UNIT_NS, 1, ARRIVAL_TIME_MASK);
}

static inline ArrivalClass arrival_class(uint32_t arrival)
{
    return MIN(arrival >> ARRIVAL_TIME_BITS, ARRIVAL_COUNT - 1);
}

static inline uint64_t arrival_ns(uint32_t arrival)
{
    return (uint64_t)(arrival & ARRIVAL_TIME_MASK) * ARRIVAL_UNIT_NS;
}

typedef struct LoaderRun {
    /* constant during a run */
    const Snapshot *snapshot;
    const Variant *variant;
    uint8_t *hva;            /* of guest_off 0; 2 MiB aligned, anonymous,
                              * nothing populated, huge pages advised */
    bool is_background_off;  /* serve faults, load nothing ahead of them */
    const char *record_path; /* a rehearsal: record what the guest touches,
                              * and write that to a new file with this name;
                              * NULL: a run that counts */
    /* the loader's own */
    void *state;
    const char *io_name;     /* read backend in use, or NULL; static */
    const char *io_fallback; /* what io_uring lacked, or NULL; static */
    /* atomic, relaxed */
    uint64_t begin_ns;       /* when the restore was requested; start() may
                              * set it to when the loader was ready */
    pid_t helper_pid;        /* a process of the loader, or 0: its CPU time,
                              * bytes read and memory count for the run */
    uint64_t loaded_bytes[ARRIVAL_COUNT]; /* so far */
    uint32_t *arrivals;      /* by arrival_pack(), one for each page */
} LoaderRun;

/* Which knobs make a difference to a contender. */
#define LOADER_HAS_THREADS 1u
#define LOADER_HAS_DIRECT 2u
#define LOADER_HAS_IO 4u
#define LOADER_NEEDS_TRAP 8u /* no knob: it cannot run without userfaultfd */
#define LOADER_HAS_REPLAY 16u /* may replay what a rehearsal has recorded */

typedef struct BenchLoader {
    const char *name;
    const char *summary;     /* one line for --help */
    uint32_t knobs;          /* LOADER_HAS_*, LOADER_NEEDS_* */
    bool is_lazy;            /* the guest runs before all is loaded */
    bool has_end;            /* there is a time when all is loaded */
    bool is_extra;           /* takes part only when it is named */
    bool has_set_pages;      /* the file that a rehearsal writes begins with
                              * the contents of pages */
    /*
     * start() returns when the guest may run, wait() when everything is
     * loaded.  wait() is only called with is_lazy and has_end and without
     * is_background_off; otherwise it may be NULL.
     * settle() waits for what the loader does after that; it may be NULL.
     * record() writes record_path when the guest of a rehearsal has stopped;
     * NULL: the loader does so until the end of stop().
     * read_set() says what is in that file; NULL: there is no rehearsal.
     * stop() ends all threads and frees.  After wait(), all of guest memory
     * stays as it is; without wait(), missing pages may become zero.  A loader
     * without has_end goes on until memory has been verified.
     */
    bool (*start)(LoaderRun *run, GError **error);
    bool (*wait)(LoaderRun *run, GError **error);
    void (*settle)(LoaderRun *run);
    bool (*record)(LoaderRun *run, GError **error);
    Set *(*read_set)(const Snapshot *snapshot, const char *path,
                     GError **error);
    void (*stop)(LoaderRun *run);
} BenchLoader;

/* All loaders, in the order of tables, ended by NULL. */
extern const BenchLoader *const bench_loaders[];
const BenchLoader *bench_loader_by_name(const char *name);

extern const BenchLoader loader_null, loader_eager, loader_eager_multi,
    loader_two_thread, loader_alternate, loader_mmap, loader_mmap_ahead,
    loader_fastload, loader_copy_threads, loader_continue, loader_handler,
    loader_reap, loader_e2b;

/*
 * Notes that the pages of [guest_off, +len_bytes) have arrived, by @class;
 * called by the loader, from any of its threads.  is_data false: zero pages.
 * Pages that were noted before keep their class and time.
 */
void loader_note(LoaderRun *run, uint64_t guest_off, uint64_t len_bytes,
                 ArrivalClass class, bool is_data);

/* Opens the snapshot again, with O_DIRECT if the variant says so. */
int loader_open(const LoaderRun *run, GError **error);

/* Reads all of it with preadv().  Returns 0, -errno, or -ENODATA at the end. */
int loader_read(int fd, void *buf, uint64_t len_bytes, uint64_t file_off);

/*
 * What nearly all loaders need, with the loader's name in the error: aligned
 * memory of whole pages, freed with free(); a thread; an error that says
 * "@what @at of FILE failed: @ret".
 */
void *loader_buffer(const LoaderRun *run, uint64_t len_bytes, GError **error);
GThread *loader_thread(const LoaderRun *run, const char *name,
                       GThreadFunc func, void *opaque, GError **error);
GError *loader_failure(const LoaderRun *run, const char *what, uint64_t at,
                       int ret);

/*
 * Claims the page in @claims, which has a bit for each page of the guest.
 * True: the caller has to load it, and no other thread will.
 */
static inline bool loader_claim(uint64_t *claims, uint64_t page)
{
    uint64_t bit = 1ull << (page % 64);

    return !(__atomic_fetch_or(&claims[page / 64], bit, __ATOMIC_RELAXED) &
             bit);
}

/* ---- trap.c ---- */

/*
 * All blocks of a run in one userfaultfd, and a way to end the thread that
 * serves their faults.  { .uffd = -1, .quit_fd = -1 } holds nothing.
 */
typedef struct Trap {
    const LoaderRun *run;
    int uffd;
    int quit_fd;             /* an eventfd; readable: trap_wait() ends */
    uint32_t registered_count;  /* blocks, the first ones */
} Trap;

typedef enum TrapEvent {
    TRAP_NOTHING,            /* without waiting, or another thread got it */
    TRAP_FAULT,
    TRAP_QUIT,               /* from then on, each call returns this */
} TrapEvent;

typedef enum TrapMode {
    TRAP_MISSING,            /* private anonymous memory */
    TRAP_MINOR,              /* a memfd: also pages that are in the file, but
                              * not mapped */
} TrapMode;

/* May this process have a userfaultfd? */
bool trap_check(GError **error);
/* Opens the userfaultfd and registers every block of guest memory. */
bool trap_open(Trap *trap, const LoaderRun *run, TrapMode mode,
               GError **error);
/* A TrapEvent, or -errno.  @ret_page: of the guest, where the fault is. */
int trap_wait(Trap *trap, bool is_waiting, uint64_t *ret_page);
/* [any] */
void trap_quit(Trap *trap);
/*
 * From here on the kernel answers faults with pages of zeros.  Threads that
 * wait for a page are woken and fault again.
 */
void trap_unregister(Trap *trap);
/* Unregisters and closes; a trap that was never opened is fine. */
void trap_close(Trap *trap);

/*
 * Each returns 0 or -errno; -EEXIST: the page is there.  Placing a page wakes
 * the threads that wait for it.
 */
int trap_copy(int uffd, void *hva, const void *from, uint64_t len_bytes);
/* The same, and threads that wait for these pages go on waiting. */
int trap_copy_quietly(int uffd, void *hva, const void *from,
                      uint64_t len_bytes);
int trap_zero(int uffd, void *hva, uint64_t len_bytes);
/* With TRAP_MINOR: maps the page that the memfd has. */
int trap_continue(int uffd, void *hva, uint64_t len_bytes);
int trap_wake(int uffd, void *hva, uint64_t len_bytes);

/* ---- pool.c ---- */

/*
 * start(), wait() and stop() of a loader with the knobs threads and direct.
 * @alias: NULL, or a second mapping of guest memory, which is a memfd then; the
 * pool unmaps it, even if it cannot start.
 */
bool pool_start(LoaderRun *run, uint8_t *alias, GError **error);
bool pool_wait(LoaderRun *run, GError **error);
void pool_stop(LoaderRun *run);

/* ---- serve.c ---- */

/*
 * Answers faults with a copy of one page each, out of a mapping of the
 * snapshot or a buffer, and notes which pages these were.
 */
typedef struct Serve {
    /* constant after serve_open() */
    LoaderRun *run;
    Trap trap;
    int fd;
    uint8_t *map;            /* of the snapshot's file */
    uint8_t *zero_page;
    /* lock: mutex */
    pthread_mutex_t mutex;
    GArray *record;          /* of uint64_t: pages in the order of their
                              * faults; NULL: this is no rehearsal */
} Serve;

/* Traps faults.  serve_close() has to follow, even if it fails. */
bool serve_open(Serve *s, LoaderRun *run, GError **error);
/* No thread uses @s any more. */
void serve_close(Serve *s);
/* The contents of a page of a block: of the mapping, or zeros. */
const uint8_t *serve_page(const Serve *s, uint64_t page);
/*
 * Places a page that may be there already.  @buf NULL: out of the mapping; else
 * it is read into @buf, a page, first.  0 or -errno.  [any]
 */
int serve_place(Serve *s, uint64_t page, ArrivalClass class, void *buf);
/* Answers a fault.  0 or -errno.  [any] */
int serve_fault(Serve *s, uint64_t page, void *buf);
/*
 * A thread cannot go on, and a guest that waits for pages cannot either: ends
 * the process by SIGBUS, as a mapping does whose page cannot be read.
 */
G_NORETURN void serve_fail(void);
/*
 * Writes the record to run->record_path: with @has_contents in ascending order
 * and with the contents of the pages first.
 */
bool serve_write_set(Serve *s, bool has_contents, GError **error);
/* The pages in a file of serve_write_set(), as recorded. */
GArray *serve_read_pages(const char *path, GError **error);
/* BenchLoader's. */
Set *serve_read_set(const Snapshot *snapshot, const char *path,
                    GError **error);

/* ---- memory.c ---- */

/*
 * A hash of each page's right contents, read from the file once and used after
 * every run.  Pages without data hold zeros.
 */
typedef struct PageSums PageSums;
PageSums *memory_sums_new(const Snapshot *snapshot, GError **error);
void memory_sums_free(PageSums *sums);
/* Hexadecimal; snapshots with the same blocks and bytes have the same. */
char *memory_fingerprint(const Snapshot *snapshot, const PageSums *sums);
uint64_t memory_hash_page(const void *page);

/* Anonymous, 2 MiB aligned, huge pages advised, as QEMU's guest memory. */
uint8_t *memory_map(uint64_t len_bytes, GError **error);

/* How often each page was written by the guest; see guest.c. */
typedef uint32_t WriteCount;
#define GUEST_WRITE_OFF 4088u
#define GUEST_WRITE_STEP 0x9e3779b97f4a7c15ull

/*
 * Compares all pages of all blocks, or those with a bit in @only (may be
 * NULL).  A page that the guest wrote n times has n * GUEST_WRITE_STEP added
 * to its word at GUEST_WRITE_OFF.  Two threads.  Fails at the first wrong
 * page and says which.
 */
bool memory_verify(const Snapshot *snapshot, const PageSums *sums,
                   const uint8_t *hva, const WriteCount *writes,
                   const uint64_t *only, GError **error);

/* ---- guest.c ---- */

typedef struct Guest Guest;

/* Counters of one vCPU; only it writes, any thread reads, relaxed. */
typedef struct GuestCounters {
    uint64_t touch_count;
    uint64_t window_touch_count; /* in the first window_ns of running; 0: that
                              * is not over */
    uint64_t request_touch_count; /* in the window_ns after the request */
    bool is_request_over;    /* request_touch_count is final */
    uint64_t waited_ns;      /* in faults, until the working set was touched
                              * and the window is over */
    uint64_t thought_ns;     /* spent computing */
    uint64_t worked_ns;      /* only in the sum: when the guest had touched its
                              * working set; 0: not yet */
    Hist faults;             /* touches that caused a page fault */
    Hist faults_after;       /* the same, once everything was loaded */
} GuestCounters;

/*
 * Draws what the vCPUs will touch; the same scenario and snapshot give the same
 * touches.  @max_touches: where each vCPU stops, or earlier at the end of a
 * trace whose recorded pauses it keeps; 0: no end.
 */
Guest *guest_new(const Snapshot *snapshot, const Scenario *scenario,
                 uint64_t max_touches, GError **error);
void guest_start(Guest *guest, LoaderRun *run, WriteCount *writes);
uint64_t guest_touch_count(const Guest *guest);
uint64_t guest_thought_ns(const Guest *guest); /* all vCPUs */
uint64_t guest_worked_ns(const Guest *guest);
bool guest_has_windowed(const Guest *guest);  /* window_ns is over */
void guest_set_loaded(Guest *guest);  /* faults_after from here on */
void guest_stop(Guest *guest);        /* joins */
void guest_join(Guest *guest);        /* with max_touches: waits for the end */
void guest_get_counters(const Guest *guest, GuestCounters *ret_sum);
/* A bit for each page that was touched; borrowed. */
const uint64_t *guest_touched(const Guest *guest);
/* Touches a second in all of memory, without computing, measured for @ns. */
double guest_measure_speed(const Snapshot *snapshot, uint8_t *hva,
                           uint64_t seed, uint64_t ns);
void guest_free(Guest *guest);
/* Measures how long the loop of computing takes; once, in the parent. */
void guest_calibrate(void);

/* ---- trace.c ---- */

#define TRACE_TOUCH_COUNT_MAX (64u << 20)
/*
 * One touch a line: "BLOCK OFFSET [r|w] [@SECONDS]"; without BLOCK it is in the
 * first block.  Offsets are decimal or begin with 0x.  Times count from the
 * start of the trace and never go back.  Blank lines and lines that begin with
 * # are skipped.
 */
GArray *trace_load(const char *path, const Snapshot *snapshot, GError **error);

/* ---- record.c ---- */

/* Makes a trace from QEMU's @log of a fast load; @name: of the log. */
char *record_trace(FILE *log, const char *name, GError **error);

/* ---- measure.c ---- */

#define MEASURE_SAMPLE_NS (10 * 1000 * 1000ull)
#define MEASURE_SAMPLE_COUNT_MAX 12000
#define MEASURE_CELL_COUNT_MAX 1024
#define MEASURE_IDLE_TOUCHES 2000
#define MEASURE_IDLE_TOUCHES_MIN 100
#define MEASURE_IDLE_NS (4ull * 1000 * 1000 * 1000)
#define MEASURE_SPEED_NS (500 * 1000 * 1000ull)

typedef struct Sample {
    uint64_t t_ns;           /* since the restore was asked for */
    uint64_t touch_count;
    uint64_t loaded_bytes[ARRIVAL_COUNT];
    uint64_t resident_bytes;
} Sample;

typedef struct Cell {
    uint32_t t_us;           /* median arrival of its pages */
    uint8_t shares[ARRIVAL_COUNT];  /* of its pages, by class; 0..255 */
} Cell;

/* Over all clones of a run: percentiles, then sums. */
typedef enum CloneFigure {
    CLONE_RUN_P50, CLONE_RUN_P95, CLONE_WORK_P50, CLONE_WORK_P95,
    CLONE_LOAD_P50, CLONE_LOAD_P95,
    CLONE_READ,              /* by /proc/self/io of each */
    CLONE_DEVICE_READ,       /* from the device, by any process */
    CLONE_PSS,               /* above what it was at the start */
    CLONE_FIGURE_COUNT,
} CloneFigure;

/* Results of a run, in memory that is shared with the parent. */
typedef struct RunResult {
    bool is_ok;
    char error[512];
    char io_name[32];
    char io_fallback[128];
    uint64_t run_ns;         /* until the guest may run */
    uint64_t work_ns;        /* until it has touched its working set */
    uint64_t load_ns;        /* until everything is loaded; 0: never; run_ns
                              * of a loader that is not lazy */
    uint64_t window_touch_count; /* in the first window_ns of running */
    uint64_t request_touch_count; /* in the window_ns after the request */
    uint64_t waited_ns;      /* in faults, all vCPUs, until work_ns and the
                              * end of the window */
    uint64_t cpu_ns;         /* of the process without the guest's computing,
                              * until load_ns (if that is never: work_ns) */
    uint64_t read_bytes;     /* from storage until then, by /proc/self/io */
    uint64_t rss_peak_bytes; /* these three: above what it was at the start */
    uint64_t rss_end_bytes;
    uint64_t page_table_bytes;
    uint64_t huge_bytes;     /* of guest memory at the end */
    uint64_t pss_bytes;      /* of a clone at the end, above its start */
    double speed;            /* touches a second after the load; 0: none */
    uint64_t cached_bytes;   /* of the file in the page cache, before; or
                              * STORAGE_CACHED_UNKNOWN */
    uint64_t page_cache_bytes; /* the same after the run, for a contender that
                              * reads through the page cache; else 0 */
    uint32_t clone_count;    /* 0: no clones; else this is the median clone */
    double clone_figures[CLONE_FIGURE_COUNT];
    Hist faults;             /* while the background ran */
    Hist faults_idle;        /* with the background off: a run of its own */
    uint32_t sample_count;
    uint32_t cell_count;
    uint64_t cell_page_count; /* pages of the guest in a cell */
    Sample samples[MEASURE_SAMPLE_COUNT_MAX];
    Cell cells[MEASURE_CELL_COUNT_MAX];
} RunResult;

typedef struct MeasureConfig {
    const Snapshot *snapshot;
    const PageSums *sums;
    const Scenario *scenario;
    const Variant *variant;
    uint64_t timeout_ns;     /* a run that takes longer is killed: failed */
    const struct Box *box;   /* where runs are limited; or NULL */
    const char *record_path; /* a rehearsal; or NULL */
    bool is_watched;         /* killed, too, if the snapshot's file changes */
    const volatile int *is_stopped;
} MeasureConfig;

/* Called about ten times a second while a run goes on. */
typedef void MeasureTick(void *opaque);

/*
 * One run, and a short one without background if the loader serves faults.
 * False if it was stopped; a run that failed is a result with an error.
 * @ret_result: from measure_result_new().
 */
bool measure_run(const MeasureConfig *config, MeasureTick *tick, void *opaque,
                 RunResult *ret_result);
RunResult *measure_result_new(void);
void measure_result_free(RunResult *result);

/* ---- rehearsal.c ---- */

/* What a rehearsal has recorded, in a file without a name. */
typedef struct Rehearsal {
    int fd;
    char *path;              /* opens the file */
    struct StorageMount *mount; /* a file with contents of pages, on storage
                              * like the snapshot's; or NULL */
    char *contents_path;     /* opens it there; the same as path without */
    JsonNode *set;           /* of set_node() */
} Rehearsal;

/* Does a run of this variant need one? */
bool rehearsal_is_needed(const Variant *variant);
/*
 * Runs one guest from the file itself with a warm cache, whatever storage and
 * how many clones the scenario has; that counts nowhere.  @config: of the runs
 * that follow; @folder: where the set lies.  NULL: stopped, or @error is set.
 */
Rehearsal *rehearsal_new(const MeasureConfig *config, const char *folder,
                         MeasureTick *tick, void *opaque,
                         RunResult *result, GError **error);
/* There will be no more runs: keeps the set as JSON alone. */
void rehearsal_close(Rehearsal *rehearsal);
void rehearsal_free(Rehearsal *rehearsal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rehearsal, rehearsal_free)

/* ---- clones.c ---- */

/* In memory that is shared with all processes that are forked later. */
typedef struct Clones Clones;

typedef enum ClonesMeetingId {
    CLONES_THERE,            /* all have allocated what a run needs */
    CLONES_BEGIN,            /* all are ready to restore */
    CLONES_END,              /* all have measured */
    CLONES_LEAVE,            /* all have measured what they share */
    CLONES_MEETING_COUNT,
} ClonesMeetingId;

Clones *clones_new(uint32_t count);
void clones_free(Clones *clones);
/* Of one of them; borrowed. */
RunResult *clones_result(Clones *clones, uint32_t idx);
/* Waits for all clones; returns when the last one came. */
uint64_t clones_meet(Clones *clones, ClonesMeetingId id);
/* The result of the median clone, with figures over all clones. */
void clones_sum_up(const Clones *clones, RunResult *ret_result);

/* ---- storage.c ---- */

#define STORAGE_RAW_NS (700 * 1000 * 1000ull)

typedef struct StorageRates {
    double sequential_bytes_per_s; /* O_DIRECT, 1 MiB reads, 4 in flight */
    Hist random_4k;                /* O_DIRECT, one in flight */
} StorageRates;

/*
 * Reads sequentially for @ns, and then at random for @ns.  Rates are 0 if the
 * file is too small.
 */
bool storage_measure(const Snapshot *snapshot, uint64_t seed, uint64_t ns,
                     StorageRates *ret_rates, GError **error);
/* Can the file be read with O_DIRECT? */
bool storage_has_direct(const Snapshot *snapshot);
/*
 * How much of the file the page cache holds.  Since Linux 5.2 the kernel tells
 * it only to root, to the file's owner and to users who may write to the file;
 * for others it is unknown.
 */
#define STORAGE_CACHED_UNKNOWN UINT64_MAX
uint64_t storage_cached_bytes(const Snapshot *snapshot);
/*
 * The same after the file was opened once more, which empties its cache on some
 * FUSE file systems.
 */
uint64_t storage_cached_after_open(const Snapshot *snapshot);
/* Bytes read from the file's device so far; false: it has no device. */
bool storage_device_read(const Snapshot *snapshot, uint64_t *ret_bytes);
/* Empties the page cache of the file, or reads the file's data into it. */
bool storage_set_cache(const Snapshot *snapshot, CacheState state,
                       GError **error);

/* ---- storage-class.c ---- */

#define STORAGE_CLASS_COUNT_MAX 64

typedef struct StorageClass {
    const char *name;        /* static; NULL: described by its parameters */
    uint64_t rtt_ns;         /* round-trip time of each read */
    uint64_t jitter_ns;      /* added to it: 0 to so much, evenly */
    uint64_t rate_bytes_per_s; /* of all reads together; 0: no limit */
    uint32_t lucky_millionths; /* share of reads that hit a cache on the way */
    uint32_t lucky_first_count; /* so many first reads of a run hit it, too */
} StorageClass;

/*
 * @text: "file", the name of a class, or parameters, as in
 * "rtt=1ms+rate=2G+first=1" (also with : or , between).  The value stands for
 * the class in a knob; 0 is the file itself.
 */
bool storage_class_parse(const char *text, uint64_t *ret_value);
char *storage_class_text(uint64_t value);
/* Borrowed, never freed; NULL: the file itself. */
const StorageClass *storage_class_get(uint64_t value);
/*
 * Splits a list at its commas.  A KEY=VALUE after a comma belongs to the entry
 * before it if that has no such key yet: "rtt=1ms,rate=2G,nvme" has two
 * entries.
 */
char **storage_class_split(const char *list);

/* How long a read takes that hits a cache on the way, unless rtt_ns is less. */
#define STORAGE_LUCKY_NS 60000u

/*
 * Models a round trip and a line that carries the bytes of one read after those
 * of the read before.  A lucky read does not use the line.
 */
typedef struct StorageSchedule {
    StorageClass class;
    uint64_t end_ns;         /* the line is busy until then */
    uint64_t rest;           /* fraction of a ns after end_ns, in 1 / rate */
    uint64_t random;
    uint64_t read_count;     /* of this run */
} StorageSchedule;

void storage_schedule_init(StorageSchedule *schedule,
                           const StorageClass *class, uint64_t seed);
/* No read is in flight, and the next one is the first of a run. */
void storage_schedule_restart(StorageSchedule *schedule);
/* When a read of up to 1 GiB that is issued at @now_ns is answered. */
uint64_t storage_schedule_next(StorageSchedule *schedule, uint64_t now_ns,
                               uint64_t len_bytes);

/* ---- storage-fuse.c ---- */

/*
 * A file system with one file, whose reads a server process answers from a
 * snapshot.  It is mounted nowhere and held by descriptors only, so it goes
 * away with the last process that has one, however that ends.
 */
typedef struct StorageMount StorageMount;
#define STORAGE_READ_AHEAD_BYTES (128u << 10) /* what the kernel gives it */

/* Can it be mounted with this build and on this machine?  Before any run. */
bool storage_mount_check(const StorageClass *class, uint64_t read_ahead_bytes,
                         GError **error);
/*
 * @class NULL: reads go to the file of @snapshot at once, around the page
 * cache.  @read_ahead_bytes 0: the kernel's default for FUSE.  @snapshot must
 * outlive the mount.
 */
StorageMount *storage_mount_new(const Snapshot *snapshot,
                                const StorageClass *class,
                                uint64_t read_ahead_bytes, uint64_t seed,
                                GError **error);
void storage_mount_free(StorageMount *mount);
/*
 * Any file on storage like that of @like, on a line of its own.  The caller
 * keeps @fd until the mount is freed.  *ret_path: opens it.
 */
StorageMount *storage_mount_beside(const StorageMount *like, int fd,
                                   char **ret_path, GError **error);
/* The same snapshot, read through the mount; borrowed. */
const Snapshot *storage_mount_snapshot(const StorageMount *mount);
/*
 * With true, no read waits any more, including those in flight, until the next
 * false; the data is in memory when this returns.  The first reads after false
 * are the first reads of a run.
 */
bool storage_mount_set_fast(StorageMount *mount, bool is_fast,
                            GError **error);
/* Bytes read through it so far. */
uint64_t storage_mount_read_bytes(const StorageMount *mount);
/* The file behind it, which has the same holes; borrowed. */
int storage_mount_file(const StorageMount *mount);
const StorageClass *storage_mount_class(const StorageMount *mount);

/* ---- plan.c ---- */

/* All knobs that take lists; the first one varies slowest. */
typedef enum KnobId {
    /* the work: one snapshot for each combination */
    KNOB_SIZE, KNOB_ZERO_SHARE, KNOB_RUN_LENGTH, KNOB_SEED,
    /* the scenario: what all contenders meet */
    KNOB_STORAGE, KNOB_READAHEAD, KNOB_CACHE, KNOB_PATTERN, KNOB_VCPUS,
    KNOB_CLONES, KNOB_THINK, KNOB_WRITE_SHARE, KNOB_WORKING_SET, KNOB_WINDOW,
    KNOB_CPU_QUOTA, KNOB_MEMORY_MAX, KNOB_MEMORY,
    /* the contender */
    KNOB_THREADS, KNOB_DIRECT, KNOB_IO, KNOB_REPLAY,
    KNOB_COUNT,
} KnobId;
#define KNOB_WORK_FIRST KNOB_SIZE
#define KNOB_SCENARIO_FIRST KNOB_STORAGE
#define KNOB_VARIANT_FIRST KNOB_THREADS

#define KNOB_NONE UINT64_MAX /* no limit */

/* One value of each: bytes, ns, counts, millionths, or which of the words. */
typedef uint64_t KnobValues[KNOB_COUNT];

/* A scenario, and which contenders take part in it. */
typedef struct PlanScenario {
    KnobValues values;              /* of the knobs of a scenario */
    uint64_t loader_bits;           /* of Plan.loaders, the first in bit 0 */
} PlanScenario;

typedef struct Plan {
    GArray *values[KNOB_COUNT];     /* of uint64_t, at least one each */
    GPtrArray *scenarios;           /* of PlanScenario; the lists' product,
                                     * then what --also adds */
    GPtrArray *loaders;             /* of const BenchLoader, null first */
    const BenchLoader *baseline;
    bool is_contenders_named;       /* on the command line */
    bool is_direct_named;           /* the same: --direct on */
    uint32_t repeat_count;
    uint32_t warmup_count;
    uint64_t timeout_ns;
    bool is_quick;                  /* values are those of --quick */
    uint64_t limit_ns;              /* begins no round that would end later,
                                     * except the first of each scenario;
                                     * 0: no limit */
    char *snapshot_path;            /* NULL: generate */
    char *folder;                   /* where to generate */
    char *trace_path;
} Plan;

/* GLib's parser, with its errors as ours: usage. */
bool plan_parse_options(GOptionContext *context, int *argc, char ***argv,
                        GError **error);
/* Removes what it knows from @argv; the rest is the caller's. */
Plan *plan_parse(int *argc, char ***argv, GOptionContext *context,
                 GError **error);
void plan_free(Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Plan, plan_free)
/* The options of the plan, for the help of @context. */
void plan_add_options(GOptionContext *context);
/* The first combination of the knobs [first, end). */
void plan_first(const Plan *plan, KnobId first, KnobId end,
                KnobValues values);
/* The next one; false when there is none. */
bool plan_next(const Plan *plan, KnobId first, KnobId end, KnobValues values);
/* Sets the knobs of a scenario to those of the one with index @idx. */
void plan_set_scenario(const Plan *plan, uint32_t idx, KnobValues values);
const char *plan_knob_name(KnobId knob);
/* "32 GiB", "20 us", "25 %", "cold" */
char *plan_knob_text(KnobId knob, uint64_t value);
bool plan_knob_has_list(const Plan *plan, KnobId knob);

/* ---- progress.c ---- */

/*
 * Shows how many of @total_count runs are done and about how long the rest will
 * take: @limit_ns at most in all; 0: no limit.
 */
typedef struct Progress Progress;
Progress *progress_new(uint32_t total_count, uint64_t limit_ns);
/* Clears the line of a terminal. */
void progress_free(Progress *progress);
/* Call before anything else is written to stderr. */
void progress_clear(const Progress *progress);
/* What is shown from now on: "cold, round 2 of 5" and "eager". */
void progress_begin_round(Progress *progress, const char *round);
void progress_begin_run(Progress *progress, const char *run);
void progress_end_run(Progress *progress);
/* So many runs will not take place. */
void progress_skip(Progress *progress, uint32_t count);
/* A MeasureTick and a GenerateProgress; @opaque is the Progress. */
void progress_tick(void *opaque);
void progress_generated(uint64_t done_bytes, uint64_t total_bytes,
                        void *opaque);

/* ---- lacks.c ---- */

/* Zeroed: nothing is missing. */
typedef struct Lacks {
    char *trap_text;         /* why there is no userfaultfd, or NULL */
    bool has_no_direct;      /* the snapshot's file system has no O_DIRECT */
} Lacks;

/* These fail when a contender that the user has named cannot take part. */
bool lacks_find_trap(const Plan *plan, Lacks *ret_lacks, GError **error);
bool lacks_find_direct(const Plan *plan, const Snapshot *snapshot,
                       Lacks *ret_lacks, GError **error);
/*
 * Does the guest fit into memory?  Some contenders make all of it resident,
 * zero pages included.  @what: "--size" or a snapshot, for the error.
 */
bool lacks_check_memory(const char *what, uint64_t guest_bytes,
                        uint32_t clone_count, GError **error);
bool lacks_leave_out(const Lacks *lacks, const BenchLoader *loader,
                     bool is_direct);
void lacks_add_notes(const Lacks *lacks, const Plan *plan, GPtrArray *notes);

/* ---- rounds.c ---- */

typedef enum MeasureId {
    MEASURE_RUN, MEASURE_WORK, MEASURE_LOAD,
    MEASURE_PROGRESS,         /* touches, counted from the request */
    MEASURE_PROGRESS_RUNNING, /* touches, counted from "runs" */
    MEASURE_WAITED, MEASURE_CPU, MEASURE_READ, MEASURE_RSS_PEAK,
    MEASURE_RSS_END, MEASURE_PAGE_TABLE, MEASURE_HUGE, MEASURE_HUGE_SHARE,
    MEASURE_SPEED, MEASURE_DEVICE_SHARE, MEASURE_CACHED, MEASURE_PAGE_CACHE,
    MEASURE_COUNT,
} MeasureId;

/* Figures of the faults of a round. */
typedef enum FaultFigure {
    FAULT_FIGURE_COUNT, FAULT_FIGURE_P50, FAULT_FIGURE_P90, FAULT_FIGURE_P99,
    FAULT_FIGURE_P999, FAULT_FIGURE_MAX, FAULT_FIGURE_SUM,
    FAULT_FIGURES,           /* how many there are */
} FaultFigure;

typedef struct FaultRounds {
    Hist all;                /* of all rounds together */
    double *figures[FAULT_FIGURES]; /* one for each round; NAN: the round has
                              * failed, or had no faults for percentiles */
} FaultRounds;

typedef struct Contender {
    Variant variant;
    char *label;             /* name, and the knobs that distinguish it */
    Rehearsal *rehearsal;    /* or NULL: none yet, or it needs none */
    double *values[MEASURE_COUNT]; /* for each round; NAN: not measured */
    uint32_t run_count;      /* that succeeded */
    uint32_t failed_count;
    GPtrArray *errors;       /* of char *, the first few */
    FaultRounds faults;
    FaultRounds faults_idle;
    char io_name[32];
    char io_fallback[128];   /* the last that a run had */
    double *clone_figures[CLONE_FIGURE_COUNT]; /* as values; or no clones */
    RunResult *typical;      /* the run nearest to the median, or NULL */
} Contender;

typedef struct ScenarioResult {
    KnobValues values;
    GPtrArray *contenders;   /* of Contender */
    Contender *baseline;     /* borrowed */
    GPtrArray *notes;        /* of char *: sentences for people */
    GArray *sequential;      /* of double: bytes a second, cold rounds */
    Hist random_4k;
    uint32_t round_count;    /* that were begun */
} ScenarioResult;

typedef struct WorkResult {
    char *label;
    bool is_generated;       /* by the knobs of the work in @values */
    KnobValues values;
    uint64_t len_bytes, data_bytes;
    uint32_t block_count;
    char *fingerprint;       /* of the content: equal for equal bytes */
    GPtrArray *scenarios;    /* of ScenarioResult */
} WorkResult;

/* Called after each round that counts; @works has the results so far. */
typedef void RoundsDone(GPtrArray *works, void *opaque);

/*
 * Runs all of @plan.  When it is stopped or fails, @works has the results so
 * far.
 */
bool rounds_run(const Plan *plan, const volatile int *is_stopped,
                GPtrArray *works, RoundsDone *on_round, void *opaque,
                GError **error);
void rounds_work_free(void *work);

/* ---- notes.c ---- */

/* Adds a sentence to @notes (of char *), unless it is there already. */
void notes_add(GPtrArray *notes, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Notes whether the cache was really cold, or warm, before the runs. */
void notes_add_cache(const ScenarioResult *s, uint64_t data_bytes,
                     GPtrArray *notes);

/* ---- figures.c ---- */

/* Median of the values that are not NAN; NAN if there is none. */
double figures_median(const double *values, uint32_t count, double *ret_min,
                      double *ret_max);
/* Ratio of the medians, or NAN; @base NULL: the median of @values. */
double figures_ratio(const double *values, const double *base,
                     uint32_t count);

#define FIGURES_CONFIDENCE 0.95
#define FIGURES_DRAW_COUNT 2000u
#define FIGURES_SEED 1
/* With fewer rounds there is no verdict. */
#define FIGURES_ROUNDS_MIN 3u
/* With fewer rounds an interval is too narrow: ranges must not overlap, too. */
#define FIGURES_ROUNDS_MANY 10u
#define FIGURES_NEEDED_MAX 10000u

/* Rounds of a result, of which the ratio of the medians is compared. */
typedef struct FiguresSeries {
    const double *values;
    const double *bases;     /* of the same rounds; NULL: no ratio */
    uint32_t count;
} FiguresSeries;

typedef enum FiguresVerdict {
    FIGURES_UNKNOWN,         /* one of them has no values */
    FIGURES_FEW,             /* too few rounds for an interval */
    FIGURES_NOISE,           /* no more than rounds of one result differ */
    FIGURES_MORE,
    FIGURES_LESS,
} FiguresVerdict;

typedef struct FiguresChange {
    double change;           /* 0.1: ten percent more */
    double low, high;        /* interval with FIGURES_CONFIDENCE */
    FiguresVerdict verdict;
    uint32_t round_count;    /* of the result with fewer rounds */
    uint32_t needed_count;   /* so many rounds would bring low and high within
                              * about @wanted of the change */
} FiguresChange;

/*
 * The change from @a to @b.  The interval is a bootstrap over the rounds, with
 * a fixed seed.
 */
void figures_change(const FiguresSeries *a, const FiguresSeries *b,
                    double wanted, FiguresChange *ret_change);
/* Allocates @round_count rounds, all NAN. */
void figures_faults_init(FaultRounds *faults, uint32_t round_count);
void figures_faults_clear(FaultRounds *faults);
/* Computes the figures of a round from its histogram, and adds that to all. */
void figures_faults_add(FaultRounds *faults, uint32_t round,
                        const Hist *hist);

/* With fewer rounds quartiles are not used. */
#define FIGURES_QUARTILE_COUNT_MIN 5
/*
 * A value outside of these two is an outlier.  They lie 1.5 times the distance
 * of the quartiles beyond the quartiles, but at least 10 % from the median;
 * with few rounds, at 1.5 times the median and at 1 / 1.5 of it.
 */
void figures_fences(const double *values, uint32_t count, double *ret_low,
                    double *ret_high);

/* ---- cgroup.c ---- */

#define CGROUP_UNLIMITED UINT64_MAX

/* Version 2 and version 1; limits of the cgroups above it count as well. */
typedef struct CgroupMemory {
    uint64_t limit_bytes;    /* the lowest limit, or CGROUP_UNLIMITED */
    uint64_t free_bytes;     /* until a limit is reached, if the page cache is
                              * dropped; or CGROUP_UNLIMITED */
} CgroupMemory;

/*
 * @root: prefix of every path that is read; "" except in tests.  A limit that
 * cannot be read counts as none.
 */
void cgroup_get_memory(const char *root, CgroupMemory *ret_memory);
/* The quota in CPUs; 0: none. */
double cgroup_get_cpu_quota(const char *root);
/* How many more threads there may be; CGROUP_UNLIMITED. */
uint64_t cgroup_get_free_pids(const char *root);
/* How many processes of the cgroup the OOM killer has killed. */
uint64_t cgroup_oom_kill_count(const char *root);
/* The same for the cgroup with this folder. */
uint64_t cgroup_oom_kills_of(const char *folder, bool is_v2);
/* The folder of this process's cgroup, and the top of the visible tree. */
char *cgroup_own_folder(const char *root, const char *controller,
                        char **ret_top, bool *ret_is_v2);

/* ---- box.c ---- */

typedef struct Box Box;

/* A cgroup with these controllers; it is removed when this process ends. */
Box *box_new(const char *root, bool has_cpu, bool has_memory, GError **error);
void box_free(Box *box);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Box, box_free)
/* Sets limits, 0: none; while no process is in it. */
bool box_set(const Box *box, uint64_t cpu_millionths, uint64_t memory_bytes,
             GError **error);
/* Moves the calling process, which has one thread, into it. */
bool box_enter(const Box *box, GError **error);
/* Moves it back; memory that it has used stays charged to the box. */
void box_leave(const Box *box);
uint64_t box_oom_kill_count(const Box *box);

/* ---- environment.c ---- */

/* @path: a file or folder on the file system that matters. */
JsonObject *environment_new(const char *path);
/* The first line of a file, or what it has in [brackets]; NULL: no file. */
char *environment_line(const char *path);
/*
 * How far the kernel reads ahead in files of the file system @dev of @type.
 * The file system's backing device says so; for btrfs and FUSE that is not the
 * queue of a disk.  @folder: /sys/class/bdi.  False: unknown.
 */
bool environment_read_ahead(const char *folder, dev_t dev, const char *type,
                            uint64_t *ret_bytes);
/*
 * Names the differences that influence figures (@that_matters), or those that
 * do not; NULL: there are none.
 */
char *environment_difference(JsonObject *a, JsonObject *b, bool that_matters);

/* ---- result.c ---- */

/* 2: progress counts from the request, figures of faults are medians. */
#define RESULT_VERSION 2

/* @works: of WorkResult */
JsonNode *result_new(const Plan *plan, GPtrArray *works, const char *command,
                     bool is_interrupted);
/* Has any run of any contender failed?  Has any succeeded? */
bool result_has_failed(GPtrArray *works);
bool result_has_runs(GPtrArray *works);
/* One line of JSON. */
char *result_text(JsonNode *result);
JsonNode *result_read(const char *path, GError **error);

/* ---- output.c ---- */

typedef enum OutputKind {
    OUTPUT_JSON, OUTPUT_HTML, OUTPUT_CSV, OUTPUT_MARKDOWN,
    OUTPUT_TABLE,            /* to standard output, unless another goes there */
    OUTPUT_COUNT,
} OutputKind;

typedef struct Outputs {
    char *paths[OUTPUT_COUNT]; /* "-": standard output; NULL: not wanted */
} Outputs;

/* Makes the text for an output of that kind. */
typedef char *OutputMake(OutputKind kind, const void *opaque);

/* Can all of them be written, and is none of them one of @inputs? */
bool outputs_check(const Outputs *outputs, const char *const *inputs,
                   uint32_t input_count, GError **error);
/* Does one of them go to standard output? */
bool outputs_has_stdout(const Outputs *outputs);
/* Writes all of them, even if one fails; @error names all failures. */
bool outputs_write(const Outputs *outputs, OutputMake *make,
                   const void *opaque, GError **error);
/* Replaces a regular file atomically; writes into others (/dev/stderr). */
bool output_write_text(const char *path, const char *text, GError **error);
/* Is it a regular file, or does it not exist yet? */
bool output_is_replaced(const char *path);
/* Was all of standard output written?  Fails once. */
bool output_flush(GError **error);

/* ---- tree.c ---- */

/*
 * Reads a tree that is not trusted.  A member that is missing or of another
 * kind is NULL, 0, NAN, "" or false.  @object and @array may be NULL, except
 * for elements.  The result is borrowed unless said otherwise.
 */
JsonObject *tree_object(JsonObject *object, const char *name);
JsonArray *tree_array(JsonObject *object, const char *name);
guint tree_length(JsonArray *array);
JsonObject *tree_element(JsonArray *array, guint i);
double tree_number(JsonObject *object, const char *name);
double tree_number_at(JsonArray *array, guint i);
const char *tree_text(JsonObject *object, const char *name);
bool tree_is_true(JsonObject *object, const char *name);
/* The text with control characters escaped; owned by the caller. */
char *tree_safe_text(JsonObject *object, const char *name);

/* A measure of a contender over all rounds. */
typedef struct Spread {
    double median;           /* NAN: not measured */
    double least, most, ratio;
    GArray *rounds;          /* of double, NAN where there is none; owned */
} Spread;
Spread tree_spread(JsonObject *contender, const char *measure);
void tree_spread_clear(Spread *spread);

/* ---- text.c ---- */

/* "1.23 s", "456 us"; "-" for NAN. */
char *text_ns(double ns);
/* "1.5 GiB", "512 bytes"; "-" for NAN and below 0. */
char *text_bytes(double bytes);
/* "54 %", "0.98", "0.035"; "-" for NAN. */
char *text_percent(double share);
char *text_ratio(double ratio);
/* "+-8%": half the distance from least to most, relative to the median. */
char *text_spread(double median, double least, double most);
/*
 * The other way round: "64k" or "1.5GiB", "20us" or "0", "25%" or "0.25".
 * False: @text is nothing of the kind, or the number is too large.
 */
bool text_parse_size(const char *text, uint64_t *ret_bytes);
bool text_parse_ns(const char *text, uint64_t *ret_ns);
bool text_parse_share(const char *text, uint64_t *ret_millionths);
/* Appends @text, escaped for use between tags or in a quoted attribute. */
void text_append_html(GString *out, const char *text);
/* Prints "fastload-bench: TEXT" to stderr, with control characters replaced. */
void text_print_error(const char *text);

/* ---- sheet.c ---- */

/* What is printed on. */
typedef struct Paper {
    FILE *file;
    uint32_t columns;        /* longest line; 0: no limit */
    bool is_markdown;        /* columns is not used then */
    char *text;              /* of a paper in memory; see paper_close() */
    size_t text_bytes;
} Paper;

/* A paper in memory. */
void paper_open(Paper *paper, uint32_t columns, bool is_markdown);
char *paper_close(Paper *paper);

/*
 * Columns of the terminal @fd; if it is none, the environment variable COLUMNS,
 * or 0: no limit.
 */
uint32_t paper_columns_of(int fd);
/* A paragraph, broken at blanks. */
void paper_say(const Paper *paper, uint32_t indent, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* A heading. */
void paper_head(const Paper *paper, const char *text);
/* An empty line. */
void paper_gap(const Paper *paper);

/* A table of texts with a label at the head of each row. */
typedef struct Sheet Sheet;
Sheet *sheet_new(const char *title);
void sheet_free(Sheet *sheet);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sheet, sheet_free)
/* Call before the first row.  @is_tied: belongs to the column before it. */
void sheet_add_column(Sheet *sheet, const char *name, bool is_tied);
/* A row; one without texts is a heading. */
void sheet_begin_row(Sheet *sheet, const char *label);
/* The next column of the current row; takes over @text. */
void sheet_add_text(Sheet *sheet, char *text);
void sheet_print(const Sheet *sheet, const Paper *paper);

/* ---- table.c ---- */

void table_print(JsonNode *result, const Paper *paper);
/* One paragraph: the knobs of a scenario. */
void table_knobs(JsonObject *scenario, const Paper *paper);

/* ---- csv.c ---- */

/* A result, a line for each measure of each contender. */
char *csv_text(JsonNode *result);
/*
 * The line of names: the snapshot, the knobs of @root's scenarios, contender,
 * measure, and @columns, a list that ends with NULL.
 */
GString *csv_begin(JsonObject *root, const char *const *columns);
/* The fields before those of @columns. */
void csv_begin_line(GString *csv, JsonObject *root, JsonObject *work,
                    JsonObject *scenario, JsonObject *contender,
                    const char *measure);
/* The next field; NAN is an empty one. */
void csv_add_text(GString *csv, const char *text);
void csv_add_number(GString *csv, double number);
void csv_end_line(GString *csv);

/* ---- doctor.c ---- */

/* The engine uses one part in so many of the mappings: FASTLOAD_SPAN_SHARE. */
#define DOCTOR_SPAN_SHARE 8u

/* About one thing that a load can use. */
typedef enum DoctorVerdict {
    DOCTOR_YES,
    DOCTOR_NO,               /* a load goes on without it */
    DOCTOR_MISSING,          /* a load fails without it */
    DOCTOR_UNKNOWN,          /* unknown, or does not matter here */
    DOCTOR_VERDICT_COUNT,
} DoctorVerdict;

/* What is examined, and for whom. */
typedef struct Doctor {
    const char *root;        /* prefix of paths in /proc and /sys; "" except
                              * in tests */
    const char *path;        /* a snapshot or a folder, as it is shown */
    const char *open_path;   /* the same, as it is opened */
    const char *qemu_path;   /* or NULL */
    uint32_t qemu_ms;        /* how long QEMU may take to answer */
    const char *user;        /* name of the user, for commands */
    FILE *out;               /* where findings go, a line of JSON each */
} Doctor;

/*
 * Reports one finding.  @id: of doctor.c's table.  @mend: a command that mends
 * it, or NULL; it is freed.  The rest is a sentence on what that means for a
 * load.
 */
void doctor_say(const Doctor *doctor, const char *id, DoctorVerdict verdict,
                char *mend, const char *format, ...) G_GNUC_PRINTF(5, 6);
/* Examines some things, and reports a finding for each. */
typedef void DoctorProbe(const Doctor *doctor);
/* All probes, in the order of their findings, ended by NULL. */
extern DoctorProbe *const doctor_probes[];

/* Only storage that does not answer at all takes so long. */
#define DOCTOR_PATIENCE_MS 30000
/*
 * Runs probes (NULL: all) in a process of its own, as @user (NULL: the current
 * one), and waits up to @patience_ms for each finding.
 */
JsonNode *doctor_examine(const Doctor *doctor, const char *user,
                         DoctorProbe *const *probes, uint32_t patience_ms,
                         GError **error);
/* Does a load have all that it needs? */
bool doctor_is_ready(JsonNode *report);
void doctor_print(JsonNode *report, const Paper *paper, bool has_colours);
/* May output to this descriptor be coloured? */
bool doctor_has_colours(int fd);
/* As environment_line(), below doctor->root. */
char *doctor_line(const Doctor *doctor, const char *path);
/* The number in a file; false: there is none. */
bool doctor_number(const Doctor *doctor, const char *path, uint64_t *ret);

/* ---- doctor-trap.c ---- */

/* Why a userfaultfd is refused. */
typedef struct DoctorRefusal {
    int call_errno;          /* of the system call; 0: it is granted */
    int user_mode_errno;     /* of the same, for faults in user mode only */
    int device_errno;        /* of /dev/userfaultfd */
    bool is_filtered;        /* a seccomp filter is on */
    const char *profile;     /* of a security module; NULL: none confines */
} DoctorRefusal;

/* Why the system call is refused, as a sentence. */
char *doctor_trap_cause(const DoctorRefusal *refusal);
DoctorProbe doctor_trap_probe;

/* ---- doctor-host.c ---- */

/* What decides who may have io_uring. */
typedef struct DoctorRing {
    int error_number;        /* of setting up a ring; 0: it works */
    uint64_t disabled;       /* kernel.io_uring_disabled */
    int64_t group;           /* kernel.io_uring_group; -1: none */
    bool is_filtered;        /* a seccomp filter is on */
} DoctorRing;

/* Why there is no ring; @ret_mend: a command that mends it, or NULL. */
char *doctor_ring_cause(const DoctorRing *ring, const char *user,
                        char **ret_mend);
/* Is a seccomp filter active?  Which security profile confines, or NULL? */
bool doctor_is_filtered(const Doctor *doctor);
char *doctor_profile(const Doctor *doctor);
/* Does this process have CAP_... in the host's user namespace? */
bool doctor_has_capability(const Doctor *doctor, uint32_t capability);
/*
 * Is this process in a user namespace, where root is not the host's root?
 * *@ret_outer_uid: who the user @uid is outside of it.
 */
bool doctor_is_in_namespace(const Doctor *doctor, uint64_t uid,
                            uint64_t *ret_outer_uid);
DoctorProbe doctor_reading_probe, doctor_huge_probe, doctor_limits_probe,
    doctor_kvm_probe;

/* ---- doctor-place.c ---- */

typedef enum DoctorDisk {
    DOCTOR_DISK_UNKNOWN, DOCTOR_DISK_ROTATING, DOCTOR_DISK_SOLID,
    DOCTOR_DISK_NVME, DOCTOR_DISK_NETWORK, DOCTOR_DISK_VIRTUAL,
} DoctorDisk;

/* The kind of the block device with this name in /sys/class/block. */
DoctorDisk doctor_disk_kind(const Doctor *doctor, const char *name);
typedef enum DoctorFs {
    DOCTOR_FS_LOCAL, DOCTOR_FS_FAR, DOCTOR_FS_MEMORY,
} DoctorFs;
DoctorFs doctor_fs_kind(const char *type);
/* How many runs of zeros, 2 MiB or longer, a load would leave out. */
uint64_t doctor_hole_count(const Snapshot *snapshot);
DoctorProbe doctor_place_probe;

/* ---- doctor-qemu.c ---- */

/* A program that takes longer is no QEMU. */
#define DOCTOR_QEMU_MS 20000
DoctorProbe doctor_qemu_probe;

/* ---- html.c ---- */

char *html_text(JsonNode *result);
/* The page of a working set, of set_node(). */
char *html_set_text(JsonNode *set, const char *path);

/* ---- html-set.c ---- */

/* What is in a working set: figures, and a picture of where it lies. */
void html_set_facts(GString *out, JsonObject *set);
void html_set_picture(GString *out, JsonObject *set);
/* What the picture's colours mean. */
void html_set_legend(GString *out);
/* The blocks of the set as a table. */
void html_set_table(GString *out, JsonObject *set);
/* The sets that contenders of a scenario have replayed, if there are any. */
void html_replayed_sets(GString *out, const GPtrArray *contenders);

/* ---- chart.c ---- */

typedef enum ChartUnit { CHART_NS, CHART_BYTES, CHART_SHARE } ChartUnit;

typedef struct ChartSeries {
    const char *class;       /* of the page's style sheet: a colour */
    const char *title;
} ChartSeries;

typedef struct ChartRow {
    const char *name;
    const char *note;        /* beside the name; "" for none */
} ChartRow;

typedef struct ChartBars {
    const char *axis;        /* what the bars show, without the unit */
    ChartUnit unit;
    const ChartSeries *series;
    guint series_count;
    const ChartRow *rows;
    guint row_count;
    const Spread *spreads;   /* row by row, one for each of series */
} ChartBars;

/* A bar for each median, a dot for each run. */
void chart_bars(const ChartBars *chart, GString *out);

typedef struct ChartPlace {
    double x;                /* ascending */
    const char *text;
} ChartPlace;

typedef struct ChartLine {
    const char *name;
    const char *class;
    bool is_level;           /* its values do not depend on x */
    const Spread *spreads;   /* one for each place */
} ChartLine;

typedef struct ChartLines {
    const char *axis_x;
    const char *axis_y;      /* without the unit */
    ChartUnit unit;
    const ChartPlace *places;
    guint place_count;       /* 2 or more */
    const ChartLine *lines;
    guint line_count;
} ChartLines;

/* A line through the medians of each, a dot for each run. */
void chart_lines(const ChartLines *chart, GString *out);

/* A strip of memory for each row, from its begin on the left to its end. */
typedef struct ChartStrips {
    const char *name;        /* of the picture, for who cannot see it */
    double len_bytes;        /* of the memory */
    guint column_count;
    guint row_count;
    const double *shares;    /* row by row: how much of a cell is meant, 0..1 */
    const char *first, *last; /* what is beside the first and the last row */
} ChartStrips;

/* Shares up to these have a colour each. */
#define CHART_SHARE_COUNT 4
extern const double chart_share_tops[CHART_SHARE_COUNT];
extern const char *const chart_share_classes[CHART_SHARE_COUNT];

/* All rows together in a high strip, and below it each of them. */
void chart_strips(const ChartStrips *chart, GString *out);

/* ---- sweep.c ---- */

typedef struct SweepValue {
    char *text;
    double number;           /* of words: their index */
} SweepValue;

typedef struct SweepLine {
    char *name;              /* the contender, and what distinguishes it */
    char *key;
    const char *loader;      /* borrowed from the tree */
    bool is_level;           /* the baseline, which lacks the knob */
    GPtrArray *contenders;   /* of JsonObject, one for each value, or NULL */
} SweepLine;

typedef struct Sweep {
    char *knob;
    char *place;             /* the other knobs that vary in the result */
    char *key;
    bool is_words;
    GPtrArray *values;       /* of SweepValue, in the order of the axis */
    GPtrArray *lines;        /* of SweepLine */
} Sweep;

/* All sweeps of a result, each with all other knobs constant. */
GPtrArray *sweep_find(JsonObject *root);

/* ---- compare.c ---- */

typedef struct CompareOptions {
    bool is_forced;          /* compare different environments, too */
    double limit;            /* 0.1: a change for the worse by more than 10 %
                              * fails; NAN: none does */
    const char *contenders;  /* which are judged, with commas; NULL: all */
} CompareOptions;

/* Compares @b with @a; both must outlive it. */
typedef struct Comparison Comparison;
Comparison *compare_new(JsonNode *a, JsonNode *b,
                        const CompareOptions *options, GError **error);
void compare_free(Comparison *comparison);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Comparison, compare_free)
/* Is something worse by more than the limit, and by more than noise? */
bool compare_has_failed(const Comparison *comparison);
void compare_print(const Comparison *comparison, const Paper *paper);
char *compare_csv(const Comparison *comparison);

#endif /* FASTLOAD_BENCH_H */
