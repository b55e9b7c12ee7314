/*
 * Fast load of a mapped-ram snapshot: what the adapter's own files share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Purpose: the one load that QEMU may have under way, the phases of its life,
 *   and who may touch what.  Nobody outside migration/fastload*.c includes
 *   this.
 * Files:
 *
 *   fastload.c          life cycle: phases, engine events, migration's calls
 *   fastload-block.c    RAM blocks: headers, bitmaps, emptying, regions
 *   fastload-guard.c    what is refused, and until when
 *   fastload-recover.c  another copy of the file, out of band
 *   fastload-exit.c     ending QEMU while pages are missing
 *   fastload-report.c   figures and sentences for QMP and HMP
 *   fastload-settings.c migration parameters, set and shown
 *   fastload-shared.c   vhost-user: memory that another process maps
 *   fastload-stub.c     the same calls where liburing is absent
 *
 * Locks: the BQL, then IncomingLoad.lock, then waits_lock, then the lock of
 *   fastload-shared.c.  The engine calls back on threads of its own, which
 *   never take the BQL: they take the other locks, and leave to a bottom half
 *   what needs the BQL.  No lock but the BQL is held during file I/O, or while
 *   the engine is freed, which waits for its callbacks to return.
 */
#ifndef QEMU_MIGRATION_FASTLOAD_INTERNAL_H
#define QEMU_MIGRATION_FASTLOAD_INTERNAL_H

#include "qemu/fastload.h"
#include "qemu/fastload_header.h"
#include "qemu/thread.h"
#include "io/channel-file.h"
#include "fastload.h"
#include "fastload-base.h"

/*
 * The phases of a load.  Each edge says who performs it: M is the main thread
 * with BQL and lock, E an engine thread with the lock alone.
 *
 *                  IDLE
 *                   | M prepare: migrate-incoming names a file
 *                   v
 *                PREPARED
 *                   | M begin: the stream's first byte is about to be read
 *                   v
 *                READING
 *                   | M start: every RAM block is known and trapped
 *                   v
 *                TRAPPED ------ E all placed ---------> FILLED
 *                   |                                     |
 *                   | M loaded: device state is in        |
 *                   v                                     |
 *                LOADING ------ E reads fail --> PAUSED   |
 *                   |  ^                            |     |
 *                   |  +------- E reads work -------+     |
 *                   |                                     |
 *                   | E all placed                        | M loaded
 *                   v                                     |
 *                COMPLETE <-------------------------------+
 *                   | M finish: the migration is told "completed"
 *                   v
 *                SETTLING
 *                   | M release: the engine has made its last huge page
 *                   v
 *                  IDLE
 *
 * QEMU cannot open the file (M) in PREPARED, the stream fails (M) in READING,
 * TRAPPED or FILLED, or a read does (E) in TRAPPED: FAILED.  Who gives a load
 * up (M release) in FAILED or before the guest may run, from PREPARED to
 * FILLED, ends in IDLE; so does, from READING, a machine without memory.
 *
 * A load that is detached has the same phases.  QEMU completes its migration
 * right after "loaded"; so from LOADING on the load touches neither the status
 * nor the error of the migration.
 */
typedef enum LoadPhase {
    LOAD_IDLE,     /* no file, no engine */
    LOAD_PREPARED, /* a file; its stream has not begun */
    LOAD_READING,  /* RAM blocks come in; nothing is trapped */
    LOAD_TRAPPED,  /* devices load their state; pages are missing */
    LOAD_FILLED,   /* devices load their state; no page is missing */
    LOAD_FAILED,   /* the guest will not run; missing pages may become zero */
    LOAD_LOADING,  /* the guest may run; pages are missing */
    LOAD_PAUSED,   /* as LOADING, and they cannot be read */
    LOAD_COMPLETE, /* the guest may run; no page is missing */
    LOAD_SETTLING, /* the migration is over; the engine makes huge pages */
    LOAD_PHASE_MAX,
} LoadPhase;

#define LOAD_IN(phase) (1u << LOAD_##phase)
/*
 * From prepare until the main thread has noticed that no page is missing.  The
 * migration's parameters and capabilities must not change meanwhile; with a
 * load that is detached, until the guest may run.
 */
