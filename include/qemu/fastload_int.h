/*
 * fastload: types and calls that the engine's own files share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nobody outside util/fastload*.c and tests/unit includes this.  The map of
 * the files, the state machine and the lock order are at the head of
 * util/fastload.c.
 */
#ifndef QEMU_FASTLOAD_INT_H
#define QEMU_FASTLOAD_INT_H

#include "qemu/fastload.h"
#include "qemu/fastload_workset.h"

/* The unit of background reading: what a transparent huge page covers. */
#define FASTLOAD_CHUNK_BYTES (2u << 20)
/* A worker looks for faults at least this often while it copies. */
#define FASTLOAD_PIECE_BYTES (256u << 10)
/* A hole this small is read over: cheaper than one more request. */
#define FASTLOAD_GAP_BYTES_MAX (32u << 10)
#define FASTLOAD_CHUNK_PAGE_COUNT_MAX \
    (FASTLOAD_CHUNK_BYTES / FASTLOAD_PAGE_BYTES_MIN)
/* Extents are at least one page long and more than a gap apart. */
#define FASTLOAD_EXTENT_COUNT_MAX 64
QEMU_BUILD_BUG_ON(FASTLOAD_CHUNK_PAGE_COUNT_MAX /
                  (FASTLOAD_GAP_BYTES_MAX / FASTLOAD_PAGE_BYTES_MIN + 2) + 1 >
                  FASTLOAD_EXTENT_COUNT_MAX);

/*
 * Of a chunk, at least one part in so many has data where it becomes a huge
 * page; docs/design/0003-huge-pages.md.
 */
#define FASTLOAD_DENSE_SHARE 2
/*
 * What was not moved is collapsed in pieces after completion, for no longer
 * than the load took, or this if that is longer.
 */
#define FASTLOAD_COLLAPSE_BYTES_MAX (8u << 20)
#define FASTLOAD_COLLAPSE_NS_MIN (1000 * 1000 * 1000ull)

/*
 * A chunk is read around the page cache when more than one part in so many of
 * it is not there; docs/design/0004-around-the-page-cache.md.
 */
#define FASTLOAD_UNCACHED_SHARE 4
/*
 * Loads mark the file that they read around the page cache by a read lock of
 * this byte, far behind every file's end and what others lock.
 */
#define FASTLOAD_MARK_OFF (INT64_MAX - 0x464c)

/* A file that was modified no longer ago counts as modified just now. */
#define FASTLOAD_FILE_YOUNG_NS (2 * 1000 * 1000 * 1000ull)
/*
 * Two writes that are no further apart may leave the same time of modification:
 * the kernel takes it from a clock that ticks every 10 ms at most.  Where one
 * of them was before the stream, the other one counts as its companion.
 */
#define FASTLOAD_FILE_TICK_NS (20 * 1000 * 1000ull)
/*
 * What lies before the stream is remembered up to here: a worker reads it anew
 * when the file's time has moved, and faults wait for that worker meanwhile.  A
 * change behind that counts as one of the snapshot.
 */
#define FASTLOAD_PREFIX_BYTES_MAX (256u << 10)
/* And so much of the stream's begin, and of the file's end. */
#define FASTLOAD_SAMPLE_BYTES (512u << 10)
/* It is read anew when it was written to meanwhile, so often. */
#define FASTLOAD_PREFIX_TRIES_MAX 3
/*
 * Who writes changes the file's time first, and the bytes so much later at the
 * most.  Less than FASTLOAD_STALL_WAIT_NS.
 */
#define FASTLOAD_PREFIX_WAIT_NS (200 * 1000 * 1000ull)
/* After a change before the stream the time must stand still for so long. */
#define FASTLOAD_PREFIX_SETTLE_NS (100 * 1000 * 1000ull)

/*
 * Staging for chunks, all workers' together: enough for the widest window, and
 * for what is being placed meanwhile.  It costs memory once it is used.
 */
#define FASTLOAD_POOL_READ_COUNT 24
/*
 * Added to the nice value of all workers but the first: where processors are
 * short, each gets a third of what it would get.
 */
#define FASTLOAD_WORKER_NICE 5
/* Beyond what is in flight: some for each worker, to place and to renew. */
#define FASTLOAD_POOL_EXTRA_COUNT 2
#define FASTLOAD_POOL_EXTRA_EACH 2
#define FASTLOAD_URGENT_READ_COUNT_MAX 16
#define FASTLOAD_URGENT_STAGING_BYTES_MAX (4u << 20)
/*
 * An urgent read from storage this far away brings the pages around it along,
 * as many as come in during that part of a round trip: they cost hardly any
 * time, and who waits for them would have to wait as long again.
 */
#define FASTLOAD_AROUND_NS_MIN (500 * 1000ull)
#define FASTLOAD_AROUND_SHARE 8
#define FASTLOAD_AROUND_BYTES_MAX (128u << 10)
QEMU_BUILD_BUG_ON(FASTLOAD_AROUND_BYTES_MAX / FASTLOAD_PAGE_BYTES_MIN > 64);
/*
 * A read of the working set: as long as a fault may wait for, since the worker
 * that minds the faults places it.  Pages that are larger, and chunks of which
 * the set has much or has it in many places, are read as chunks.
 */
#define FASTLOAD_HINT_BYTES_MAX (128u << 10)
QEMU_BUILD_BUG_ON(FASTLOAD_HINT_BYTES_MAX > FASTLOAD_PIECE_BYTES);
#define FASTLOAD_HINT_READ_COUNT_MAX 64
/* Where short reads would cost one part in so many of its data, it is one. */
#define FASTLOAD_HINT_WHOLE_SHARE 2
/*
 * A hole in a read of the working set may be as long as what the storage brings
 * in so small a part of a round trip: about so many reads are out at once.
 */
#define FASTLOAD_HINT_GAP_SHARE 64
#define FASTLOAD_HINT_GAP_BYTES_MAX (FASTLOAD_HINT_BYTES_MAX / 2)
/*
 * For so long a guest whose working set is replayed counts as one that faults:
 * it would, without.  It has work to do, and needs its processor.
 */
#define FASTLOAD_HINT_CALM_NS (1000 * 1000 * 1000ull)
/* A recording has no more touches: 4 MiB of numbers, once they are used. */
#define FASTLOAD_TOUCH_COUNT_MAX (512u << 10)
/* The times of a recording, where the caller does not say. */
#define FASTLOAD_RECORD_QUIET_NS (300 * 1000 * 1000ull)
#define FASTLOAD_RECORD_LEAST_NS (200 * 1000 * 1000ull)
#define FASTLOAD_RECORD_MOST_NS (2 * 1000 * 1000 * 1000ull)
/* Who is told when the guest runs waits no longer for that, or as the most. */
#define FASTLOAD_RECORD_AWAIT_NS (10 * 1000 * 1000 * 1000ull)
#define FASTLOAD_FAULT_COUNT_MAX 1024
#define FASTLOAD_FAULT_BATCH_MAX 16
/*
 * So many messages a worker answers before it looks at anything else.  Each
 * may take the placement of a page, and a guest that touches zero pages, or
 * gives pages back and touches them again, always has another one ready: reads
 * that came in meanwhile have waiters of their own.
 */
#define FASTLOAD_FAULT_TURN_MAX 64
/* Of /proc/sys/vm/max_map_count, what trapping may use: one part in... */
#define FASTLOAD_SPAN_SHARE 8
#define FASTLOAD_SPAN_COUNT_DEFAULT 4096
/* Trapping begins anew with half the spans: 32 bits of them, then none. */
#define FASTLOAD_TRAP_PASS_COUNT_MAX 33
/* Mappings that a worker needs, stack and ring included; and all the rest. */
#define FASTLOAD_WORKER_MAPPING_COUNT 16

