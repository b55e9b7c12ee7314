/*
 * fastload: fill guest memory from a snapshot file, on demand and ahead of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A Fastload is one load of one snapshot file.  The caller describes guest
 * memory as regions, starts the load, may let the guest run at once, and
 * waits.  Worker threads read the file and make pages appear with
 * userfaultfd: first the pages that somebody is waiting for (urgent), then
 * early regions, then the recorded working set, if there is one (hint), then
 * everything else (background), in file order.  This header does not know the
 * snapshot format, QEMU or a monitor: the caller parses the file and hands over
 * plain offsets and bitmaps.
 *
 * Ownership: the caller owns guest memory, the file descriptor and every
 *   array passed in.  Guest memory and the descriptor must outlive
 *   fastload_free(); configuration, regions and bitmaps are copied before the
 *   call returns.
 * Threads: one thread, the "owner", makes the calls marked [owner].  Calls
 *   marked [any] are safe from every thread until fastload_free() begins.
 *   Callbacks run on engine threads.  Event callbacks come one at a time; the
 *   working set's callback has a thread of its own; the placed and fault
 *   callbacks may run on several threads at once.  The owner's thread calls
 *   the placed callback in fastload_start(), and, if all engine threads hang
 *   in preadv(), the event callback in the calls that wait for them.  The
 *   thread that calls fastload_recover() may call the event callback, too.  A
 *   callback may call fastload_cancel(), fastload_get_stats(),
 *   fastload_is_settled() and fastload_set_background_rate(), and no other
 *   function of the engine.
 * Blocking: fastload_start() blocks while it loads regions that cannot be
 *   trapped, fastload_wait() until the load is over, fastload_settle() and
 *   fastload_free() until the threads have ended and a recorded working set is
 *   written.  fastload_use_workset() reads a small file.  fastload_new() and
 *   fastload_recover() ask for the file's attributes, and read the bytes before
 *   the stream and a page of the file or of the copy.  No other call blocks
 *   on storage or on the guest.
 * Errors: calls with a GError ** return false or NULL and set it once; the
 *   engine logs nothing.  On failure every output is left as it was.
 * Units: *_bytes are bytes, *_ns nanoseconds of CLOCK_MONOTONIC, *_count a
 *   number of things.  file_off counts bytes from the start of the file; hva
 *   is a host virtual address; ram_off counts bytes from a region's start.
 * Limits: see FASTLOAD_*_MAX and _MIN.  More is an error, not a truncation.
 * Order: new -> add_region* -> use_workset? -> start -> wait -> settle -> free.
 *   free is legal after any of them; cancel, guest_runs, get_stats, is_failing,
 *   oldest_fault_ns, silent_ns, is_settled and set_background_rate after new,
 *   has_failed_faults, is_loaded, want and recover after start.
 * Visibility: what a trapped page holds is visible to whoever touches it, as
 *   if it had always been there.  After fastload_wait() returned true all
 *   regions are plain memory again, with no registration left.
 *   A page that is given back (MADV_DONTNEED, fallocate()) before COMPLETED:
 *   if it was not placed yet, the snapshot's bytes are placed all the same.  If
 *   it counts as placed, for the placed callback or remaining_bytes, it is zero
 *   when it is touched next, even if a read of it is in flight; but a worker
 *   that is in the middle of placing it, or pages around it (up to 2 MiB), may
 *   bring the snapshot's bytes once more.  After a page is there and before it
 *   counts as placed, either may happen.  A caller that needs zeros gives
 *   nothing back before fastload_wait() has returned.
 * Kernel: userfaultfd (Linux 4.11 for anonymous, shared and huge page
 *   memory) is required; fastload_probe() tells whether this process may use
 *   it.  io_uring is used where it is permitted and preadv() where it is not;
 *   the statistics say which, and why.  A worker's ring is 8 KiB of locked
 *   memory where the kernel charges rings (Linux 6.18 does): all processes of
 *   a user without CAP_IPC_LOCK share RLIMIT_MEMLOCK, and the kernel returns
 *   the share of a ring 20 to 50 ms after it was closed.  A process with that
 *   capability, or without that limit, also locks the staging of urgent reads.
 *   Where the limit suffices for some rings only, the first worker has one and
 *   the workers without read with preadv(); where the first worker cannot have
 *   a ring, no worker has one.
 *   A read that io_uring has no memory for is made with preadv(); it has failed
 *   only if that fails, too.
 *   UFFDIO_MOVE (Linux 6.8) and MADV_COLLAPSE (Linux 6.1) keep huge pages;
 *   without them memory ends as small pages.
 */