#define LOAD_UNDER_WAY \
    (LOAD_IN(PREPARED) | LOAD_IN(READING) | LOAD_ACTIVE)
/* The stream is being read, and its RAM section is ours. */
#define LOAD_ARMED \
    (LOAD_IN(READING) | LOAD_IN(TRAPPED) | LOAD_IN(FILLED) | LOAD_IN(FAILED))
/* Guest memory is trapped, or is still treated as if it were. */
#define LOAD_ACTIVE \
    (LOAD_IN(TRAPPED) | LOAD_IN(FILLED) | LOAD_IN(FAILED) | LOAD_GUEST_RUNS)
/* The guest may run, so its memory must be kept. */
#define LOAD_GUEST_RUNS (LOAD_MISSING | LOAD_IN(COMPLETE))
/* The guest may run, and pages are missing. */
#define LOAD_MISSING (LOAD_IN(LOADING) | LOAD_IN(PAUSED))
/* The guest has not run, so the load may be given up. */
#define LOAD_EXPENDABLE \
    (LOAD_IN(PREPARED) | LOAD_IN(READING) | LOAD_IN(TRAPPED) | \
     LOAD_IN(FILLED) | LOAD_IN(FAILED))

/* How far QEMU has come with its end, if pages are missing then. */
typedef enum LoadEnd {
    LOAD_END_NONE,     /* it does not end, or has not begun to */
    LOAD_END_STOPPING, /* the main thread waits for vCPUs to stop */
    LOAD_END_CLEANUP,  /* it waits for no vCPU any more */
} LoadEnd;

/*
 * What is loaded before the guest runs, because a device or another process
 * that cannot wait for a page may access it without using QEMU's page tables.
 */
typedef enum LoadEager {
    LOAD_EAGER_NONE,
    LOAD_EAGER_SHARED, /* memory that other processes may map */
    LOAD_EAGER_ALL,
} LoadEager;

/* A RAM block that is being loaded. */
typedef struct LoadBlock {
    /*
     * Holds a reference to its memory region.  NULL: its device was unplugged.
     * Written with the BQL and the migration's page_request_mutex; either is
     * enough to read it.
     */
    RAMBlock *block;
    uint8_t *host;
    uint64_t length;
    /* by these a copy of the file is recognised */
    FastloadHeader header;
    uint64_t *bitmap;
    size_t bitmap_bytes;
} LoadBlock;