/* A read is tried this often at once, then again with back-off. */
#define FASTLOAD_READ_TRIES_MAX 3
/* EINTR and EAGAIN do not count as a try, up to here. */
#define FASTLOAD_IO_AGAIN_MAX 1000
#define FASTLOAD_BACKOFF_NS_MIN (2 * 1000 * 1000ull)
#define FASTLOAD_BACKOFF_NS_MAX (1000 * 1000 * 1000ull)
/* So many failed rounds in a row and the load counts as stalled. */
#define FASTLOAD_STALL_ROUND_COUNT 5
/*
 * And only when somebody has waited for a page for so long, or reads have
 * failed for so long: managers take a load that pauses for one that is lost
 * (libvirt ends the guest), and most hiccups of storage are over sooner.
 */
#define FASTLOAD_STALL_WAIT_NS (500 * 1000 * 1000ull)
/*
 * A turn of the first worker that takes longer has met a system call that does
 * not return, such as a look at a file whose server hangs: nobody answers
 * faults.  Any other turn ends after a few milliseconds.
 */
#define FASTLOAD_SILENT_NS_MIN (100 * 1000 * 1000ull)
#define FASTLOAD_STALL_FAIL_NS (3 * 1000 * 1000 * 1000ull)
/*
 * A load that ends waits no longer for reads that nobody needs any more; see
 * worker_drain().
 */
#define FASTLOAD_DRAIN_NS_MAX (2 * 1000 * 1000 * 1000ull)
/*
 * UFFDIO_COPY and friends answer EAGAIN while the address space changes, which
 * is over at once as a rule.  They are asked so often without a pause, then
 * with pauses that double.  When all pauses together are as long as this, the
 * placement has failed, and is tried again as what fails is; pages that would
 * have been moved are copied much sooner.
 */
#define FASTLOAD_PLACE_TRIES_MAX 16
#define FASTLOAD_PLACE_PAUSE_US_MIN 10
#define FASTLOAD_PLACE_PAUSE_US_MAX 1000
#define FASTLOAD_PLACE_AGAIN_US_MAX (200 * 1000)
#define FASTLOAD_MOVE_AGAIN_US_MAX 2000
/*
 * What is in flight for the background, of all workers together: what the
 * storage needs (util/fastload-window.c), and some more when the guest does not
 * fault, which makes the first page that it waits for then wait for so much
 * longer.  The least keeps a local device busy; the most is bounded by staging.
 * A read is begun while there is less in flight: it may be one read more, and
 * each worker that reads ahead has at least one read of the smallest size.
 * docs/design/0006-how-much-is-in-flight.md.
 */
#define FASTLOAD_WINDOW_BYTES_MIN (480u << 10)
#define FASTLOAD_WINDOW_BYTES_MAX (32u << 20)
/* Of near storage, while the guest faults: more would only be a queue. */
#define FASTLOAD_WINDOW_BYTES_NEAR (640u << 10)
/* A round trip is the median of so many reads. */
#define FASTLOAD_WINDOW_GROUP 8
#define FASTLOAD_AHEAD_COUNT_MAX 64
#define FASTLOAD_REQ_BYTES_MIN (64u << 10)
/* Long reads keep short ones waiting; far storage wants them long, or many. */
#define FASTLOAD_REQ_BYTES_NEAR (160u << 10)
#define FASTLOAD_REQ_BYTES_MAX (512u << 10)
#define FASTLOAD_REQ_SHARE 16
/*
 * For so long after a fault the guest counts as faulting, and then for so long
 * as one that may fault soon.
 */
#define FASTLOAD_FAULT_QUIET_NS (5 * 1000 * 1000ull)
#define FASTLOAD_FAULT_CALM_NS (20 * 1000 * 1000ull)
/* What the background may then add to the time that a read waits. */
#define FASTLOAD_QUIET_QUEUE_NS (200 * 1000ull)
#define FASTLOAD_CALM_QUEUE_NS (400 * 1000ull)
/*
 * A background rate is kept by a token bucket that holds what is due in
 * FASTLOAD_RATE_BURST_NS, more than a worker ever sleeps too long; one
 * request takes at most half of it, and not less than a sensible read.
 */
#define FASTLOAD_RATE_BURST_NS (20 * 1000 * 1000ull)
/*
 * What was read in advance of the rate, of storage that fails, is paid for by
 * no longer a pause than this, or than a chunk needs: an outage may be long.
 */
#define FASTLOAD_RATE_DEBT_NS (1000 * 1000 * 1000ull)

#define FASTLOAD_BITS 64
#define FASTLOAD_BIT_WORDS(n) (((n) + FASTLOAD_BITS - 1) / FASTLOAD_BITS)

static inline bool fastload_bit_test(const uint64_t *bits, uint64_t idx)
{
    return __atomic_load_n(&bits[idx / FASTLOAD_BITS], __ATOMIC_ACQUIRE) >>
           (idx % FASTLOAD_BITS) & 1;
}

/* Returns what the bit was. Pairs with fastload_bit_test()'s acquire. */
static inline bool fastload_bit_test_and_set(uint64_t *bits, uint64_t idx)
{
    uint64_t mask = 1ull << (idx % FASTLOAD_BITS);

    return __atomic_fetch_or(&bits[idx / FASTLOAD_BITS], mask,
                             __ATOMIC_ACQ_REL) & mask;
}

/* Returns what the bit was. */
static inline bool fastload_bit_test_and_clear(uint64_t *bits, uint64_t idx)
{
    uint64_t mask = 1ull << (idx % FASTLOAD_BITS);

    return __atomic_fetch_and(&bits[idx / FASTLOAD_BITS], ~mask,
                              __ATOMIC_ACQ_REL) & mask;
}

static inline void fastload_bit_clear(uint64_t *bits, uint64_t idx)
{
    fastload_bit_test_and_clear(bits, idx);
}

/* ---- plan: regions and bitmaps to chunks, extents, spans (pure) ---- */

typedef enum FastloadChunkState {
    FASTLOAD_CHUNK_UNTRAPPED, /* zero in the snapshot, never registered */
    FASTLOAD_CHUNK_PENDING,
    FASTLOAD_CHUNK_TAKEN,     /* a worker has it */
    FASTLOAD_CHUNK_FAILED,    /* a read failed; taken again after back-off */
    FASTLOAD_CHUNK_DONE,      /* every page of it is placed */
} FastloadChunkState;

/* A stretch of a region. */
typedef struct FastloadSpan {
    uint64_t ram_off;
    uint64_t len_bytes;
} FastloadSpan;

typedef struct FastloadArea {
    /* constant after start */
    uint32_t idx;          /* in turn to be read */
    char *label;
    uint8_t *hva;
    uint64_t len_bytes;
    uint64_t file_off;
    uint32_t page_bytes;
    uint32_t page_shift;
    uint32_t granule_bytes;
    uint32_t granule_shift;
    uint64_t page_count;
    uint64_t chunk_count;
    uint32_t first_chunk_no; /* chunks of all areas are numbered in turn */
    uint64_t head_bytes;   /* from the chunk grid (of hva) to the region */
    uint64_t *data_bits;
    uint64_t zero_bytes;
    bool is_eager;
    bool is_early;
    bool is_off_grid;
    bool wants_huge;
    bool wants_populated;
    GArray *spans;         /* of FastloadSpan: what is registered */
    bool is_trapped;
    bool has_zeropage;     /* the kernel can place zeros here, and may */
    bool has_move;         /* dense chunks are moved, if the kernel agrees */
    /* held, for reading, while something is copied or zeroed */
    GRWLock place_lock;
    /* lock sched.lock; before the threads begin and after COMPLETED: none */
    uint8_t *chunk_states; /* FastloadChunkState */
    /* atomic; the pointers are constant after start */
    uint32_t is_dropped;   /* its memory is not ours any more; owner writes */
    uint64_t *claimed;     /* an urgent read is in flight for the page */
    uint64_t *placed;
    uint64_t *moved;       /* by chunk: placed as one, a huge page */
    uint64_t *touched;     /* NULL: nothing is recorded */
    /* Of the working set that is replayed; NULL: there is none here */
    uint64_t *in_set;      /* not touched yet */
    uint64_t *unread;      /* and nothing is asked of it yet */
    uint64_t *whole;       /* constant after start; by chunk: read as one */
} FastloadArea;

