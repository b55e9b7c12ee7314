/*
 * fastload: types and calls that the engine's own files share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Only util/fastload*.c and tests/unit include this.  The map of the files,
 * the state machine and the lock order are at the head of util/fastload.c.
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
 * A chunk becomes a huge page if at least one part in so many of it has data;
 * docs/design/0003-huge-pages.md.
 */
#define FASTLOAD_DENSE_SHARE 2
/*
 * After completion, chunks that were not moved are collapsed into huge pages,
 * up to so many bytes in one call.  That ends after as long as the load took,
 * but not before FASTLOAD_COLLAPSE_NS_MIN.
 */
#define FASTLOAD_COLLAPSE_BYTES_MAX (8u << 20)
#define FASTLOAD_COLLAPSE_NS_MIN (1000 * 1000 * 1000ull)
/*
 * Nobody waits for a huge page.  While processors are short, such a pause
 * follows each chunk; of all pauses together, no more than
 * FASTLOAD_COLLAPSE_PAUSES_NS_MAX.
 */
#define FASTLOAD_COLLAPSE_PAUSE_NS (50 * 1000 * 1000ull)
#define FASTLOAD_COLLAPSE_PAUSES_NS_MAX (5 * 1000 * 1000 * 1000ull)

/*
 * A chunk is read around the page cache if more than one part in so many of its
 * data is not cached; docs/design/0004-around-the-page-cache.md.
 */
#define FASTLOAD_UNCACHED_SHARE 4
/*
 * A load that reads a file around the page cache holds a read lock on this byte
 * of it, by which other loads know.  The byte lies far behind the end of any
 * file, and behind what other programs lock.
 */
#define FASTLOAD_MARK_OFF (INT64_MAX - 0x464c)

/* A file that was modified less than this ago counts as young. */
#define FASTLOAD_FILE_YOUNG_NS (2 * 1000 * 1000 * 1000ull)
/*
 * Two writes less than this apart may leave the same time of modification: the
 * kernel takes it from a clock that ticks every 10 ms at most.  If the first
 * one changed bytes before the stream, the second one counts as part of that
 * change.
 */
#define FASTLOAD_FILE_TICK_NS (20 * 1000 * 1000ull)
/*
 * The engine remembers so many of the bytes before the stream.  A worker reads
 * them again when the file's time of modification has moved, and faults wait
 * for that worker meanwhile: hence not more.  A change of the bytes before the
 * stream that are not remembered counts as a change of the snapshot.
 */
#define FASTLOAD_PREFIX_BYTES_MAX (256u << 10)
/* It also remembers so much of the stream's start and of the file's end. */
#define FASTLOAD_SAMPLE_BYTES (512u << 10)
/* Tries to read those while nobody writes to the file. */
#define FASTLOAD_PREFIX_TRIES_MAX 3
/*
 * A write changes the file's time first and its bytes a little later.  If the
 * bytes before the stream are still the same after this long, somebody wrote to
 * the snapshot.  Less than FASTLOAD_STALL_WAIT_NS.
 */
#define FASTLOAD_PREFIX_WAIT_NS (200 * 1000 * 1000ull)
/* After a change before the stream, the time must stand still for so long. */
#define FASTLOAD_PREFIX_SETTLE_NS (100 * 1000 * 1000ull)

/*
 * Staging for chunks, shared by all workers: enough for the widest window and
 * for the chunks that are placed meanwhile.  It takes memory once it is used.
 */
#define FASTLOAD_POOL_READ_COUNT 24
/*
 * Added to the nice value of all workers but the first: where processors are
 * short, each gets a third of what it would get.
 */
#define FASTLOAD_WORKER_NICE 5
/*
 * Staging beyond what the window needs, for chunks that are placed and for
 * staging that is renewed: some, and some more for each active worker.
 */
#define FASTLOAD_POOL_EXTRA_COUNT 2
#define FASTLOAD_POOL_EXTRA_EACH 2
#define FASTLOAD_URGENT_READ_COUNT_MAX 16
#define FASTLOAD_URGENT_STAGING_BYTES_MAX (4u << 20)
/*
 * Where a round trip takes at least this long, an urgent read also brings pages
 * around the one that faulted: as much as the storage delivers in one part in
 * FASTLOAD_AROUND_SHARE of a round trip.  They take hardly any more time, and a
 * fault on one of them later would take another round trip.
 */
#define FASTLOAD_AROUND_NS_MIN (500 * 1000ull)
#define FASTLOAD_AROUND_SHARE 8
#define FASTLOAD_AROUND_BYTES_MAX (128u << 10)
QEMU_BUILD_BUG_ON(FASTLOAD_AROUND_BYTES_MAX / FASTLOAD_PAGE_BYTES_MIN > 64);
/*
 * The longest read of single pages of the working set.  The worker that answers
 * faults places it, so a fault may wait for that.  Larger pages are read as
 * whole chunks, and so are chunks of which much is in the set, or many
 * scattered pages.
 */
#define FASTLOAD_HINT_BYTES_MAX (128u << 10)
QEMU_BUILD_BUG_ON(FASTLOAD_HINT_BYTES_MAX > FASTLOAD_PIECE_BYTES);
#define FASTLOAD_HINT_READ_COUNT_MAX 64
/*
 * A chunk is read whole if short reads of its pages in the set would cost more
 * than one part in so many of its data.
 */
#define FASTLOAD_HINT_WHOLE_SHARE 2
/*
 * A read of the working set may read over a hole that takes the storage no
 * longer than one part in so many of a round trip: about so many of these reads
 * are in flight at once.
 */
#define FASTLOAD_HINT_GAP_SHARE 64
#define FASTLOAD_HINT_GAP_BYTES_MAX (FASTLOAD_HINT_BYTES_MAX / 2)
/* The same for a chunk. */
#define FASTLOAD_HOLE_BYTES_MAX (512u << 10)
/*
 * Far storage may serve few requests at once.  More than it serves would only
 * make faults wait behind them: so as many reads of single pages of the set are
 * in flight as it takes without making it slower; _BEGIN of them at first.
 */
#define FASTLOAD_HINT_COUNT_MIN 8
#define FASTLOAD_HINT_COUNT_BEGIN 16
#define FASTLOAD_HINT_COUNT_MAX FASTLOAD_AHEAD_COUNT_MAX
/*
 * So many reads of the set are short and in strict order, for the guest's first
 * steps.  Then a request on such storage counts as many bytes as it could have
 * read meanwhile, and chunks are read whole where that is cheaper.  The first
 * _TRIAL_COUNT of them show its rate.
 */
#define FASTLOAD_HINT_FIRST_COUNT 48
#define FASTLOAD_HINT_TRIAL_COUNT 4
/*
 * A guest whose working set is replayed hardly faults, but it has work to do
 * and needs its processor: it counts as one that faults for so long.
 */
#define FASTLOAD_HINT_CALM_NS (1000 * 1000 * 1000ull)
/* Touches that a recording holds at most, in 4 MiB of memory. */
#define FASTLOAD_TOUCH_COUNT_MAX (512u << 10)
/* The times of a recording, where FastloadWorksetConfig has 0. */
#define FASTLOAD_RECORD_QUIET_NS (300 * 1000 * 1000ull)
#define FASTLOAD_RECORD_LEAST_NS (200 * 1000 * 1000ull)
#define FASTLOAD_RECORD_MOST_NS (2 * 1000 * 1000 * 1000ull)
/* A recording waits so long for the guest to run, or most_ns if longer. */
#define FASTLOAD_RECORD_AWAIT_NS (10 * 1000 * 1000 * 1000ull)
#define FASTLOAD_FAULT_COUNT_MAX 1024
#define FASTLOAD_FAULT_BATCH_MAX 16
#define FASTLOAD_FAULT_MSG_BYTES 32u
/* So long after close(), the kernel has ended a ring. */
#define FASTLOAD_RING_END_NS (100 * 1000 * 1000ull)
/*
 * A worker answers so many messages before it does anything else.  An answer
 * may include the placement of a page, and a guest that touches zero pages, or
 * gives pages back and touches them again, always has the next message ready.
 * Threads that wait for a read which has returned must not wait for all of
 * those.
 */
#define FASTLOAD_FAULT_TURN_MAX 64
/* Trapping may use one part in so many of the sysctl vm.max_map_count. */
#define FASTLOAD_SPAN_SHARE 8
#define FASTLOAD_SPAN_COUNT_DEFAULT 4096
/* Tries to register with half as many spans: 32 bits halved, and then 0. */
#define FASTLOAD_TRAP_PASS_COUNT_MAX 33
/* Mappings that a worker needs, with stack and ring; the rest needs as many. */
#define FASTLOAD_WORKER_MAPPING_COUNT 16