#ifndef QEMU_FASTLOAD_H
#define QEMU_FASTLOAD_H

#define FASTLOAD_WORKER_COUNT_MAX 64
#define FASTLOAD_REGION_COUNT_MAX 4096
/* The smallest page, and the granule in which snapshots record data. */
#define FASTLOAD_PAGE_BYTES_MIN 4096u
/* Regions of larger pages are loaded by fastload_start(), not trapped. */
#define FASTLOAD_TRAP_PAGE_BYTES_MAX (2u << 20)
/* A background rate: nothing is loaded ahead until the rate is changed. */
#define FASTLOAD_BACKGROUND_OFF UINT64_MAX

#define FASTLOAD_ERROR fastload_error_quark()

typedef enum FastloadError {
    FASTLOAD_ERROR_INVALID,     /* an argument breaks this contract */
    FASTLOAD_ERROR_UNSUPPORTED, /* userfaultfd is missing or not permitted */
    FASTLOAD_ERROR_SYSTEM,      /* a system call failed; the text says which */
    FASTLOAD_ERROR_READ,        /* the snapshot could not be read */
    FASTLOAD_ERROR_CANCELLED,
} FastloadError;

typedef enum FastloadIoKind {
    FASTLOAD_IO_AUTO,     /* io_uring, or preadv where it is refused */
    FASTLOAD_IO_IO_URING, /* for each worker, or fastload_start() fails */
    FASTLOAD_IO_PREADV,
} FastloadIoKind;

typedef enum FastloadFailureKind {
    FASTLOAD_FAILURE_READ,
    FASTLOAD_FAILURE_CHANGED, /* the file was changed after the load began */
    FASTLOAD_FAILURE_PLACE,   /* read, but not placed: usually out of memory */
} FastloadFailureKind;

/* What kept a load from going on; handed to the event callback. */
typedef struct FastloadFailure {
    FastloadFailureKind kind;
    int error_number;  /* positive errno; ENODATA: the file ends too early;
                          EAGAIN: whether the file was changed is not known
                          yet; ESTALE: it was (kind CHANGED) */
    uint64_t file_off; /* where in the file, as exactly as is known */
} FastloadFailure;

typedef enum FastloadEvent {
    FASTLOAD_EVENT_COMPLETED, /* all is placed, nothing is registered */
    FASTLOAD_EVENT_STALLED,   /* reads fail; they are retried with back-off */
    FASTLOAD_EVENT_RESUMED,   /* something that failed has been read since */
    FASTLOAD_EVENT_CANCELLED, /* workers are gone, waiters were released */
    FASTLOAD_EVENT_SETTLED,   /* after COMPLETED: no thread works any more */
} FastloadEvent;

/**
 * FastloadEventFunc: told about a change of state
 * @event: what happened
 * @failure: the last failure for STALLED, else NULL; valid during the call
 * @opaque: from the configuration
 */
typedef void FastloadEventFunc(FastloadEvent event,
                               const FastloadFailure *failure, void *opaque);

/**
 * FastloadFaultFunc: told that somebody waits for a page, or just did
 * @hva: the page
 * @tid: the thread that touched it, as of gettid(); 0: the kernel does not
 *   tell (before Linux 4.14)
 * @opaque: from the configuration
 *
 * Called on an engine thread, on several at once, before this fault is
 * answered.  Called again for the same touch when the queue of faults was full
 * and the thread had to fault once more.  Another thread may have placed the
 * page by then, and the placed callback may have been called for it.  As the
 * placed callback, it must not block and must not touch pages that may be
 * missing.
 */
typedef void FastloadFaultFunc(void *hva, uint32_t tid, void *opaque);

typedef enum FastloadClass {
    FASTLOAD_CLASS_URGENT,     /* somebody waited for the page */
    FASTLOAD_CLASS_HINT,       /* in the working set that is replayed */
    FASTLOAD_CLASS_BACKGROUND, /* read ahead, in turn */
    FASTLOAD_CLASS_MAX,
} FastloadClass;