FastloadArea *fastload_plan_area_new(const FastloadRegion *region);
void fastload_plan_area_free(FastloadArea *area);
/* Is any byte of the page in the file? */
bool fastload_plan_page_has_data(const FastloadArea *area, uint64_t page_idx);
uint64_t fastload_plan_chunk_of(const FastloadArea *area, uint64_t ram_off);
/* How much of @span the file has. */
uint64_t fastload_plan_data_bytes(const FastloadArea *area, FastloadSpan span);
/* The part of chunk_idx that lies in the region. */
FastloadSpan fastload_plan_chunk_span(const FastloadArea *area,
                                      uint64_t chunk_idx);
/*
 * What to read for @span: stretches with data, those pages left out that are
 * placed already, small holes read over.  Writes at most
 * FASTLOAD_EXTENT_COUNT_MAX; @span is at most a chunk.
 */
uint32_t fastload_plan_extents(const FastloadArea *area, FastloadSpan span,
                               FastloadSpan *ret_extents);
typedef enum FastloadRunKind {
    FASTLOAD_RUN_PLACED,
    FASTLOAD_RUN_ZERO,
    FASTLOAD_RUN_DATA,
} FastloadRunKind;

/* The run of pages of one kind at @ram_off, no further than @end_off. */
FastloadRunKind fastload_plan_run(const FastloadArea *area, uint64_t ram_off,
                                  uint64_t end_off, uint64_t *ret_len_bytes);
/*
 * Decides which zero chunks stay unregistered, longest runs first, so that
 * all areas together have at most @span_count_max spans more than areas.  May
 * be called again until the load runs: nothing is left of the plan before.
 */
void fastload_plan_spans(GPtrArray *areas, uint32_t span_count_max);

/* ---- reads ---- */

typedef struct FastloadRead FastloadRead;

/* One contiguous request of a read; what the backends see. */
typedef struct FastloadIoReq {
    uint8_t *buf;
    uint64_t file_off;
    uint32_t len_bytes;
    uint32_t done_bytes;
    int32_t error;        /* 0 or -errno, set on completion */
    uint32_t tries;       /* the worker's */
    uint32_t again_count; /* EINTR and EAGAIN so far; the backend's */
    bool is_urgent;
    bool is_direct;       /* by direct_fd */
    bool is_queued;       /* with the backend */
    uint64_t begin_ns;    /* background: when it was queued first */
    FastloadRead *read;
    struct FastloadIoReq *next; /* in whatever list the holder keeps */
} FastloadIoReq;

typedef struct FastloadFault {
    FastloadArea *area;
    uint64_t page_idx;
    uint64_t begin_ns;
    uint64_t not_before_ns; /* 0, or when to try again after a failure */
    bool is_discarded;      /* placed once and given back: zeros are missing */
    bool is_alone;          /* a read with neighbours failed: without, then */
} FastloadFault;

/* What each means, and who moves it: util/fastload-read.c */
typedef enum FastloadReadState {
    FASTLOAD_READ_FRESH,     /* nothing is asked of it */
    FASTLOAD_READ_ISSUING,   /* planned, not all requests are issued yet */
    FASTLOAD_READ_IN_FLIGHT, /* none is issued any more, some are out */
    FASTLOAD_READ_READY,     /* all read, or failed: to be placed */
    FASTLOAD_READ_PLACING,   /* a worker places it */
    FASTLOAD_READ_SPENT,     /* its staging needs a new huge page */
    FASTLOAD_READ_STATE_MAX,
} FastloadReadState;

struct FastloadRead {
    FastloadReadState state;
    FastloadArea *area;
    FastloadClass class;
    FastloadSpan span;
    uint64_t placed_bytes;  /* of the span, in order */
    uint64_t moved_bytes;   /* of those, gone from buf */
    uint8_t *buf;           /* buf[0] is the span's first byte */
    FastloadSpan *extents;  /* what to read, the rest of it not issued yet */
    uint32_t extent_idx;    /* the first with a rest */
    uint32_t extent_count;
    uint32_t inflight_count; /* of its requests */
    int32_t error;          /* the first one's, once its tries are used up */
    FastloadFailureKind error_kind;
    uint64_t error_file_off;
    uint32_t file_generation; /* which file it was read from */
    bool is_replaced;       /* and that is not the one any more: read again */
    uint64_t begin_ns;      /* urgent: when the fault message was read */
    bool is_pooled;         /* constant: of the pool, for chunks */
    FastloadFault fault;    /* urgent: what it answers, under sched.lock;
                               no area: nothing */
    uint64_t around_claims; /* urgent: what it claims, a bit a page of span */
    uint32_t merge_count;   /* urgent: sched.merge_count when it claimed */
    bool is_retried;        /* counted in failing_count */
    bool is_probe;          /* tells whether reads still fail; not rated */
    bool is_direct;         /* around the page cache, unless that fails */
    bool is_cached;         /* it is there: tells nothing of the storage */
    bool wants_move;        /* to be moved, if nothing comes between */
    bool is_spare;          /* buf is the spare of what was lost */
    FastloadRead *next;     /* in whatever list the holder keeps */
};

/* ---- I/O backends ---- */

typedef struct FastloadIo FastloadIo;

typedef enum FastloadIoWatch {
    FASTLOAD_IO_WATCH_FAULTS, /* the userfaultfd */
    FASTLOAD_IO_WATCH_KICKS,  /* the worker's eventfd */
    FASTLOAD_IO_WATCH_MAX,
} FastloadIoWatch;

typedef struct FastloadIoSetup {
    int fd;                  /* the snapshot */
    int direct_fd;           /* the same, with O_DIRECT; or -1 */
    int watch_fds[FASTLOAD_IO_WATCH_MAX];
    /*
     * The worker's, as many: poll() sets what may be readable.  NULL, in
     * tests: nobody wants to know.
     */
    bool *is_ready;
    uint8_t *staging;        /* the first fixed_bytes are worth registering */
    size_t fixed_bytes;
    uint32_t req_count_max;  /* queued or in flight at any time */
} FastloadIoSetup;

/*
 * A backend serves one worker, on that worker's thread only.
 *
 * open:  returns NULL when it cannot work here, and then @ret_refusal is a
 *        static sentence, without a full stop, that says what it lacks.  On a
 *        thread that is new: with hardly any mapping left it has no memory at
 *        all, so nothing is allocated but what may fail.
 * queue: takes @req until reap() returns it; never fails, an error becomes
 *        the request's.
 * poll:  starts what was queued and lets completions come in.  Returns at
 *        once when @timeout_ns is 0, else when a request has completed, a
 *        watched descriptor became readable or the time is over (-1: never).
 *        May return early.  The userfaultfd is watched while @serves_faults,
 *        and may be until it is next readable.  A backend that @tells_ready
 *        sets is_ready of each watch that was found readable since it was set
 *        last, or that it has not looked at; what is readable and minded when
 *        poll() would sleep is told again, read from meanwhile or not.  The
 *        descriptors of other backends are read from in each turn.
 *        False: it does not work any
 *        more; requests that reap() does not return will not complete, but
 *        what they are to read may still come.
 * reap:  a completed request, or NULL: done_bytes == len_bytes and error 0,
 *        or error -errno (-ENODATA: end of file).  Short reads and EINTR
 *        are resumed by the backend.
 * reopen: the descriptors of @setup refer to another file now, which requests
 *        queued from here on are read from; NULL where that is no matter.
 * close: requests that are outstanding will not complete any more; what they
 *        are to read may still come.
 */