/* A request is tried so often at once, then its read again with back-off. */
#define FASTLOAD_READ_TRIES_MAX 3
/* EINTR and EAGAIN do not count as a try, up to here. */
#define FASTLOAD_IO_AGAIN_MAX 1000
#define FASTLOAD_BACKOFF_NS_MIN (2 * 1000 * 1000ull)
#define FASTLOAD_BACKOFF_NS_MAX (1000 * 1000 * 1000ull)
/* So many failed rounds in a row and the load counts as stalled. */
#define FASTLOAD_STALL_ROUND_COUNT 5
/*
 * But only once somebody has waited for a page for FASTLOAD_STALL_WAIT_NS, or
 * reads have failed for FASTLOAD_STALL_FAIL_NS.  Management software takes a
 * load that pauses for one that is lost (libvirt ends the guest), and most
 * hiccups of storage are over sooner.
 */
#define FASTLOAD_STALL_WAIT_NS (500 * 1000 * 1000ull)
#define FASTLOAD_STALL_FAIL_NS (3 * 1000 * 1000 * 1000ull)
/*
 * A turn of a worker takes a few milliseconds.  If one of the first worker
 * takes longer than this, it is stuck in a system call, such as statx() of a
 * file whose server hangs, and nobody answers faults.
 */
#define FASTLOAD_SILENT_NS_MIN (100 * 1000 * 1000ull)
/*
 * A load that ends waits no longer than this for reads whose data nobody needs
 * any more; see worker_drain().
 */
#define FASTLOAD_DRAIN_NS_MAX (2 * 1000 * 1000 * 1000ull)
/*
 * UFFDIO_COPY and its relatives return EAGAIN while the address space changes,
 * which is usually over at once.  They are tried FASTLOAD_PLACE_TRIES_MAX times
 * without a pause, then with pauses that double.  When the pauses add up to
 * FASTLOAD_PLACE_AGAIN_US_MAX, the placement has failed and is retried as a
 * read is; UFFDIO_MOVE gives up after FASTLOAD_MOVE_AGAIN_US_MAX, and the pages
 * are copied.
 */
#define FASTLOAD_PLACE_TRIES_MAX 16
#define FASTLOAD_PLACE_PAUSE_US_MIN 10
#define FASTLOAD_PLACE_PAUSE_US_MAX 1000
#define FASTLOAD_PLACE_AGAIN_US_MAX (200 * 1000)
#define FASTLOAD_MOVE_AGAIN_US_MAX 2000
/*
 * The read-ahead window: the bytes that all workers together have in flight for
 * the background.  It is what keeps the storage busy (util/fastload-window.c),
 * and some more while the guest does not fault, for which its next fault waits
 * so much longer.  _MIN keeps a local device busy; _MAX is bounded by staging.
 * A worker begins a read while less than the window is in flight, so it may be
 * exceeded by one read, and each worker that reads ahead may always have one
 * read of the smallest size.  docs/design/0006-how-much-is-in-flight.md.
 */
#define FASTLOAD_WINDOW_BYTES_MIN (480u << 10)
#define FASTLOAD_WINDOW_BYTES_MAX (32u << 20)
/* The most for near storage while the guest faults: more would only queue. */
#define FASTLOAD_WINDOW_BYTES_NEAR (640u << 10)
/* A round-trip time is the median of so many reads. */
#define FASTLOAD_WINDOW_GROUP 8
/* Requests that one worker has in flight to read ahead. */
#define FASTLOAD_AHEAD_COUNT_MAX 64
/*
 * How long such a request is.  Long requests delay urgent ones, and far storage
 * needs long ones, or many: one part in FASTLOAD_REQ_SHARE of a wide window.
 * Far storage may serve few requests at once, and a long one there takes hardly
 * longer than a short one.  So a request is longer, up to one part in
 * FASTLOAD_REQ_SHARE_FAR of the window, if it takes no longer than a round trip
 * at one byte in FASTLOAD_REQ_NS_PER_BYTE.
 */
#define FASTLOAD_REQ_BYTES_MIN (64u << 10)
#define FASTLOAD_REQ_BYTES_NEAR (160u << 10)
#define FASTLOAD_REQ_BYTES_MAX (1u << 20)
#define FASTLOAD_REQ_SHARE 16
#define FASTLOAD_REQ_SHARE_FAR 8
#define FASTLOAD_REQ_NS_PER_BYTE 10
/* From far storage the first worker alone reads: it must reach the window. */
QEMU_BUILD_BUG_ON((uint64_t)FASTLOAD_AHEAD_COUNT_MAX * FASTLOAD_REQ_BYTES_MAX <
                  FASTLOAD_WINDOW_BYTES_MAX);
/* And the window must fit into staging, beside what one worker places. */
QEMU_BUILD_BUG_ON(FASTLOAD_WINDOW_BYTES_MAX / FASTLOAD_CHUNK_BYTES +
                  FASTLOAD_POOL_EXTRA_COUNT + FASTLOAD_POOL_EXTRA_EACH >
                  FASTLOAD_POOL_READ_COUNT);
/*
 * A guest counts as faulting until FASTLOAD_FAULT_QUIET_NS after a fault, and
 * then, until FASTLOAD_FAULT_CALM_NS after it, as one that may fault soon.
 * Where processors are short it is FASTLOAD_CROWD_QUIET_NS instead.
 */
#define FASTLOAD_FAULT_QUIET_NS (5 * 1000 * 1000ull)
#define FASTLOAD_FAULT_CALM_NS (20 * 1000 * 1000ull)
/*
 * Processors are short when the first worker has waited for one for
 * FASTLOAD_CROWD_SHARE times as long as it has run, and are not any more when
 * it has waited for less than it has run.  It looks every
 * FASTLOAD_CROWD_LOOK_NS, and both times together must be
 * FASTLOAD_CROWD_LEAST_NS to count.
 */
#define FASTLOAD_CROWD_SHARE 2
#define FASTLOAD_CROWD_LOOK_NS (5 * 1000 * 1000ull)
#define FASTLOAD_CROWD_LEAST_NS (500 * 1000ull)
/*
 * While they are, a guest counts as faulting until FASTLOAD_CROWD_QUIET_NS
 * after a fault, and nothing is read ahead for a guest that faults.  Both end
 * FASTLOAD_HOLD_NS after the start; see below for one with a working set.
 */
#define FASTLOAD_CROWD_QUIET_NS (20 * 1000 * 1000ull)
#define FASTLOAD_HOLD_NS (2 * 1000 * 1000 * 1000ull)
/* While something is held back, the first worker looks so often at least. */
#define FASTLOAD_CROWD_HELD_LOOK_NS (20 * 1000 * 1000ull)
/*
 * A guest whose working set is replayed hardly faults, and does for a while
 * with what is in the set.  It has a third of a processor or less then, so what
 * took a time when it was recorded takes three times as long, or longer.
 */
#define FASTLOAD_HOLD_SET_FACTOR 3
#define FASTLOAD_HOLD_SET_NS (3 * 1000 * 1000 * 1000ull)
/* So often a load tries to answer a fault with a whole chunk. */
#define FASTLOAD_WHOLE_COUNT_MAX 64
/*
 * How much longer the background may make an urgent read wait, once the guest
 * does not count as faulting, and once it does not count as either.
 */
#define FASTLOAD_QUIET_QUEUE_NS (200 * 1000ull)
#define FASTLOAD_CALM_QUEUE_NS (400 * 1000ull)
/*
 * The background rate is kept by a token bucket.  It holds what the rate allows
 * in FASTLOAD_RATE_BURST_NS, longer than a worker ever oversleeps, but at least
 * two small requests; one request takes at most half of it.
 */
#define FASTLOAD_RATE_BURST_NS (20 * 1000 * 1000ull)
/*
 * Retries in advance of the rate are charged to it afterwards.  They never cost
 * more than what the rate allows in this time, or than one chunk if that is
 * more: an outage may be long.
 */
#define FASTLOAD_RATE_DEBT_NS (1000 * 1000 * 1000ull)

#define FASTLOAD_BITS 64
#define FASTLOAD_BIT_WORDS(n) (((n) + FASTLOAD_BITS - 1) / FASTLOAD_BITS)

static inline bool fastload_bit_test(const uint64_t *bits, uint64_t idx)
{
    return __atomic_load_n(&bits[idx / FASTLOAD_BITS], __ATOMIC_ACQUIRE) >>
           (idx % FASTLOAD_BITS) & 1;
}