typedef struct IncomingLoad {
    /* BQL */
    uint64_t block_end;      /* file offset where the last block ends */
    QIOChannelFile *ioc;     /* what the engine reads from */
    int64_t begin_ns;
    uint64_t run_us;
    bool is_guarded;         /* ram_block_discard_require(true) was called */
    LoadEager eager;         /* what is loaded before the guest runs */
    bool is_pinned;          /* memory must not be emptied */
    bool is_unlocked;        /* memory locked by mem-lock=on was unlocked */
    QEMUTimer *hold_timer;   /* wakes the main loop; from listen to unlisten */
    VMChangeStateEntry *run_entry; /* the same */
    bool has_guest;          /* the guest has its run state */
    bool has_blocktime;      /* keeps the figures of postcopy-blocktime */
    /*
     * Why RAM blocks could not be loaded.  QEMU's functions between the one
     * that fails and SaveVMHandlers.load_state return nothing but an errno; so
     * the error is kept here, and migration_fastload_loaded() returns it.
     */
    Error *stream_error;
    GArray *blocks;          /* of LoadBlock; constant from TRAPPED on */
    GThread *watcher;        /* see fastload-exit.c */
    bool has_left_vcpus;     /* QEMU ends while vCPUs wait for pages */
    bool has_running_vcpus;  /* ... or while some run that did not stop */

    /*
     * Written with the BQL and the lock; either is enough to read.  (Commands
     * out of band have no BQL.)
     */
    bool is_detached;        /* the migration does not wait for the end */
    uint64_t file_off;       /* where the stream begins */
    uint64_t file_bytes;
    int open_flags;
    char *working_set;       /* the file's name; "": none; NULL: no load */
    Fastload *engine;
    MigrationFastLoad *last; /* the figures of a load that is over */

    /* lock: what engine threads and the main thread share */
    QemuMutex lock;
    /*
     * Of the file itself, also if given as an fdset.  Until the guest may run
     * only the main thread writes it, and reads it without the lock.
     */
    char *filename;
    struct stat file_stat;   /* of the same: which file it is */
    struct stat copy_stat;   /* of a copy that is being taken over, else the
                                same as file_stat */
    LoadPhase phase;         /* also atomic: read without the lock as a hint */
    FastloadFailure failure; /* why it is PAUSED, or FAILED by a read */
    bool has_failure;        /* FAILED by a read */
    char *failed_desc;       /* why it is FAILED otherwise; NULL: unknown */
    bool is_time_told;       /* it was warned that the file's time moves */
    int64_t resumed_ns;      /* when it left PAUSED last; 0: never */
    char *working_set_desc;  /* why it is not used, or was not recorded */
    char *told_desc;         /* the error given to migrate_set_error() */
    uint64_t complete_us;    /* 0 until everything was placed */
    LoadEnd end;
    int64_t end_us;          /* when QEMU began to stop the vCPUs */
    bool is_recovering;      /* a thread uses the engine without the lock */
    bool is_copy_new;        /* since recovery, no page waited for has come */
    uint32_t recover_number; /* of the last migrate-recover */
    uint32_t recover_thread_count;
    char *recover_desc;      /* why that one failed; NULL: it did not */
    QemuCond watch_cond;     /* the phase has changed, or the engine is gone */

    QemuMutex waits_lock;    /* taken inside of the lock */
    GHashTable *waits;       /* of ExitWait, by thread: its last page fault */
} IncomingLoad;

/* The one load of this process, as there is one incoming migration. */
extern IncomingLoad incoming_load;

/* ---- life cycle: fastload.c ---- */

/* Is the load in one of @phases now?  Any thread; under the lock it stays. */
static inline bool incoming_load_is_in(const IncomingLoad *load,
                                       uint32_t phases)
{
    /* pairs with the set in incoming_load_move_locked() */
    return phases & (1u << qatomic_read(&load->phase));
}

/* Changes the phase, asserts that the move is legal, and tells it by event. */
void incoming_load_move_locked(IncomingLoad *load, LoadPhase to);

uint64_t incoming_load_elapsed_us(const IncomingLoad *load);
uint8_t incoming_load_threads(void);
/* The file that @params name for the working set; "": none. */
const char *incoming_load_working_set(const MigrationParameters *params);
/* Bytes per second as the engine wants them: 0 for no limit. */
uint64_t incoming_load_background_rate(void);
/* Opens the engine on the prepared file; @f is the migration's own channel. */
bool incoming_load_open(IncomingLoad *load, QEMUFile *f, Error **errp);
/* A recovery is over: if the load has ended meanwhile, its engine is freed. */
void incoming_load_recovered(IncomingLoad *load);

/* ---- RAM blocks: fastload-block.c ---- */

void incoming_load_set_up_blocks(IncomingLoad *load);
void incoming_load_release_blocks(IncomingLoad *load);
/* Where the file probably has what QEMU reads itself; of FastloadFileRange. */
GArray *incoming_load_find_stream(const IncomingLoad *load);
/* Are all small blocks loaded, which devices may read as a whole? */
bool incoming_load_has_early_blocks(const IncomingLoad *load);
/* @dev is unplugged: its memory is no longer loaded, nor referenced. */
void incoming_load_drop_device(IncomingLoad *load, DeviceState *dev);
/* Callbacks of the engine, for postcopy-blocktime; @opaque: IncomingLoad. */
void incoming_load_page_wanted(void *hva, uint32_t tid, void *opaque);
void incoming_load_pages_placed(void *hva, uint64_t len_bytes,
                                FastloadClass class, bool has_data,
                                void *opaque);

/* ---- what is refused: fastload-guard.c ---- */

/*
 * Finds out which memory of the machine, as it is now, can be trapped, and
 * warns if some has to be loaded before the guest runs.  False, with @errp set:
 * the machine cannot be loaded at all.
 */