typedef struct FastloadIoOps {
    const char *name;
    bool is_blocking; /* poll() reads: the worker is busy for that long */
    bool tells_ready; /* which watched descriptors are worth a read */
    FastloadIo *(*open)(const FastloadIoSetup *setup,
                        const char **ret_refusal);
    void (*queue)(FastloadIo *io, FastloadIoReq *req);
    bool (*poll)(FastloadIo *io, int64_t timeout_ns, bool serves_faults);
    FastloadIoReq *(*reap)(FastloadIo *io);
    void (*reopen)(FastloadIo *io);
    void (*close)(FastloadIo *io);
} FastloadIoOps;

extern const FastloadIoOps fastload_io_uring_ops;
extern const FastloadIoOps fastload_io_sync_ops;

/* Reads with preadv() what is not done of @req, which no backend has. */
void fastload_io_sync_read(int fd, FastloadIoReq *req);

/* ---- statistics ---- */

/* Log2 buckets of nanoseconds, each in 4 equal parts: within 12 %. */
#define FASTLOAD_HIST_SUB_BITS 2
#define FASTLOAD_HIST_COUNT (64 << FASTLOAD_HIST_SUB_BITS)

typedef struct FastloadCounters {
    /* worker thread only writes; anybody reads, relaxed */
    uint64_t loaded_bytes[FASTLOAD_CLASS_MAX];
    uint64_t read_bytes;
    uint64_t moved_bytes;
    uint64_t collapsed_bytes;
    uint64_t hint_count;
    uint64_t late_count;    /* pages of the set that were touched before */
    uint64_t fault_count;
    uint64_t retry_count;
    uint64_t io_error_count;
    uint64_t fault_max_ns;
    uint64_t hist[FASTLOAD_HIST_COUNT];
} FastloadCounters;

uint64_t fastload_stats_now_ns(void);
void fastload_stats_add(uint64_t *counter, uint64_t n);
void fastload_stats_fault_done(FastloadCounters *c, uint64_t latency_ns);
uint32_t fastload_stats_bucket(uint64_t ns);
uint64_t fastload_stats_bucket_floor_ns(uint32_t bucket);
uint64_t fastload_stats_percentile_ns(const uint64_t *hist, uint32_t permille,
                                      uint64_t max_ns);
void fastload_stats_sum(const FastloadCounters *c, FastloadCounters *sum);

/* ---- session and workers ---- */

/* What lies before the stream: util/fastload-file.c */
typedef struct FastloadPrefix FastloadPrefix;

typedef enum FastloadState {
    FASTLOAD_STATE_NEW,
    FASTLOAD_STATE_RUNNING,
    FASTLOAD_STATE_STALLED,
    FASTLOAD_STATE_DRAINED,   /* all placed, or cancelled: workers end */
    FASTLOAD_STATE_COMPLETED, /* the last worker mends huge pages */
    FASTLOAD_STATE_SETTLED,
    FASTLOAD_STATE_CANCELLED,
    FASTLOAD_STATE_MAX,
} FastloadState;

/*
 * What follows from what was read, placed or failed.  The files that find out
 * do not call the session: it would call them in turn, under their locks
 * perhaps.  They return it or note it with the worker, which acts on it.
 */
typedef enum FastloadOutcome {
    FASTLOAD_OUTCOME_NONE = 0,
    FASTLOAD_OUTCOME_STALLED = 1 << 0, /* reads have failed for long */
    FASTLOAD_OUTCOME_RESUMED = 1 << 1, /* something that failed was read */
    FASTLOAD_OUTCOME_DRAINED = 1 << 2, /* nothing is missing any more */
    FASTLOAD_OUTCOME_DELAYED = 1 << 3, /* a fault will be due again */
} FastloadOutcome;

typedef struct FastloadWorker {
    /* constant after start */
    Fastload *fl;
    uint32_t idx;
    int kick_fd;
    uint8_t *staging;            /* for its own reads; then a spare of it */
    size_t page_staging_bytes;   /* of single pages, at its begin */
    size_t urgent_staging_bytes; /* of urgent reads; hints come behind it */
    size_t staging_bytes;        /* without the spare */
    /* Urgent, then hints; these three: one allocation each */
    FastloadRead *reads;
    FastloadIoReq *reqs;
    FastloadSpan *extents;
    /* owner only */
    GThread *thread;             /* NULL: joined, or there was none */
    /* atomic: this worker writes, any reads; relaxed */
    const FastloadIoOps *io_ops;
    FastloadCounters counters;
    /* worker thread only */
    FastloadIo *io;
    const char *io_refusal;      /* why not what it was to read with; or NULL */
    bool is_io_broken;           /* poll() said so */
    bool is_ready[FASTLOAD_IO_WATCH_MAX]; /* may be readable */
    uint32_t unguessed_count;    /* see worker_guess_fault() */
    bool is_guessing;
    FastloadIoReq *free_reqs;
    FastloadRead *free_urgent;
    FastloadRead *free_hints;
    FastloadRead *ready_hints;   /* in the order in which they came back */
    FastloadRead *last_ready_hint; /* of these, where there are any */
    FastloadRead *issuing;       /* not urgent, with extents to issue */
    FastloadRead *placing;       /* background read, placed in part */
    uint64_t ahead_bytes;        /* of requests in flight that read ahead */
    uint32_t ahead_count;
    uint32_t inflight_count;     /* all requests in flight, urgent ones too */
    uint64_t reaped_ns;          /* when requests were last seen to be back */
    bool is_window_full;         /* the window stopped it from reading ahead */
    bool has_abandoned_reads;    /* set as it ends; settle() looks after that */
    uint32_t file_generation;    /* the file that the backend knows */
    uint32_t outcomes;           /* FastloadOutcome, not acted on yet */
    /* atomic */
    uint32_t may_sleep;          /* in poll(), or about to be: needs a kick */
    uint64_t awake_ns;           /* since when it has not looked; 0: asleep */
} FastloadWorker;

/* The snapshot: util/fastload-file.c */
typedef struct FastloadFile {
    /* constant after start: the numbers, not what they refer to */
    int fd;                      /* fastload_recover() may have both refer to */
    int direct_fd;               /* another copy; O_DIRECT, or -1 */
    bool is_direct;              /* fd has O_DIRECT itself */
    bool is_marked;              /* direct_fd has the lock that others see */
    uint64_t prefix_wait_ns;     /* FASTLOAD_PREFIX_WAIT_NS, but in tests */
    uint64_t prefix_settle_ns;   /* FASTLOAD_PREFIX_SETTLE_NS, the same */
    /* lock prefix_lock */
    GMutex prefix_lock;
    FastloadPrefix *prefix;      /* NULL: there is none, or it is not known */
    /* atomic */
    uint32_t is_cached;          /* relaxed: reading is a copy; a hint */
    uint32_t generation;         /* two for each replacement; odd: in it */
    uint32_t is_direct_lost;     /* direct_fd is not of the file any more */
    uint32_t is_watched;         /* it is a regular file, and was: */
    uint64_t len_bytes;
    uint64_t mtime_ns;
    uint64_t prefix_due_ns;      /* to be read again; UINT64_MAX: never */
    uint32_t may_mtime_move;     /* by itself, as far as can be told */
    uint32_t has_mtime_moved;    /* relaxed: and it has */
    uint32_t changed_generation; /* generation + 1 of the last; 0: none */
} FastloadFile;

