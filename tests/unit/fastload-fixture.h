/*
 * A snapshot file and the memory to load it into, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file's pages hold a pattern with their index.  Pages that are zero by the
 * bitmap hold rubbish in the file, like stale pages of a live save, so that a
 * loader that reads holes as data fails.  A deadline ends a test that hangs; a
 * test that fails prints its note first.
 */
#ifndef FASTLOAD_FIXTURE_H
#define FASTLOAD_FIXTURE_H

#include "qemu/fastload.h"
#include "fastload-clock.h"

#define FIXTURE_PAGE_BYTES 4096u
#define FIXTURE_CHUNK_PAGE_COUNT 512u
/* A test, or a wait in one, that takes longer has failed. */
#define FIXTURE_DEADLINE_S 120

#if defined(__SANITIZE_THREAD__)
#define FIXTURE_IS_TSAN 1
#else
#define FIXTURE_IS_TSAN 0
#endif

typedef enum FixtureMemory {
    FIXTURE_ANON,
    FIXTURE_THP,     /* anonymous, with transparent huge pages */
    FIXTURE_SHARED,  /* memfd */
    FIXTURE_HUGETLB, /* 2 MiB pages */
    FIXTURE_PRIVATE_FILE, /* cannot be trapped, and is full of rubbish */
} FixtureMemory;

typedef struct Fixture {
    int fd;
    int memory_fd;
    uint8_t *map;            /* what was mapped; the region lies in it */
    uint64_t map_bytes;
    uint8_t *hva;
    uint64_t len_bytes;
    uint64_t file_off;
    uint32_t page_bytes;
    bool wants_huge;
    uint64_t *data_bits;     /* by 4096 */
    uint64_t data_bytes;     /* of pages with data, in backing pages */
} Fixture;

/* Does page @page_idx (of 4096 bytes) have data? */
typedef bool FixtureHasData(uint64_t page_idx);

/* Sets up deadline and notes, then g_test_init(). */
void fixture_init(int *argc, char ***argv);
/* Sets what a failure prints first, for example a seed. */
void fixture_note(const char *format, ...) G_GNUC_PRINTF(1, 2);
void fixture_note_clear(void);
/*
 * As g_test_add_data_func(); the test is visibly skipped if this process may
 * not have what it @needs.
 */
typedef enum FixtureNeeds {
    FIXTURE_NEEDS_URING = 1,
    FIXTURE_NEEDS_UFFD = 2,
    FIXTURE_NEEDS_MOVE = 4, /* huge pages, and a kernel that moves them */
} FixtureNeeds;

void fixture_add_test(const char *path, uint32_t needs, GTestDataFunc func,
                      const void *data);
/*
 * Runs the rest of the test in a child, in which system calls can be refused
 * for good.  True in the parent: the test is over.
 */
bool fixture_run_child(void);
/* False, and the test is skipped: system calls cannot be refused here. */
bool fixture_may_refuse(void);
/* From here on system call @number fails with EPERM, in every thread. */
void fixture_refuse(int number);
/* As above, with @error_number. */
void fixture_refuse_with(int number, int error_number);
/*
 * Runs @func with @count seeds in a row, from a random one on.  With
 * FASTLOAD_TEST_SECONDS in the environment, for so long; with
 * FASTLOAD_TEST_SEED, which a failure prints, once with that seed.  @func
 * returns how many pages it has loaded, for the message.
 */
typedef uint64_t FixtureSeedFunc(uint32_t seed);
void fixture_run_seeds(FixtureSeedFunc *func, uint32_t count);

/* Random times from a microsecond to about a second, log-uniform. */
uint64_t fixture_random_ns(GRand *rand);
void fixture_sort_ns(uint64_t *times_ns, uint32_t count);

/* Restarts the deadline, as fixture_new() does. */
void fixture_restart_deadline(void);

/*
 * NULL: this kind of memory is not available, and the test was skipped.
 * @page_count: pages of 4096 bytes; a multiple of 512 for FIXTURE_HUGETLB
 */
Fixture *fixture_new(FixtureMemory memory, uint64_t page_count,
                     FixtureHasData *has_data);
/* As above; the region begins @skew_count pages past a multiple of 2 MiB. */
Fixture *fixture_new_skewed(FixtureMemory memory, uint64_t page_count,
                            uint64_t skew_count, FixtureHasData *has_data);
void fixture_free(Fixture *f);
/* Writes the file again, for example after it was cut. */
void fixture_write_file(Fixture *f);
/* How much of the file is in the page cache, by mincore(). */
uint64_t fixture_cached_bytes(const Fixture *f);
/* Empties the page cache of the file; returns how many bytes stayed. */
uint64_t fixture_drop_cache(const Fixture *f);
/* Bytes that this process has read from storage so far. */
uint64_t fixture_storage_bytes(void);
void fixture_region(const Fixture *f, FastloadRegion *ret_region);
bool fixture_page_has_data(const Fixture *f, uint64_t page_idx);
uint64_t fixture_page_count(const Fixture *f);
/* Word @word_idx of page @page_idx as the snapshot has it. */
uint64_t fixture_word(const Fixture *f, uint64_t page_idx, uint64_t word_idx);
uint64_t *fixture_page(const Fixture *f, uint64_t page_idx);
/* Does the page hold what the snapshot says?  Touches the page. */
bool fixture_page_is_right(const Fixture *f, uint64_t page_idx);
/* How many of all pages are wrong. */
uint64_t fixture_wrong_count(const Fixture *f);
/* Is the page there?  Does not touch it. */
bool fixture_page_is_resident(const Fixture *f, uint64_t page_idx);