/* Returns what the bit was.  Pairs with fastload_bit_test()'s acquire. */
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
    uint32_t idx;          /* in the order in which areas are read */
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
    uint32_t first_chunk_no; /* chunks are numbered through all areas */
    uint64_t head_bytes;   /* from a multiple of the chunk size to hva */
    uint64_t *data_bits;
    uint64_t zero_bytes;
    bool is_eager;
    bool is_empty;
    bool is_early;
    bool is_off_grid;
    bool wants_huge;
    bool wants_populated;
    GArray *spans;         /* of FastloadSpan: what is registered */
    bool is_trapped;
    bool has_zeropage;     /* zeros are placed with UFFDIO_ZEROPAGE */
    bool has_move;         /* dense chunks are placed with UFFDIO_MOVE */
    /* readers: workers that copy or zero; writer: fastload_drop_region() */
    GRWLock place_lock;
    /* lock sched.lock; before the threads begin and after COMPLETED: none */
    uint8_t *chunk_states; /* FastloadChunkState */
    /* atomic; the pointers are constant after start */
    uint32_t is_dropped;   /* its memory is not ours any more; owner sets it */
    uint64_t *claimed;     /* an urgent read is in flight for the page */
    uint64_t *placed;
    uint64_t *moved;       /* by chunk: all of it was moved as a huge page */
    uint64_t *touched;     /* NULL: nothing is recorded */
    /* of the working set that is replayed; NULL: no page of it is here */
    uint64_t *in_set;      /* pages of the set that were not touched yet */
    uint64_t *unread;      /* pages of the set that no hint was taken for yet */
    uint64_t *whole;       /* constant after start; by chunk: read it whole */
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
 * What to read for @span, which is at most a chunk: stretches with data,
 * without pages that are placed already, joined across holes of @gap_bytes, at
 * least FASTLOAD_GAP_BYTES_MAX.  Returns how many, at most
 * FASTLOAD_EXTENT_COUNT_MAX.
 */
uint32_t fastload_plan_extents(const FastloadArea *area, FastloadSpan span,
                               uint64_t gap_bytes,
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
 * be called again before the load runs; the new plan replaces the old one.
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
    uint32_t tries;       /* that failed; counted by the worker */
    uint32_t again_count; /* EINTR and EAGAIN; counted by the backend */
    bool is_urgent;
    bool is_direct;       /* by direct_fd */
    bool may_block;       /* the file system may block the submitting thread */
    bool is_queued;       /* the backend has it */
    uint64_t begin_ns;    /* background: when it was first queued */
    FastloadRead *read;
    struct FastloadIoReq *next; /* in whatever list the holder keeps */
} FastloadIoReq;

typedef struct FastloadFault {
    FastloadArea *area;
    uint64_t page_idx;
    uint64_t begin_ns;
    uint64_t not_before_ns; /* 0, or when to try again after a failure */
    bool is_discarded;      /* placed, then given back: it waits for zeros */
    bool is_alone;          /* a read with neighbours failed: read it alone */
} FastloadFault;

/* What each means, and who moves it: util/fastload-read.c */
typedef enum FastloadReadState {
    FASTLOAD_READ_FRESH,     /* not in use */
    FASTLOAD_READ_ISSUING,   /* planned, not all requests are issued yet */
    FASTLOAD_READ_IN_FLIGHT, /* all issued, some have not returned */
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
    uint64_t placed_bytes;  /* of the span, from its start */
    uint64_t moved_bytes;   /* of those, moved out of buf */
    uint8_t *buf;           /* buf[0] is the span's first byte */
    FastloadSpan *extents;  /* what to read; what was issued is cut off */
    uint32_t extent_idx;    /* the first with something to issue */
    uint32_t extent_count;
    uint32_t inflight_count; /* of its requests */
    int32_t error;          /* 0 or -errno: the first one that was final */
    FastloadFailureKind error_kind;
    uint64_t error_file_off;
    uint32_t file_generation; /* FastloadFile.generation when it was planned */
    bool is_replaced;       /* read from a file that recover() has replaced */
    uint64_t begin_ns;      /* urgent: when the fault message was read */
    bool is_pooled;         /* constant: belongs to the pool, for chunks */
    FastloadFault fault;    /* urgent: what it answers, lock sched.lock;
                               area NULL: nothing */
    uint64_t around_claims; /* urgent: pages claimed, a bit for each of span */
    uint32_t merge_count;   /* urgent: sched.merge_count when it claimed */
    bool is_retried;        /* counted in failing_count */
    bool is_probe;          /* a retry in advance of the background rate */
    bool is_direct;         /* around the page cache, until that fails */
    bool is_cached;         /* in the page cache: no sample of the storage */
    bool wants_move;        /* to be placed with UFFDIO_MOVE, if it still can */
    bool is_spare;          /* buf lies in the spare staging */
    FastloadRead *next;     /* in whatever list the holder keeps */
};

/* ---- I/O backends ---- */

typedef struct FastloadIo FastloadIo;

/* Messages that a backend has read from the userfaultfd for its worker. */
typedef struct FastloadFaultBatch {
    /* As read(2) gives them; see fastload_uffd_take(). */
    uint64_t words[FASTLOAD_FAULT_BATCH_MAX * FASTLOAD_FAULT_MSG_BYTES / 8];
    uint32_t len_bytes;  /* 0: the backend may read the next ones */
    bool is_used;        /* the backend reads them; false: it only watches */
} FastloadFaultBatch;

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
     * FASTLOAD_IO_WATCH_MAX flags of the worker: poll() sets those of
     * descriptors that may be readable.  NULL in some tests.
     */
    bool *is_ready;
    /*
     * The worker's, as long-lived as the load.  The backend may fill it instead
     * of telling that the userfaultfd is readable.  NULL: it only tells.
     */
    FastloadFaultBatch *batch;
    uint8_t *staging;        /* the first fixed_bytes may be registered */
    size_t fixed_bytes;
    uint32_t req_count_max;  /* queued or in flight at any time */
} FastloadIoSetup;

/*
 * A backend serves one worker, on that worker's thread only.
 *
 * open:   returns NULL when it cannot work here; @ret_refusal is then a static
 *         sentence, without a full stop, that says what is missing.  It runs on
 *         a new thread, which has no memory at all where hardly any mapping is
 *         left: each allocation in it is one that may fail.
 * queue:  takes @req until reap() returns it.  Never fails: an error becomes
 *         the request's.
 * poll:   submits what was queued and collects completions.  Returns at once if
 *         @timeout_ns is 0, else when a request has completed, a watched
 *         descriptor became readable or the time is over (-1: no limit).  May
 *         return early.  Watches the worker's eventfd, and the userfaultfd if
 *         @serves_faults; a watch of the latter may stay on until it is next
 *         readable.  A backend with tells_ready sets is_ready of each
 *         descriptor that was found readable since it was last set, or that the
 *         backend did not look at.  A descriptor that is watched and readable
 *         when poll() would sleep is told again, even if the worker has read
 *         from it meanwhile.  Without tells_ready, the worker reads from the
 *         descriptors in each turn.  A backend that has a batch with is_used
 *         fills it when it is empty and @serves_faults, and then sets is_ready
 *         of the userfaultfd.  False: the backend does not work any more.
 *         Requests that reap() does not return will not complete, but the
 *         kernel may still write to their buffers.  Messages that it has read
 *         may be lost: the threads that wait must be woken to fault again.
 * reap:   a completed request, or NULL.  Either done_bytes is len_bytes and
 *         error is 0, or error is -errno (-ENODATA: end of file).  The backend
 *         resumes short reads and repeats those that were interrupted.
 * reopen: the descriptors of @setup refer to another file now; requests that
 *         are queued from here on must read from it.  NULL: nothing to do.
 * close:  requests that did not complete never will, but the kernel may still
 *         write to their buffers.
 */