/* Staging of chunks: util/fastload-pool.c */
typedef struct FastloadPool {
    /* constant from start until the last worker ends, which gives all back */
    uint32_t read_count;
    uint8_t *map;                /* on the chunk grid */
    size_t map_bytes;
    size_t spare_bytes;          /* from a chunk's staging to its spare */
    FastloadRead *reads;
    FastloadSpan *extents;
    /* lock lock */
    GMutex lock;
    /* Those that no worker holds: FRESH, READY, SPENT; by state */
    FastloadRead *lists[FASTLOAD_READ_STATE_MAX];
    uint32_t renewed_count;      /* not in the list of SPENT */
    uint32_t ready_count;        /* in the list of READY */
    /* atomic */
    uint32_t is_lost;            /* the kernel may write to it */
} FastloadPool;

/* What to read next: util/fastload-sched.c; lock sched.lock */
typedef struct FastloadSched {
    GMutex lock;
    FastloadFault faults[FASTLOAD_FAULT_COUNT_MAX];
    uint32_t fault_head;
    uint32_t fault_count;
    uint32_t next_area;          /* background cursor */
    uint64_t next_chunk;
    /* atomic */
    uint32_t merge_count;        /* faults that a read in flight may answer */
    /* atomic, relaxed: hints */
    uint64_t last_fault_ns;      /* does the guest fault? */
    uint32_t are_faults_shared;  /* the first worker is swamped */
} FastloadSched;

/*
 * What failed, and when it is tried again: util/fastload-retry.c; lock
 * sched.lock
 */
typedef struct FastloadRetry {
    /* constant after start */
    uint32_t *next_chunk_nos;    /* by number: the queue of failed chunks */
    /* lock sched.lock */
    uint32_t first_chunk_no;     /* in that queue, if there are any */
    uint32_t last_chunk_no;
    uint64_t failing_count;      /* pages and chunks waiting for a retry */
    FastloadFailure failure;     /* the last of those */
    bool is_failure_known;       /* it came after the last recovery */
    bool is_file_changed;        /* it says so, and nothing was read since */
    uint32_t failed_round_count; /* since something failing was read */
    uint64_t failed_at_ns;       /* when the first of these rounds failed */
    uint64_t failed_chunk_count;
    uint64_t due_ns;             /* for failed chunks */
    bool wants_probe;            /* nothing that failed was read since */
    bool is_probe_out;           /* a chunk is tried in advance of the rate */
    uint64_t backoff_ns;
} FastloadRetry;

/* The background's limit, a token bucket: util/fastload-rate.c; the same */
typedef struct FastloadRate {
    uint64_t bytes_per_s;        /* 0: no limit; FASTLOAD_BACKGROUND_OFF */
    double tokens;               /* bytes; below 0: taken in advance */
    uint64_t at_ns;              /* when the tokens were counted last */
} FastloadRate;

/* First touches: util/fastload-record.c */
typedef struct FastloadRecord {
    /* constant after start */
    char *path;                  /* NULL: nothing is recorded */
    uint64_t quiet_ns;
    uint64_t least_ns;
    uint64_t most_ns;
    bool awaits_guest;
    FastloadWorksetFunc *func;
    void *opaque;
    uint64_t snapshot_digest;
    uint64_t *touches;           /* FASTLOAD_TOUCH_COUNT_MAX; atomic */
    uint64_t begin_ns;
    /* owner, then the last worker */
    GThread *writer;
    /* lock lock */
    GMutex lock;
    GCond cond;
    FastloadWorksetState state;  /* NONE to FAILED */
    uint64_t took_ns;
    uint64_t page_count;         /* of what is written */
    uint32_t run_count;
    /* atomic */
    uint32_t is_on;              /* touches are noted, the background waits */
    uint64_t touch_count;        /* or more, when it is full */
    uint64_t touched_bytes;      /* relaxed */
    uint64_t last_ns;            /* relaxed: of the last new page; 0: none */
    uint64_t guest_ns;           /* when the guest began to run; 0: not yet */
} FastloadRecord;

/* What to read before the background: util/fastload-hints.c */
typedef struct FastloadHints {
    /* constant after start */
    FastloadWorkset *set;        /* NULL: nothing is replayed */
    FastloadArea **areas;        /* by block of the set; borrowed */
    uint64_t calm_ns;            /* until then the guest counts as faulting */
    /* lock sched.lock */
    uint32_t next_run;           /* nothing before is unread, */
    uint64_t next_page;          /* nor of its pages so many */
    uint32_t out_count;          /* reads that are not placed yet */
    /* atomic: no read will be taken; and all are placed, or given up */
    uint32_t is_over;
    uint32_t is_placed;
} FastloadHints;

/* What the next read of the working set is. */
typedef enum FastloadHintKind {
    FASTLOAD_HINT_NONE,          /* there is none, for now at least */
    FASTLOAD_HINT_PAGES,
    FASTLOAD_HINT_CHUNK,
} FastloadHintKind;

/* What the window's width is for; the diagram is in util/fastload-window.c */
typedef enum FastloadWindowPhase {
    FASTLOAD_WINDOW_START,
    FASTLOAD_WINDOW_DRAIN,
    FASTLOAD_WINDOW_CRUISE,
    FASTLOAD_WINDOW_PHASE_MAX,
} FastloadWindowPhase;

/* How much is in flight: util/fastload-window.c */
typedef struct FastloadWindow {
    /* lock lock */
    GMutex lock;
    uint32_t inflight_count;     /* background reads */
    uint64_t end_ns;             /* when the last of them came back */
    uint64_t delivered_bytes;    /* so far */
    uint64_t group_ns[FASTLOAD_WINDOW_GROUP];
    uint32_t group_count;
    uint64_t rtt_ns;             /* 0: not known yet */
    uint64_t rtt_least_ns[2];    /* of this epoch and the one before */
    uint64_t late_ns;            /* from when a read is back until it is seen */
    double rate;                 /* bytes a second; 0: not known yet */
    double rate_most[2];         /* the same */
    double rate_before;          /* when it last grew, at the start */
    uint32_t flat_round_count;   /* rounds since */
    uint64_t round_ns;           /* when this round began */
    uint64_t round_bytes;        /* delivered by then */
    uint64_t round_count;
    uint64_t epoch_ns;           /* when this epoch began */
    uint64_t epoch_round;
    uint64_t drain_round;        /* from then on the queue counts as empty */
    /* atomic, relaxed: what follows from it */
    uint64_t begin_ns;           /* of the first read */
    uint64_t first_ns;           /* when the first was back; 0: none is */
    uint64_t bytes;
    uint64_t late_bytes;         /* so many more, since reads are seen late */
    FastloadWindowPhase phase;   /* written under the lock */
    uint64_t round_trip_ns;
    uint64_t rate_bytes_per_s;
} FastloadWindow;

struct Fastload {
    /* constant from start until the last worker ends, under state_lock */
    int uffd;                    /* -1: nothing is registered */

    /* constant after start */
    FastloadConfig config;
    const FastloadIoOps *io_ops;
    GPtrArray *areas;            /* of FastloadArea, in turn to be read */
    GPtrArray *areas_by_hva;     /* the trapped ones, borrowed */
    FastloadWorker *workers;
    uint8_t *zeros;              /* what UFFDIO_ZEROPAGE does not place */
    size_t zeros_bytes;
    uint32_t active_count;       /* workers that read ahead and place */
    uint32_t urgent_read_count;  /* for each worker */
    uint32_t hint_read_count;    /* the same; 0: nothing is replayed */
    uint32_t urgent_bytes;       /* staging for one urgent read */
    bool has_move;               /* of the userfaultfd, then of any area */
    uint64_t start_ns;