/**
 * FastloadPlacedFunc: told about pages that are there now
 * @hva: the first page
 * @len_bytes: a multiple of the region's page size
 * @class: why they were read; BACKGROUND in fastload_start()
 * @has_data: from the file; false: the snapshot says zero
 * @opaque: from the configuration
 *
 * Called once for each page that was trapped or loaded by fastload_start(),
 * after the page became visible and its waiters were woken; zero pages that
 * are not trapped are not reported.  All calls have returned before
 * remaining_bytes is 0.  The callback delays urgent reads: it must not block,
 * and must not touch pages that may be missing.
 */
typedef void FastloadPlacedFunc(void *hva, uint64_t len_bytes,
                                FastloadClass class, bool has_data,
                                void *opaque);

/* A part of the snapshot file. */
typedef struct FastloadFileRange {
    uint64_t file_off;
    uint64_t len_bytes;
} FastloadFileRange;

/* Zero in any field means "choose for me", or "none" for the callbacks. */
typedef struct FastloadConfig {
    uint32_t worker_count; /* 1..FASTLOAD_WORKER_COUNT_MAX; default 2 */
    FastloadIoKind io_kind;
    FastloadEventFunc *event_func;
    void *event_opaque;
    FastloadPlacedFunc *placed_func;
    void *placed_opaque;
    FastloadFaultFunc *fault_func;
    void *fault_opaque;
    /* As for fastload_set_background_rate(); 0: no limit. */
    uint64_t background_bytes_per_s;
    /*
     * Offset in the file at which the snapshot begins.  The bytes before it
     * belong to other software, which may change them at any time.
     */
    uint64_t stream_off;
    /*
     * What the caller is about to read of the file through the page cache: the
     * kernel reads it ahead, and fastload_new() does not wait for it.  May
     * reach past the end of the file.  Not used after fastload_new().
     */
    const FastloadFileRange *ahead_ranges;
    uint32_t ahead_range_count;
    bool is_move_disabled; /* as on a kernel without UFFDIO_MOVE; for tests */
} FastloadConfig;

typedef struct FastloadRegion {
    void *hva;           /* a multiple of page_bytes */
    uint64_t len_bytes;  /* a multiple of page_bytes, not 0 */
    uint64_t file_off;   /* of the region's first byte; a multiple of 4096 */
    uint32_t page_bytes; /* of the backing: power of two, at least 4096 */
    /*
     * One bit for each granule_bytes of the region, least significant bit of
     * word 0 first; set: the file has the data, clear: the memory is zero.
     * granule_bytes is a power of two, at least 4096, at most page_bytes
     * and 2 MiB.
     */
    const uint64_t *data_bits;
    uint32_t granule_bytes;
    bool is_eager;       /* load it in fastload_start(), do not trap it */
    bool is_empty;       /* eager: it was emptied, so zero pages stay holes */
    /*
     * Read ahead before all regions that are not early.  The background rate
     * neither delays it nor is charged for it, but FASTLOAD_BACKGROUND_OFF
     * holds it back, too.  For a small region that is about to be read whole.
     */
    bool is_early;
    /*
     * Shared memory, or a mapping of a memory file, whose huge pages of 2 MiB
     * begin elsewhere than on multiples of 2 MiB of hva: the memory file's
     * offset and hva differ by something else than a multiple of that.
     */
    bool is_off_grid;
    /*
     * Private anonymous memory that may have transparent huge pages, by
     * madvise() or the system's default: where at least half of 2 MiB has
     * data, or zero pages are populated, it ends as a huge page, as far as
     * the kernel has them to give; what consists of small pages at completion
     * is collapsed after it.
     */
    bool wants_huge;
    /* Zero pages get memory of their own as well, where it can be trapped. */
    bool wants_populated;
    /*
     * What the snapshot calls it; copied.  NULL: "".  A working set is of a
     * snapshot whose regions have the same labels.
     */
    const char *label;
} FastloadRegion;

/* What becomes of the file that fastload_use_workset() was given. */
typedef enum FastloadWorksetState {
    FASTLOAD_WORKSET_NONE,      /* there is no such file */
    FASTLOAD_WORKSET_RECORDING, /* first touches are noted; nothing else is
                                   read ahead but early regions */
    FASTLOAD_WORKSET_WRITING,   /* the load goes on as any other */
    FASTLOAD_WORKSET_WRITTEN,
    FASTLOAD_WORKSET_FAILED,    /* nothing was written */
    FASTLOAD_WORKSET_REPLAYING,
    FASTLOAD_WORKSET_REPLAYED,  /* all of the set is there, or was given up */
    FASTLOAD_WORKSET_STATE_MAX,
} FastloadWorksetState;