typedef struct FastloadIoOps {
    const char *name;
    /*
     * poll() itself reads, and blocks meanwhile.  The load may end without it
     * (FASTLOAD_BLOCKED_LEFT): after a read it touches requests, is_ready and
     * what is its own, and no descriptor.
     */
    bool is_blocking;
    bool tells_ready; /* sets is_ready of the watched descriptors */
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

/* A backend's list of requests, first in, first out; all zero: empty. */
typedef struct FastloadIoList {
    FastloadIoReq *head;
    FastloadIoReq *tail;     /* valid while there is a head */
} FastloadIoList;

static inline void fastload_io_list_append(FastloadIoList *list,
                                           FastloadIoReq *req)
{
    req->next = NULL;
    if (list->head) {
        list->tail->next = req;
    } else {
        list->head = req;
    }
    list->tail = req;
}

/* The first one, or NULL. */
static inline FastloadIoReq *fastload_io_list_take(FastloadIoList *list)
{
    FastloadIoReq *req = list->head;

    if (req) {
        list->head = req->next;
    }
    return req;
}

/*
 * Reads the rest of @req with preadv(), and blocks.  No backend has @req; an
 * error becomes the request's.
 */
void fastload_io_sync_read(int fd, FastloadIoReq *req);
/*
 * Reads @len_bytes at @off, or up to the end of the file, with pread().
 * Returns how many bytes, or -errno; repeats EINTR.
 */
int64_t fastload_io_sync_read_to_end(int fd, uint8_t *buf, uint64_t len_bytes,
                                     uint64_t off);

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
 * What the session has to do after something was read, placed or failed.  Lower
 * layers do not call the session, which might call them back while they hold a
 * lock: they return an outcome, or add it to the worker's, and the worker calls
 * the session (worker_act()).
 */
typedef enum FastloadOutcome {
    FASTLOAD_OUTCOME_NONE = 0,
    FASTLOAD_OUTCOME_STALLED = 1 << 0, /* reads have failed for long */
    FASTLOAD_OUTCOME_RESUMED = 1 << 1, /* something that failed was read */
    FASTLOAD_OUTCOME_DRAINED = 1 << 2, /* nothing is missing any more */
    FASTLOAD_OUTCOME_DELAYED = 1 << 3, /* a fault will be due again */
} FastloadOutcome;

/*
 * Is a worker in preadv(), which it cannot leave before storage answers?  The
 * worker enters and leaves READ with each call.  A load that has waited long
 * enough for it moves it to LEFT instead, and ends without it: the worker then
 * touches nothing but its own io, reads and requests, and ends.
 */
typedef enum FastloadBlocked {
    FASTLOAD_BLOCKED_NOT,
    FASTLOAD_BLOCKED_READ,
    FASTLOAD_BLOCKED_LEFT,
} FastloadBlocked;

typedef struct FastloadWorker {
    /* constant after start */
    Fastload *fl;
    uint32_t idx;
    int kick_fd;
    uint8_t *staging;            /* of its urgent reads and hints; then spare */
    size_t page_staging_bytes;   /* the first part: single pages */
    size_t urgent_staging_bytes; /* that and longer urgent reads */
    size_t staging_bytes;        /* that and hints; the spare is as long */
    /* urgent reads, then hints; one allocation each */
    FastloadRead *reads;
    FastloadIoReq *reqs;
    FastloadSpan *extents;
    /* owner only */
    GThread *thread;             /* NULL: joined, or there was none */
    /* atomic: this worker writes, any reads; relaxed */
    const FastloadIoOps *io_ops;
    FastloadCounters counters;
    /* worker thread only, while it runs */
    FastloadIo *io;
    const char *io_refusal;      /* why fl->io_ops could not be opened */
    bool is_io_broken;           /* poll() returned false */
    bool is_ready[FASTLOAD_IO_WATCH_MAX]; /* may be readable */
    FastloadFaultBatch batch;    /* of the first worker */
    uint32_t unguessed_count;    /* see worker_guess_fault() */
    bool is_guessing;
    uint32_t early_fault_count;  /* taken from batch in the turn before */
    uint64_t repeat_ns;          /* when to wake all threads that wait, because
                                    a ring was closed; 0: never */
    FastloadIoReq *free_reqs;
    FastloadRead *free_urgent;
    FastloadRead *free_hints;
    FastloadRead *ready_hints;   /* in the order in which they returned */
    FastloadRead *last_ready_hint; /* valid while there are any */
    FastloadRead *issuing;       /* hint or chunk with requests to issue */
    FastloadRead *placing;       /* chunk that is placed in part */
    uint64_t ahead_bytes;        /* of requests in flight that read ahead */
    uint32_t ahead_count;
    uint32_t hint_count;         /* those of single pages of the working set */
    uint32_t inflight_count;     /* all requests in flight, urgent ones too */
    uint64_t reaped_ns;          /* when it last found completed requests */
    bool is_window_full;         /* the window stopped it from reading ahead */
    bool has_abandoned_reads;    /* set as it ends, or by the thread that leaves
                                    it: nobody joins it then */
    uint32_t file_generation;    /* of the file that new reads come from */
    uint32_t outcomes;           /* FastloadOutcome, not acted on yet */
    /* atomic */
    uint32_t may_sleep;          /* in poll(), or about to be: needs a kick */
    uint64_t awake_ns;           /* when this turn began, or when it woke in
                                    it; 0: it sleeps */
    uint32_t blocked;            /* FastloadBlocked */
} FastloadWorker;

/* The snapshot: util/fastload-file.c */
typedef struct FastloadFile {
    /* constant after start; recover() dup()s another file over both fds */
    int fd;                      /* the caller's */
    int direct_fd;               /* ours, with O_DIRECT; or -1 */
    bool is_direct;              /* fd has O_DIRECT itself */
    bool is_marked;              /* direct_fd holds the lock that marks it */
    uint64_t try_ns;             /* how long the test read took; 0: none */
    uint64_t prefix_wait_ns;     /* FASTLOAD_PREFIX_WAIT_NS; tests set others */
    uint64_t prefix_settle_ns;   /* FASTLOAD_PREFIX_SETTLE_NS; the same */
    /* lock prefix_lock */
    GMutex prefix_lock;
    FastloadPrefix *prefix;      /* NULL: the stream begins the file, or the
                                    bytes before it could not be read */
    /* atomic */
    uint32_t is_cached;          /* relaxed: the last read was not direct */
    uint32_t generation;         /* 2 for each replacement; odd: in progress */
    uint32_t is_direct_lost;     /* direct_fd still refers to the old file */
    uint32_t is_watched;         /* a regular file; a change is noticed by: */
    uint64_t len_bytes;
    uint64_t mtime_ns;
    uint64_t prefix_due_ns;      /* when to read it again; UINT64_MAX: never */
    uint32_t is_in_user_space;   /* relaxed: on a FUSE file system */
    uint32_t may_mtime_move;     /* by itself, as FUSE file systems may do */
    uint32_t has_mtime_moved;    /* relaxed: it has, by itself */
    uint32_t changed_generation; /* 1 + the last that changed; 0: none did */
} FastloadFile;

/* Staging of chunks: util/fastload-pool.c */
typedef struct FastloadPool {
    /* constant from start until the last worker frees it */
    uint32_t read_count;
    uint8_t *map;
    size_t map_bytes;
    size_t spare_bytes;          /* from a chunk's staging to its spare */
    FastloadRead *reads;
    FastloadSpan *extents;
    /* lock lock */
    GMutex lock;
    /* reads that no worker holds: FRESH, READY, SPENT; by state */
    FastloadRead *lists[FASTLOAD_READ_STATE_MAX];
    uint32_t renewed_count;      /* all reads but those in the list of SPENT */
    uint32_t ready_count;        /* reads in the list of READY */
    /* atomic */
    uint32_t is_lost;            /* the kernel may still write to staging */
} FastloadPool;

/* What to read next: util/fastload-sched.c; lock sched.lock */
typedef struct FastloadSched {
    GMutex lock;
    FastloadFault faults[FASTLOAD_FAULT_COUNT_MAX];
    uint32_t fault_head;
    uint32_t fault_count;
    uint32_t next_area;          /* the background's cursor */
    uint64_t next_chunk;
    bool is_early_done;          /* all chunks of early areas are placed */
    /* atomic */
    uint32_t merge_count;        /* faults that a read in flight may answer */
    /* atomic, relaxed: hints */
    uint64_t last_fault_ns;      /* does the guest fault? */
    uint32_t are_faults_shared;  /* all workers answer, the first is swamped */
} FastloadSched;

/*
 * What failed, and when it is tried again: util/fastload-retry.c; lock
 * sched.lock
 */
typedef struct FastloadRetry {
    /* constant after start */
    uint32_t *next_chunk_nos;    /* links of the queue of failed chunks */
    /* lock sched.lock */
    uint32_t first_chunk_no;     /* of the queue, if it is not empty */
    uint32_t last_chunk_no;
    uint64_t failing_count;      /* pages and chunks that were not read yet */
    FastloadFailure failure;     /* the last one */
    bool is_failure_known;       /* nothing that failed was read since */
    bool is_file_changed;        /* the last one was CHANGED */
    uint32_t failed_round_count; /* back-offs in a row that did not help */
    uint64_t failed_at_ns;       /* when the first of these rounds began */
    uint64_t failed_chunk_count; /* length of the queue */
    uint64_t due_ns;             /* when what failed is tried again */
    bool wants_probe;            /* retry a chunk in advance of the rate */
    bool is_probe_out;           /* one is being retried so */
    uint64_t backoff_ns;         /* 0: nothing has failed lately */
} FastloadRetry;

/*
 * The background's limit, a token bucket: util/fastload-rate.c; lock sched.lock
 */
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
    uint64_t *touches;           /* FASTLOAD_TOUCH_COUNT_MAX atomic elements */
    uint64_t begin_ns;
    /* owner, then the last worker */
    GThread *writer;
    /* lock lock */
    GMutex lock;
    GCond cond;
    FastloadWorksetState state;  /* NONE to FAILED */
    uint64_t took_ns;
    uint64_t page_count;         /* of the set that was written */
    uint32_t run_count;
    /* atomic */
    uint32_t is_on;              /* touches are noted, the background waits */
    uint64_t touch_count;        /* goes on counting when touches is full */
    uint64_t touched_bytes;      /* relaxed */
    uint64_t last_ns;            /* relaxed: of the last page that was touched
                                    or came; 0: none */
    uint64_t guest_ns;           /* when the guest began to run; 0: not yet */
} FastloadRecord;