    /* each with what locks it */
    FastloadFile file;
    FastloadPool pool;
    FastloadSched sched;
    FastloadRetry retry;
    FastloadRate rate;
    FastloadWindow window;
    FastloadRecord record;
    FastloadHints hints;

    /* lock state_lock */
    GMutex state_lock;
    GCond state_cond;
    FastloadState state;
    const char *io_name;
    const char *io_fallback;
    bool is_cancelled;
    uint32_t ready_count;        /* workers that opened their backend */
    uint32_t live_count;         /* worker threads not yet ended */
    bool has_open_failed;        /* of a worker's backend */
    uint64_t complete_ns;

    /* lock event_lock: one event callback at a time, in order */
    GMutex event_lock;

    /* atomic */
    uint64_t total_bytes;        /* of all areas, not of data dropped */
    uint64_t zero_bytes;         /* of those, in pages without data */
    uint64_t eager_bytes;        /* data loaded by start */
    uint64_t eager_read_bytes;   /* read for it */
    uint64_t missing_bytes;      /* trapped and not placed */
    uint32_t is_ending;          /* workers leave their loops */
    uint32_t is_unwanted;        /* cancelled, though it may be complete */
};

/* session: util/fastload.c */
void fastload_set_io_ops(Fastload *fl, const FastloadIoOps *ops);
/* A thread that no signal is delivered to; NULL and @error when refused. */
GThread *fastload_session_thread(const char *name, GThreadFunc main_func,
                                 void *opaque, GError **error);
void fastload_session_kick(FastloadWorker *w);
void fastload_session_kick_all(Fastload *fl, const FastloadWorker *except);
void fastload_session_worker_ready(FastloadWorker *w);
void fastload_session_worker_ended(FastloadWorker *w);
void fastload_session_drained(Fastload *fl);
void fastload_session_stalled(Fastload *fl);
void fastload_session_resumed(Fastload *fl);

/* A worker reads in another way than it began with. */
void fastload_session_io_changed(FastloadWorker *w);

/* The backend of a worker, seen from any. */
static inline bool fastload_worker_is_blocking(const FastloadWorker *w)
{
    return __atomic_load_n(&w->io_ops, __ATOMIC_RELAXED)->is_blocking;
}

static inline bool fastload_session_is_ending(Fastload *fl)
{
    /* pairs with the release in session_end_locked() */
    return __atomic_load_n(&fl->is_ending, __ATOMIC_ACQUIRE);
}

/* scheduler: what to do next; takes sched.lock itself, does no I/O */
/* The areas are in turn; called by start, no threads yet. */
void fastload_sched_prepare(Fastload *fl);
bool fastload_sched_push_fault(Fastload *fl, const FastloadFault *fault);
/* The fault is @read's from then on: it is never seen to be nowhere. */
bool fastload_sched_pop_fault(Fastload *fl, uint64_t now_ns,
                              FastloadRead *read, FastloadFault *ret_fault);
/* Since when somebody has been waiting for a page; 0: nobody is. */
uint64_t fastload_sched_oldest_fault_ns(Fastload *fl);
uint32_t fastload_sched_fault_room(Fastload *fl);
/* Is there a fault to pop now? */
bool fastload_sched_fault_is_due(Fastload *fl, uint64_t now_ns);
/* Reads have failed for so long that it counts as stalled. */
bool fastload_sched_is_stalled(Fastload *fl, FastloadFailure *ret_failure);
/* Zeros could not be placed: the fault comes back after back-off. */
FastloadOutcome fastload_sched_zero_failed(Fastload *fl,
                                           const FastloadFault *fault,
                                           int error_number,
                                           uint64_t now_ns);
/* A popped fault needs no read: somebody else placed or claimed the page. */
FastloadOutcome fastload_sched_fault_settled(Fastload *fl,
                                             FastloadRead *read);
/* From when on the guest no longer counts as faulting, if it does not fault */
uint64_t fastload_sched_quiet_ns(Fastload *fl);
/* How much longer reads may wait for the background's, as the guest is now. */
uint64_t fastload_sched_queue_ns(Fastload *fl, uint64_t now_ns);
/* What fastload_sched_next_hint() or _next_chunk() give next, if a hint. */
FastloadHintKind fastload_sched_hint_kind(Fastload *fl, uint64_t now_ns);
/*
 * Says of @read which area and span.  False: the next hint is none of pages.
 * @gap_bytes: how long holes between its pages may be
 */
bool fastload_sched_next_hint(Fastload *fl, uint64_t now_ns,
                              uint64_t gap_bytes, FastloadRead *read);
/* It is placed, or failed: then the background brings its pages. */
void fastload_sched_hint_done(Fastload *fl, const FastloadRead *read);
/* Says of @read which area and class, whether it is retried, and a probe. */
bool fastload_sched_next_chunk(Fastload *fl, uint64_t now_ns,
                               FastloadRead *read,
                               uint64_t *ret_chunk_idx);
/* How many of @want_bytes @read may have now; they are taken. */
uint32_t fastload_sched_rate_take(Fastload *fl, uint64_t now_ns,
                                  const FastloadRead *read,
                                  uint32_t want_bytes);
/* A background read is repeated: it waits for nobody, others wait for it. */
void fastload_sched_rate_charge(Fastload *fl, uint32_t read_bytes);
void fastload_sched_rate_set(Fastload *fl, uint64_t now_ns,
                             uint64_t bytes_per_s);
/* What waits for its retry is due now; back-off begins anew. */
void fastload_sched_retry_now(Fastload *fl);
/* When fastload_sched_rate_take() gives something; UINT64_MAX: not by itself */
uint64_t fastload_sched_rate_due_ns(Fastload *fl);
/* When there is something to take, as far as it is known: UINT64_MAX: never. */
uint64_t fastload_sched_next_due_ns(Fastload *fl, bool takes_faults,
                                    bool takes_chunks);
FastloadOutcome fastload_sched_read_done(Fastload *fl, FastloadRead *read,
                                         uint64_t now_ns);

/* failures: util/fastload-retry.c */
/* There are so many chunks, numbered from 0 on; no threads yet. */
void fastload_retry_prepare(FastloadRetry *retry, uint64_t chunk_count);
void fastload_retry_clear(FastloadRetry *retry);
/* The queue of failed chunks: each takes its turn, at once at any size. */
void fastload_retry_push_chunk_locked(FastloadRetry *retry, uint32_t chunk_no);
/* False: none has failed. */
bool fastload_retry_pop_chunk_locked(FastloadRetry *retry,
                                     uint32_t *ret_chunk_no);
/* Something that failed was read: it does not fail any more. */
void fastload_retry_read_again_locked(FastloadRetry *retry);
/* All that failed is due now; back-off begins anew. */
void fastload_retry_now_locked(FastloadRetry *retry);
void fastload_retry_failed_locked(FastloadRetry *retry, uint64_t now_ns,
                                  const FastloadFailure *failure);
/*
 * One thing less waits for its retry.  Returns whether reads have recovered:
 * it @was_read, or nothing fails any more.
 */
bool fastload_retry_ended_locked(FastloadRetry *retry, bool was_read);
/* Has it failed often enough to ask fastload_retry_is_stalled_locked()? */
bool fastload_retry_may_stall_locked(const FastloadRetry *retry);
/* @fault_begin_ns: since when somebody waits; UINT64_MAX: nobody does */
bool fastload_retry_is_stalled_locked(const FastloadRetry *retry,
                                      uint64_t now_ns,
                                      uint64_t fault_begin_ns);
/*
 * When a failed chunk is tried in advance of the rate: whether reads still
 * fail must not depend on it.  UINT64_MAX: never.
 */
uint64_t fastload_retry_probe_due_ns_locked(const FastloadRetry *retry);
/* When chunks are due that did not fail: none of a changed file is better. */
uint64_t fastload_retry_pending_due_ns_locked(const FastloadRetry *retry);