bool fixture_all_data(uint64_t page_idx);
bool fixture_all_zero(uint64_t page_idx);
/* An unnamed file in TMPDIR. */
int fixture_temp_file(void);

/* Runs and single pages of both kinds, dense and sparse chunks, wide holes. */
bool fixture_mixed(uint64_t page_idx);

/* Can anonymous memory have huge pages of 2 MiB here, and be moved? */
bool fixture_has_move(void);
/* How much of the region is mapped by transparent huge pages. */
uint64_t fixture_huge_bytes(const Fixture *f);
/* How many huge pages the kernel has made by itself since it started. */
uint64_t fixture_khugepaged_count(void);
/* How much of the region has memory; the shared zero page does not count. */
uint64_t fixture_own_bytes(const Fixture *f);
/* How many mappings the region consists of. */
uint32_t fixture_mapping_count(const Fixture *f);

/* False, and the test is skipped: vm.max_map_count is too high. */
bool fixture_may_fill_mappings(void);
/* Uses up mappings until only @room_count are left; in a child. */
void fixture_fill_mappings(uint32_t room_count);

/* ---- loads ---- */

/* The events of one load, in order. */
typedef struct FixtureEvents {
    GMutex lock;
    GCond cond;
    uint32_t count;
    FastloadEvent events[64];
    FastloadFailure failure; /* of the last STALLED */
} FixtureEvents;

void fixture_events_init(FixtureEvents *events);
void fixture_events_clear(FixtureEvents *events);
FastloadEventFunc fixture_events_func; /* @opaque: a FixtureEvents */
uint32_t fixture_events_count(FixtureEvents *events, FastloadEvent event);
void fixture_events_wait(FixtureEvents *events, FastloadEvent event);

/* Waits, a turn of the scheduler at a time, until @condition holds. */
#define fixture_wait_until(condition) \
    do { \
        while (!(condition)) { \
            g_usleep(100); \
        } \
    } while (0)

/*
 * The same, and meanwhile the engine's clock runs fast, so that the engine's
 * time limits pass sooner, except for threads that sleep in the kernel.
 */
#define fixture_hurry_until(condition) \
    do { \
        while (!(condition)) { \
            g_usleep(100); \
            test_clock_skip(10 * 1000 * 1000); \
        } \
    } while (0)

/* How many faults of @uffd have not been read. */
uint64_t fixture_unread_fault_count(int uffd);
/* Does the thread wait for another one, in futex(2)? */
bool fixture_thread_waits(pid_t tid);

/* Reads random pages and counts what is wrong. */
typedef struct FixtureToucher {
    const Fixture *f;
    uint32_t seed;
    uint32_t touch_count;
    uint32_t wrong_count; /* valid after the join */
    uint32_t is_done;     /* atomic */
    GThread *thread;
} FixtureToucher;

void fixture_toucher_start(FixtureToucher *t, const Fixture *f, uint32_t seed,
                           uint32_t touch_count);
/* Touches just @page_idx. */
void fixture_toucher_start_page(FixtureToucher *t, const Fixture *f,
                                uint64_t page_idx);
bool fixture_toucher_is_done(FixtureToucher *t);
/* Returns the number of wrong pages it has seen. */
uint32_t fixture_toucher_join(FixtureToucher *t);

/* What the placed callback of a load has reported, page by page. */
typedef struct FixturePlaced {
    const Fixture *f;
    uint8_t *told;      /* 0 or 1 + FastloadClass, atomic */
    uint64_t data_bytes[FASTLOAD_CLASS_MAX]; /* atomic */
    uint64_t zero_bytes;                     /* atomic */
} FixturePlaced;

void fixture_placed_init(FixturePlaced *placed, const Fixture *f);
void fixture_placed_clear(FixturePlaced *placed);
FastloadPlacedFunc fixture_placed_func; /* @opaque: a FixturePlaced */
/* FASTLOAD_CLASS_MAX: not reported yet. */
FastloadClass fixture_placed_class(FixturePlaced *placed, uint64_t page_idx);
/* Asserts that a complete load has reported all pages. */
void fixture_placed_check(FixturePlaced *placed, const FastloadStats *stats);

/* Resources of the process, which must be the same after a load. */
typedef struct FixtureUse {
    uint32_t thread_count;
    uint32_t fd_count;
    uint32_t uffd_count;
    uint32_t uring_count;
} FixtureUse;

void fixture_use_get(FixtureUse *ret_use);
/* Asserts that the process uses what it used @before. */
void fixture_use_check(const FixtureUse *before);

#endif /* FASTLOAD_FIXTURE_H */