/* What to read before the background: util/fastload-hints.c */
typedef struct FastloadHints {
    /* constant after start; set: atomic, as figures may be asked for before */
    FastloadWorkset *set;        /* NULL: nothing is replayed */
    FastloadArea **areas;        /* by block of the set; borrowed */
    uint64_t calm_ns;            /* until then the guest counts as faulting */
    /* lock sched.lock */
    uint32_t next_run;           /* cursor: runs before it are done, */
    uint64_t next_page;          /* and so many pages of this run */
    uint32_t out_count;          /* hints that were taken and are not placed */
    uint32_t short_count;        /* hints of pages that were taken */
    uint32_t dear_count;         /* chunks read whole to save requests */
    /* atomic, relaxed */
    uint32_t is_over;            /* no hint is left to take */
    uint32_t is_placed;          /* and all that were taken are placed */
    uint64_t late_count;         /* pages of 4 KiB touched before placed */
} FastloadHints;

/* What the next read of the working set brings. */
typedef enum FastloadHintKind {
    FASTLOAD_HINT_NONE,          /* there is none, for now at least */
    FASTLOAD_HINT_PAGES,
    FASTLOAD_HINT_CHUNK,
} FastloadHintKind;

/* Are processors short?  util/fastload-crowd.c */
typedef struct FastloadCrowd {
    /* first worker only */
    int fd;                      /* its schedstat; -1: there is none */
    uint64_t look_ns;            /* when to look next; UINT64_MAX: never */
    uint64_t ran_ns;             /* at the last look that told something */
    uint64_t waited_ns;
    /* atomic, relaxed */
    uint32_t is_short;
    uint32_t whole_count;        /* faults that were to get a whole chunk */
    uint32_t is_kick_due;        /* workers were not woken, for the hold */
} FastloadCrowd;

/* How the window is sized; the diagram is in util/fastload-window.c */
typedef enum FastloadWindowPhase {
    FASTLOAD_WINDOW_START,
    FASTLOAD_WINDOW_DRAIN,
    FASTLOAD_WINDOW_CRUISE,
    FASTLOAD_WINDOW_PHASE_MAX,
} FastloadWindowPhase;

/* How many short reads of a working set are in flight at once; the same. */
typedef struct FastloadPace {
    /* the window's lock */
    uint64_t group_ns[FASTLOAD_WINDOW_GROUP];
    uint32_t group_count;
    uint32_t skip_count;         /* so many were begun at another pace */
    uint32_t seen_count;         /* in groups until now */
    bool is_queued;              /* more than the storage serves at once */
    uint64_t took_ns;            /* the last median */
    uint64_t least_ns;           /* when the storage has no queue */
    /* written under that lock; atomic, relaxed for readers */
    uint32_t count;
    uint32_t is_dear;            /* it cannot serve _MAX at once */
    uint64_t req_ns;             /* it serves one in so long */
} FastloadPace;

/* How much is in flight: util/fastload-window.c */
typedef struct FastloadWindow {
    /* lock lock */
    GMutex lock;
    uint32_t inflight_count;     /* background reads */
    uint64_t end_ns;             /* when one last returned */
    uint64_t delivered_bytes;    /* by reads that were samples */
    uint64_t group_ns[FASTLOAD_WINDOW_GROUP];
    uint32_t group_count;
    uint64_t rtt_ns;             /* 0: not known yet */
    uint64_t rtt_least_ns[2];    /* in this epoch, and in the one before */
    uint64_t late_ns;            /* how late a worker sees a completed read */
    double rate;                 /* bytes a second; 0: not known yet */
    double rate_most[2];         /* in this epoch, and in the one before */
    double rate_before;          /* START: the rate when it last grew */
    uint32_t flat_round_count;   /* START: rounds since */
    uint64_t round_ns;           /* when this round began */
    uint64_t round_bytes;        /* delivered by then */
    uint64_t round_count;
    uint64_t epoch_ns;           /* when this epoch began */
    uint64_t epoch_round;
    uint64_t drain_round;        /* from then on the queue counts as empty */
    /* written under the lock; atomic, relaxed for readers */
    uint64_t begin_ns;           /* when the first read began */
    uint64_t first_ns;           /* when the first one returned; 0: none has */
    uint64_t bytes;
    uint64_t late_bytes;         /* added since reads are seen late */
    FastloadWindowPhase phase;
    uint64_t round_trip_ns;
    uint64_t rate_bytes_per_s;
    FastloadPace pace;
} FastloadWindow;

struct Fastload {
    /* constant from start until the last worker closes it under state_lock */
    int uffd;                    /* -1: nothing is registered */

    /* constant after start */
    FastloadConfig config;
    const FastloadIoOps *io_ops;
    GPtrArray *areas;            /* of FastloadArea, in the order of reading */
    GPtrArray *areas_by_hva;     /* the trapped ones, borrowed */
    FastloadWorker *workers;
    uint8_t *zeros;              /* copied where has_zeropage is not set */
    size_t zeros_bytes;
    uint32_t active_count;       /* workers that read ahead and place */
    uint32_t urgent_read_count;  /* for each worker */
    uint32_t hint_read_count;    /* for each worker; 0: nothing is replayed */
    uint32_t urgent_bytes;       /* staging for one urgent read */
    bool has_move;               /* UFFDIO_MOVE is used in some area */
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
    FastloadCrowd crowd;

    /* lock state_lock */
    GMutex state_lock;
    GCond state_cond;
    FastloadState state;
    const char *io_name;
    const char *io_fallback;
    bool is_cancelled;
    uint32_t ready_count;        /* workers that opened their backend */
    uint32_t live_count;         /* worker threads not yet ended */
    bool has_open_failed;        /* a worker has no backend */
    bool has_awaiter;            /* a worker that has ended awaits the others */
    int64_t leave_us;            /* then workers in preadv() are left; of
                                    g_get_monotonic_time(), from DRAINED on */
    uint64_t complete_ns;

    /* lock event_lock: one event callback at a time, in order */
    GMutex event_lock;

    /* atomic */
    uint64_t total_bytes;        /* of all areas, but for data dropped */
    uint64_t zero_bytes;         /* of those, in pages without data */
    uint64_t eager_bytes;        /* data that start has loaded */
    uint64_t eager_read_bytes;   /* what it has read for that */
    uint64_t missing_bytes;      /* trapped and not placed */
    uint32_t is_ending;          /* workers leave their loops */
    uint32_t is_unwanted;        /* cancelled, though it may be complete */
    uint32_t ref_count;          /* the owner's, and one for each worker that
                                    was left: the last one frees the struct */
};

/* session: util/fastload.c */
/* Reads with @ops, before start; for tests. */
void fastload_set_io_ops(Fastload *fl, const FastloadIoOps *ops);
/* A thread that no signal is delivered to; NULL and @error when refused. */
GThread *fastload_session_thread(const char *name, GThreadFunc main_func,
                                 void *opaque, GError **error);
/* Wakes @w if it sleeps in poll(), or is about to; any thread. */
void fastload_session_kick(FastloadWorker *w);
/* The same for all workers but @except, which may be NULL. */
void fastload_session_kick_all(Fastload *fl, const FastloadWorker *except);
/*
 * @w, on its thread, has opened its backend, or could not (no io).  Returns
 * when the load begins, or when a start that failed is freed.
 */
void fastload_session_worker_ready(FastloadWorker *w);
/* @w, on its thread, uses nothing of the load any more but its counters. */
void fastload_session_worker_ended(FastloadWorker *w);
/* @w, on its thread, was left in preadv() and ends; it may be freed. */
void fastload_session_worker_left(FastloadWorker *w);
/* Moves of the state, and their events; no lock is held, any thread. */
void fastload_session_drained(Fastload *fl);
void fastload_session_stalled(Fastload *fl);
void fastload_session_resumed(Fastload *fl);

/* @w, on its thread, has left its ring and reads with preadv() from now on. */
void fastload_session_io_changed(FastloadWorker *w);

/* Does the backend of @w block in poll()?  Any thread. */
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
/* Numbers areas, which are sorted, and chunks; called by start, no threads. */
void fastload_sched_prepare(Fastload *fl);
/* False: the queue is full.  One entry of a page is enough for all faults. */
bool fastload_sched_push_fault(Fastload *fl, const FastloadFault *fault);
/*
 * Takes a fault that is due from the queue and makes it @read's in one step, so
 * that it can always be found.  False: none is due.
 */
bool fastload_sched_pop_fault(Fastload *fl, uint64_t now_ns,
                              FastloadRead *read, FastloadFault *ret_fault);
