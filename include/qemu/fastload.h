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
 *   The event callback runs on an engine thread, one call at a time; the
 *   working set's on one of its own; the placed and fault callbacks on all of
 *   them at once, the former also on the owner's in fastload_start().  The
 *   only engine calls allowed in any are fastload_cancel(),
 *   fastload_get_stats(), fastload_is_settled() and
 *   fastload_set_background_rate().
 * Blocking: fastload_start() blocks while it loads regions that cannot be
 *   trapped; fastload_wait() until the load is over, fastload_settle() and
 *   fastload_free() until threads end, and until a recorded working set is
 *   written.  fastload_use_workset() reads a small file.  fastload_new() and
 *   fastload_recover() ask for the file's attributes and read what lies before
 *   the stream, and a page of the file or of the copy.  No other call blocks
 *   on storage or on the guest.
 * Errors: calls with a GError ** return false or NULL and set it once; the
 *   engine logs nothing.  On failure every output is left as it was.
 * Units: *_bytes are bytes, *_ns nanoseconds of CLOCK_MONOTONIC, *_count a
 *   number of things.  file_off counts bytes from the start of the file; hva
 *   is a host virtual address; ram_off counts bytes from a region's start.
 * Limits: see FASTLOAD_*_MAX and _MIN.  More is an error, not a truncation.
 * Order: new -> add_region* -> use_workset? -> start -> wait -> settle -> free.
 *   free is legal after any of them; cancel, guest_runs, get_stats, is_failing,
 *   oldest_fault_ns, is_settled and set_background_rate after new,
 *   has_failed_faults, is_loaded and recover after start.
 * Visibility: what a trapped page holds is visible to whoever touches it, as
 *   if it had always been there.  After fastload_wait() returned true all
 *   regions are plain memory again, with no registration left.
 *   A page that is given back (MADV_DONTNEED, fallocate()) before COMPLETED:
 *   if it was not placed yet, the snapshot's bytes come all the same.  If it
 *   counts as placed, for the placed callback or remaining_bytes, it is zero
 *   when it is touched next, whatever is still being read for it; but a worker
 *   that is in the middle of placing it, or pages around it, up to 2 MiB, may
 *   bring the snapshot's bytes once more.  Between being there and counting as
 *   placed, either may come.  Who needs zeros gives nothing back before
 *   fastload_wait() has returned.
 * Kernel: userfaultfd (Linux 4.11 for anonymous, shared and huge page
 *   memory) is required and fastload_probe() tells whether it can be had.
 *   io_uring is used where it is permitted and preadv() where it is not; the
 *   statistics say which, and why.  A worker's ring is 8 KiB of locked memory
 *   where the kernel charges rings (Linux 6.18 does): all processes of a
 *   user without CAP_IPC_LOCK have RLIMIT_MEMLOCK of it together, and what a
 *   ring had comes back 20 to 50 ms after it was closed.  A process with that
 *   capability, or without that limit, locks what urgent reads go to as well.
 *   Where there is enough for some workers, the first is among them, and the
 *   others read with preadv(); where the first has no ring, none has.
 *   A read that io_uring has no memory for is made with preadv() and counts as
 *   no failure, unless that fails, too.
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
    FASTLOAD_FAILURE_CHANGED, /* it is not the file any more that it was */
    FASTLOAD_FAILURE_PLACE,   /* it was read; no memory for it, as a rule */
} FastloadFailureKind;

/* What kept a load from going on; handed to the event callback. */
typedef struct FastloadFailure {
    FastloadFailureKind kind;
    int error_number; /* positive errno; ENODATA: the file ended early;
                         EAGAIN: it is not known yet whether it has changed;
                         ESTALE for CHANGED */
    uint64_t file_off;
} FastloadFailure;

