/*
 * A snapshot file and the memory to load it into, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file's pages hold a pattern that names their index; pages that the
 * bitmap calls zero hold rubbish in the file, as stale pages of a live save
 * do, so that a loader that reads holes as data is caught.
 */
#ifndef FASTLOAD_FIXTURE_H
#define FASTLOAD_FIXTURE_H

#include "qemu/fastload.h"

typedef enum FixtureMemory {
    FIXTURE_ANON,
    FIXTURE_SHARED,  /* memfd */
    FIXTURE_HUGETLB, /* 2 MiB pages */
    FIXTURE_PRIVATE_FILE, /* cannot be trapped */
} FixtureMemory;

typedef struct Fixture {
    int fd;
    int memory_fd;
    uint8_t *hva;
    uint64_t len_bytes;
    uint64_t file_off;
    uint32_t page_bytes;
    uint64_t *data_bits;     /* by 4096 */
    uint64_t data_bytes;     /* of pages with data, in backing pages */
} Fixture;

/* Says whether page @page_idx (of 4096 bytes) has data. */
typedef bool FixtureHasData(uint64_t page_idx);

/*
 * NULL when this kind of memory cannot be had; the test was then skipped.
 * @page_count: pages of 4096 bytes; a multiple of 512 for FIXTURE_HUGETLB
 */
Fixture *fixture_new(FixtureMemory memory, uint64_t page_count,
                     FixtureHasData *has_data);
void fixture_free(Fixture *f);
void fixture_region(const Fixture *f, FastloadRegion *ret_region);
/* Does the page hold what the snapshot says?  Touches the page. */
bool fixture_page_is_right(const Fixture *f, uint64_t page_idx);
/* Pages that are wrong, of all. */
uint64_t fixture_wrong_count(const Fixture *f);

bool fixture_all_data(uint64_t page_idx);
bool fixture_all_zero(uint64_t page_idx);
/* Runs and single pages of both kinds, dense and sparse chunks, wide holes. */
bool fixture_mixed(uint64_t page_idx);

#endif /* FASTLOAD_FIXTURE_H */