/* Since when somebody has been waiting for a page; 0: nobody is. */
uint64_t fastload_sched_oldest_fault_ns(Fastload *fl);
/* How many faults fit into the queue. */
uint32_t fastload_sched_fault_room(Fastload *fl);
/* Is there a fault to pop now? */
bool fastload_sched_fault_is_due(Fastload *fl, uint64_t now_ns);
/* Does the load count as stalled?  @ret_failure: the last failure, if so. */
bool fastload_sched_is_stalled(Fastload *fl, FastloadFailure *ret_failure);
/* Zeros could not be placed: the fault comes back after back-off. */
FastloadOutcome fastload_sched_zero_failed(Fastload *fl,
                                           const FastloadFault *fault,
                                           int error_number,
                                           uint64_t now_ns);
/* The fault of @read needs no read: another one has placed or claimed it. */
FastloadOutcome fastload_sched_fault_settled(Fastload *fl,
                                             FastloadRead *read);
/*
 * May this chunk be read now, out of turn, to answer a fault?  Not if it was
 * taken, while the background has a rate, or while reads fail.
 */
bool fastload_sched_may_take_whole(Fastload *fl, const FastloadArea *area,
                                   uint64_t chunk_idx);
/* Takes the chunk, which was read so; false: somebody else has taken it. */
bool fastload_sched_take_whole(Fastload *fl, FastloadArea *area,
                               uint64_t chunk_idx);
/* When the guest stops counting as faulting, unless it faults before. */
uint64_t fastload_sched_quiet_ns(Fastload *fl);
/*
 * Until when the background is held back, because processors are short and the
 * guest faults; 0: it is not.
 */
uint64_t fastload_sched_held_ns(Fastload *fl, uint64_t now_ns);
/* How much longer an urgent read may wait for background reads, now. */
uint64_t fastload_sched_queue_ns(Fastload *fl, uint64_t now_ns);
/*
 * Is the next hint for fastload_sched_next_hint() (PAGES) or for
 * fastload_sched_next_chunk() (CHUNK)?
 */
FastloadHintKind fastload_sched_hint_kind(Fastload *fl, uint64_t now_ns);
/*
 * Sets area and span of @read to the next hint, across holes of @gap_bytes at
 * most.  False: the next hint is not PAGES.
 */
bool fastload_sched_next_hint(Fastload *fl, uint64_t now_ns,
                              uint64_t gap_bytes, FastloadRead *read);
/* A hint of pages is placed, or failed: then the background reads its pages. */
void fastload_sched_hint_done(Fastload *fl, const FastloadRead *read);
/*
 * Sets area, class, is_retried and is_probe of @read to the next chunk.  False:
 * none may be read now.
 */
bool fastload_sched_next_chunk(Fastload *fl, uint64_t now_ns,
                               FastloadRead *read,
                               uint64_t *ret_chunk_idx);
/* How many of @want_bytes may be read for @read now; the rate is charged. */
uint32_t fastload_sched_rate_take(Fastload *fl, uint64_t now_ns,
                                  const FastloadRead *read,
                                  uint32_t want_bytes);
/* Charges the rate for the repetition of a request, which is not delayed. */
void fastload_sched_rate_charge(Fastload *fl, uint32_t read_bytes);
void fastload_sched_rate_set(Fastload *fl, uint64_t now_ns,
                             uint64_t bytes_per_s);
/* Everything that failed is due now; the back-off begins anew. */
void fastload_sched_retry_now(Fastload *fl);
/* When fastload_sched_rate_take() gives some; UINT64_MAX: not by itself. */
uint64_t fastload_sched_rate_due_ns(Fastload *fl);
/* When the recording ends if no page is touched before; 0: it is not on. */
uint64_t fastload_sched_record_due_ns(Fastload *fl);
/*
 * When a fault or a chunk, as asked for, may be taken: 0 or a time that is
 * over: now; UINT64_MAX: not before something else happens.
 */
uint64_t fastload_sched_next_due_ns(Fastload *fl, bool takes_faults,
                                    bool takes_chunks);
/* An urgent read, or one of a chunk, is placed or has failed. */
FastloadOutcome fastload_sched_read_done(Fastload *fl, FastloadRead *read,
                                         uint64_t now_ns);

/* failures: util/fastload-retry.c */
/* @chunk_count: of all areas, numbered from 0; no threads yet. */
void fastload_retry_prepare(FastloadRetry *retry, uint64_t chunk_count);
void fastload_retry_clear(FastloadRetry *retry);
/* The queue of failed chunks: first in, first out, in constant time. */
void fastload_retry_push_chunk_locked(FastloadRetry *retry, uint32_t chunk_no);
/* False: none has failed. */
bool fastload_retry_pop_chunk_locked(FastloadRetry *retry,
                                     uint32_t *ret_chunk_no);
/* Something that failed was read: reads do not fail any more. */
void fastload_retry_read_again_locked(FastloadRetry *retry);
/* All that failed is due now; the back-off begins anew. */
void fastload_retry_now_locked(FastloadRetry *retry);
/* A read or a placement has failed. */
void fastload_retry_failed_locked(FastloadRetry *retry, uint64_t now_ns,
                                  const FastloadFailure *failure);
/*
 * A page or chunk that failed needs no retry any more.  Returns whether reads
 * work again: it @was_read, or it was the last one that had failed.
 */
bool fastload_retry_ended_locked(FastloadRetry *retry, bool was_read);
/* Have so many rounds failed that the load may count as stalled? */
bool fastload_retry_may_stall_locked(const FastloadRetry *retry);
/* @fault_begin_ns: since when somebody waits; UINT64_MAX: nobody does */
bool fastload_retry_is_stalled_locked(const FastloadRetry *retry,
                                      uint64_t now_ns,
                                      uint64_t fault_begin_ns);
/*
 * When a failed chunk is tried in advance of the rate, so that the end of an
 * outage is noticed at any rate.  UINT64_MAX: never.
 */
uint64_t fastload_retry_probe_due_ns_locked(const FastloadRetry *retry);
/* When chunks that did not fail are due: a changed file fails for all. */
uint64_t fastload_retry_pending_due_ns_locked(const FastloadRetry *retry);

/* are processors short: util/fastload-crowd.c */
static inline bool fastload_crowd_is_short(const Fastload *fl)
{
    return __atomic_load_n(&fl->crowd.is_short, __ATOMIC_RELAXED);
}
/*
 * When a load looks first; UINT64_MAX: never.  Unit tests, which cannot know
 * how busy their machine is, set that, and is_short.
 */
extern uint64_t fastload_crowd_first_look_ns;
/* The first worker's thread calls this, before it looks. */
void fastload_crowd_open(Fastload *fl);
void fastload_crowd_close(FastloadCrowd *crowd);
/* The same thread looks, if it is time to; has is_short changed? */
bool fastload_crowd_look(Fastload *fl, uint64_t now_ns);
/* Are they short, if the first worker has lately run and waited for so long? */
bool fastload_crowd_judge(bool was_short, uint64_t ran_ns, uint64_t waited_ns);

/* a fault answered with its chunk: util/fastload-whole.c */
/* Would that pay, as far as one can tell before the chunk is read? */
bool fastload_whole_is_wanted(Fastload *fl, const FastloadFault *fault);
/*
 * If so, reads the chunk of @fault, which has claimed its page, from the page
 * cache, without waiting for storage.  Returns a read that is PLACING, with its
 * chunk TAKEN; or NULL, or a read that is FRESH and goes back into the pool:
 * then the fault needs an urgent read.
 */
FastloadRead *fastload_whole_read(FastloadWorker *w,
                                  const FastloadFault *fault);

/* first touches: util/fastload-record.c */
void fastload_record_init(FastloadRecord *record);
void fastload_record_clear(FastloadRecord *record);
/*
 * Begins the recording, if one was asked for; the workers have not begun yet.
 * @thread_of creates the thread that writes; where it cannot, the recording has
 * failed, not the load.  Takes record.lock.
 */
typedef GThread *FastloadThreadFunc(const char *name, GThreadFunc main_func,
                                    void *opaque, GError **error);
void fastload_record_start(Fastload *fl, FastloadThreadFunc *thread_of);
static inline bool fastload_record_is_on(const Fastload *fl)
{
    return __atomic_load_n(&fl->record.is_on, __ATOMIC_RELAXED);
}
/* Notes a fault of this page while the recording is on.  Takes no lock. */
void fastload_record_touch(Fastload *fl, FastloadArea *area,
                           uint64_t page_idx, uint64_t now_ns);
/*
 * A page is placed, which somebody may have waited for: meanwhile only such
 * pages and early regions are.  Takes no lock.
 */
void fastload_record_answered(Fastload *fl, uint64_t now_ns);
/*
 * When it ends if no page is touched before; 0: it is not on.  @is_waited_for:
 * a page that was touched has not come yet.  Takes no lock.
 */
uint64_t fastload_record_due_ns(const FastloadRecord *record,
                                bool is_waited_for);
/* Ends it if it is on, and wakes its writer: true.  Takes record.lock. */
bool fastload_record_end(Fastload *fl, uint64_t now_ns);
/* Will the guest begin to run one day (fastload_guest_runs())? */
bool fastload_record_awaits_guest(const Fastload *fl);
/* Ends it if it is on, and waits for its writer.  Takes record.lock. */
void fastload_record_finish(Fastload *fl);
/* Takes record.lock. */
void fastload_record_stats(Fastload *fl, FastloadWorksetStats *ret_stats);