/* In pages of 4096 bytes, whatever memory is made of. */
typedef struct FastloadWorksetStats {
    FastloadWorksetState state;
    uint64_t page_count;  /* in the set; while recording: touched so far */
    uint32_t run_count;   /* in the file; 0 while recording */
    uint64_t took_ns;     /* the recording, from when it began */
    uint64_t late_count;  /* in the set, but touched before they were placed */
} FastloadWorksetStats;

/**
 * FastloadWorksetFunc: told that a recording is WRITTEN, or has FAILED
 * @stats: what came of it
 * @error: for FAILED, why; else NULL.  A load goes on without its recording
 * @opaque: from the configuration
 *
 * Called once for a load that records, on an engine thread that does nothing
 * else (or by fastload_start(), when that thread cannot be created).  The last
 * event comes after it.  It may make the engine calls that any callback may.
 */
typedef void FastloadWorksetFunc(const FastloadWorksetStats *stats,
                                 const GError *error, void *opaque);

/* Zero in any field but path means "choose for me", or "none". */
typedef struct FastloadWorksetConfig {
    const char *path;    /* copied */
    /*
     * Ends after so long without a new page, while nobody waits for one; 300 ms
     */
    uint64_t quiet_ns;
    uint64_t least_ns;   /* lasts at least so long; 200 ms */
    uint64_t most_ns;    /* lasts at most so long; 2 s */
    /*
     * The caller will call fastload_guest_runs(), and these times begin with
     * that call.  Otherwise they begin with fastload_start().  A set that is
     * replayed from the page cache is left to all threads but the first until
     * then, for what starts the guest needs the processor.
     */
    bool awaits_guest;
    FastloadWorksetFunc *func;
    void *opaque;
} FastloadWorksetConfig;

/* A snapshot of the counters; cheap, and coherent only field by field. */
typedef struct FastloadStats {
    /*
     * What the first worker reads with, which serves faults and reads ahead:
     * "io_uring", "preadv", or "none" before the start; "preadv" also once any
     * worker's io_uring has stopped working.  Static storage.
     */
    const char *io_name;
    /*
     * What io_uring lacked when the load started, for any worker: a sentence
     * without capital and full stop, in static storage.  NULL: nothing, or it
     * was not asked for.
     */
    const char *io_fallback;
    uint32_t worker_count;
    uint32_t preadv_count;     /* of those, that read with preadv now */
    uint64_t total_bytes;      /* of all regions */
    uint64_t zero_bytes;       /* of those, in pages without data in the file */
    uint64_t remaining_bytes;  /* trapped and not placed yet */
    uint64_t loaded_bytes[FASTLOAD_CLASS_MAX]; /* data placed, by class */
    uint64_t read_bytes;       /* from the file, re-reads included */
    uint64_t hint_count;       /* reads of the working set that were placed */
    uint64_t fault_count;      /* userfaultfd messages answered */
    uint64_t moved_bytes;      /* placed by UFFDIO_MOVE, zeros included */
    uint64_t collapsed_bytes;  /* made huge pages after completion */
    uint64_t retry_count;      /* reads issued again after a failure */
    uint64_t io_error_count;   /* reads that failed, or of a changed file */
    /* From reading the fault message to the page being there. */
    uint64_t fault_p50_ns;
    uint64_t fault_p95_ns;
    uint64_t fault_p99_ns;
    uint64_t fault_max_ns;
    /*
     * Age of the oldest fault that is not answered yet, from reading its
     * message on, whatever failed since; 0: nobody waits.  As
     * fastload_oldest_fault_ns() has it.
     */
    uint64_t oldest_fault_ns;
    /*
     * The file's time of modification moves by itself, as on some file systems
     * in user space: only its size tells a change.
     */
    bool has_mtime_moved;
    uint64_t complete_ns;      /* start to all placed; 0 until then */
    FastloadWorksetStats workset;
} FastloadStats;

typedef struct Fastload Fastload;

GQuark fastload_error_quark(void);

/**
 * fastload_probe: can memory be trapped here?                          [any]
 * @error: FASTLOAD_ERROR_UNSUPPORTED if not, with what to do about it
 *
 * Tries userfaultfd(2), then /dev/userfaultfd, whatever the errno of the
 * former; a refusal names both with their errnos.  Leaves no descriptor open.
 */