/* first touches: util/fastload-record.c; all but _start() take no lock */
void fastload_record_init(FastloadRecord *record);
void fastload_record_clear(FastloadRecord *record);
/*
 * Recording begins, if it was asked for; all workers wait to begin.
 * @thread_of makes the thread that writes; without it the recording has
 * failed.
 */
typedef GThread *FastloadThreadFunc(const char *name, GThreadFunc main_func,
                                    void *opaque, GError **error);
void fastload_record_start(Fastload *fl, FastloadThreadFunc *thread_of);
static inline bool fastload_record_is_on(const Fastload *fl)
{
    return __atomic_load_n(&fl->record.is_on, __ATOMIC_RELAXED);
}
/* A fault of this page was told; it is on. */
void fastload_record_touch(Fastload *fl, FastloadArea *area,
                           uint64_t page_idx, uint64_t now_ns);
/* When the recording ends if no page is touched until then; 0: it is not on. */
uint64_t fastload_record_due_ns(const FastloadRecord *record);
/* It is over, if it is on; its writer begins.  Returns whether it was on. */
bool fastload_record_end(Fastload *fl, uint64_t now_ns);
/* It is over and written; its thread has ended.  Takes the record's lock. */
void fastload_record_finish(Fastload *fl);
/* Takes the record's lock. */
void fastload_record_stats(Fastload *fl, FastloadWorksetStats *ret_stats);

/* the working set: util/fastload-hints.c; sched.lock, where it says _locked */
/*
 * From now on @set is replayed, which belongs to @fl then; the areas are all
 * there.  False: it has a block that the snapshot does not have.
 */
bool fastload_hints_use(Fastload *fl, FastloadWorkset *set);
/* Which pages these are; called by start, areas are planned and armed. */
void fastload_hints_prepare(Fastload *fl);
void fastload_hints_clear(FastloadHints *hints);
/* A fault of this page was told: it is late, and read already. */
void fastload_hints_touch(FastloadWorker *w, FastloadArea *area,
                          uint64_t page_idx);
/* Goes on to the next that is to be read: where it is, if there is one. */
FastloadHintKind fastload_hints_find_locked(Fastload *fl,
                                            FastloadArea **ret_area,
                                            uint64_t *ret_page_idx);
/* Nothing of the chunk is left to be asked for. */
void fastload_hints_take_chunk_locked(Fastload *fl, FastloadArea *area,
                                      uint64_t chunk_idx);
/* The same of pages around this one, which are returned. */
FastloadSpan fastload_hints_take_pages_locked(Fastload *fl,
                                              FastloadArea *area,
                                              uint64_t page_idx,
                                              uint64_t gap_bytes);
/* A read that was taken is placed, or given up. */
void fastload_hints_done_locked(Fastload *fl);
void fastload_hints_stats(const Fastload *fl, FastloadWorksetStats *ret_stats);

/* the background's limit: util/fastload-rate.c */
void fastload_rate_set_locked(FastloadRate *rate, uint64_t now_ns,
                              uint64_t bytes_per_s);
bool fastload_rate_is_off_locked(const FastloadRate *rate);
/* Adds what came in until @now_ns. */
void fastload_rate_count_locked(FastloadRate *rate, uint64_t now_ns);
/* When something may be taken: 0: now; UINT64_MAX: not by itself. */
uint64_t fastload_rate_due_ns_locked(const FastloadRate *rate);
/* How many of @want_bytes may be read; something is due. */
uint32_t fastload_rate_take_locked(FastloadRate *rate, uint32_t want_bytes);
/* These are read whatever is due. */
void fastload_rate_charge_locked(FastloadRate *rate, uint32_t read_bytes);

/* how much is read ahead at once: util/fastload-window.c */
void fastload_window_init(FastloadWindow *w);
void fastload_window_clear(FastloadWindow *w);
/* A background read goes out; it remembers what was measured by then. */
void fastload_window_begin(FastloadWindow *w, FastloadIoReq *req,
                           uint64_t now_ns);
/*
 * It has come back, or failed.  @is_sample: it came from the storage, and
 * nobody was busy with something else when it did.
 */
void fastload_window_end(FastloadWindow *w, const FastloadIoReq *req,
                         uint64_t now_ns, bool is_sample);
/*
 * A reader that had begun all it might has looked, and some reads were back;
 * @is_dry: all that it had begun.
 */
void fastload_window_seen(FastloadWindow *w, bool is_dry);
/*
 * How many bytes all workers together may have in flight, when an urgent read
 * may wait @queue_ns longer for them than it has to.
 */
uint64_t fastload_window_bytes(const FastloadWindow *w, uint64_t now_ns,
                               uint64_t queue_ns);
/* When it is wider by itself, though nothing comes in; UINT64_MAX: never. */
uint64_t fastload_window_grows_ns(const FastloadWindow *w, uint64_t now_ns);
/* How long a hole in a read of the working set may be. */
uint64_t fastload_window_gap_bytes(const FastloadWindow *w, uint64_t now_ns);
/* How much an urgent read may be long, as far away as the storage is; or 0. */
uint32_t fastload_window_around_bytes(const FastloadWindow *w);
/* 0: not known yet. */
uint64_t fastload_window_round_trip_ns(const FastloadWindow *w);
/* Bytes a second; 0: not known yet. */
uint64_t fastload_window_rate(const FastloadWindow *w);

/*
 * Asserts that what is counted as failing is what waits for a retry or is
 * being read again.  Called by workers: they have reads, and the pool's.
 */
void fastload_sched_check(Fastload *fl);

/* faults: util/fastload-fault.c */
/*
 * Answers messages, no more than FASTLOAD_FAULT_TURN_MAX: those that are left
 * keep the userfaultfd readable.  Returns whether there were any.
 */
bool fastload_fault_drain(FastloadWorker *w);
/* The trapped region that @hva lies in, or NULL. */
FastloadArea *fastload_fault_find_area(Fastload *fl, const void *hva);

/* workers: util/fastload-worker.c */
bool fastload_worker_prepare(FastloadWorker *w, GError **error);
void *fastload_worker_main(void *opaque);
void fastload_worker_release(FastloadWorker *w);

/*
 * reads: util/fastload-read.c; called by the worker that holds @read, all but
 * the check on its thread
 */
/* Asserts what holds in the state that @read has just entered. */
void fastload_read_check(const FastloadRead *read);
/* Asserts that it may, and that it left nothing undone. */
void fastload_read_move(FastloadRead *read, FastloadReadState to);
/* The first failure of @read is the one that counts. */
void fastload_read_fail(FastloadRead *read, FastloadFailureKind kind,
                        int32_t error, uint64_t file_off);
/* The page that an urgent read answers the fault of. */
FastloadSpan fastload_read_page(const FastloadRead *read);
/*
 * What an urgent read reads for its fault.  Returns whether its span is one of
 * @around_bytes, or what the region has of it: a page that failed is tried
 * alone, for its neighbours may be what fails.
 */
bool fastload_read_aim(FastloadRead *read, uint64_t around_bytes);
/*
 * Claims the pages around the one that is claimed already, so that a fault of
 * one of them waits for this read.
 */
void fastload_read_claim_around(Fastload *fl, FastloadRead *read);
/*
 * Gives up what was claimed and is not placed.  Faults that came meanwhile were
 * taken for answered: their threads are woken, and fault again.  So are those
 * of a page that the background has placed, that was given back and touched
 * before it counted: nobody else knows of them.
 */
