/*
 * A snapshot file and the memory to load it into, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "fastload-fixture.h"

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))

static uint64_t fixture_word(uint64_t page_idx, uint64_t word)
{
    return (page_idx * WORDS + word + 1) * 0x9e3779b97f4a7c15ull;
}

static bool fixture_bit(const Fixture *f, uint64_t page_idx)
{
    return f->data_bits[page_idx / 64] >> (page_idx % 64) & 1;
}

static void fixture_write_file(Fixture *f, FixtureHasData *has_data)
{
    uint64_t count = f->len_bytes / PAGE;
    g_autofree uint64_t *page = g_malloc(PAGE);
    uint64_t i, w;

    for (i = 0; i < count; i++) {
        if (has_data(i)) {
            f->data_bits[i / 64] |= 1ull << (i % 64);
        }
        for (w = 0; w < WORDS; w++) {
            page[w] = has_data(i) ? fixture_word(i, w) : 0xdeadull;
        }
        if (has_data(i) || i % 7 == 0) {
            g_assert_cmpint(pwrite(f->fd, page, PAGE, f->file_off + i * PAGE),
                            ==, PAGE);
        }
    }
    for (i = 0; i < count; i += f->page_bytes / PAGE) {
        bool any = false;

        for (w = 0; w < f->page_bytes / PAGE; w++) {
            any = any || fixture_bit(f, i + w);
        }
        f->data_bytes += any ? f->page_bytes : 0;
    }
    g_assert_cmpint(ftruncate(f->fd, f->file_off + f->len_bytes + PAGE),
                    ==, 0);
}

static bool fixture_map(Fixture *f, FixtureMemory memory)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *hva;

    switch (memory) {
    case FIXTURE_ANON:
        break;
    case FIXTURE_HUGETLB:
        flags |= MAP_HUGETLB;
        f->page_bytes = 2 << 20;
        break;
    case FIXTURE_SHARED:
        flags = MAP_SHARED;
        f->memory_fd = memfd_create("fixture", MFD_CLOEXEC);
        g_assert_cmpint(f->memory_fd, >=, 0);
        g_assert_cmpint(ftruncate(f->memory_fd, f->len_bytes), ==, 0);
        break;
    case FIXTURE_PRIVATE_FILE: {
        g_autofree char *name = NULL;

        flags = MAP_PRIVATE;
        f->memory_fd = g_file_open_tmp("fastload-memory-XXXXXX", &name, NULL);
        g_assert_cmpint(f->memory_fd, >=, 0);
        unlink(name);
        g_assert_cmpint(ftruncate(f->memory_fd, f->len_bytes), ==, 0);
        break;
    }
    }
    hva = mmap(NULL, f->len_bytes, PROT_READ | PROT_WRITE, flags,
               f->memory_fd, 0);
    if (hva == MAP_FAILED) {
        f->hva = NULL;
        return false;
    }
    f->hva = hva;
    if (memory == FIXTURE_HUGETLB) {
        /* No reservation was made: are there as many pages? */
        return madvise(hva, f->len_bytes, MADV_POPULATE_WRITE) == 0 &&
               madvise(hva, f->len_bytes, MADV_DONTNEED) == 0;
    }
    return true;
}

Fixture *fixture_new(FixtureMemory memory, uint64_t page_count,
                     FixtureHasData *has_data)
{
    Fixture *f = g_new0(Fixture, 1);
    g_autofree char *name = NULL;

    f->memory_fd = -1;
    f->page_bytes = PAGE;
    f->len_bytes = page_count * PAGE;
    f->file_off = 3 * PAGE;
    f->data_bits = g_new0(uint64_t, page_count / 64 + 1);
    f->fd = g_file_open_tmp("fastload-test-XXXXXX", &name, NULL);
    g_assert_cmpint(f->fd, >=, 0);
    unlink(name);
    if (!fixture_map(f, memory)) {
        g_test_skip("not enough free huge pages (vm.nr_hugepages)");
        fixture_free(f);
        return NULL;
    }
    fixture_write_file(f, has_data);
    return f;
}

void fixture_free(Fixture *f)
{
    if (f->hva) {
        munmap(f->hva, f->len_bytes);
    }
    if (f->memory_fd >= 0) {
        close(f->memory_fd);
    }
    close(f->fd);
    g_free(f->data_bits);
    g_free(f);
}

void fixture_region(const Fixture *f, FastloadRegion *ret_region)
{
    *ret_region = (FastloadRegion) {
        .hva = f->hva,
        .len_bytes = f->len_bytes,
        .file_off = f->file_off,
        .page_bytes = f->page_bytes,
        .granule_bytes = PAGE,
        .data_bits = f->data_bits,
    };
}

bool fixture_page_is_right(const Fixture *f, uint64_t page_idx)
{
    const uint64_t *page = (uint64_t *)(f->hva + page_idx * PAGE);
    bool has_data = fixture_bit(f, page_idx);
    uint64_t w;

    for (w = 0; w < WORDS; w++) {
        if (page[w] != (has_data ? fixture_word(page_idx, w) : 0)) {
            return false;
        }
    }
    return true;
}

uint64_t fixture_wrong_count(const Fixture *f)
{
    uint64_t i, wrong = 0;

    for (i = 0; i < f->len_bytes / PAGE; i++) {
        wrong += !fixture_page_is_right(f, i);
    }
    return wrong;
}

bool fixture_all_data(uint64_t page_idx)
{
    return true;
}

bool fixture_all_zero(uint64_t page_idx)
{
    return false;
}

bool fixture_mixed(uint64_t page_idx)
{
    switch (page_idx / 512 % 6) {
    case 0:
        return true;
    case 1:
        return page_idx % 2;
    case 2:
        return page_idx / 5 % 3 == 0;
    case 3:
        return page_idx % 512 == 300;
    case 4:
        return false;
    default:
        return page_idx / 1536 % 2;
    }
}