bool fastload_probe(GError **error);

/**
 * fastload_new: create an idle load                                  [owner]
 * @fd: the snapshot file, open for reading, with O_DIRECT or without.  Without,
 *   what the page cache holds is taken from there, and the rest is read around
 *   it by a descriptor of the engine's own, where kernel (Linux 6.5) and file
 *   system allow that
 * @config: NULL means all defaults
 * @error: FASTLOAD_ERROR_INVALID: @fd is negative, or the configuration asks
 *   for too many workers
 *
 * A regular file must not change from here on.  When its size or its time of
 * modification differs, nothing that is read is placed any more
 * (FASTLOAD_FAILURE_CHANGED) until fastload_recover(), even when both are put
 * back.  The call asks the file's server for them.
 *
 * The bytes before the configuration's stream_off may change, the size of the
 * file may not.  When the time of modification differs and the first 256 KiB of
 * those bytes differ as well, the engine takes the snapshot for unchanged.
 * Until the time has stood still for 100 ms, nothing is placed and reads count
 * as failing (EAGAIN).  A write to the snapshot at the same time is noticed if
 * it changed the first or last 512 KiB of it, or if a read ends between the two
 * writes and their times are 20 ms apart.  A write that leaves the bytes before
 * the stream as they were counts as a change of the snapshot.
 *
 * Returns: a new Fastload, freed with fastload_free(), or NULL.
 */
Fastload *fastload_new(int fd, const FastloadConfig *config, GError **error);

/**
 * fastload_add_region: describe one stretch of guest memory          [owner]
 * @fl: a load that has not started
 * @region: must not overlap a region added before, nor lie before the
 *   configuration's stream_off; no page of it may be populated yet, for a
 *   populated page would keep what it has; unless it is eager and not is_empty
 * @error: FASTLOAD_ERROR_INVALID: what is wrong with @region
 *
 * The region must be private anonymous memory, shared memory (memfd, tmpfs)
 * or hugetlb to be trapped; any other writable mapping is loaded in full by
 * fastload_start().
 */
bool fastload_add_region(Fastload *fl, const FastloadRegion *region,
                         GError **error);

/**
 * fastload_use_workset: record what the guest touches first, or replay it
 *                                                                    [owner]
 * @fl: a load that has all its regions and has not started; called once
 * @config: path names the file of the working set
 * @error: why the file is neither replayed nor recorded: it is damaged, of
 *   another snapshot or version, or its folder cannot be written to.  The load
 *   can be started all the same, without a working set, and the file stays as
 *   it is
 *
 * Where the file does not exist, this load records: the first touch of each
 * page is noted.  Meanwhile only early regions are read ahead, and no pages
 * around a fault.  When no new page was touched for quiet_ns, and none that was
 * touched is still to come, the load goes on as usual, and the file is written
 * under a temporary name and renamed; no fault waits for that.  A load that
 * ends earlier writes what it has recorded.
 *
 * Where the file exists and is of this snapshot, this load replays it: from
 * fastload_start() on, its pages are read in the order in which they were
 * touched, after faults and early regions, before the background.  Neither a
 * background rate nor FASTLOAD_BACKGROUND_OFF delays them, and the rate is not
 * charged for them.
 *
 * Two snapshots are the same if their regions have the same labels, lengths,
 * granules, places in the file and bitmaps, and if the file has the same size
 * from stream_off on.  The kind of memory does not matter.  The file only
 * decides which pages are read sooner; its contents are not trusted.
 *
 * The recording has FAILED where nothing was touched, and where awaits_guest is
 * set and the guest does not run within 10 s (or most_ns, if that is longer).
 * It holds 524288 touches at most, each of one page of its region's size.
 */
bool fastload_use_workset(Fastload *fl, const FastloadWorksetConfig *config,
                          GError **error);

/**
 * fastload_guest_runs: the guest begins to run                         [any]
 * @fl: any load
 *
 * For a working set with awaits_guest, recorded or replayed; later calls do
 * nothing.
 */
void fastload_guest_runs(Fastload *fl);

/**
 * fastload_start: trap the regions, start the threads, return at once [owner]
 * @fl: a load with at least one region; called once
 * @error: any FastloadError but CANCELLED; @fl can then only be freed, nothing
 *   stays trapped
 *
 * From here on, touching a page that is not there blocks the toucher until
 * the page has been read.  Switches the kernel's readahead off for the open
 * file that the descriptor refers to.  Memory that is zero is trapped only
 * where it saves mappings, of which a process has no more than the sysctl
 * vm.max_map_count; the fewer it has left, the more is trapped.
 */