void fastload_read_release_around(Fastload *fl, FastloadRead *read);
/* Says what there is to read for @read's span: FRESH to ISSUING. */
void fastload_read_plan(FastloadRead *read, uint32_t file_generation);
/* Is there something of @read to issue?  Not when it has failed. */
bool fastload_read_has_rest(const FastloadRead *read);
/* The next request of @read, at most @bytes_max long; it has a rest. */
void fastload_read_cut(FastloadRead *read, uint32_t bytes_max,
                       FastloadIoReq *ret_req);
/* It has no rest.  Returns whether it is READY; else: IN_FLIGHT. */
bool fastload_read_end_issuing(FastloadRead *read);
/* A request is back for good.  Returns whether @read is READY now. */
bool fastload_read_req_back(FastloadRead *read);

/* staging of chunks: util/fastload-pool.c */
/* Memory to read into, of any kind; NULL: @error is set. */
uint8_t *fastload_pool_map(size_t len_bytes, GError **error);
bool fastload_pool_prepare(Fastload *fl, GError **error);
/* When no worker reads or places any more; may be called again. */
void fastload_pool_release(Fastload *fl);
/*
 * Gives up what fastload_pool_map() returned.  Where something may still be
 * written to it, its addresses are nobody's for as long as the process lives.
 */
void fastload_pool_unmap(Fastload *fl, uint8_t *map, size_t len_bytes);
/* Into the list of its state; from then on it is whoever's takes it. */
void fastload_pool_put(Fastload *fl, FastloadRead *read);
/* The first, or NULL. */
FastloadRead *fastload_pool_take(Fastload *fl, FastloadReadState from);
bool fastload_pool_has(Fastload *fl, FastloadReadState state);
/* Is there fresh staging, and do less than @count_max wait to be placed? */
bool fastload_pool_has_room(Fastload *fl, uint32_t count_max);
/* Is there spent staging, and less than @wanted_count that is not? */
bool fastload_pool_wants_renewal(Fastload *fl, uint32_t wanted_count);

/* placement: util/fastload-place.c; notes with the worker what follows */
/*
 * Returns 0 or -errno; whatever was placed is accounted either way.  A page
 * that is placed by now keeps what it has, or has not if it was given back
 * since: an urgent call has whoever waits for it fault again.
 */
int fastload_place_data(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, const uint8_t *buf,
                        uint64_t len_bytes, FastloadClass class);
int fastload_place_zero(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, uint64_t len_bytes,
                        FastloadClass class);
/*
 * What a read holds that is PLACING and has no error; one becomes the read's.
 * The page of an urgent read's fault:
 */
void fastload_place_page(FastloadWorker *w, FastloadRead *read);
/*
 * What came along with that page.  It is a bonus: what cannot be placed now is
 * left to whoever comes for it next, and is no error.  Zero pages are left out,
 * since some are not trapped.
 */
void fastload_place_around(FastloadWorker *w, FastloadRead *read);
/*
 * The next part of a chunk: all that can be moved, once, where the read wants
 * it; else at most FASTLOAD_PIECE_BYTES, or one page.
 */
void fastload_place_piece(FastloadWorker *w, FastloadRead *read);

/* regions that cannot be trapped: util/fastload-eager.c */
/* Loads all of it with threads of its own; false with the first failure. */
bool fastload_eager_load(Fastload *fl, FastloadArea *area,
                         FastloadFailure *ret_failure);

/* huge pages: util/fastload-huge.c */
/* Decides where chunks are moved; called by start, no threads yet. */
void fastload_huge_prepare(Fastload *fl);
/* May all of @span be placed as one huge page, as far as we know? */
bool fastload_huge_fits(const FastloadArea *area, FastloadSpan span);
/* Zeroes of @buf, the staging of @span, what the file does not have. */
void fastload_huge_fill_holes(const FastloadArea *area, FastloadSpan span,
                              uint8_t *buf);
/* Staging of a chunk, before a read and after a part of it was moved. */
void fastload_huge_staging_renew(uint8_t *buf);
void fastload_huge_staging_drop(uint8_t *buf);
/* Huge pages for dense chunks that were not moved; COMPLETED. */
void fastload_huge_collapse(FastloadWorker *w);

/* the snapshot file: util/fastload-file.c */
/*
 * Remembers what the file looks like, and opens direct_fd where only a read
 * tells whether it can be of use; called by new.
 */
void fastload_file_note(Fastload *fl);
/* Frees what is remembered; no thread is left. */
void fastload_file_forget(Fastload *fl);

typedef enum FastloadFileState {
    FASTLOAD_FILE_SAME,
    FASTLOAD_FILE_UNKNOWN,  /* it cannot be told now: read it again later */
    FASTLOAD_FILE_CHANGED,  /* once it was, it stays so, however it looks */
    FASTLOAD_FILE_REPLACED, /* by fastload_recover(), since it was read */
} FastloadFileState;

/*
 * Is what was read with @generation from the file that it was?  Where the
 * file's server is asked, only when it seems not.  Waits for no other thread.
 */
FastloadFileState fastload_file_check(Fastload *fl, uint32_t generation);
/*
 * Opens direct_fd where the file system says that it can be of use; called by
 * start, no threads yet.  Asks no storage.
 */
void fastload_file_prepare(Fastload *fl);
/*
 * From now on the descriptors refer to the open file of @fd.  False: nothing
 * changed.  One caller at a time; workers may read.
 */
bool fastload_file_replace(Fastload *fl, int fd, GError **error);
/* From now on the file as it is now is the right one.  As above. */
void fastload_file_accept(Fastload *fl);
/* Which way a chunk, planned and not begun, is read; remembers it as a hint. */
void fastload_file_choose(Fastload *fl, FastloadRead *read);
/*
 * Does reading ahead take processor time?  It does when reads are copies from
 * the page cache, or block in preadv(); O_DIRECT by io_uring takes hardly any.
 */
bool fastload_file_reads_cost_cpu(const Fastload *fl);

/*
 * userfaultfd: util/fastload-uffd.c; all others return 0 or -errno.  -EAGAIN:
 * the kernel wants to be asked later, after FASTLOAD_PLACE_TRIES_MAX tries.
 */
#define FASTLOAD_UFFD_DEVICE "/dev/userfaultfd"

/* Positive errnos of the two ways to a userfaultfd. */
typedef struct FastloadUffdRefusal {
    int call_error_number;   /* userfaultfd(2), tried first */
    int device_error_number; /* FASTLOAD_UFFD_DEVICE */
} FastloadUffdRefusal;

/* False: neither way leads to one, and @ret_refusal says why. */
bool fastload_uffd_open(int *ret_uffd, bool *ret_has_move,
                        FastloadUffdRefusal *ret_refusal);
int fastload_uffd_register(int uffd, void *hva, uint64_t len_bytes,
                           bool *ret_has_zeropage);
int fastload_uffd_unregister(int uffd, void *hva, uint64_t len_bytes);
int fastload_uffd_wake(int uffd, void *hva, uint64_t len_bytes);
/* *ret_done_bytes is valid on every return. */
int fastload_uffd_copy(int uffd, void *hva, const void *src,
                       uint64_t len_bytes, uint64_t *ret_done_bytes);
/* What is done is gone from @src, the rest is not. */
int fastload_uffd_move(int uffd, void *hva, void *src, uint64_t len_bytes,
                       uint64_t *ret_done_bytes);
int fastload_uffd_zero(int uffd, void *hva, uint64_t len_bytes,
                       uint64_t *ret_done_bytes);

typedef struct FastloadUffdFault {
    uint64_t hva;
    uint32_t tid; /* of who touched it; 0: the kernel does not tell */
    bool is_write;
} FastloadUffdFault;

/* Faults waiting now: count, 0 for none, or -errno. */
int fastload_uffd_read(int uffd, FastloadUffdFault *ret_faults,
                       uint32_t count_max);

#endif /* QEMU_FASTLOAD_INT_H */