/* the working set: util/fastload-hints.c; _locked: with sched.lock */
/*
 * @set will be replayed and belongs to @fl.  All areas are added.  False: the
 * set has a block that the snapshot does not have, and stays the caller's.
 */
bool fastload_hints_use(Fastload *fl, FastloadWorkset *set);
/* Finds the pages of the set; called by start when areas are armed. */
void fastload_hints_prepare(Fastload *fl);
void fastload_hints_clear(FastloadHints *hints);
/* A fault on this page came first: if it is of the set, it is late. */
void fastload_hints_touch(Fastload *fl, FastloadArea *area,
                          uint64_t page_idx);
/* Moves the cursor to the next page to read, and says where it is. */
FastloadHintKind fastload_hints_find_locked(Fastload *fl,
                                            FastloadArea **ret_area,
                                            uint64_t *ret_page_idx);
/* All hints in the chunk are taken, as one read. */
void fastload_hints_take_chunk_locked(Fastload *fl, FastloadArea *area,
                                      uint64_t chunk_idx);
/*
 * All hints near this page are taken, as one read of the span that is returned;
 * holes in it are @gap_bytes long at most.
 */
FastloadSpan fastload_hints_take_pages_locked(Fastload *fl,
                                              FastloadArea *area,
                                              uint64_t page_idx,
                                              uint64_t gap_bytes);
/* A read that was taken is placed, or has failed. */
void fastload_hints_done_locked(Fastload *fl);
/*
 * For how long after the start nothing else is read ahead while processors are
 * short.  0: there is no set.
 */
uint64_t fastload_hints_hold_ns(const FastloadHints *hints);
void fastload_hints_stats(const Fastload *fl, FastloadWorksetStats *ret_stats);

/* the background's limit: util/fastload-rate.c */
void fastload_rate_set_locked(FastloadRate *rate, uint64_t now_ns,
                              uint64_t bytes_per_s);
bool fastload_rate_is_off_locked(const FastloadRate *rate);
/* Is there no limit? */
bool fastload_rate_is_none_locked(const FastloadRate *rate);
/* Adds the tokens that have come in until @now_ns. */
void fastload_rate_count_locked(FastloadRate *rate, uint64_t now_ns);
/* When something may be taken: 0: now; UINT64_MAX: not by itself. */
uint64_t fastload_rate_due_ns_locked(const FastloadRate *rate);
/* How many of @want_bytes may be read now; takes tokens for them. */
uint32_t fastload_rate_take_locked(FastloadRate *rate, uint32_t want_bytes);
/* Takes tokens for a read that the rate does not delay. */
void fastload_rate_charge_locked(FastloadRate *rate, uint32_t read_bytes);

/* how much is read ahead at once: util/fastload-window.c */
void fastload_window_init(FastloadWindow *w);
void fastload_window_clear(FastloadWindow *w);
/* Before any other call: a read that was made earlier has taken @took_ns. */
void fastload_window_expect(FastloadWindow *w, uint64_t took_ns,
                            uint64_t now_ns);
/* A background request is about to be queued; sets its begin_ns. */
void fastload_window_begin(FastloadWindow *w, FastloadIoReq *req,
                           uint64_t now_ns);
/*
 * It has returned, or failed.  @is_sample: it came from the storage at the
 * first try and is long enough to tell the rate.
 */
void fastload_window_end(FastloadWindow *w, const FastloadIoReq *req,
                         uint64_t now_ns, bool is_sample);
/*
 * A worker that had filled its window has found completed reads.  @is_dry: all
 * that it had begun, so the storage may have idled.
 */
void fastload_window_seen(FastloadWindow *w, bool is_dry);
/*
 * How many bytes all workers together may have in flight, if urgent reads may
 * wait up to @queue_ns longer for that than the storage needs to be busy.
 */
uint64_t fastload_window_bytes(const FastloadWindow *w, uint64_t now_ns,
                               uint64_t queue_ns);
/* When the window grows though no read returns; UINT64_MAX: it does not. */
uint64_t fastload_window_grows_ns(const FastloadWindow *w, uint64_t now_ns);
/* How long a hole in a read of the working set may be. */
uint64_t fastload_window_gap_bytes(const FastloadWindow *w, uint64_t now_ns);
/* A short read of the working set has come from the storage in @took_ns. */
void fastload_window_hint_end(FastloadWindow *w, uint64_t took_ns);
/* How many of these may be in flight. */
uint32_t fastload_window_hint_count(const FastloadWindow *w);
/*
 * How many bytes the storage would bring, as far as is known, in the time that
 * it needs for such a request, where it is short of requests; 0: it is not.
 */
uint64_t fastload_window_hint_cost(const FastloadWindow *w);
/* How long a request of a chunk may be. */
uint32_t fastload_window_req_bytes(const FastloadWindow *w, uint64_t now_ns,
                                   uint64_t window_bytes);
/* How long a hole in one may be. */
uint64_t fastload_window_hole_bytes(const FastloadWindow *w, uint64_t now_ns);
/* How long an urgent read should be at this round-trip time; 0: one page. */
uint32_t fastload_window_around_bytes(const FastloadWindow *w);
/* 0: not known yet. */
uint64_t fastload_window_round_trip_ns(const FastloadWindow *w);
/* Bytes a second; 0: not known yet. */
uint64_t fastload_window_rate(const FastloadWindow *w);

/*
 * Asserts that failing_count is the number of pages and chunks that wait for a
 * retry or are being retried.  Called by workers only, while the reads of
 * workers and pool exist.
 */
void fastload_sched_check(Fastload *fl);

/* faults: util/fastload-fault.c */
/*
 * Answers messages of the userfaultfd, FASTLOAD_FAULT_TURN_MAX at most with
 * those of the batch since the last call; those that are left keep it readable.
 * Returns whether there were any.
 */
bool fastload_fault_drain(FastloadWorker *w);
/* Answers those that the backend has read.  Returns how many there were. */
uint32_t fastload_fault_take_batch(FastloadWorker *w);
/* Lets every thread that waits for a page fault again. */
void fastload_fault_repeat_all(Fastload *fl);
/* The trapped region that @hva lies in, or NULL. */
FastloadArea *fastload_fault_find_area(Fastload *fl, const void *hva);

/* workers: util/fastload-worker.c */
/* Allocates all that @w needs; called by start.  main() runs on a thread. */
bool fastload_worker_prepare(FastloadWorker *w, GError **error);
void *fastload_worker_main(void *opaque);
/* Gives back staging and descriptor; and what a thread that was left has. */
void fastload_worker_release(FastloadWorker *w);
void fastload_worker_free_reads(FastloadWorker *w);

/* reads: util/fastload-read.c; called by the worker that holds @read */
/* Asserts what holds in the state that @read has just entered. */
void fastload_read_check(const FastloadRead *read);
/* Asserts that the move is legal, and what holds in the new state. */
void fastload_read_move(FastloadRead *read, FastloadReadState to);
/* Notes a failure (@error: -errno), or nothing (0).  The first one counts. */
void fastload_read_fail(FastloadRead *read, FastloadFailureKind kind,
                        int32_t error, uint64_t file_off);
/* The page whose fault an urgent read answers. */
FastloadSpan fastload_read_page(const FastloadRead *read);
/*
 * Sets area and span of an urgent read: its page alone (false), or the aligned
 * stretch of @around_bytes around it, as far as that lies in the region (true).
 * A page that failed is read alone, for its neighbours may be what fails.
 */
bool fastload_read_aim(FastloadRead *read, uint64_t around_bytes);
/*
 * Claims the other pages of the span of an urgent read as well, so that faults
 * on them wait for this read.
 */
void fastload_read_claim_around(Fastload *fl, FastloadRead *read);
/*
 * Gives up the claims of pages that are not placed.  Faults on them that came
 * meanwhile were merged with this read: their threads are woken, and fault
 * again.  So are threads that wait for a page which the background has placed
 * and which was given back and touched before it counted as placed: nobody else
 * knows of them.
 */
void fastload_read_release_around(Fastload *fl, FastloadRead *read);
/* Plans the extents of @read's span: FRESH to ISSUING. */
void fastload_read_plan(FastloadRead *read, uint32_t file_generation,
                        uint64_t gap_bytes);
/* Is there a request left to issue?  Not when @read has failed. */
bool fastload_read_has_rest(const FastloadRead *read);
/* Cuts off the next request, at most @bytes_max long; @read has a rest. */
void fastload_read_cut(FastloadRead *read, uint32_t bytes_max,
                       FastloadIoReq *ret_req);
/* Nothing is left to issue: to READY (true) or IN_FLIGHT. */
bool fastload_read_end_issuing(FastloadRead *read);
/* A request has returned and is not repeated.  True: @read is READY now. */
bool fastload_read_req_back(FastloadRead *read);

