/*
 * The probe guest: a kernel that only knows what every page must hold
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "probe.h"

enum {
    MEMORY_TYPE_RAM = 1,
    RANGES_MAX = 8,
    CMDLINE_BYTES = 512,
    POLL_EVERY_US = 2000,
    START_MAGIC = 0x336ec578,
};

/* As PVH has them (Xen's public/arch-x86/hvm/start_info.h). */
typedef struct StartInfo {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t module_count;
    uint64_t modules;
    uint64_t cmdline;
    uint64_t rsdp;
    uint64_t memory_map;
    uint32_t memory_map_entries;
    uint32_t reserved;
} StartInfo;

typedef struct MemoryMapEntry {
    uint64_t begin;
    uint64_t bytes;
    uint32_t type;
    uint32_t reserved;
} MemoryMapEntry;

typedef struct Range {
    uint64_t begin;
    uint64_t page_count;
} Range;

extern uint8_t image_end[];

/* constant once the others start */
static Range ranges[RANGES_MAX];
static unsigned range_count;
static unsigned processor_count;

static _Atomic unsigned filled_count;
static _Atomic bool is_ready;
static _Atomic uint64_t polled_ns;
static Lock poll_lock;

uint64_t *page_memory(uint64_t page)
{
    const Range *range = ranges;

    while (page >= range->page_count) {
        page -= range->page_count;
        range++;
    }
    return (uint64_t *)(range->begin + page * PAGE_BYTES);
}

/* ---- memory */

static void add_range(uint64_t begin, uint64_t end)
{
    const uint64_t chunk = (uint64_t)CHUNK_PAGES * PAGE_BYTES;

    begin = (begin + chunk - 1) & ~(chunk - 1);
    if (end > (uint64_t)MAPPED_GIB << 30) {
        end = (uint64_t)MAPPED_GIB << 30;
    }
    if (begin < end && range_count < RANGES_MAX) {
        ranges[range_count++] = (Range) { begin, (end - begin) / PAGE_BYTES };
    }
}

/* Find all memory above this program; the versions are in front of it. */
static uint32_t *find_memory(const StartInfo *start, uint64_t page_count)
{
    const MemoryMapEntry *map = (void *)start->memory_map;
    uint32_t *versions = (uint32_t *)image_end;
    uint64_t versions_end = (uintptr_t)(versions + page_count), pages = 0;

    for (unsigned i = 0; i < start->memory_map_entries; i++) {
        uint64_t begin = map[i].begin, end = begin + map[i].bytes;

        if (map[i].type != MEMORY_TYPE_RAM || end <= versions_end) {
            continue;
        }
        add_range(begin < versions_end ? versions_end : begin, end);
    }
    for (unsigned i = 0; i < range_count; i++) {
        pages += ranges[i].page_count;
    }
    if (pages < page_count) {
        fail("fl.fill_mib=%llu does not fit: %llu MiB are free",
             (unsigned long long)page_count * PAGE_BYTES >> 20,
             (unsigned long long)pages * PAGE_BYTES >> 20);
    }
    return versions;
}

/* ---- the serial port and the devices, served by one processor at a time */

static void obey(char byte)
{
    switch (byte) {
    case 'b':
        virtio_say_sector();
        break;
    case 'd':
        virtio_begin_plugged();
        break;
    case 'r':
        machine_reboot();
    case 't':
        machine_triple_fault();
    case 'o':
        machine_power_off();
    case 'x':
        machine_debug_exit();
    default:
        core_command(byte);
    }
}

void between_visits(uint64_t now)
{
    uint64_t last = atomic_load_explicit(&polled_ns, memory_order_relaxed);
    int byte;

    if (now - last < POLL_EVERY_US * 1000ULL || !lock_try(&poll_lock)) {
        return;
    }
    atomic_store(&polled_ns, now);
    while ((byte = serial_read()) >= 0) {
        obey(byte);
    }
    core_poll();
    virtio_poll(now);
    lock_give(&poll_lock);
}

/* ---- the work */

void processor_main(unsigned idx)
{
    if (idx >= processor_count) {
        halt();
    }
    core_fill(idx);
    atomic_fetch_add(&filled_count, 1);
    while (!atomic_load(&is_ready)) {
        relax();
    }
    core_work(idx);
}

__attribute__((noreturn))
void probe_main(const StartInfo *start);

void probe_main(const StartInfo *start)
{
    CoreOptions options;
    uint64_t begin;

    machine_begin();
    if (start->magic != START_MAGIC || start->version < 1) {
        fail("not started as a PVH guest with a memory map");
    }
    options = core_options((const char *)start->cmdline);
    processor_count = machine_processors();
    if (processor_count > CPUS_MAX) {
        fail("%u processors; this guest serves %u", processor_count,
             CPUS_MAX);
    }
    core_begin(&options, find_memory(start, (options.fill_mib << 20) /
                                     PAGE_BYTES), processor_count);
    virtio_begin();

    begin = now_ns();
    processors_start(processor_count);
    core_fill(0);
    atomic_fetch_add(&filled_count, 1);
    while (atomic_load(&filled_count) < processor_count) {
        relax();
    }
    core_ready(begin);
    atomic_store(&is_ready, true);
    core_work(0);
}