bool fastload_start(Fastload *fl, GError **error);

/**
 * fastload_wait: wait until everything is placed, or the load ended  [owner]
 * @fl: a started load
 * @error: FASTLOAD_ERROR_CANCELLED when it was cancelled
 *
 * Goes on waiting for a stalled load, which resumes when the file can be read
 * again.  Once everything is placed, waits for the reads in flight, 2 seconds
 * at most.
 * COMPLETED and SETTLED may come after this returns, but not after
 * fastload_free().
 *
 * Returns: true when all is placed, false when the load was cancelled.
 */
bool fastload_wait(Fastload *fl, GError **error);

/**
 * fastload_settle: wait until the engine is idle for good            [owner]
 * @fl: a started load
 *
 * After completion one thread collapses what urgent reads have left as small
 * pages into huge pages, while the memory is in use; fastload_free() would end
 * that early.  Returns after the last event, and after a recorded working set
 * is written.  A thread whose reads did not return within the 2 seconds of
 * fastload_wait() is not waited for: it touches nothing of the load any more,
 * and the kernel ends it when the reads return.
 */
void fastload_settle(Fastload *fl);

/**
 * fastload_is_settled: is the engine idle for good?                    [any]
 * @fl: any load
 *
 * True from just before SETTLED or CANCELLED is told, and from then on: no
 * engine thread touches guest memory or the file any more.  False before
 * fastload_start().  fastload_settle() returns once it is true and the event
 * callback has returned.
 */
bool fastload_is_settled(Fastload *fl);

/**
 * fastload_is_loaded: is a stretch of memory there?                    [any]
 * @fl: a load whose fastload_start() has returned
 * @hva: begin of the stretch
 * @len_bytes: its length, up to the end of the region that it begins in
 *
 * True when each page of it that was trapped is placed: a thread that touches
 * the stretch does not wait.  True also outside of any region, and in one that
 * was dropped.
 */
bool fastload_is_loaded(Fastload *fl, const void *hva, uint64_t len_bytes);

/* What fastload_want() has done about a page. */
typedef enum FastloadWanted {
    FASTLOAD_WANTED_THERE,  /* nothing: a thread that touches it goes on */
    FASTLOAD_WANTED_QUEUED, /* it is read; the placed callback tells the end */
    FASTLOAD_WANTED_BUSY,   /* nothing: too many faults are queued; ask again */
} FastloadWanted;

/**
 * fastload_want: a page is wanted now, as if a thread had touched it   [any]
 * @fl: a load whose fastload_start() has returned
 * @hva: an address in the page
 *
 * For memory that another process maps as well: its touches do not reach the
 * userfaultfd of this one.  The page is read and placed as an urgent one, and
 * counts as a fault in the figures and for a working set, recorded or replayed;
 * the fault callback is not called.  Returns at once.  The placed callback may
 * run before this returns: note which process waits for the page before you
 * call it.  Ask again after a while for a page that does not come: a request is
 * forgotten when another read was to bring the page, and fails.
 * THERE also outside of any region, in one that was dropped, and for zeros that
 * are not trapped: shared memory may have no page there yet, until this process
 * touches it.
 */
FastloadWanted fastload_want(Fastload *fl, const void *hva);

/**
 * fastload_cancel: ask a running load to stop                          [any]
 * @fl: any load
 *
 * Returns at once.  When the reads in flight have returned, or after 2 seconds,
 * threads that wait for a page are released and find ZEROS in it, as does every
 * thread that touches a missing page later: cancel only when the content of
 * guest memory does not matter any more.
 * A second call does nothing.  A call after completion ends settling early.
 */
void fastload_cancel(Fastload *fl);

/**
 * fastload_drop_region: a region's memory is about to go             [owner]
 * @fl: any load
 * @hva: as it was added; nothing happens where there is no such region
 *
 * Its missing pages are no longer read or placed, threads that wait for one of
 * them are released and find zeros, and its missing data no longer counts in
 * total_bytes.  As soon as this returns, the memory may be unmapped and its
 * addresses may be mapped anew, by another load, too.  The call waits for
 * placements in the region that are under way, but for no read.
 * After completion no more huge pages are made of it, except in one stretch of
 * up to 8 MiB that may be under way; that does not change what memory holds.
 * Before start the call has no effect.
 */