/* staging of chunks: util/fastload-pool.c */
/* Memory to read into, for the pool and others; NULL: @error is set. */
uint8_t *fastload_pool_map(size_t len_bytes, GError **error);
bool fastload_pool_prepare(Fastload *fl, GError **error);
/* No worker reads or places any more.  A second call does nothing. */
void fastload_pool_release(Fastload *fl);
/*
 * Frees what fastload_pool_map() returned.  Where the kernel may still write to
 * it (is_lost), its addresses stay reserved until the process ends.
 */
void fastload_pool_unmap(Fastload *fl, uint8_t *map, size_t len_bytes);
/* Puts @read into the list of its state, where any worker may take it. */
void fastload_pool_put(Fastload *fl, FastloadRead *read);
/* The first read in the list of a state, or NULL. */
FastloadRead *fastload_pool_take(Fastload *fl, FastloadReadState from);
bool fastload_pool_has(Fastload *fl, FastloadReadState state);
/* Is there fresh staging, and do fewer than @count_max chunks wait? */
bool fastload_pool_has_room(Fastload *fl, uint32_t count_max);
/* Is there spent staging, and less than @wanted_count of other? */
bool fastload_pool_wants_renewal(Fastload *fl, uint32_t wanted_count);

/* placement: util/fastload-place.c; adds outcomes to the worker's */
/*
 * Returns 0 or -errno; what was placed is accounted for in either case.  A page
 * that was placed before stays as it is, even if it was given back since: an
 * urgent call wakes the threads that wait for it, and they fault again.
 */
int fastload_place_data(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, const uint8_t *buf,
                        uint64_t len_bytes, FastloadClass class);
int fastload_place_zero(FastloadWorker *w, FastloadArea *area,
                        uint64_t ram_off, uint64_t len_bytes,
                        FastloadClass class);
/*
 * The next three place what @read holds, which is PLACING and has no error; an
 * error becomes the read's.  This one: the page of an urgent read's fault.
 */
void fastload_place_page(FastloadWorker *w, FastloadRead *read);
/*
 * The other pages of an urgent read.  A page that cannot be placed now is no
 * error: it is read again later.  Zero pages are left out, since some of them
 * are not trapped.
 */
void fastload_place_around(FastloadWorker *w, FastloadRead *read);
/*
 * The next part of a chunk or a hint.  If the read wants_move, the first call
 * moves as much as it can; each other call places at most FASTLOAD_PIECE_BYTES,
 * or one page if that is more.
 */
void fastload_place_piece(FastloadWorker *w, FastloadRead *read);

/* regions that cannot be trapped: util/fastload-eager.c */
/* Loads all of @area with threads of its own, and blocks; called by start. */
bool fastload_eager_load(Fastload *fl, FastloadArea *area,
                         FastloadFailure *ret_failure);

/* huge pages: util/fastload-huge.c */
/* Decides which areas has_move; called by start, no threads yet. */
void fastload_huge_prepare(Fastload *fl);
/* Is no page of @span there, in memory that huge pages can be moved into? */
bool fastload_huge_is_untouched(const FastloadArea *area, FastloadSpan span);
/*
 * Can all of @span be moved as one huge page, as far as is known here?  Not if
 * most of it is zero.
 */
bool fastload_huge_fits(const FastloadArea *area, FastloadSpan span);
/* Fills the staging of a chunk with a huge page; frees what moving has left. */
void fastload_huge_staging_renew(uint8_t *buf);
void fastload_huge_staging_drop(uint8_t *buf);
/* Collapses dense chunks that were not moved; by the last worker, COMPLETED. */
void fastload_huge_collapse(FastloadWorker *w);
/* How far collapsing has come. */
typedef struct FastloadCollapse {
    uint64_t end_ns;    /* no call begins after that */
    uint64_t paused_ns; /* in all pauses */
    uint64_t chunk_max; /* of the next call */
} FastloadCollapse;
/*
 * How long to pause after a call that took @wall_ns and used @cpu_ns of
 * processor time.  A call that took longer than it worked has waited, most
 * likely for a processor, because this guest or another one is busy.  Those
 * come first.
 */
uint64_t fastload_huge_pause_ns(FastloadCollapse *collapse, uint64_t wall_ns,
                                uint64_t cpu_ns);

/* the snapshot file: util/fastload-file.c */
/*
 * Remembers what the file looks like, and tries O_DIRECT where the file system
 * does not tell whether it works.  Has the kernel read the ranges of @config
 * meanwhile.  Called by new.  Blocks on storage.
 */
void fastload_file_note(Fastload *fl, const FastloadConfig *config);
/* Frees what is remembered; no threads any more. */
void fastload_file_forget(Fastload *fl);

typedef enum FastloadFileState {
    FASTLOAD_FILE_SAME,
    FASTLOAD_FILE_UNKNOWN,  /* not known yet: read again later */
    FASTLOAD_FILE_CHANGED,  /* stays so until fastload_recover() */
    FASTLOAD_FILE_REPLACED, /* fastload_recover() replaced it since the read */
} FastloadFileState;

/*
 * Was the file that reads of @generation came from unchanged until now?  Asks
 * the file's server only if what the client remembers looks changed.  May block
 * on storage, but waits for no other thread.
 */
FastloadFileState fastload_file_check(Fastload *fl, uint32_t generation);
/*
 * Opens direct_fd where the file system says that O_DIRECT works; called by
 * start, no threads yet.  Does not block on storage.
 */
void fastload_file_prepare(Fastload *fl);
/*
 * dup()s the open file of @fd over the descriptors, while workers may read.
 * False: nothing changed.  One caller at a time.
 */
bool fastload_file_replace(Fastload *fl, int fd, GError **error);
/* Takes the file as it is now for the right one.  One caller at a time. */
void fastload_file_accept(Fastload *fl);
/*
 * Sets is_direct and is_cached of @read, which is planned and not begun.
 * Returns whether fastload_file_reads_cost_cpu() may say something else now.
 */
bool fastload_file_choose(Fastload *fl, FastloadRead *read);
/*
 * Does reading ahead take processor time?  It does when reads are copies from
 * the page cache, or block in preadv(); O_DIRECT by io_uring takes hardly any.
 */
bool fastload_file_reads_cost_cpu(const Fastload *fl);
/*
 * Is all data of @read in the page cache, as far as one can tell?  False where
 * the kernel does not tell.
 */
bool fastload_file_is_cached(const Fastload *fl, const FastloadRead *read);
/*
 * Asks the kernel to read all of @read into the page cache, if other loads read
 * the file and find it there.  Does not wait for the data.
 */
void fastload_file_fetch(const Fastload *fl, const FastloadRead *read);

/*
 * userfaultfd: util/fastload-uffd.c; any thread.  Functions of type int return
 * 0 or -errno; -EAGAIN: so the kernel said FASTLOAD_PLACE_TRIES_MAX times.
 */
#define FASTLOAD_UFFD_DEVICE "/dev/userfaultfd"

/* Why neither way to a userfaultfd works: positive errnos. */
typedef struct FastloadUffdRefusal {
    int call_error_number;   /* userfaultfd(2), tried first */
    int device_error_number; /* FASTLOAD_UFFD_DEVICE */
} FastloadUffdRefusal;

/* False: @ret_refusal is set, and nothing else. */
bool fastload_uffd_open(int *ret_uffd, bool *ret_has_move,
                        FastloadUffdRefusal *ret_refusal);
int fastload_uffd_register(int uffd, void *hva, uint64_t len_bytes,
                           bool *ret_has_zeropage);
int fastload_uffd_unregister(int uffd, void *hva, uint64_t len_bytes);
int fastload_uffd_wake(int uffd, void *hva, uint64_t len_bytes);
/* These three set *ret_done_bytes on success and on failure. */
int fastload_uffd_copy(int uffd, void *hva, const void *src,
                       uint64_t len_bytes, uint64_t *ret_done_bytes);
/* The bytes that were done are gone from @src, the others are not. */
int fastload_uffd_move(int uffd, void *hva, void *src, uint64_t len_bytes,
                       uint64_t *ret_done_bytes);
int fastload_uffd_zero(int uffd, void *hva, uint64_t len_bytes,
                       uint64_t *ret_done_bytes);

typedef struct FastloadUffdFault {
    uint64_t hva;
    uint32_t tid; /* of the thread that faulted; 0: the kernel does not tell */
    bool is_write;
} FastloadUffdFault;

/* Returns how many messages it has read, 0: none waits, or -errno. */
int fastload_uffd_read(int uffd, FastloadUffdFault *ret_faults,
                       uint32_t count_max);
/* The same of what a backend has read; empties @batch. */
int fastload_uffd_take(FastloadFaultBatch *batch,
                       FastloadUffdFault *ret_faults);

#endif /* QEMU_FASTLOAD_INT_H */