bool incoming_load_check_machine(IncomingLoad *load, Error **errp);
/* Devices that need all memory at once are refused from now until unguard. */
void incoming_load_guard(IncomingLoad *load);
void incoming_load_unguard(IncomingLoad *load);
/*
 * From prepare to release: devices that are unplugged leave the load, and the
 * engine is told when the guest begins to run.
 */
void incoming_load_listen(IncomingLoad *load);
void incoming_load_unlisten(IncomingLoad *load);

/* ---- memory that another process maps: fastload-shared.c; BQL ---- */

/* Can all vhost-user backends wait for missing pages?  @errp says why not. */
bool incoming_load_can_serve_shared(Error **errp);
/* Tells all vhost-user backends that memory will be missing; serves them. */
bool incoming_load_begin_shared(Error **errp);
/* Memory is trapped: from now on @engine knows what is missing. */
void incoming_load_start_shared(Fastload *engine);
/*
 * Tells backends that they need not wait for pages any more.  Blocks until they
 * have answered.  The engine is not used after that.
 */
void incoming_load_end_shared(void);
/* Wakes backends that wait for these pages, which are there.  Any thread. */
void incoming_load_shared_placed(void *hva, uint64_t len_bytes);
/*
 * Since when (g_get_monotonic_time()) a backend has waited for a page that has
 * not come; INT64_MAX: none waits.  Any thread.
 */
int64_t incoming_load_shared_oldest_us(void);
/* Page faults of backends, since the load began.  Any thread. */
uint64_t incoming_load_shared_faults(void);

/* ---- files: fastload-recover.c ---- */

/* Is it a file or block device?  Opening a pipe would wait for a writer. */
bool incoming_load_check_kind(const struct stat *st, const char *filename,
                              Error **errp);
/* The name of the file that was opened as @filename, which may be an fdset. */
char *incoming_load_real_name(QIOChannelFile *ioc, const char *filename);

/* ---- ending QEMU: fastload-exit.c ---- */

/* Callback of the engine: thread @tid waits for the page at @hva. */
void incoming_load_note_wait(IncomingLoad *load, const void *hva,
                             uint32_t tid);

/*
 * QEMU ends: stops the vCPUs, and gives up the BQL while it waits for them.
 * After three seconds at most, those that wait for a page count as stopped,
 * after four the others, too.  Does nothing unless the guest may run.
 */
void incoming_load_stop_vcpus(IncomingLoad *load);

/* The thread that ends QEMU where it cannot end by itself. */
bool incoming_load_start_watch(IncomingLoad *load, Error **errp);
/* Waits for that thread, which ends when the engine is NULL. */
void incoming_load_stop_watch(IncomingLoad *load);

/* ---- figures and sentences: fastload-report.c ---- */

/*
 * Sets @errp to a refusal; @format says why, and @what names it in the trace.
 * @hint says what to do, or is NULL; QMP clients do not get it.  Returns false.
 */
bool G_GNUC_PRINTF(4, 5) incoming_load_refuse(Error **errp, const char *what,
                                              const char *hint,
                                              const char *format, ...);
/* "cannot read 'FILE' at offset N: CAUSE"; the caller holds the lock. */
Error *incoming_load_read_error_locked(const IncomingLoad *load,
                                       const FastloadFailure *failure);
/* The end of "goes on ...": when a load that @failure has paused goes on. */
const char *incoming_load_goes_on(const FastloadFailure *failure);
/* Sends the event X_FAST_LOAD if the state differs from that of @from. */
void incoming_load_announce_locked(const IncomingLoad *load, LoadPhase from);
/* Sends the event "completed" for a machine without memory to load. */
void incoming_load_announce_nothing(IncomingLoad *load);
/* Sets the migration's error; removes it again unless another has come. */
void incoming_load_tell_error_locked(IncomingLoad *load, const Error *err);
void incoming_load_untell_error_locked(IncomingLoad *load);
/* The figures; the engine is there. */
MigrationFastLoad *incoming_load_figures_locked(const IncomingLoad *load);

#endif