void fastload_drop_region(Fastload *fl, void *hva);

/**
 * fastload_set_background_rate: how fast to read ahead                 [any]
 * @fl: any load
 * @bytes_per_s: 0: no limit; or FASTLOAD_BACKGROUND_OFF
 *
 * Limits the bytes that all workers together read from the file in the
 * background, holes that are read over and repeated reads included.  Urgent
 * reads are neither delayed nor charged.  Zero pages are not charged, but keep
 * their place in the order.  May be changed at any time; reads in flight are
 * still placed.
 * While reads fail, one failed chunk at a time is tried again in advance of the
 * rate, which is charged for it afterwards: the engine notices at any rate that
 * reads work again.  A chunk that was begun is read to its end for that.  This
 * also happens with FASTLOAD_BACKGROUND_OFF.
 */
void fastload_set_background_rate(Fastload *fl, uint64_t bytes_per_s);

/**
 * fastload_failure_cause: why, in words                                [any]
 * @failure: from fastload_is_failing() or the event callback
 *
 * Returns: a clause for the end of a message, without full stop, in static
 * storage.
 */
const char *fastload_failure_cause(const FastloadFailure *failure);

/**
 * fastload_is_failing: is anything waiting to be read again?           [any]
 * @fl: any load
 * @ret_failure: the last failure, if so
 *
 * True from the first read that has used up its tries until something that
 * failed has been read, as for FASTLOAD_EVENT_RESUMED, or fastload_recover() is
 * called; true again when a read fails again.  FASTLOAD_EVENT_STALLED comes
 * later, if it lasts.  While it is true, something that failed is tried again
 * at least once a second, whatever the background rate is.
 */
bool fastload_is_failing(Fastload *fl, FastloadFailure *ret_failure);

/**
 * fastload_oldest_fault_ns: for how long has somebody waited?          [any]
 * @fl: any load
 *
 * Returns: the age of the oldest fault that is not answered yet, whether reads
 * fail or hang; 0: nobody waits.  At least fastload_silent_ns(), as if somebody
 * had waited since then.
 */
uint64_t fastload_oldest_fault_ns(Fastload *fl);

/**
 * fastload_silent_ns: for how long has nobody read the faults?         [any]
 * @fl: any load
 *
 * Returns: how long storage that hangs has kept the thread that answers faults
 * in the kernel, if that is 100 ms or more; else 0.  Meanwhile the fault
 * callback is not called either, so the load's owner does not learn which
 * threads wait.
 */
uint64_t fastload_silent_ns(Fastload *fl);

/**
 * fastload_has_failed_faults: does anybody wait for a page that failed? [any]
 * @fl: a load that was started
 *
 * True from the first read that has used up its tries, of a page that somebody
 * waits for, until each such page is there, whether or not fastload_recover()
 * was called meanwhile.
 */
bool fastload_has_failed_faults(Fastload *fl);

/**
 * fastload_recover: retry at once, from another copy if wanted        [any]
 * @fl: a load that was started
 * @fd: a copy of the snapshot, opened as the first one was, with O_DIRECT or
 *   without it; or -1: the same file.  Stays the caller's
 * @error: set when @fd cannot be used; the load is as it was then
 *
 * The engine does not compare contents: the caller guarantees that the copy, or
 * with -1 the file that was changed, has the snapshot's bytes where the regions
 * are.  From now on the descriptor that fastload_new() was given refers to the
 * copy's open file, under its old number (dup3()); reads of the old file that
 * are in flight are repeated from the copy.
 * A stalled load counts as resumed, which this thread tells the event callback;
 * it stalls again if reads go on to fail.  Failed reads are also tried again
 * without this call.  Only one thread at a time may call it.
 */
bool fastload_recover(Fastload *fl, int fd, GError **error);

/**
 * fastload_get_stats: how far the load is                              [any]
 * @fl: any load
 * @ret_stats: filled in
 */
void fastload_get_stats(Fastload *fl, FastloadStats *ret_stats);

/**
 * fastload_free: cancel if needed, end all threads, release all      [owner]
 * @fl: any load, or NULL
 *
 * Waits for threads as fastload_settle() does.  Takes NULL.
 */
void fastload_free(Fastload *fl);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fastload, fastload_free)

#endif /* QEMU_FASTLOAD_H */