typedef enum FastloadEvent {
    FASTLOAD_EVENT_COMPLETED, /* all is placed, nothing is registered */
    FASTLOAD_EVENT_STALLED,   /* reads fail; they are retried with back-off */
    FASTLOAD_EVENT_RESUMED,   /* something that failed has been read since */
    FASTLOAD_EVENT_CANCELLED, /* workers are gone, waiters were released */
    FASTLOAD_EVENT_SETTLED,   /* after COMPLETED: huge pages are mended */
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
 * Called on an engine thread, several at once, before this fault is answered;
 * again when there was no room for it and the thread has to fault once more.
 * Another thread may have placed the page by then, and the placed callback
 * may have been called for it.  The same rules as there.
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
 * @class: what they were placed for; BACKGROUND in fastload_start()
 * @has_data: from the file; false: the snapshot says zero
 * @opaque: from the configuration
 *
 * Called after the pages became visible, their waiters have been woken by
 * then, and once for each page that was trapped or loaded by
 * fastload_start(); zeros that need no trap are not reported.  All calls have
 * returned before remaining_bytes is 0.  It runs between urgent reads: it
 * must not block, and must not touch pages that may be missing.
 */
typedef void FastloadPlacedFunc(void *hva, uint64_t len_bytes,
                                FastloadClass class, bool has_data,
                                void *opaque);

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
     * Offset in the file at which the snapshot begins.  What lies before it is
     * somebody else's, who may change it at any time.
     */
    uint64_t stream_off;
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
    /*
     * Read ahead before regions that are not, at no cost to the background's
     * rate, but not with FASTLOAD_BACKGROUND_OFF: a small region that somebody
     * is going to read whole.
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
     * the kernel has them to give; what is small at completion is mended
     * after it.
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
    uint64_t late_count;  /* in the set, touched before they were there */
} FastloadWorksetStats;

/**
 * FastloadWorksetFunc: told that a recording is WRITTEN, or has FAILED
 * @stats: what came of it
 * @error: for FAILED, why; else NULL.  A load goes on without its recording
 * @opaque: from the configuration
 *
 * Called once for a load that records, on an engine thread that does nothing
 * else (or by fastload_start(), where it cannot have that thread); the last
 * event comes after it.  The same rules as for events.
 */
typedef void FastloadWorksetFunc(const FastloadWorksetStats *stats,
                                 const GError *error, void *opaque);

/* Zero in any field but path means "choose for me", or "none". */
typedef struct FastloadWorksetConfig {
    const char *path;    /* copied */
    uint64_t quiet_ns;   /* no new page for so long ends it; 300 ms */
    uint64_t least_ns;   /* but not before; 200 ms */
    uint64_t most_ns;    /* and so much later in any case; 2 s */
    /*
     * The caller will call fastload_guest_runs(), and these times begin then;
     * else with fastload_start().
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
 * @error: set when not, with what to do about it
 *
 * Tries userfaultfd(2), then /dev/userfaultfd, whatever the errno of the
 * former; a refusal names both with their errnos.  Leaves no descriptor open.
 */
bool fastload_probe(GError **error);

/**
 * fastload_new: create an idle load                                  [owner]
 * @fd: snapshot file, opened for reading, with O_DIRECT or without.  Without,
 *   what the page cache has is taken from there; the rest is read around it,
 *   by a descriptor of the engine's own, where kernel (Linux 6.5) and file
 *   system allow that.  A regular file must stay as it is from here on: when
 *   its size or its time of modification is another, nothing that is read is
 *   placed (FASTLOAD_FAILURE_CHANGED) until fastload_recover(), also when both
 *   are put back.  Asks the file's server what it looks like.
 *   What lies before config's stream_off may change, the size may not: where
 *   the time is another, and the first 256 KiB of what lies there are, too, the
 *   file is the same; until the time has stood still for 100 ms nothing is
 *   placed, and reads count as failing (EAGAIN).  Where the stream is written
 *   to as well, this is noticed if its first or last 512 KiB are others, or if
 *   a read ends between the two writes and their times are 20 ms apart.  Where
 *   what lies before it is written again as it was, it is a change
 * @config: NULL means all defaults
 * @error: set on failure
 *
 * Returns: a new Fastload, freed with fastload_free(), or NULL.
 */
Fastload *fastload_new(int fd, const FastloadConfig *config, GError **error);

/**
 * fastload_add_region: describe one stretch of guest memory          [owner]
 * @fl: a load that has not started
 * @region: must not overlap a region added before, nor lie before the
 *   configuration's stream_off; no page of it may be
 *   populated yet, for a populated page would keep what it has
 * @error: set on failure
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
 * @fl: a load that has all its regions and has not started; once
 * @config: path names the file.  Where there is none, this load records: the
 *   first touch of each page is noted, and nothing is read ahead meanwhile (but
 *   early regions), nor around a fault.  When no new page was touched for
 *   quiet_ns, the load goes on as ever and the file is written, which no fault
 *   waits for: beside its name, then renamed.  A load that ends earlier writes
 *   what it has.  Where the file is of this snapshot, this load replays it:
 *   from fastload_start() on its pages are read in the order in which they were
 *   touched, behind faults and early regions, ahead of the background.  No
 *   background rate delays them, nor FASTLOAD_BACKGROUND_OFF, and they take
 *   nothing from it
 * @error: why the file is neither replayed nor can be recorded: it is damaged,
 *   of another snapshot or version, or its folder cannot be written to.  The
 *   load can be started all the same, without it, and the file stays as it is
 *
 * What a snapshot is, for that: labels, lengths, granules and places of its
 * regions, their bitmaps, and the file's size from stream_off on.  The kind of
 * memory does not matter.  Which pages are read sooner is all that the file
 * decides; it is checked as what a stranger wrote.
 * Where awaits_guest is set and the guest does not run within 10 s (or most_ns,
 * if that is more), the recording has FAILED.  So it has where nothing was
 * touched.  What is recorded at most is 524288 pages of the memory's size.
 */
bool fastload_use_workset(Fastload *fl, const FastloadWorksetConfig *config,
                          GError **error);

/**
 * fastload_guest_runs: the guest begins to run                         [any]
 * @fl: any load
 *
 * From the first call on the times of a recording count that awaits_guest.
 */
void fastload_guest_runs(Fastload *fl);

/**
 * fastload_start: trap the regions, start the threads, return at once [owner]
 * @fl: a load with at least one region
 * @error: set on failure; @fl can then only be freed, nothing stays trapped
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
 * A stalled load is waited for: it goes on when the file can be read again.
 * Once everything is placed, reads that are in flight are waited for, 2 seconds
 * at most; but preadv() may be stuck in the kernel for as long as storage does
 * not answer.
 * COMPLETED and SETTLED may come after this returns, but not after
 * fastload_free().
 */
bool fastload_wait(Fastload *fl, GError **error);

/**
 * fastload_settle: wait until the engine is idle for good            [owner]
 * @fl: a started load
 *
 * After completion one thread makes huge pages of what has become small ones
 * by urgent reads, while the memory is in use; fastload_free() would end that
 * early.  Returns after the last event.  A thread whose reads were left behind
 * (see fastload_wait()) is not waited for: the kernel ends it when they are
 * back, and it touches nothing of the load any more.  A recorded working set
 * that is being written is waited for.
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

/**
 * fastload_cancel: ask a running load to stop                          [any]
 * @fl: any load
 *
 * Returns at once.  When the reads in flight are back, or after 2 seconds,
 * threads that wait for a page are released and find ZEROS in it, as does
 * everybody who touches a missing page later: cancel only when the content of
 * guest memory does not matter any more.
 * Cancelling twice, or after completion, does nothing, but that settling ends
 * early.
 */
void fastload_cancel(Fastload *fl);

/**
 * fastload_drop_region: a region's memory is about to go             [owner]
 * @fl: any load
 * @hva: as it was added; nothing happens where there is no such region
 *
 * What is missing of it is missing no more: it is neither read nor placed,
 * threads that wait for a page of it are released and find zeros, and its
 * missing data no longer counts in total_bytes.  The memory may be unmapped,
 * and its addresses mapped anew, by another load, too, as soon as this returns.
 * It waits for no read, but for what is being placed there at that moment.
 * After completion no more huge pages are made of it, but for one stretch of
 * 8 MiB perhaps; what memory holds does not change by that.  Before start it
 * has no effect.
 */
void fastload_drop_region(Fastload *fl, void *hva);

/**
 * fastload_set_background_rate: how fast to read ahead                 [any]
 * @fl: any load
 * @bytes_per_s: 0: no limit; or FASTLOAD_BACKGROUND_OFF
 *
 * Limits the bytes that all workers together read from the file in the
 * background, holes that are read over and repeated reads included.  Urgent
 * reads are never delayed and take nothing from it.  Zero pages cost nothing
 * but keep their turn.  May be changed at any time; what is in
 * flight then is still placed.
 * While reads fail, one stretch at a time of what failed is tried again in
 * advance of the rate, which pays for it afterwards; for that, a stretch that
 * was begun is read to its end.  So it is with FASTLOAD_BACKGROUND_OFF, too.
 */
void fastload_set_background_rate(Fastload *fl, uint64_t bytes_per_s);

/**
 * fastload_failure_cause: why, in words                                [any]
 * @failure: what a function or the event callback has told
 *
 * Returns: the end of a sentence; static storage.
 */
const char *fastload_failure_cause(const FastloadFailure *failure);

/**
 * fastload_is_failing: is anything waiting to be read again?           [any]
 * @fl: any load
 * @ret_failure: the last failure, if so
 *
 * True from the first read that failed for good until something that failed
 * has been read since, as for FASTLOAD_EVENT_RESUMED, or fastload_recover() is
 * called; true again when a read fails again.  FASTLOAD_EVENT_STALLED comes
 * later, when it lasts.  While it is true, something that failed is tried
 * again at least once a second, whatever the background rate is.
 */
bool fastload_is_failing(Fastload *fl, FastloadFailure *ret_failure);

/**
 * fastload_oldest_fault_ns: for how long has somebody waited?          [any]
 * @fl: any load
 *
 * Returns: the age of the oldest fault that is not answered yet, whether reads
 * fail or hang; 0: nobody waits.  Where the thread that answers faults is kept
 * in the kernel by storage that hangs, for 100 ms or more, it cannot tell who
 * waits: then for how long that has lasted, as if somebody had waited.
 */
uint64_t fastload_oldest_fault_ns(Fastload *fl);

/**
 * fastload_has_failed_faults: does anybody wait for a page that failed? [any]
 * @fl: a load that was started
 *
 * True from the first read that failed for good, of a page that somebody waits
 * for, until each such page is there, whether or not fastload_recover() was
 * called meanwhile.
 */
bool fastload_has_failed_faults(Fastload *fl);

/**
 * fastload_recover: read at once what failed, from another copy maybe  [any]
 * @fl: a load that was started
 * @fd: a copy of the snapshot, opened as the first one was, with O_DIRECT or
 *   without it; or -1: the same file.  Stays the caller's
 * @error: set when @fd cannot be read from; the load is as it was then
 *
 * That the copy has the same bytes where the regions are is for the caller to
 * know, and that a file that was changed has them again.  The descriptor that
 * fastload_new() was given refers to the copy's open file from now on, under
 * its old number.  What is being read from the old one then is read again.
 * A stalled load counts as resumed, which the event
 * callback is told by this thread; it stalls again if reads go on to fail.
 * Failing reads go on being tried by themselves, called or not.  One call at
 * a time.
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
 * Threads are waited for as fastload_settle() does.
 */
void fastload_free(Fastload *fl);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fastload, fastload_free)

#endif /* QEMU_FASTLOAD_H */
